//! The audit against the real engine: a whole table is clean, and every kind of damage is found and
//! named (M1, M2, M3 as finance can check them).

#[path = "audit/damage.rs"]
mod damage;
#[path = "audit/scope.rs"]
mod scope;

use std::time::Duration;

use orbit_meter::audit::{Check, Options, Report, Scope, audit};
use orbit_meter::clickhouse::engine::Engine;
use orbit_meter::clickhouse::native::ROW_DIGEST;
use orbit_meter::clickhouse::nodes::{LaneWatermark, Node, NodeState};
use orbit_meter::clickhouse::{ClickHouseSettings, MigrateOptions, Store, testing};

#[test]
fn engine_process() {
    testing::serve_if_asked();
}

/// 2026-10-31T23:30:00Z: the rows go into two months.
const BEGIN_US: i64 = 1_793_489_400_000_000;
const SECOND_US: i64 = 1_000_000;
const ROWS: i64 = 4000;
/// After the last row.
const END_US: i64 = BEGIN_US + ROWS * SECOND_US;

/// A running engine, in a directory that goes with it.
struct Fixture {
    engine: Engine,
    _data: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let engine = testing::start_self(data.path(), "engine_process");
        Self { engine, _data: data }
    }

    /// A database with the schema and nothing in it.
    async fn empty(&self, database: &str) -> Stage {
        let settings =
            ClickHouseSettings { database: database.to_owned(), ..self.engine.settings() };
        let store = Store::new(&settings).expect("valid settings");
        store.migrate(&MigrateOptions::default()).await.expect("a fresh schema");
        Stage { store }
    }

    /// One with two nodes' whole rows, manifest and words.
    async fn whole(&self, database: &str) -> Stage {
        let stage = self.empty(database).await;
        for node in [1, 2] {
            stage.fill(node, BEGIN_US).await;
            stage.say(node, NodeState::Running, 0).await;
        }
        stage
    }
}

/// One database.
struct Stage {
    store: Store,
}

impl Stage {
    async fn run(&self, sql: &str) {
        let done = self.store.execute(sql).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Changes the table and waits until it is changed.
    async fn change(&self, sql: &str) {
        self.run(&format!("ALTER TABLE {sql} SETTINGS mutations_sync = 2")).await;
    }

    /// Rows of two lanes in four plans of one batch, or two where a month ends, and their manifest.
    /// Every tenth row is an ingested event; one request is recorded in three parts; one row is a
    /// figure of a further meter, and two are of one member.
    async fn fill(&self, node: u32, begin_us: i64) {
        self.run(&format!(
            "INSERT INTO usage_events SELECT \
             {node} AS node, 3 AS epoch, number % 2 AS lane, intDiv(number, 2) AS sequence, \
             fromUnixTimestamp64Micro(toInt64({begin_us} + number * {SECOND_US}), 'UTC') AS ts, \
             concat('team-', toString(number % 3)) AS tenant, concat('acme/', tenant) AS path, \
             'gold' AS plan, 'k1' AS key_id, 'crm' AS app, 'r1' AS route, \
             concat('meter-', toString(number % 2)) AS meter, \
             if(number % 10 = 0, 'ingested', 'request') AS kind, '' AS reason, 'GET' AS method, \
             200 AS status, multiIf(number = 101, 16, number IN (103, 105), 8, \
             number = 205, 32, number IN (210, 310), 64, 0) AS flags, \
             if(flags IN (8, 32, 64), 0, 1) AS requests, \
             if(flags = 8, 0, toDecimal128(number, 9) / 8) AS quantity, \
             if(flags >= 32, 0, number) AS request_bytes, request_bytes * 7 AS response_bytes, \
             900 AS duration_us, 800 AS upstream_us, \
             if(flags = 64, toUUID('018fd2a0-0000-7000-8000-000000000001'), \
             reinterpretAsUUID(sipHash128({node}, number))) AS request_id, \
             7 * 4294967296 * {node} + intDiv(number, 1000) * 2 + (toYYYYMM(ts) != \
             toYYYYMM(fromUnixTimestamp64Micro({begin_us}, 'UTC'))) AS batch_id \
             FROM numbers({ROWS})"
        ))
        .await;
        self.run(&format!(
            "INSERT INTO usage_batches SELECT batch_id, any(node), \
             intDiv(bitAnd(batch_id, 4294967295), 2) AS number, toYYYYMM(any(ts)), count(), \
             min(ts), max(ts), sum(requests), sum(quantity), sum(request_bytes), \
             sum(response_bytes), sum({ROW_DIGEST}), \
             arrayMap(l -> (3, l, number * 500, number * 500 + 499), [0, 1]), 0, now64(3) \
             FROM usage_events WHERE node = {node} GROUP BY batch_id"
        ))
        .await;
        self.told(node, ROWS.unsigned_abs() / 2).await;
    }

    /// What the node has told of its lanes so far, when their last batch was listed.
    async fn told(&self, node: u32, shipped: u64) {
        self.change(&format!("usage_lanes DELETE WHERE node = {node}")).await;
        self.run(&format!(
            "INSERT INTO usage_lanes SELECT {node}, 3, number, {shipped}, \
             (SELECT max(written_at) FROM usage_batches WHERE node = {node}) FROM numbers(2)"
        ))
        .await;
    }

    /// What a node says now.
    async fn say(&self, node: u32, state: NodeState, backlog_events: u64) {
        self.store.put_node(&word(node, state, backlog_events)).await.expect("noted");
    }

    /// The node's last word, with something left, was an hour ago.
    async fn silence(&self, node: u32) {
        self.run(
            "CREATE TABLE silenced ENGINE = Memory AS SELECT * REPLACE(\
             now64(3) - INTERVAL 1 HOUR AS updated_at, toUInt64(7) AS backlog_events) \
             FROM usage_nodes FINAL",
        )
        .await;
        self.change(&format!("usage_nodes DELETE WHERE node = {node}")).await;
        self.run(&format!("INSERT INTO usage_nodes SELECT * FROM silenced WHERE node = {node}"))
            .await;
    }

    async fn audit(&self, scope: Scope) -> Report {
        let options = Options { scope, ..Options::default() };
        audit(&self.store, &options, &mut |_| {}).await.expect("an audit")
    }
}

fn word(node: u32, state: NodeState, backlog_events: u64) -> Node {
    let watermark_us = Some(END_US);
    let lane = |lane| LaneWatermark { epoch: 3, lane, watermark_us };
    Node {
        node,
        epoch: 3,
        state,
        host: format!("host-{node}"),
        watermark_us,
        lanes: vec![lane(0), lane(1)],
        backlog_events,
        updated_us: jiff::Timestamp::now().as_microsecond(),
    }
}

/// Every finding as `check kind`, in order and each once.
fn found(report: &Report) -> Vec<String> {
    let kinds = report.checks.iter().flat_map(|check| {
        check.findings.iter().map(|finding| format!("{} {}", check.check.name(), finding.kind))
    });
    let mut kinds: Vec<String> = kinds.collect();
    kinds.dedup();
    kinds
}

/// The only finding of a check.
fn text(report: &Report, check: Check) -> String {
    let asked = of(report, check);
    assert_eq!((asked.wrong, asked.findings.len()), (1, 1), "{asked:#?}");
    asked.findings[0].text.clone()
}

fn of(report: &Report, check: Check) -> &orbit_meter::audit::CheckReport {
    report.checks.iter().find(|asked| asked.check == check).expect("every check reports")
}

fn waiting(wait: Duration) -> Options {
    Options { wait, ..Options::default() }
}
