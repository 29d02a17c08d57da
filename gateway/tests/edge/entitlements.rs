//! What a tenant is not entitled to, over real HTTP: five refusals, each with what would grant it;
//! and a change that takes effect at its instant while requests go on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use jiff::Timestamp;
use orbit_gateway::clock::Clock;
use orbit_gateway::proxy::Edge;
use orbit_gateway::reload::{self, Cause, Outcome, Reloader};
use orbit_policy::{ApiKey, PolicySettings};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Bench, Seen, upstream};

/// Plans `small` and `big`, an add-on, and a route for each way to be refused.
fn products(upstream: SocketAddr) -> String {
    let apps = ["crm", "finance", "people", "ai", "fleet"];
    let mut text = format!(
        r#"
[[plan]]
id = "small"
app_count = 2
apps = ["crm", "finance", "people"]
[[plan]]
id = "big"
app_count = 3
api_tier = "complete"
apps = ["crm", "finance", "people", "ai"]
[[plan]]
id = "all"
api_tier = "premium"
features = ["gpt4"]
[[addon]]
id = "models"
apps = ["ai"]
features = ["gpt4"]
[[upstream]]
id = "apps"
peers = [{{ address = "{upstream}" }}]
[[route]]
id = "bulk"
app = "crm"
path = "/crm/bulk"
tier = "complete"
upstream = "apps"
[[route]]
id = "stream"
app = "crm"
path = "/crm/stream"
tier = "premium"
upstream = "apps"
[[route]]
id = "gpt4"
app = "crm"
path = "/crm/gpt4"
feature = "gpt4"
upstream = "apps"
"#
    );
    for app in apps {
        text.push_str(&format!(
            "[[app]]\nid = \"{app}\"\n[[route]]\nid = \"{app}\"\napp = \"{app}\"\n\
             path = \"/{app}\"\nupstream = \"apps\"\n"
        ));
    }
    text
}

fn tenant(key: &ApiKey, keys: &str) -> String {
    let (id, hash) = (&key.id, &key.hash);
    format!(
        "[[tenant]]\nid = \"acme\"\n{keys}\n[[key]]\nid = \"{id}\"\ntenant = \"acme\"\n\
         hash = \"{hash}\"\n"
    )
}

async fn bench(keys: &str) -> Bench {
    let (upstream, seen) = upstream().await;
    let key = ApiKey::generate("test").unwrap();
    let text = products(upstream) + &tenant(&key, keys);
    Bench::of_policy(text, key, upstream, seen, |_| {})
}

/// The refusal's members beside those that every problem has.
async fn refused(bench: &Bench, path: &str) -> Value {
    let (status, headers, body) = bench.get(path).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
    assert_eq!(headers["content-type"], "application/problem+json");
    let mut body: Value = serde_json::from_slice(&body).unwrap();
    let members = body.as_object_mut().unwrap();
    let slug = members["type"].as_str().unwrap();
    let slug = slug.strip_prefix("urn:orbit:problem:").unwrap().to_owned();
    members.insert("type".into(), slug.into());
    for common in ["title", "status", "instance", "tenant"] {
        assert!(members.remove(common).is_some(), "{common}");
    }
    body
}

#[tokio::test]
async fn each_of_five_refusals_says_what_is_missing_and_what_would_grant_it() {
    let bench = bench("plan = \"small\"\napps = [\"crm\", \"ai\"]").await;
    for path in ["/crm", "/crm/other"] {
        assert_eq!(bench.get(path).await.0, StatusCode::OK, "{path}");
    }
    let granted = |plans: &[&str], addons: &[&str]| json!({ "plans": plans, "addons": addons });
    let detail = "The app `ai` is not part of the plan `small`. Granted by: plan big, plan all, \
                  add-on models.";
    let expected = json!({
        "type": "not-entitled", "app": "ai", "plan": "small", "detail": detail,
        "granted-by": granted(&["big", "all"], &["models"]),
    });
    assert_eq!(refused(&bench, "/ai").await, expected);
    let detail = "The app `people` is granted by the plan `small` or an add-on, but not activated \
                  for `acme`. To activate it, add it to `apps` of the tenant in the policy, and of \
                  the tenants above it that list their own.";
    let expected = json!({
        "type": "app-not-activated", "app": "people", "plan": "small", "detail": detail,
        "activated": ["crm", "ai"], "granted-by": granted(&[], &[]),
    });
    assert_eq!(refused(&bench, "/people").await, expected);
    let detail = "This is one of the complete APIs; the plan `small` has the basic ones. Granted \
                  by: plan big, plan all.";
    let expected = json!({
        "type": "api-tier-too-low", "app": "crm", "plan": "small", "detail": detail,
        "api-tier": "basic", "needed-api-tier": "complete",
        "granted-by": granted(&["big", "all"], &[]),
    });
    assert_eq!(refused(&bench, "/crm/bulk").await, expected);
    let detail = "The feature `gpt4` is part of neither the plan `small` nor the add-ons. Granted \
                  by: plan all, add-on models.";
    let expected = json!({
        "type": "feature-not-included", "app": "crm", "plan": "small", "detail": detail,
        "feature": "gpt4", "granted-by": granted(&["all"], &["models"]),
    });
    assert_eq!(refused(&bench, "/crm/gpt4").await, expected);
    assert_eq!(bench.seen.lock().unwrap().len(), 2, "refusals never reach the upstream");
}

#[tokio::test]
async fn the_app_after_the_last_that_fits_is_refused_and_no_other() {
    let bench = bench(
        "plan = \"small\"\naddons = [\"models\"]\napps = [\"people\", \"ai\", \"finance\", \"crm\"]",
    )
    .await;
    for path in ["/people", "/ai", "/finance"] {
        assert_eq!(bench.get(path).await.0, StatusCode::OK, "{path}");
    }
    let detail = "`acme` may use 2 apps on the plan `small`, and `crm` was activated after them. \
                  Give up another one, or have more. Granted by: plan big, plan all.";
    let expected = json!({
        "type": "app-limit-exceeded", "app": "crm", "plan": "small", "detail": detail,
        "app-limit": 2, "activated": ["people", "ai", "finance", "crm"],
        "granted-by": { "plans": ["big", "all"], "addons": [] },
    });
    assert_eq!(refused(&bench, "/crm").await, expected);
}

/// More than one thing missing, plans that nobody is told of, and a newer version of the tenant's own.
#[tokio::test]
async fn only_what_grants_all_that_is_missing_by_itself_is_named() {
    let more = r#"
[[plan]]
id = "small"
version = 2
from = "2020-01-01"
apps = ["crm", "people", "ai"]
[[plan]]
id = "bespoke"
public = false
api_tier = "premium"
features = ["gpt4", "sso"]
[[addon]]
id = "login"
features = ["sso"]
[[route]]
id = "deep"
app = "ai"
path = "/ai/deep"
tier = "premium"
feature = "gpt4"
upstream = "apps"
[[route]]
id = "login"
app = "crm"
path = "/crm/login"
tier = "complete"
feature = "sso"
upstream = "apps"
"#;
    let listed = bench(&format!("plan = \"small@1\"\napps = [\"crm\"]\n{more}")).await;
    let unlisted = bench(&format!("plan = \"small@1\"\n{more}")).await;
    let granted = |plans: &[&str], addons: &[&str]| json!({ "plans": plans, "addons": addons });
    for (bench, path, by, says) in [
        // The newest of its own plan's versions has the app. On `big` it would be the fourth of three.
        (
            &unlisted,
            "/ai",
            granted(&["all", "small@2"], &["models"]),
            "not part of the plan `small`. Granted by: plan all, plan small@2, add-on models.",
        ),
        (
            &listed,
            "/ai",
            granted(&["big", "all", "small@2"], &["models"]),
            "add-on models. Then add it to `apps` of the tenant in the policy, and of the tenants above",
        ),
        (
            &unlisted,
            "/ai/deep",
            granted(&["all"], &[]),
            "not part of the plan `small`. Missing as well: the premium APIs, the feature `gpt4`. All of \
             it is granted by: plan all.",
        ),
        // A plan has the one, an add-on the other, and a plan that has both is nobody's business.
        (
            &unlisted,
            "/crm/login",
            granted(&[], &[]),
            "has the basic ones. Missing as well: the feature `sso`. No single plan and no single add-on \
             grants all of it.",
        ),
        // Two are activated by themselves, and there is no room for the third.
        (
            &unlisted,
            "/people",
            granted(&["big", "all", "small@2"], &[]),
            "Missing as well: room among the 2 apps that may be used. All of it is granted by: plan big",
        ),
    ] {
        let problem = refused(bench, path).await;
        assert_eq!(problem["granted-by"], by, "{path}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{path}: {detail}");
        assert!(!problem.to_string().contains("bespoke"), "{path}: {problem}");
    }
}

const OK: StatusCode = StatusCode::OK;
const NO: StatusCode = StatusCode::FORBIDDEN;

/// A gateway whose policy is on disk, and what reloads it.
struct OnDisk {
    bench: Arc<Bench>,
    file: PathBuf,
    reloader: Reloader,
    _directory: TempDir,
}

impl OnDisk {
    fn start(text: String, key: ApiKey, upstream: SocketAddr, seen: Seen) -> OnDisk {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("all.toml");
        std::fs::write(&file, &text).unwrap();
        let paths = vec![directory.path().to_owned()];
        let settings = PolicySettings {
            max_dynamic_keys: 10,
            hash_key: [9; 16],
            memory: orbit_policy::quota::InMemory::shared(),
        };
        let clock = Arc::new(Clock::start());
        let (policy, loaded) = reload::start_policy(&paths, &settings, &clock).unwrap();
        let (in_force, wall) = (Arc::clone(&policy), Arc::clone(&clock));
        let adjust = |edge: &mut Edge| {
            edge.policy = in_force;
            edge.clock = wall;
        };
        let bench = Arc::new(Bench::of_edge(text, key, upstream, seen, |_| {}, adjust));
        let reloader = Reloader::start(policy, loaded, paths, false, clock).unwrap();
        OnDisk { bench, file, reloader, _directory: directory }
    }

    /// Adds a change a second ahead to the documents, waits until it is in force, and returns its
    /// instant and when it was. By then there is a draft on disk that nobody applied.
    async fn change(&self, documents: &mut String, keys: &str) -> (i64, i64) {
        let at_us = self.bench.edge.clock.unix_us() + 1_000_000;
        let at = Timestamp::from_microsecond(at_us).unwrap();
        documents.push_str(&format!("[[change]]\ntenant = \"acme\"\nat = \"{at}\"\n{keys}\n"));
        std::fs::write(&self.file, &documents).unwrap();
        let mut reloads = self.reloader.handle();
        let applied = reloads.apply().await.unwrap();
        assert!(matches!(applied.outcome, Outcome::Applied), "{applied:?}");
        std::fs::write(&self.file, "[[tenant]]\nid = \"draft\"\n").unwrap();
        let status = reloads.wait_for(|status| status.version > applied.version).await.unwrap();
        assert_eq!((status.cause, status.next_change_us), (Cause::Schedule, None));
        assert_eq!(status.fingerprint, applied.fingerprint, "the very same documents");
        (at_us, status.loaded_at_us)
    }
}

/// An upgrade and a suspension under a tenant that never stops asking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_takes_effect_at_its_instant_and_drops_no_request() {
    let (upstream, seen) = upstream().await;
    let key = ApiKey::generate("test").unwrap();
    let mut documents = products(upstream) + &tenant(&key, "plan = \"small\"");
    let on_disk = OnDisk::start(documents.clone(), key, upstream, seen);
    let bench = Arc::clone(&on_disk.bench);
    let stop = Arc::new(AtomicBool::new(false));
    let (asked, mut first) = tokio::sync::mpsc::unbounded_channel();
    let traffic = tokio::spawn({
        let (bench, stop) = (Arc::clone(&bench), Arc::clone(&stop));
        async move {
            let mut answers = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let asked_us = bench.edge.clock.unix_us();
                let statuses = (bench.get("/crm").await.0, bench.get("/crm/bulk").await.0);
                answers.push((asked_us, statuses, bench.edge.clock.unix_us()));
                let _heard = asked.send(());
            }
            answers
        }
    });
    first.recv().await.unwrap();
    let (upgrade_us, upgraded_us) = on_disk.change(&mut documents, "plan = \"big\"").await;
    let asked_before = first.len();
    while first.len() < asked_before + 2 {
        tokio::task::yield_now().await;
    }
    let (end_us, ended_us) = on_disk.change(&mut documents, "status = \"suspended\"").await;
    stop.store(true, Ordering::Relaxed);
    let answers = traffic.await.unwrap();

    let mut seen = [0; 3];
    for (asked_us, statuses, answered_us) in answers {
        let at = format!("{statuses:?} {} us after the upgrade", asked_us - upgrade_us);
        if answered_us < upgrade_us {
            assert_eq!(statuses, (OK, NO), "{at}");
            seen[0] += 1;
        } else if upgraded_us <= asked_us && answered_us < end_us {
            assert_eq!(statuses, (OK, OK), "{at}");
            seen[1] += 1;
        } else if ended_us <= asked_us {
            assert_eq!(statuses, (NO, NO), "{at}");
        } else {
            // While it takes effect: the one or the other.
            assert!([(OK, NO), (OK, OK), (NO, NO)].contains(&statuses), "{at}");
            seen[2] += 1;
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    assert_eq!(bench.get("/crm").await.0, NO);
}
