//! Reloads while a run is going, against a small admin API that reads the file as the gateway does.

#[path = "support/servers.rs"]
mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::Full;
use orbit_loadtest::generator::{Run, run};
use orbit_loadtest::keys::{Keys, Secret};
use orbit_loadtest::reload::{Admin, ReloadOutcome, ReloadPlan, Toggle, Trigger, reload};
use orbit_loadtest::report::Report;
use orbit_loadtest::scenario::Scenario;
use servers::{answering, upstream};

fn reply(status: u16, body: String) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).body(Full::new(Bytes::from(body)));
    response.expect("the answer is well formed")
}

/// Reloads 15 times while a scenario runs; `watching` makes every look at the version a reload.
fn reloads(watching: bool, trigger: Trigger) -> (ReloadOutcome, Vec<String>) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let file = directory.path().join("plans.toml");
    std::fs::write(&file, "burst = 10\n").expect("the file can be written");
    let (policy, applied) = (file.clone(), AtomicU64::new(0));
    let admin = answering(move |request| {
        let text = std::fs::read_to_string(&policy).expect("the file is always there, and whole");
        assert!(text.starts_with("burst = 1") && text.ends_with('\n'), "torn: {text}");
        if request.headers().get("authorization").is_none_or(|token| token != "Bearer secret") {
            return reply(401, String::new());
        }
        if request.method() == Method::POST && request.uri().path() == "/v1/policy/apply" {
            applied.fetch_add(1, Ordering::Relaxed);
        }
        let seen = if watching { text } else { applied.load(Ordering::Relaxed).to_string() };
        reply(200, serde_json::json!({ "version": seen }).to_string())
    });
    let plan = ReloadPlan {
        file: file.clone(),
        toggle: Toggle::Replace { from: "burst = 10".into(), to: "burst = 11".into() },
        times: 15,
        over: Duration::from_millis(600),
        trigger,
        admin: Admin { target: admin.target(), token: Secret::new("secret".into()) },
        effect_limit: Duration::from_millis(20),
    };
    let upstream = upstream();
    let scenario = Scenario::parse(
        "test.toml",
        "rate = 500\nduration_s = 0.7\nconnections = 4\n\
         [[request]]\nname = \"a\"\npath = \"/\"\nexpect = [200]\n",
    );
    let scenario = scenario.expect("the scenario is well formed");
    let (reloading, stop) = (Arc::new(AtomicBool::new(false)), AtomicBool::new(false));
    let (recording, outcome) = std::thread::scope(|scope| {
        let reloads = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(reload(&plan, &reloading, &stop))
        });
        let (target, keys) = (&upstream.target(), Keys::default());
        let plan = Run {
            scenario: &scenario,
            target,
            keys: &keys,
            pids: &[],
            keep_answers: false,
            reloading: Some(Arc::clone(&reloading)),
        };
        let recording = run(&plan, &mut |_| {});
        (recording.expect("the scenario can be run"), reloads.join().expect("it ends by itself"))
    });
    let text = std::fs::read_to_string(&file).expect("the file is there");
    assert_eq!(text, "burst = 10\n", "the file was not put back");
    let latency = recording.record.reload.as_ref().expect("the run was told of reloads");
    let report = Report::new(&scenario, &upstream.target(), &recording);
    let report = report.with_reloads(outcome.clone(), latency, f64::INFINITY);
    let reload = report.reload.as_ref().expect("it was just added");
    assert_eq!(reload.during.count + reload.without.count, 350);
    // How many answers a burst of reloads touches is the machine's affair.
    let findings = report.findings.into_iter().filter(|says| !says.contains("nothing to compare"));
    (outcome, findings.collect())
}

#[test]
fn every_reload_that_takes_effect_is_counted() {
    let (outcome, findings) = reloads(true, Trigger::Watch);
    assert_eq!((outcome.written, outcome.effective), (15, 15), "{outcome:?}");
    assert_eq!(findings, [""; 0]);
}

#[test]
fn apply_makes_the_gateway_read_the_file() {
    let (outcome, findings) = reloads(false, Trigger::Apply("/v1/policy/apply".into()));
    assert_eq!((outcome.written, outcome.effective), (15, 15), "{outcome:?}");
    assert_eq!(findings, [""; 0]);
}

#[test]
fn a_gateway_that_does_not_reload_is_found() {
    let (outcome, findings) = reloads(false, Trigger::Watch);
    assert_eq!((outcome.written, outcome.effective), (15, 0), "{outcome:?}");
    assert_eq!(findings, ["reload: 0 of 15 reloads took effect"]);
}
