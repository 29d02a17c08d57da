//! The store, the encoder and the schema against the real engine.

#[path = "clickhouse_store/blocks.rs"]
mod blocks;
#[path = "clickhouse_store/consumption.rs"]
mod consumption;
#[path = "clickhouse_store/meters.rs"]
mod meters;
#[path = "clickhouse_store/own.rs"]
mod own;
#[path = "clickhouse_store/rows.rs"]
mod rows;
#[path = "clickhouse_store/schema.rs"]
mod schema;
#[path = "clickhouse_store/usage.rs"]
mod usage;

use std::path::Path;

use orbit_meter::clickhouse::engine::Engine;
use orbit_meter::clickhouse::{MigrateOptions, Store, testing};

#[test]
fn engine_process() {
    testing::serve_if_asked();
}

/// A running engine with the schema in it, in a directory that goes with it.
struct Fixture {
    store: Store,
    engine: Engine,
    data: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let engine = start(data.path());
        let store = Store::new(&engine.settings()).expect("valid settings");
        store.migrate(&MigrateOptions::default()).await.expect("a fresh schema");
        Self { store, engine, data }
    }

    async fn value(&self, sql: &str) -> String {
        let text = self.store.query_text(sql, "TSV").await;
        text.unwrap_or_else(|error| panic!("{sql}: {error}")).trim_end().to_owned()
    }
}

fn start(data: &Path) -> Engine {
    testing::start_self(data, "engine_process")
}
