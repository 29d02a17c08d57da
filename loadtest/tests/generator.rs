//! The generator against the fake upstream and servers of its own: counts, aborts, failures, ends.

#[path = "support/servers.rs"]
mod servers;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use orbit_loadtest::generator::{Failure, KindRecord, Recording, Run, run};
use orbit_loadtest::keys::Keys;
use orbit_loadtest::report::Report;
use orbit_loadtest::scenario::Scenario;
use orbit_loadtest::target::Target;
use servers::{answering, upstream};

fn scenario(text: &str) -> Scenario {
    match Scenario::parse("test.toml", text) {
        Ok(scenario) => scenario,
        Err(error) => panic!("{error}"),
    }
}

fn record(scenario: &Scenario, target: &Target) -> Recording {
    let keys = Keys::parse(Path::new("keys"), "demo=orb_SECRET").expect("the keys are well formed");
    let keep_answers = false;
    let plan = Run { scenario, target, keys: &keys, pids: &[], keep_answers, reloading: None };
    match run(&plan, &mut |_| {}) {
        Ok(recording) => recording,
        Err(error) => panic!("{error}"),
    }
}

/// Whole answers by status.
fn statuses(kind: &KindRecord) -> BTreeMap<u16, u64> {
    kind.by_status.iter().map(|(status, cell)| (*status, cell.count)).collect()
}

const EVERY_ANSWER: &str = r#"
    connections = 8
    requests = 200
    [[request]]
    name = "fixed"
    weight = 4
    path = "/any/prefix/fixed/100000"
    [[request]]
    name = "chunked"
    weight = 2
    path = "/chunked/5/300"
    [[request]]
    name = "stream"
    path = "/stream/3/70/1"
    [[request]]
    name = "head"
    method = "HEAD"
    path = "/head"
    [[request]]
    name = "204"
    path = "/204"
    [[request]]
    name = "304"
    path = "/304"
    [[request]]
    name = "fail"
    path = "/fail/503"
    [[request]]
    name = "echo"
    method = "POST"
    path = "/echo"
    body_bytes = 70000
    weight = 2
    [[request]]
    name = "plain"
    path = "/x?fixed"
    weight = 7
"#;

/// Kind by kind: status, answers of 200 requests, body bytes of one.
const EXPECTED: [(u16, u64, u64); 9] = [
    (200, 40, 100_000),
    (200, 20, 1500),
    (200, 10, 210),
    (200, 10, 0),
    (204, 10, 0),
    (304, 10, 0),
    (503, 10, 36),
    (200, 20, 70_000),
    (200, 70, 72),
];

fn every_answer_is_counted(extra: &str) {
    let upstream = upstream();
    let scenario = scenario(&format!("{extra}\n{EVERY_ANSWER}"));
    let recording = record(&scenario, &upstream.target());
    for (kind, (status, count, bytes)) in recording.record.kinds.iter().zip(EXPECTED) {
        assert_eq!(statuses(kind), BTreeMap::from([(status, count)]), "{extra} {kind:?}");
        assert_eq!(kind.body_bytes, count * bytes, "{extra} status {status}");
        assert_eq!((kind.started, kind.aborted), (count, 0));
    }
    assert_eq!((recording.record.ended, recording.unsent), (200, 0));
    assert_eq!(recording.record.latency_us.len(), 200);
    let report = Report::new(&scenario, &upstream.target(), &recording);
    assert_eq!(report.findings, [""; 0]);
}

#[test]
fn an_open_loop_counts_every_kind_of_answer() {
    every_answer_is_counted("rate = 2000");
}

#[test]
fn a_closed_loop_counts_every_kind_of_answer() {
    every_answer_is_counted("rate = \"max\"");
}

#[test]
fn threads_share_the_work_exactly() {
    every_answer_is_counted("rate = 5000\nthreads = 3");
}

#[test]
fn http2_counts_every_kind_of_answer() {
    every_answer_is_counted("rate = 2000\nhttp = \"2\"\nstreams = 4");
}

#[test]
fn clients_leave_where_the_scenario_says() {
    let upstream = upstream();
    let scenario = scenario(
        r#"
        rate = 500
        requests = 60
        connections = 4
        [[request]]
        name = "before the answer"
        path = "/slow/60000"
        abort = { after = "send" }
        [[request]]
        name = "after the header"
        path = "/stream/1000/10/60000"
        abort = { after = "header" }
        [[request]]
        name = "in the body"
        path = "/stream/1000/10/60000"
        abort = { after = "body", bytes = 10 }
        [[request]]
        name = "too late"
        path = "/fixed/10"
        abort = { after = "body", bytes = 11 }
        [[request]]
        name = "at the very end"
        path = "/fixed/10"
        abort = { after = "body", bytes = 10 }
        [[request]]
        name = "reset by the server"
        path = "/reset"
        "#,
    );
    let recording = record(&scenario, &upstream.target());
    let kinds = &recording.record.kinds;
    for kind in &kinds[..3] {
        assert_eq!((kind.started, kind.aborted), (10, 10), "{kind:?}");
    }
    for kind in &kinds[3..5] {
        assert_eq!(statuses(kind), BTreeMap::from([(200, 10)]));
    }
    assert_eq!(kinds[5].failed, BTreeMap::from([(Failure::CutShort, 10)]));
    let findings = Report::new(&scenario, &upstream.target(), &recording).findings;
    assert_eq!(findings, ["reset by the server: 10 requests failed: cut short"]);
}

/// One connection, a request due every millisecond, 15 ms for each answer: request i cannot end
/// before 15 x (i + 1) ms, so that only bounds set by causality are asserted.
#[test]
fn latency_counts_from_when_a_request_was_due() {
    let upstream = upstream();
    let scenario = scenario(
        r#"
        rate = 1000
        requests = 30
        connections = 1
        [[request]]
        name = "stalled"
        path = "/slow/15"
        "#,
    );
    let recording = record(&scenario, &upstream.target());
    let record = &recording.record;
    assert_eq!(record.whole, 30);
    // The histogram keeps three digits.
    let at_least =
        |value: u64, bound_us: u64| assert!(value >= bound_us - bound_us / 500, "{value}");
    at_least(record.latency_us.max(), (15 * 30 - 29) * 1000);
    at_least(record.latency_us.value_at_quantile(0.5), (15 * 15 - 14) * 1000);
    // Uncorrected, each request seems to have taken its own 15 ms only.
    let service = &record.service_us;
    assert!(service.value_at_quantile(0.5) < record.latency_us.value_at_quantile(0.5) / 2);
    // What was hidden is how late the requests were sent.
    at_least(record.lateness_us.max(), (15 * 29 - 29) * 1000);
}

#[test]
fn nobody_listening_is_a_failure_of_every_request() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let target = format!("http://{address}").parse().expect("a loopback address is a target");
    for rate in ["1000", "\"max\""] {
        let scenario = scenario(&format!(
            "rate = {rate}\nrequests = 20\nconnections = 4\n\
             [[request]]\nname = \"a\"\npath = \"/\"\n"
        ));
        let recording = record(&scenario, &target);
        let failed = &recording.record.kinds[0].failed;
        assert_eq!(*failed, BTreeMap::from([(Failure::Connect, 20)]));
        let findings = Report::new(&scenario, &target, &recording).findings;
        assert_eq!(findings.len(), 2, "{findings:?}");
    }
}

#[test]
fn an_answer_that_does_not_come_times_out() {
    let upstream = upstream();
    let scenario = scenario(
        "rate = 1000\nrequests = 8\nconnections = 8\ntimeout_s = 0.05\n\
         [[request]]\nname = \"a\"\npath = \"/slow/60000\"\n",
    );
    let recording = record(&scenario, &upstream.target());
    assert_eq!(recording.record.kinds[0].failed, BTreeMap::from([(Failure::Timeout, 8)]));
}

#[test]
fn a_run_ends_by_itself_and_says_what_it_left_undone() {
    let upstream = upstream();
    let scenario = scenario(
        "rate = 100\nduration_s = 0.2\nconnections = 2\ndrain_s = 1\n\
         [[request]]\nname = \"a\"\npath = \"/slow/60000\"\n",
    );
    let recording = record(&scenario, &upstream.target());
    let kind = &recording.record.kinds[0];
    assert_eq!(kind.failed, BTreeMap::from([(Failure::Unfinished, 2)]));
    assert_eq!((kind.started, recording.unsent), (2, 18));
    let findings = Report::new(&scenario, &upstream.target(), &recording).findings;
    assert_eq!(findings.len(), 3, "{findings:?}");
}

#[test]
fn warm_up_counts_and_is_not_measured() {
    let upstream = upstream();
    let scenario = scenario(
        "rate = 1000\nrequests = 100\nwarmup_s = 0.05\nconnections = 4\n\
         [[request]]\nname = \"a\"\npath = \"/\"\n",
    );
    let recording = record(&scenario, &upstream.target());
    assert_eq!((recording.record.whole, recording.record.measured), (100, 50));
    assert_eq!(recording.record.latency_us.len(), 50);
}

#[test]
fn requests_carry_host_key_and_headers() {
    let server = answering(|request| {
        let header = |name: &str| {
            let value = request.headers().get(name);
            value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let right = match request.uri().path() {
            "/bearer" => header("authorization").as_deref() == Some("Bearer orb_SECRET"),
            "/x-api-key" => header("x-api-key").as_deref() == Some("orb_SECRET"),
            "/host" => header("host").as_deref() == Some("api.example"),
            "/header" => header("x-more").as_deref() == Some("yes"),
            _ => false,
        };
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() =
            if right { http::StatusCode::OK } else { http::StatusCode::IM_A_TEAPOT };
        response
    });
    let scenario = scenario(
        r#"
        rate = "max"
        requests = 40
        connections = 2
        [[request]]
        name = "bearer"
        path = "/bearer"
        key = "demo"
        expect = [200]
        [[request]]
        name = "x-api-key"
        path = "/x-api-key"
        key = "demo"
        key_header = "x-api-key"
        expect = [200]
        [[request]]
        name = "host"
        path = "/host"
        host = "api.example"
        expect = [200]
        [[request]]
        name = "header"
        path = "/header"
        headers = { X-More = "yes" }
        expect = [200]
        "#,
    );
    let recording = record(&scenario, &server.target());
    let report = Report::new(&scenario, &server.target(), &recording);
    assert_eq!(report.findings, [""; 0]);
    assert!(!format!("{report}").contains("SECRET"));
}

#[test]
fn a_label_without_a_key_is_named() {
    let scenario = scenario(
        "rate = 1\nrequests = 1\n[[request]]\nname = \"a\"\npath = \"/\"\nkey = \"absent\"\n",
    );
    let target: Target = "http://127.0.0.1:9".parse().expect("a loopback URL is a target");
    let (keys, keep_answers) = (Keys::default(), false);
    let (scenario, target) = (&scenario, &target);
    let plan = Run { scenario, target, keys: &keys, pids: &[], keep_answers, reloading: None };
    let error = run(&plan, &mut |_| {}).err().expect("there is no such key").to_string();
    assert_eq!(error, "request `a`: the keys file has no `absent`");
}

/// Admits the first 50 requests and refuses the others in the name of `level`.
fn limited_by(level: &'static str) -> servers::Served {
    let asked = AtomicU64::new(0);
    answering(move |_| {
        if asked.fetch_add(1, Ordering::Relaxed) < 50 {
            return Response::new(Full::new(Bytes::from_static(b"admitted")));
        }
        let body =
            format!(r#"{{"status":429,"level":"{level}","violated-policies":["team-rps"]}}"#);
        let response =
            Response::builder().status(429).header("content-type", "application/problem+json");
        response.body(Full::new(Bytes::from(body))).expect("the answer is well formed")
    })
}

/// A limit that gives 50 at once and as good as nothing after: no test depends on timing.
fn limit_findings(server: &servers::Served, burst: u64) -> Vec<String> {
    let scenario = scenario(&format!(
        "rate = 2000\nrequests = 200\nconnections = 8\n\
         expect_limit = {{ rate = 1, per_s = 3600, burst = {burst}, level = \"team\", \
         policy = \"team-rps\" }}\n\
         [[request]]\nname = \"a\"\npath = \"/\"\nexpect = [200, 429]\n"
    ));
    let recording = record(&scenario, &server.target());
    Report::new(&scenario, &server.target(), &recording).findings
}

#[test]
fn an_exact_limit_is_right() {
    assert_eq!(limit_findings(&limited_by("team"), 50), [""; 0]);
}

#[test]
fn a_limit_passed_or_not_reached_or_of_another_level_is_found() {
    assert!(limit_findings(&limited_by("team"), 49)[0].starts_with("limit: 50 were admitted"));
    assert!(limit_findings(&limited_by("team"), 60)[0].starts_with("limit: only 50 were admitted"));
    assert!(limit_findings(&limited_by("plan"), 50)[0].contains("name the level plan, not team"));
}

#[test]
fn a_websocket_is_whole_when_it_has_sent_back_and_ended() {
    let upstream = upstream();
    let scenario = scenario(
        "rate = 1000\nrequests = 60\nconnections = 4\n\
         [[request]]\nname = \"websocket\"\npath = \"/websocket\"\nwebsocket = true\nexpect = [101]\n\
         [[request]]\nname = \"events\"\npath = \"/events/3/1\"\n\
         [[request]]\nname = \"refused\"\npath = \"/fail/503\"\nwebsocket = true\n",
    );
    let recording = record(&scenario, &upstream.target());
    let [websocket, events, refused] = &recording.record.kinds[..] else { panic!("three kinds") };
    assert_eq!(statuses(websocket), BTreeMap::from([(101, 20)]));
    assert_eq!(websocket.body_bytes, 20 * 100);
    assert_eq!((statuses(events), events.body_bytes), (BTreeMap::from([(200, 20)]), 20 * 240));
    assert_eq!(statuses(refused), BTreeMap::from([(503, 20)]));
}
