//! `orbit audit` and `orbit node` as an operator meets them, and the audit beside the traffic: the
//! real binary on the real engine, found running, started for the command, or not there at all.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use orbit_gateway::audit::Auditor;
use orbit_gateway::clock::Clock;
use orbit_gateway::settings::Settings;
use orbit_gateway::storage::Storage;
use orbit_gateway::telemetry::Metrics;
use orbit_meter::clickhouse::engine::Engine;
use orbit_meter::clickhouse::native::ROW_DIGEST;
use orbit_meter::clickhouse::nodes::{Node, NodeState};
use orbit_meter::clickhouse::{MigrateOptions, Store, testing};
use serde_json::Value;

const ORBIT: &str = env!("CARGO_BIN_EXE_orbit");
/// After this a state that should come is not coming.
const BOUND: Duration = Duration::from_mins(1);

/// A settings file and its data directory.
struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    fn new() -> Home {
        let home = Home { directory: tempfile::tempdir().unwrap() };
        home.configure("mode = \"embedded\"\nhttp_port = 0\ntcp_port = 0\ndata = \"data\"\n");
        home
    }

    fn configure(&self, clickhouse: &str) {
        fs::write(self.config(), format!("[clickhouse]\n{clickhouse}")).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("orbit.toml")
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn orbit(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(ORBIT);
        command.args(arguments).arg("--config").arg(self.config());
        command.env_remove("ORBIT_CONFIG").output().unwrap()
    }

    fn engine(&self) -> Engine {
        testing::start(&self.data(), Path::new(ORBIT), &["clickhouse"])
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The exit code and the last line.
fn verdict(output: &Output) -> (i32, String) {
    let last = stdout(output).lines().last().unwrap_or_default().to_owned();
    (output.status.code().unwrap(), last)
}

async fn run(store: &Store, sql: &str) {
    store.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// A thousand rows of one node, an hour old, in a batch that is listed.
async fn fill(store: &Store) {
    // Not at the turn of a month: a batch is of one.
    run(
        store,
        "INSERT INTO usage_events (node, epoch, lane, sequence, ts, tenant, path, meter, kind, \
         requests, quantity, request_id, batch_id) \
         WITH greatest(now64(6, 'UTC') - INTERVAL 1 HOUR, \
         toDateTime64(toStartOfMonth(now('UTC')), 6, 'UTC')) AS begin \
         SELECT 7, 1, 0, number, begin, 'acme', 'acme', 'calls', 'request', 1, 1, \
         generateUUIDv4(number), 99 FROM numbers(1000)",
    )
    .await;
    run(
        store,
        &format!(
            "INSERT INTO usage_batches SELECT batch_id, any(node), 0, any(toYYYYMM(ts)), count(), \
             min(ts), max(ts), sum(requests), sum(quantity), sum(request_bytes), \
             sum(response_bytes), sum({ROW_DIGEST}), [(1, 0, 0, 999)], 0, now64(3) \
             FROM usage_events GROUP BY batch_id"
        ),
    )
    .await;
}

async fn say(store: &Store, node: u32, state: NodeState) {
    let word = Node {
        node,
        epoch: 1,
        state,
        host: format!("host-{node}"),
        watermark_us: Some(1_793_491_200_000_000),
        lanes: Vec::new(),
        backlog_events: 3,
        updated_us: orbit_gateway::clock::Clock::start().unix_us(),
    };
    store.put_node(&word).await.unwrap();
}

const DAMAGE: &str = "ALTER TABLE usage_events DELETE WHERE sequence = 500 \
                      SETTINGS mutations_sync = 2";

#[tokio::test]
async fn m3_a_running_engine_is_found_and_damage_is_exit_code_1() {
    let home = Home::new();
    let engine = home.engine();
    let store = Store::new(&engine.settings()).unwrap();
    let schema = home.orbit(&["audit"]);
    assert_eq!(schema.status.code(), Some(1));
    assert!(stderr(&schema).contains("run `orbit migrate`"), "{}", stderr(&schema));

    store.migrate(&MigrateOptions::default()).await.unwrap();
    fill(&store).await;
    say(&store, 7, NodeState::Running).await;
    let clean = home.orbit(&["audit", "--wait-s", "0"]);
    let text = stdout(&clean);
    assert_eq!(verdict(&clean), (0, "clean".to_owned()), "{text}{}", stderr(&clean));
    assert_eq!(stderr(&clean), "", "no progress bar without a terminal");
    for line in ["batches                      1 batches       0", "node 7 (host-7) running"] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.contains("Watermark: 2026-11-01T00:00:00Z"), "{text}");

    run(&store, DAMAGE).await;
    let damaged = home.orbit(&["audit", "--wait-s", "0"]);
    assert_eq!(verdict(&damaged), (1, "2 findings".to_owned()), "{}", stdout(&damaged));
    assert!(stdout(&damaged).contains("1 of 1000 rows are missing"), "{}", stdout(&damaged));
    assert_eq!(stderr(&damaged), "orbit: 2 findings\n");

    let json = home.orbit(&["audit", "--wait-s", "0", "--format", "json", "--from", "2026-01-01"]);
    assert_eq!(json.status.code(), Some(1));
    let report: Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!(report["verdict"], "findings");
    assert_eq!(report["findings"], 1, "a window shows no gap of a lane");
    assert_eq!(report["scope"]["from"], "2026-01-01T00:00:00Z");
    let batches = &report["checks"][0];
    assert_eq!((&batches["check"], &batches["wrong"]), (&"batches".into(), &1.into()));
    assert_eq!(batches["findings"][0]["kind"], "missing_rows");
    assert_eq!(batches["findings"][0]["facts"]["batch_id"], "99");
    assert_eq!(report["watermark"]["nodes"][0]["backlog_events"], 3);

    // Nobody runs it: the audit runs it itself. What a crash left behind is not believed.
    drop(store);
    engine.kill();
    let port = || fs::read_to_string(home.data().join("http.port")).unwrap();
    assert_ne!(port(), "00000\n", "a killed engine leaves its port behind");
    let alone = home.orbit(&["audit", "--wait-s", "0"]);
    assert_eq!(verdict(&alone), (1, "2 findings".to_owned()), "{}", stderr(&alone));
    assert_eq!(port(), "00000\n", "an engine that was stopped takes its port with it");
}

#[tokio::test]
async fn a_node_is_listed_and_retired() {
    let home = Home::new();
    let engine = home.engine();
    let store = Store::new(&engine.settings()).unwrap();
    store.migrate(&MigrateOptions::default()).await.unwrap();
    let nobody = home.orbit(&["node", "list"]);
    assert_eq!(stdout(&nobody), "no node has reported yet\n");
    say(&store, 7, NodeState::Running).await;
    run(
        &store,
        "INSERT INTO usage_nodes VALUES \
         (8, 1, 'running', 'gone', '2026-11-01 00:00:00', [], 12, now64(3) - INTERVAL 1 HOUR)",
    )
    .await;
    let listed = stdout(&home.orbit(&["node", "list"]));
    let lines: Vec<Vec<&str>> =
        listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1][..5], ["7", "host-7", "running", "2026-11-01T00:00:00Z", "3"], "{listed}");
    assert_eq!(lines[2][..5], ["8", "gone", "away", "2026-11-01T00:00:00Z", "12"], "{listed}");

    let unasked = home.orbit(&["node", "retire", "8"]);
    assert_eq!(unasked.status.code(), Some(2));
    assert!(stderr(&unasked).contains("--yes"), "{}", stderr(&unasked));
    let running = home.orbit(&["node", "retire", "7", "--yes"]);
    assert_eq!(running.status.code(), Some(1));
    assert!(stderr(&running).contains("node 7 runs"), "{}", stderr(&running));
    let unknown = home.orbit(&["node", "retire", "9", "--yes"]);
    assert!(stderr(&unknown).contains("those that have: 7, 8"), "{}", stderr(&unknown));
    let retired = home.orbit(&["node", "retire", "8", "--yes"]);
    assert_eq!((stdout(&retired), retired.status.code()), ("node 8 is retired\n".into(), Some(0)));
    assert!(stdout(&home.orbit(&["node", "list"])).contains("retired"));
}

#[test]
fn what_cannot_be_audited_is_an_error_that_says_so() {
    let home = Home::new();
    let nothing = home.orbit(&["audit"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(stderr(&nothing).contains("there is no usage database in"), "{}", stderr(&nothing));
    assert!(!home.data().exists(), "an audit makes none");

    // Nobody listens on a port that was just free.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    home.configure(&format!("mode = \"external\"\nurl = \"http://{free}\"\n"));
    let away = home.orbit(&["audit"]);
    assert_eq!(away.status.code(), Some(1));
    let said = stderr(&away);
    assert!(
        said.contains(&format!("the usage database at http://{free} was not audited")),
        "{said}"
    );
    assert!(said.contains("no answer from ClickHouse"), "{said}");

    for wrong in [
        &["audit", "--from", "yesterday"][..],
        &["audit", "--from", "2026-11-02", "--to", "2026-11-01"],
        &["audit", "--format", "xml"],
        &["audit", "--wait-s", "soon"],
        &["node", "retire", "x"],
    ] {
        assert_eq!(home.orbit(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn m3_the_audit_beside_the_traffic_finds_damage_and_its_repair() {
    let home = Home::new();
    let settings = Settings::load(&home.config()).unwrap();
    let metrics = Metrics::install().unwrap();
    let program = Path::new(ORBIT);
    let clickhouse = settings.clickhouse.clone();
    let start = move || Storage::start(&clickhouse, program);
    let storage = tokio::task::spawn_blocking(start).await.unwrap().unwrap();
    let store = storage.handle().store().unwrap();
    fill(&store).await;
    say(&store, 7, NodeState::Stopped).await;
    let interval = Duration::from_millis(50);
    let clock = Arc::new(Clock::start());
    let auditor = Auditor::start(storage.handle(), interval, clock).unwrap();
    let findings = "orbit_audit_findings{check=\"batches\"}";
    wait_for(&metrics, &format!("{findings} 0")).await;

    run(&store, DAMAGE).await;
    wait_for(&metrics, &format!("{findings} 1")).await;
    for metric in ["orbit_audit_last_success_timestamp_seconds ", "orbit_audit_duration_seconds "] {
        assert!(metrics.render().contains(&format!("\n{metric}")), "{metric}");
    }
    let repaired = "INSERT INTO usage_events SELECT * REPLACE(500 AS sequence) \
                    FROM (SELECT * FROM usage_events WHERE sequence = 501)";
    run(&store, repaired).await;
    wait_for(&metrics, &format!("{findings} 0")).await;
    drop((auditor, store));
    tokio::task::spawn_blocking(|| storage.stop(BOUND)).await.unwrap().unwrap();
}

/// Waits until a line of the metrics says so.
async fn wait_for(metrics: &Metrics, line: &str) {
    let said = async {
        while !metrics.render().lines().any(|found| found == line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(BOUND, said).await;
    waited.unwrap_or_else(|_| panic!("never {line}:\n{}", metrics.render()));
}
