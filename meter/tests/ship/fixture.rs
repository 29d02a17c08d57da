//! An engine, a journal, a proxy between, and the comparison of both ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orbit_meter::clickhouse::engine::Engine;
use orbit_meter::clickhouse::{ClickHouseSettings, MigrateOptions, Store, testing};
use orbit_meter::event::{Event, Flags, Kind, Method};
use orbit_meter::journal::{Journal, JournalSettings};
use orbit_meter::ship::{ShipSettings, Shipper, ShipperHandle};
use tokio::runtime::Runtime;

use super::proxy::Proxy;

/// Long enough for a loaded machine; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// 2026-11-30T23:00:00Z: an hour before a month ends.
pub(crate) const BASE_US: i64 = 1_796_079_600_000_000;

/// Everything a test of shipping needs, in a directory that goes with it.
pub(crate) struct Fixture {
    pub(crate) runtime: Runtime,
    pub(crate) proxy: Proxy,
    pub(crate) journal: Arc<Journal>,
    engine: Option<Engine>,
    directory: tempfile::TempDir,
    appended: u64,
}

impl Fixture {
    /// With a running engine and its schema.
    pub(crate) fn new() -> Fixture {
        let mut fixture = Fixture::without_engine();
        fixture.start_engine();
        fixture
    }

    pub(crate) fn without_engine() -> Fixture {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Fixture {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
            proxy: Proxy::start(),
            journal: open(&directory.path().join("journal")),
            engine: None,
            directory,
            appended: 0,
        }
    }

    pub(crate) fn start_engine(&mut self) {
        self.use_engine(testing::start_self(&self.engine_data(), "engine_process"));
    }

    pub(crate) fn engine_data(&self) -> PathBuf {
        self.directory.path().join("engine")
    }

    pub(crate) fn use_engine(&mut self, engine: Engine) {
        self.proxy.forward_to(engine.http_port());
        self.engine = Some(engine);
        let store = self.store();
        let migrated = self.runtime.block_on(store.migrate(&MigrateOptions::default()));
        migrated.expect("the schema");
    }

    /// SIGKILL.
    pub(crate) fn kill_engine(&mut self) {
        self.engine.take().expect("running").kill();
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("running")
    }

    /// A store of its own, not through the proxy.
    pub(crate) fn store(&self) -> Store {
        Store::new(&self.engine().settings()).expect("valid settings")
    }

    /// Settings through the proxy. User and password stay with the engine's directory.
    pub(crate) fn proxied(&self) -> ClickHouseSettings {
        ClickHouseSettings { url: self.proxy.url(), ..self.engine().settings() }
    }

    pub(crate) fn ship(&self) -> ShipperHandle {
        self.ship_to(&self.proxied())
    }

    pub(crate) fn ship_to(&self, settings: &ClickHouseSettings) -> ShipperHandle {
        let store = Store::new(settings).expect("valid settings");
        Shipper::start(Arc::clone(&self.journal), store, ship_settings()).expect("starts")
    }

    pub(crate) fn append(&mut self, count: u64) {
        for _ in 0..count {
            self.journal.append(&event(self.appended)).expect("room");
            self.appended += 1;
        }
    }

    pub(crate) fn note_appended(&mut self, count: u64) {
        self.appended += count;
    }

    pub(crate) fn reopen(&mut self) {
        self.reopen_after(|_| {});
    }

    /// What somebody does to the journal's directory between two openings.
    pub(crate) fn reopen_after(&mut self, change: impl FnOnce(&Path)) {
        self.journal.close();
        change(self.journal.directory());
        self.journal = open(&self.directory.path().join("journal"));
    }

    pub(crate) fn execute(&self, sql: &str) {
        let store = self.store();
        let done = self.runtime.block_on(store.execute(sql));
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub(crate) fn number(&self, sql: &str) -> u64 {
        self.value(sql).parse().expect("a number")
    }

    /// Waits until the query's answer is another number than 0.
    pub(crate) fn wait_for(&self, sql: &str) {
        while self.number(sql) == 0 {
            std::thread::yield_now();
        }
    }

    pub(crate) fn value(&self, sql: &str) -> String {
        let store = self.store();
        let text = self.runtime.block_on(store.query_text(sql, "TSV"));
        text.unwrap_or_else(|error| panic!("{sql}: {error}")).trim_end().to_owned()
    }

    /// As many openings have rows, every lane's sequences have no gap and no double, no event is
    /// there twice.
    #[track_caller]
    pub(crate) fn assert_dense(&self, epochs: u64) {
        self.assert_dense_lanes();
        let doubles = "SELECT count() - uniqExact(request_id) FROM usage_events";
        assert_eq!(self.value(doubles), "0", "doubles");
        let seen = self.value("SELECT uniqExact(epoch) FROM usage_events");
        assert_eq!(seen, epochs.to_string(), "epochs");
        self.assert_proved();
    }

    #[track_caller]
    fn assert_dense_lanes(&self) {
        let gaps = "SELECT count() FROM (SELECT node, epoch, lane, count() AS n, \
                    uniqExact(sequence) AS u, max(sequence) + 1 AS m FROM usage_events \
                    GROUP BY node, epoch, lane HAVING n != u OR n != m)";
        assert_eq!(self.value(gaps), "0", "gaps or doubles");
    }

    /// What was appended is in ClickHouse, once: rows, sums, sequences, projection.
    #[track_caller]
    pub(crate) fn assert_exact(&self) {
        let n = self.appended;
        let expected = format!("{n}\t{n}\t{}\t{n}", n * n.saturating_sub(1) / 2);
        let raw = "SELECT count(), uniqExact(request_id), sum(request_bytes), sum(requests) \
                   FROM usage_events SETTINGS optimize_use_projections = 0";
        assert_eq!(self.value(raw), expected, "raw rows");
        self.assert_dense_lanes();
        let projection = "SELECT sum(c), sum(b), sum(r) FROM (SELECT count() AS c, \
                          sum(request_bytes) AS b, sum(requests) AS r FROM usage_events \
                          GROUP BY tenant, toStartOfHour(ts), app, route, meter, kind) \
                          SETTINGS force_optimize_projection = 1";
        let expected = format!("{n}\t{}\t{n}", n * n.saturating_sub(1) / 2);
        assert_eq!(self.value(projection), expected, "the projection");
        self.assert_proved();
    }
}

pub(crate) fn open(directory: &Path) -> Arc<Journal> {
    let settings = JournalSettings {
        segment_bytes: 1 << 20,
        max_bytes: 256 << 20,
        sync_interval: Duration::from_millis(50),
        ..JournalSettings::new(directory)
    };
    Journal::open(settings).expect("the journal opens")
}

pub(crate) fn ship_settings() -> ShipSettings {
    ShipSettings {
        max_rows: 20_000,
        max_delay: Duration::from_millis(200),
        max_backoff: Duration::from_millis(500),
        report_interval: Duration::from_millis(100),
        ..ShipSettings::default()
    }
}

/// The settings an engine in this fixture will have, before there is one: for a shipper that
/// starts first.
pub(crate) fn absent(proxy: &Proxy) -> ClickHouseSettings {
    ClickHouseSettings {
        url: proxy.url(),
        user: "orbit".to_owned(),
        password: "unknown".to_owned(),
        database: "orbit".to_owned(),
    }
}

/// Every tenth event is of the next month.
pub(crate) fn event(number: u64) -> Event<'static> {
    const TENANTS: [(&str, &str); 3] = [
        ("acme-brasil", "acme/acme-brasil"),
        ("acme-chile", "acme/acme-chile"),
        ("other", "other"),
    ];
    let (tenant, path) = TENANTS[number as usize % TENANTS.len()];
    let later_us = if number.is_multiple_of(10) { 2 * 3_600_000_000 } else { 0 };
    Event {
        ts_us: BASE_US + later_us + (number % 3_000_000_000).cast_signed(),
        request_id: (u128::from(number) << 1 | 1).to_be_bytes(),
        kind: Kind::Request,
        method: Method::Get,
        status: 200,
        flags: Flags::NONE,
        requests: 1,
        quantity_nano: 1_000_000_000,
        request_bytes: number,
        response_bytes: 4_096,
        duration_us: 1_234,
        upstream_us: 1_000,
        tenant,
        path,
        plan: "growth",
        key_id: "0123456789",
        app: "crm",
        route: "contacts",
        meter: "api_calls",
        reason: "",
    }
}
