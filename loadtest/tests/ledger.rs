//! The ledger against the real ClickHouse engine: a run's answers, rows written as they should be,
//! and the same rows with one thing wrong at a time.

#[path = "support/servers.rs"]
mod servers;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use orbit_loadtest::generator::{Recording, Run, run};
use orbit_loadtest::keys::{Keys, Secret};
use orbit_loadtest::ledger::audit::{audit, expectations};
use orbit_loadtest::ledger::table::{Patience, Table};
use orbit_loadtest::ledger::{Check, LedgerVerdict};
use orbit_loadtest::scenario::Scenario;
use orbit_meter::clickhouse::{MigrateOptions, Store, testing};
use servers::answering;

/// This test program is its own engine.
#[test]
fn engine_process() {
    testing::serve_if_asked();
}

const SCENARIO: &str = r#"
    rate = 4000
    requests = 400
    connections = 8
    [[request]]
    name = "acme"
    weight = 2
    path = "/acme"
    tenant = "acme"
    app = "payments"
    route = "pix"
    [[request]]
    name = "globex"
    path = "/globex"
    tenant = "globex"
    route = "cards"
    [[request]]
    name = "refused"
    path = "/refused"
    tenant = "globex"
    route = "cards"
"#;

/// Numbers its answers in `X-Request-Id` and refuses `/refused` as the gateway does.
fn numbering() -> servers::Served {
    let asked = AtomicU64::new(0);
    answering(move |request| {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::builder().header("x-request-id", format!("{number:032x}"));
        if request.uri().path() == "/refused" {
            response = response.status(429).header("content-type", "application/problem+json");
        }
        response.body(Full::new(Bytes::from_static(b"{}"))).expect("the answer is well formed")
    })
}

fn recorded(scenario: &Scenario) -> Recording {
    let (server, keys) = (numbering(), Keys::default());
    let target = &server.target();
    let plan =
        Run { scenario, target, keys: &keys, pids: &[], keep_answers: true, reloading: None };
    match run(&plan, &mut |_| {}) {
        Ok(recording) => recording,
        Err(error) => panic!("{error}"),
    }
}

/// The rows a right gateway writes for a recording, as VALUES, one row each.
fn rows(recording: &Recording) -> Vec<String> {
    let mut answers = recording.record.answers.clone().expect("the run kept its answers");
    answers.sort_by_key(|answer| answer.group);
    let ts = recording.started_unix_us;
    let row = |sequence: usize,
               kind: &str,
               place: [&str; 3],
               status: u16,
               requests: u64,
               id: &str| {
        let [tenant, app, route] = place;
        let bytes = if kind == "request" { 2 } else { 0 };
        format!(
            "(1, 1, 0, {sequence}, fromUnixTimestamp64Micro({ts}), '{tenant}', '{app}', '{route}', \
             '{kind}', {status}, {requests}, '{id}', {requests}, {bytes})"
        )
    };
    let mut rows = Vec::new();
    for answer in answers.iter().filter(|answer| !answer.gateway_made) {
        let place =
            [["acme", "payments", "pix"], ["globex", "", "cards"]][usize::from(answer.group)];
        let id = answer.id.expect("every answer has a number").to_string();
        rows.push(row(rows.len(), "request", place, answer.status, 1, &id));
    }
    let refused = answers.iter().filter(|answer| answer.gateway_made).count() as u64;
    // As two seconds of refusals.
    for part in [refused / 3, refused - refused / 3] {
        let nobody = "00000000-0000-0000-0000-000000000000";
        rows.push(row(rows.len(), "refused", ["globex", "", "cards"], 429, part, nobody));
    }
    rows
}

/// The table, emptied, with these rows; and what the ledger says of it.
async fn compared(
    store: &Store,
    table: &Table,
    scenario: &Scenario,
    recording: &Recording,
    rows: &[String],
) -> LedgerVerdict {
    store.execute("TRUNCATE TABLE usage_events").await.expect("the table can be emptied");
    let columns = "node, epoch, lane, sequence, ts, tenant, app, route, kind, status, requests, \
                   request_id, quantity, response_bytes";
    let insert = format!("INSERT INTO usage_events ({columns}) VALUES {}", rows.join(", "));
    store.execute(&insert).await.expect("the rows can be written");
    let patience = Patience {
        quiet_complete: Duration::ZERO,
        quiet_missing: Duration::ZERO,
        limit: Duration::from_secs(30),
    };
    let expected = expectations(scenario).expect("every kind says tenant and route");
    match audit(table, expected, &mut recording.clone(), &patience, &mut |_, _| {}).await {
        Ok(verdict) => verdict,
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
}

/// What is broken, how, and which checks must find it.
type Break = (&'static str, fn(&mut Vec<String>), Vec<Check>);

/// Checks that found something wrong.
fn wrong(verdict: &LedgerVerdict) -> Vec<Check> {
    verdict.checks.iter().filter(|line| line.wrong > 0).map(|line| line.check).collect()
}

#[tokio::test]
async fn right_rows_are_clean_and_each_wrong_row_is_found() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let engine = testing::start_self(directory.path(), "engine_process");
    let settings = engine.settings();
    let store = Store::new(&settings).expect("the engine's settings are valid");
    store.migrate(&MigrateOptions::default()).await.expect("the schema can be made");
    let table = Table {
        target: settings.url.parse().expect("the engine listens on loopback"),
        user: settings.user.clone(),
        password: Secret::new(settings.password.clone()),
        database: settings.database.clone(),
    };
    let scenario = match Scenario::parse("test.toml", SCENARIO) {
        Ok(scenario) => scenario,
        Err(error) => panic!("{error}"),
    };
    let recording = recorded(&scenario);
    let right = rows(&recording);

    let verdict = compared(&store, &table, &scenario, &recording, &right).await;
    assert!(verdict.is_clean(), "{verdict:?}");
    let checked: Vec<u64> = verdict.checks.iter().map(|line| line.checked).collect();
    assert_eq!(checked, [400, 302, 0, 0, 300, 300, 0, 100, 1]);

    let breaks: [Break; 7] = [
        (
            "quantity",
            |rows| rows[7] = rows[7].replace("', 1, 2)", "', 2, 2)"),
            vec![Check::Quantities],
        ),
        ("bytes", |rows| rows[7] = rows[7].replace("', 1, 2)", "', 1, 3)"), vec![Check::Bytes]),
        ("missing", |rows| drop(rows.remove(7)), vec![Check::Answers, Check::Sequences]),
        (
            "double",
            |rows| rows.push(rows[7].replacen("0, 7, ", "0, 302, ", 1)),
            vec![Check::Doubles],
        ),
        ("tenant", |rows| rows[7] = rows[7].replace("acme", "globex"), vec![Check::Answers]),
        ("status", |rows| rows[7] = rows[7].replace("200, 1", "500, 1"), vec![Check::Answers]),
        (
            "refusals",
            |rows| rows[301] = rows[301].replace(", 67, ", ", 66, "),
            vec![Check::Refusals],
        ),
    ];
    assert!(right[7].contains("'acme'"), "answers of the first kind come first");
    for (name, break_it, expected) in breaks {
        let mut rows = right.clone();
        break_it(&mut rows);
        let verdict = compared(&store, &table, &scenario, &recording, &rows).await;
        assert_eq!(wrong(&verdict), expected, "{name}: {verdict:?}");
    }
}
