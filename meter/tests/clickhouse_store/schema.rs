//! Migrations: once, twice, at the same time, edited, and with another retention.

use orbit_meter::clickhouse::native::{Totals, month_of};
use orbit_meter::clickhouse::proof::{ListedBatch, SequenceRange};
use orbit_meter::clickhouse::schema::COLUMNS;
use orbit_meter::clickhouse::{
    BlockBuilder, ClickHouseSettings, MigrateOptions, Store, StoreError,
};

use super::rows::{NOVEMBER_US, Row};
use super::{Fixture, start};

const FOR_EVER: MigrateOptions = MigrateOptions { ttl_months: None };

#[tokio::test]
async fn the_table_has_the_columns_of_the_blocks() {
    let fixture = Fixture::new().await;
    let columns = fixture
        .value(
            "SELECT name, type FROM system.columns WHERE database = 'orbit' \
             AND table = 'usage_events' ORDER BY position FORMAT TSVRaw",
        )
        .await;
    let expected: Vec<String> =
        COLUMNS.iter().map(|(name, kind)| format!("{name}\t{kind}")).collect();
    assert_eq!(columns, expected.join("\n"));
}

#[tokio::test]
async fn a_second_run_does_nothing() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let engine = start(data.path());
    let store = Store::new(&engine.settings()).expect("valid settings");
    let first = store.migrate(&FOR_EVER).await.expect("a fresh schema");
    assert_eq!(first.iter().map(|m| m.version).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(store.migrate(&FOR_EVER).await.expect("again"), []);
    let recorded = "SELECT count(), uniqExact(version) FROM schema_migrations";
    assert_eq!(store.query_text(recorded, "TSV").await.expect("recorded").trim(), "5\t5");
}

#[tokio::test]
async fn gateways_that_start_at_once_agree() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let engine = start(data.path());
    let stores: Vec<Store> =
        (0..4).map(|_| Store::new(&engine.settings()).expect("valid settings")).collect();
    let options = MigrateOptions { ttl_months: Some(12) };
    let (a, b, c, d) = tokio::join!(
        stores[0].migrate(&options),
        stores[1].migrate(&options),
        stores[2].migrate(&options),
        stores[3].migrate(&options),
    );
    for result in [a, b, c, d] {
        result.expect("whoever is second finds it done");
    }
    assert_eq!(stores[0].migrate(&options).await.expect("again"), []);
}

#[tokio::test]
async fn an_edited_migration_is_an_error_that_names_it() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    store
        .execute(
            "ALTER TABLE schema_migrations DELETE WHERE version = 2 SETTINGS mutations_sync = 2",
        )
        .await
        .expect("forgotten");
    store
        .execute("INSERT INTO schema_migrations VALUES (2, 'dashboard_views', 'other', now64(3))")
        .await
        .expect("recorded otherwise");
    let error = store.migrate(&FOR_EVER).await.expect_err("it was edited");
    assert!(matches!(error, StoreError::MigrationChanged { version: 2, .. }), "{error}");
    assert!(error.to_string().contains("dashboard_views"), "{error}");
}

#[tokio::test]
async fn a_failing_migration_is_named() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let engine = start(data.path());
    let store = Store::new(&engine.settings()).expect("valid settings");
    store.migrate(&FOR_EVER).await.expect("a fresh schema");
    // The table's name is taken by something else.
    store.execute("TRUNCATE TABLE schema_migrations").await.expect("forgotten");
    store.execute("DROP TABLE usage_events SYNC").await.expect("dropped");
    let taken = "CREATE DICTIONARY usage_events (a UInt64) PRIMARY KEY a SOURCE(NULL()) \
                 LAYOUT(FLAT()) LIFETIME(0)";
    store.execute(taken).await.expect("taken");
    store.execute("DROP VIEW latency_per_route_and_hour").await.expect("dropped");
    let error = store.migrate(&FOR_EVER).await.expect_err("no column ts");
    assert!(matches!(error, StoreError::MigrationFailed { .. }), "{error}");
    assert!(error.code().is_some(), "{error:?}");
}

#[tokio::test]
async fn retention_follows_the_configuration() {
    let fixture = Fixture::new().await;
    let ttl = "SELECT groupArray(ttl) FROM (SELECT extract(engine_full, 'TTL (.*) SETTINGS') AS ttl \
               FROM system.tables WHERE database = 'orbit' \
               AND name IN ('usage_events', 'usage_batches') ORDER BY name DESC)";
    for (ttl_months, expected) in [
        (None, "['','']"),
        (Some(13), "['ts + toIntervalMonth(13)','max_ts + toIntervalMonth(15)']"),
        (Some(13), "['ts + toIntervalMonth(13)','max_ts + toIntervalMonth(15)']"),
        (Some(6), "['ts + toIntervalMonth(6)','max_ts + toIntervalMonth(8)']"),
        (None, "['','']"),
    ] {
        fixture.store.migrate(&MigrateOptions { ttl_months }).await.expect("migrated");
        assert_eq!(fixture.value(ttl).await, expected);
    }
}

/// M3: the manifest of a batch is there as long as any of its rows can be.
#[tokio::test]
async fn the_manifest_leaves_after_the_rows_it_is_of() {
    const TTL_MONTHS: u32 = 12;
    let fixture = Fixture::new().await;
    let batch = |batch_id, ts_us| ListedBatch {
        batch_id,
        node: 1,
        plan: batch_id,
        month: month_of(ts_us),
        totals: Totals { rows: 1, min_ts_us: ts_us, max_ts_us: ts_us, ..Totals::default() },
        ranges: [SequenceRange { epoch: 1, lane: 0, first: batch_id, last: batch_id }].into(),
        skipped: 0,
    };
    // Of the first and the last moment of a month that leaves now, at the latest: none of its rows
    // is younger than the retention, and no batch of it may be gone before all of them are.
    let months_ago = |months: i32| {
        let sql = format!(
            "SELECT toUnixTimestamp64Micro(toDateTime64(toStartOfMonth(now('UTC') \
             - toIntervalMonth({months})), 6, 'UTC'))"
        );
        let fixture = &fixture;
        async move { fixture.value(&sql).await.parse::<i64>().expect("a time") }
    };
    let (start, end) = (months_ago(13).await, months_ago(12).await - 1);
    let long_gone = months_ago(20).await;
    let batches = [batch(1, start), batch(2, end), batch(3, long_gone)];
    fixture.store.list_batches(&batches, end).await.expect("listed");
    for batch in &batches {
        let mut builder = BlockBuilder::new();
        Row { ts_us: batch.totals.max_ts_us, ..Row::plain(0, "north", 0) }.push_into(&mut builder);
        let block = builder.finish(batch.batch_id, batch.month);
        fixture.store.insert_block(&block, &batch.batch_id.to_string()).await.expect("inserted");
    }
    fixture.store.migrate(&MigrateOptions { ttl_months: Some(TTL_MONTHS) }).await.expect("set");
    for table in ["usage_events", "usage_batches"] {
        fixture.store.execute(&format!("OPTIMIZE TABLE {table} FINAL")).await.expect("merged");
    }
    let left = "SELECT groupArray(batch_id) FROM (SELECT batch_id FROM usage_batches ORDER BY 1)";
    assert_eq!(fixture.value(left).await, "[1,2]");
    let unlisted = "SELECT count() FROM usage_events \
                    WHERE batch_id NOT IN (SELECT batch_id FROM usage_batches)";
    assert_eq!(fixture.value(unlisted).await, "0");
}

/// Rows leave by whole parts once their time has come, and only then: also those of the last years
/// an event may have, which do not fit in 32 bits of seconds.
#[tokio::test]
async fn only_rows_that_are_old_leave() {
    let fixture = Fixture::new().await;
    let year_us = 31_556_952_000_000;
    for (batch_id, years) in [(1, -36), (2, 0), (3, 90), (4, 170)] {
        let ts_us = NOVEMBER_US + years * year_us;
        let mut builder = BlockBuilder::new();
        Row { ts_us, ..Row::plain(0, "north", 0) }.push_into(&mut builder);
        let block = builder.finish(batch_id, month_of(ts_us));
        fixture.store.insert_block(&block, &batch_id.to_string()).await.expect("inserted");
    }
    let rows = "SELECT groupArray(batch_id) FROM (SELECT batch_id FROM usage_events ORDER BY ts)";
    assert_eq!(fixture.value(rows).await, "[1,2,3,4]");
    // Thirty years, so that the second row also stays when this test is run in years to come.
    let options = MigrateOptions { ttl_months: Some(12 * 30) };
    fixture.store.migrate(&options).await.expect("migrated");
    fixture.store.execute("OPTIMIZE TABLE usage_events FINAL").await.expect("merged");
    assert_eq!(fixture.value(rows).await, "[2,3,4]");
}

#[tokio::test]
async fn another_database_works_as_well() {
    let fixture = Fixture::new().await;
    let settings =
        ClickHouseSettings { database: "orbit_eu".to_owned(), ..fixture.engine.settings() };
    let store = Store::new(&settings).expect("valid settings");
    assert_eq!(store.migrate(&FOR_EVER).await.expect("a fresh schema").len(), 5);
    let rows = store.query_text("SELECT count() FROM orbit_eu.usage_events", "TSV").await;
    assert_eq!(rows.expect("counted").trim(), "0");
    for bad in ["", "a-b", "a b", "1a", "a`; DROP TABLE t"] {
        let settings = ClickHouseSettings { database: bad.to_owned(), ..settings.clone() };
        assert!(matches!(Store::new(&settings), Err(StoreError::Settings { .. })), "{bad:?}");
    }
    for bad in ["", "localhost:8123", "ftp://localhost"] {
        let settings = ClickHouseSettings { url: bad.to_owned(), ..settings.clone() };
        assert!(matches!(Store::new(&settings), Err(StoreError::Settings { .. })), "{bad:?}");
    }
}
