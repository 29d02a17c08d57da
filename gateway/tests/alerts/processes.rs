//! Real gateways that are killed, and the operators' commands.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use orbit_policy::ApiKey;
use serde_json::Value;
use tempfile::TempDir;

use super::gateway::{Gateway, ask, status, upstream};
use super::receiver::{Answer, Delivery, Receiver, until};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Of each team: units of its quota, which refuses beyond them.
const LIMIT: u32 = 20;
const TEAMS: usize = 24;
/// Of all teams together: all that they use, so that the last unit of theirs is its last, too.
const SHARED: usize = TEAMS * LIMIT as usize;

/// A gateway's files; a key for each team of one holding.
struct Home {
    directory: TempDir,
    keys: Vec<ApiKey>,
}

impl Home {
    fn new(receiver: &Receiver, teams: usize) -> Home {
        let keys: Vec<ApiKey> = (0..teams).map(|_| ApiKey::generate("test").unwrap()).collect();
        let home = Home { directory: tempfile::tempdir().unwrap(), keys };
        let mut policy = format!(
            "[[plan]]\nid = \"p\"\napps = [\"crm\"]\n[[app]]\nid = \"crm\"\n\
             [[upstream]]\nid = \"u\"\npeers = [{{ address = \"{}\" }}]\n\
             [[route]]\nid = \"r\"\napp = \"crm\"\nupstream = \"u\"\n\
             [[tenant]]\nid = \"acme\"\nplan = \"p\"\nquotas = [{{ name = \"calls\", \
             meter = \"api_calls\", limit = {SHARED}, per = \"year\", thresholds = [10, 50, 90] }}]\n",
            upstream()
        );
        for (number, ApiKey { id, hash, .. }) in home.keys.iter().enumerate() {
            policy.push_str(&format!(
                "[[tenant]]\nid = \"team-{number}\"\nparent = \"acme\"\n\
                 quotas = [{{ name = \"calls\", meter = \"api_calls\", limit = {LIMIT}, \
                 per = \"year\", thresholds = [25, 50, 80] }}]\n\
                 [[key]]\nid = \"{id}\"\ntenant = \"team-{number}\"\nhash = \"{hash}\"\n"
            ));
        }
        let url = receiver.url();
        let settings = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nthreads = 2\n\
             [admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"data/token\"\n\
             [ingest]\nlisten = \"\"\n[limits]\ndirectory = \"data/state\"\n\
             [journal]\ndirectory = \"data/journal\"\nsegment_bytes = 1048576\n\
             max_bytes = 67108864\n\
             [clickhouse]\nmode = \"external\"\nurl = \"http://127.0.0.1:1\"\n\
             [log]\nformat = \"json\"\n\
             [alerts]\nretry_base_ms = 10\ntimeout_ms = 300\n\
             [[alerts.webhook]]\nid = \"hook\"\nurl = \"{url}\"\nsecret_file = \"secret\"\n\
             allow_private = true\n\
             types = [\"quota.threshold_crossed\", \"quota.exhausted\"]\n"
        );
        std::fs::create_dir(home.path("policy")).unwrap();
        std::fs::write(home.path("policy/all.toml"), policy).unwrap();
        std::fs::write(home.path("orbit.toml"), settings).unwrap();
        std::fs::write(home.path("secret"), SECRET).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self) -> Gateway {
        Gateway::start(&self.path("orbit.toml"))
    }

    fn bearer(&self) -> String {
        let token = std::fs::read_to_string(self.path("data/token")).unwrap();
        format!("Authorization: Bearer {}\r\n", token.trim())
    }

    /// One request of a team; 0 where there was no answer.
    fn call(&self, proxy: &str, team: usize) -> u16 {
        let fields = format!("X-Api-Key: {}\r\n", self.keys[team].reveal());
        ask(proxy, "GET /", &fields).map_or(0, |answer| status(&answer))
    }
}

/// Whose crossing it is, and which: `acme/team-3 80`.
fn crossing(delivery: &Delivery) -> String {
    let body = delivery.json();
    let data = &body["data"];
    assert_eq!(data["quota"], "calls", "{body}");
    let which = match data["threshold_percent"].as_u64() {
        Some(percent) => percent.to_string(),
        None => body["type"].as_str().unwrap().to_owned(),
    };
    format!("{} {which}", data["path"].as_str().unwrap())
}

fn expected() -> BTreeSet<String> {
    let teams = (0..TEAMS).flat_map(|team| {
        ["25", "50", "80", "quota.exhausted"].map(|which| format!("acme/team-{team} {which}"))
    });
    let holding = ["10", "50", "90", "quota.exhausted"].map(|which| format!("acme {which}"));
    teams.chain(holding).collect()
}

/// Uses the quota of every team up while the gateway is killed, with a receiver that fails in every
/// way. Each crossing arrives under one id, none is missing and none is there that did not happen.
#[test]
fn each_crossing_is_told_under_one_id_whatever_dies() {
    // Different in each run, and told with a failure by the ids that are wrong.
    let mut turn = std::process::id() as usize;
    let receiver = Receiver::start(move |_| {
        turn = turn.wrapping_mul(5).wrapping_add(3);
        match turn >> 4 & 15 {
            0..=2 => Answer::status(500),
            3 => Answer::Stall,
            4 => Answer::Close,
            _ => Answer::OK,
        }
    });
    let home = Home::new(&receiver, TEAMS);
    let mut gateway = home.start();
    let lives = 4;
    for life in 1..=lives {
        // A quarter of it in each life; the last is asked for until it is refused.
        let upto = if life == lives { u32::MAX } else { LIMIT / lives * life };
        let proxy = gateway.proxy.clone();
        std::thread::scope(|scope| {
            for team in 0..TEAMS {
                let (home, proxy) = (&home, &proxy);
                scope.spawn(move || {
                    let mut number = 0;
                    while number < upto.min(LIMIT / lives) || upto == u32::MAX {
                        match home.call(proxy, team) {
                            200 => number += 1,
                            429 => break,
                            other => panic!("{other}"),
                        }
                    }
                });
            }
        });
        // At once: what was counted last was not looked at.
        if life < lives {
            gateway.kill();
            gateway = home.start();
        }
    }
    let told = Mutex::new(BTreeMap::<String, BTreeSet<String>>::new());
    let taken = Mutex::new(BTreeSet::new());
    while taken.lock().unwrap().len() < expected().len() {
        let delivery = receiver.next();
        assert_eq!(delivery.signatures_by(SECRET), 1, "{delivery:?}");
        let crossing = crossing(&delivery);
        told.lock().unwrap().entry(crossing.clone()).or_default().insert(delivery.id.clone());
        if delivery.is_taken {
            taken.lock().unwrap().insert(crossing);
        }
    }
    assert_eq!(taken.into_inner().unwrap(), expected());
    // Once more from the beginning: nothing is told again.
    gateway.kill();
    let gateway = home.start();
    wait_until_delivered(&home, &gateway);
    for delivery in receiver.rest() {
        let crossing = crossing(&delivery);
        told.lock().unwrap().entry(crossing).or_default().insert(delivery.id);
    }
    for (crossing, ids) in told.into_inner().unwrap() {
        assert_eq!(ids.len(), 1, "{crossing}: {ids:?}");
        assert!(expected().contains(&crossing), "{crossing}");
    }
    gateway.stop();
}

/// Waits until nothing is pending.
fn wait_until_delivered(home: &Home, gateway: &Gateway) {
    until("the last delivery", || {
        let list = list(home, gateway, "");
        assert_eq!(list["dead"], 0, "{list}");
        (list["pending"] == 0).then_some(())
    });
}

fn list(home: &Home, gateway: &Gateway, query: &str) -> Value {
    let line = format!("GET /v1/alerts{query}");
    let answer = ask(&gateway.admin, &line, &home.bearer()).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    serde_json::from_str(body).unwrap()
}

/// `orbit alerts` against a running gateway.
fn orbit(home: &Home, gateway: &Gateway, arguments: &[&str]) -> (bool, String) {
    let settings = std::fs::read_to_string(home.path("orbit.toml")).unwrap();
    let anywhere = "[admin]\nlisten = \"127.0.0.1:0\"";
    let found = settings.replace(anywhere, &format!("[admin]\nlisten = \"{}\"", gateway.admin));
    std::fs::write(home.path("found.toml"), found).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_orbit"))
        .args(["alerts"])
        .args(arguments)
        .args(["--config".as_ref(), Path::new(&home.path("found.toml")).as_os_str()])
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn operators_list_what_is_dead_page_by_page_and_replay_it() {
    let receiver = Receiver::start(|_| Answer::status(410));
    let home = Home::new(&receiver, 1);
    let gateway = home.start();
    while home.call(&gateway.proxy, 0) != 429 {}
    let found = |query: &str, count: usize| {
        until(&format!("{count} with {query}"), || {
            let list = list(&home, &gateway, query);
            let deliveries = list["deliveries"].as_array().unwrap().clone();
            (deliveries.len() == count).then(|| (deliveries, list["next_cursor"].clone()))
        })
    };
    let (dead, _) = found("?state=dead", 4);
    assert!(dead.iter().all(|one| one["last_error"].as_str().unwrap().contains("410")));
    let ids: BTreeSet<&str> = dead.iter().map(|one| one["id"].as_str().unwrap()).collect();
    let (first, next) = found("?state=dead&limit=3&webhook=hook&since=2026-01-01T00:00:00Z", 3);
    let (second, end) = found(&format!("?limit=3&cursor={}", next.as_str().unwrap()), 1);
    let paged: BTreeSet<&str> =
        first.iter().chain(&second).map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!((paged, end), (ids.clone(), Value::Null));
    found("?webhook=other", 0);
    found("?since=2100-01-01T00:00:00Z", 0);
    for wrong in ["?state=dying", "?limit=0", "?limit=1001", "?since=today", "?cursor=x", "?x=1"] {
        let answer = ask(&gateway.admin, &format!("GET /v1/alerts{wrong}"), &home.bearer());
        assert_eq!(status(&answer.unwrap()), 400, "{wrong}");
    }

    let (well, text) = orbit(&home, &gateway, &["list", "--state", "dead", "--limit", "3"]);
    assert!(well && text.starts_with("0 pending, 4 dead\nmsg_"), "{text}");
    let after = text.split_once("There is more: --after ").unwrap().1.trim().to_owned();
    let (well, text) = orbit(&home, &gateway, &["list", "--after", &after, "--json"]);
    let rest: Value = serde_json::from_str(&text).unwrap();
    assert!(well && rest["deliveries"].as_array().unwrap().len() == 1, "{text}");

    receiver.now(|_| Answer::OK);
    let one = *ids.first().unwrap();
    let (well, text) = orbit(&home, &gateway, &["replay", one]);
    assert!(well && text == "1 deliveries are made once more\n", "{text}");
    found("?state=delivered", 1);
    for (arguments, said) in [
        (&["replay", "msg_0"][..], "no alert has this id"),
        (&["replay", "--webhook", "other"], "no webhook `other` is in the settings"),
        (&["list", "--webhook", "a b"], "neither an id"),
    ] {
        let (well, text) = orbit(&home, &gateway, arguments);
        assert!(!well && text.contains(said), "{arguments:?}: {text}");
    }
    assert!(orbit(&home, &gateway, &["replay", "--webhook", "hook"]).0);
    found("?state=delivered", 4);
    let (well, text) = orbit(&home, &gateway, &["replay", "--all"]);
    assert!(well && text.starts_with("0 deliveries"), "{text}");
    let ready = ask(&gateway.admin, "GET /readyz", &home.bearer()).unwrap();
    assert!(ready.contains("\"alerts\":{\"ok\":true"), "{ready}");
    gateway.stop();
}

/// M4, H1: what is in the way of alerts is in nobody else's.
#[test]
fn m4_a_gateway_starts_and_serves_while_alerts_cannot_be_recorded() {
    let receiver = Receiver::start(|_| Answer::OK);
    let home = Home::new(&receiver, 1);
    std::fs::create_dir_all(home.path("data/state/alerts.redb")).unwrap();
    let gateway = home.start();
    while home.call(&gateway.proxy, 0) != 429 {}
    let ready = ask(&gateway.admin, "GET /readyz", &home.bearer()).unwrap();
    assert_eq!(status(&ready), 200);
    assert!(ready.contains("\"alerts\":{\"ok\":false"), "{ready}");
    let answer = ask(&gateway.admin, "GET /v1/alerts", &home.bearer()).unwrap();
    assert_eq!(status(&answer), 503, "{answer}");
    std::fs::remove_dir(home.path("data/state/alerts.redb")).unwrap();
    let told: BTreeSet<String> = (0..4).map(|_| crossing(&receiver.next())).collect();
    let all = ["25", "50", "80", "quota.exhausted"].map(|which| format!("acme/team-0 {which}"));
    assert_eq!(told, BTreeSet::from(all));
    gateway.stop();
}
