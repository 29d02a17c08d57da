//! Native blocks: what was pushed is what the table holds, as one part.

use std::time::Duration;

use orbit_meter::clickhouse::native::Totals;
use orbit_meter::clickhouse::{BlockBuilder, EncodedBlock, InsertError, Store, StoreError};
use orbit_meter::event::Kind;

use super::rows::{MONTH, NOVEMBER_US, Random, Row};
use super::{Fixture, start};

fn block(rows: &[Row], batch_id: u64) -> EncodedBlock {
    let mut builder = BlockBuilder::new();
    for row in rows {
        row.push_into(&mut builder);
    }
    assert_eq!(builder.len(), rows.len());
    builder.finish(batch_id, MONTH)
}

fn plain(count: u64) -> Vec<Row> {
    (0..count).map(|n| Row::plain(n, ["north", "south", "west"][n as usize % 3], n)).collect()
}

/// Inserts the rows as a Native block and as JSON into a table of the same columns, and compares a
/// hash of every row.
async fn same_as_json(fixture: &Fixture, rows: &[Row], batch_id: u64, what: &str) {
    let store = &fixture.store;
    store.execute("DROP TABLE IF EXISTS by_json SYNC").await.expect("drop");
    store.execute("TRUNCATE TABLE usage_events").await.expect("truncate");
    store
        .execute("CREATE TABLE by_json AS usage_events ENGINE = MergeTree ORDER BY tuple()")
        .await
        .expect("a table of the same columns");
    let token = format!("json-{batch_id}");
    store.insert_block(&block(rows, batch_id), &token).await.expect("inserted");
    for chunk in rows.chunks(50_000) {
        let mut sql = String::from("INSERT INTO by_json FORMAT JSONEachRow\n");
        for row in chunk {
            sql.push_str(&row.json(batch_id));
            sql.push('\n');
        }
        store.execute(&sql).await.expect("inserted as JSON");
    }
    let sums = |table: &str| {
        format!("SELECT count(), sum(cityHash64(*)), groupBitXor(sipHash64(*)) FROM {table}")
    };
    let (native, json) =
        (fixture.value(&sums("usage_events")).await, fixture.value(&sums("by_json")).await);
    assert_eq!(native, json, "{what}, {} rows", rows.len());
    assert!(native.starts_with(&format!("{}\t", rows.len())), "{native}");
}

#[tokio::test]
async fn native_rows_are_the_rows_of_json() {
    let seed = std::process::id().into();
    let mut random = Random(seed);
    let fixture = Fixture::new().await;
    let mut vocabulary: Vec<String> =
        ["", "a", "acme/acme-brasil", "São Paulo", "日本語", "🚀\u{0}\t\n\\'\"", "\u{7f}\u{80}"]
            .map(String::from)
            .to_vec();
    vocabulary.push("x".repeat(300));
    vocabulary.push("長".repeat(20_000));
    for count in [1, 2, 255, 1_000] {
        let rows: Vec<Row> = (0..count).map(|n| Row::random(&mut random, n, &vocabulary)).collect();
        same_as_json(&fixture, &rows, random.next(), &format!("seed {seed}")).await;
    }
}

/// M3: what the manifest says of a batch is what anybody can compute from its rows.
#[tokio::test]
async fn totals_are_those_the_server_computes_from_the_rows() {
    let seed = std::process::id().into();
    let mut random = Random(seed);
    let fixture = Fixture::new().await;
    let vocabulary =
        ["", "a", "acme/acme-brasil", "São Paulo", "🚀\u{0}\t\n\\'\""].map(String::from);
    for count in [1, 2, 10, 3_000] {
        let rows: Vec<Row> = (0..count).map(|n| Row::random(&mut random, n, &vocabulary)).collect();
        let block = block(&rows, random.next());
        let token = count.to_string();
        fixture.store.insert_block(&block, &token).await.expect("inserted");
        let stored = fixture.store.batch_totals(block.batch_id(), MONTH).await.expect("read");
        assert_eq!(*block.totals(), stored, "{count} rows, seed {seed}");
    }
    let none = fixture.store.batch_totals(1, MONTH).await.expect("read");
    assert_eq!(none, Totals::default());
}

/// M3: a row that was changed behind the manifest's back shows, whichever of its numbers it is.
#[tokio::test]
async fn a_change_of_any_column_a_bill_depends_on_changes_the_digest() {
    let fixture = Fixture::new().await;
    let original = Row::plain(7, "north", 1_000);
    let digest = |row: &Row| block(std::slice::from_ref(row), 1).totals().digest;
    let mut seen = vec![digest(&original)];
    let mut changes: Vec<Row> = Vec::new();
    let mut change = |edit: &dyn Fn(&mut Row)| {
        let mut row = original.clone();
        edit(&mut row);
        changes.push(row);
    };
    change(&|row| row.id.node += 1);
    change(&|row| row.id.epoch += 1);
    change(&|row| row.id.lane += 1);
    change(&|row| row.id.sequence += 1);
    change(&|row| row.ts_us += 1);
    change(&|row| row.kind = Kind::Ingested);
    change(&|row| row.flags = 4);
    change(&|row| row.requests += 1);
    change(&|row| row.quantity_nano += 1);
    change(&|row| row.quantity_nano += 1 << 64);
    change(&|row| row.quantity_nano = -row.quantity_nano);
    change(&|row| row.request_bytes += 1);
    change(&|row| row.response_bytes += 1);
    // Tenant, path, plan, app, route, meter and reason: all but the key.
    for label in [0, 1, 2, 4, 5, 6, 7] {
        change(&|row| row.labels[label].push('x'));
    }
    change(&|row| row.labels.swap(0, 6));
    for (number, row) in changes.iter().enumerate() {
        let here = digest(row);
        assert!(!seen.contains(&here), "change {number} is not seen");
        seen.push(here);
        let block = block(std::slice::from_ref(row), number as u64);
        fixture.store.insert_block(&block, &format!("{number}")).await.expect("inserted");
        let stored = fixture.store.batch_totals(number as u64, MONTH).await.expect("read");
        assert_eq!(stored.digest, here, "change {number}");
    }
}

/// Index widths change at 256 and 65536 keys: just below, at and above each.
#[tokio::test]
async fn dictionaries_of_every_width() {
    let seed = 7;
    let mut random = Random(seed);
    let fixture = Fixture::new().await;
    for keys in [255, 256, 257, 65_535, 65_536, 65_537] {
        let mut rows: Vec<Row> = plain(keys);
        for (n, row) in rows.iter_mut().enumerate() {
            // Three columns at the limit, in different orders; the rest stays narrow.
            row.labels[0] = format!("tenant-{n}");
            row.labels[3] = format!("{:010}", keys - n as u64);
            row.labels[6] = format!("meter {}", (n as u64 * 7_919) % keys);
        }
        // Repeats after the dictionary is full, the last key among them.
        for _ in 0..1_000 {
            let again = rows[random.below(keys) as usize].clone();
            rows.push(again);
        }
        rows.push(rows[keys as usize - 1].clone());
        same_as_json(&fixture, &rows, keys, &format!("{keys} keys")).await;
    }
}

#[tokio::test]
async fn a_builder_starts_over_after_each_block() {
    let fixture = Fixture::new().await;
    let mut builder = BlockBuilder::new();
    let (first, second) = (plain(1_000), plain(10));
    for row in &first {
        row.push_into(&mut builder);
    }
    let block = builder.finish(1, MONTH);
    fixture.store.insert_block(&block, "1").await.expect("inserted");
    let before = block.bytes().clone();
    // The first block is still held: the builder must not write over its bytes.
    for row in &second {
        row.push_into(&mut builder);
    }
    let next = builder.finish(2, MONTH);
    assert_eq!(block.bytes(), &before);
    assert!(builder.is_empty());
    fixture.store.insert_block(&next, "2").await.expect("inserted");
    assert_eq!(fixture.value("SELECT count() FROM usage_events").await, "1010");
    drop((block, before, next));
    for row in &first {
        row.push_into(&mut builder);
    }
    let third = builder.finish(3, MONTH);
    fixture.store.insert_block(&third, "3").await.expect("inserted");
    let distinct = "SELECT batch_id, count(), uniqExact(sequence) FROM usage_events \
                    GROUP BY batch_id ORDER BY batch_id";
    assert_eq!(fixture.value(distinct).await, "1\t1000\t1000\n2\t10\t10\n3\t1000\t1000");
}

#[tokio::test]
async fn an_empty_block_is_nothing() {
    let fixture = Fixture::new().await;
    let empty = BlockBuilder::new().finish(1, MONTH);
    assert_eq!(empty.rows(), 0);
    fixture.store.insert_block(&empty, "empty").await.expect("nothing to do");
    // Also as a request of its own: a header of columns without rows is a valid block.
    let client = clickhouse::Client::default()
        .with_url(fixture.engine.settings().url)
        .with_user(fixture.engine.settings().user)
        .with_password(fixture.engine.settings().password)
        .with_database("orbit");
    let mut insert = client.insert_formatted_with("INSERT INTO usage_events FORMAT Native");
    insert.send(empty.bytes().clone()).await.expect("sent");
    insert.end().await.expect("accepted");
    assert_eq!(fixture.value("SELECT count() FROM usage_events").await, "0");
}

#[test]
#[should_panic(expected = "a batch is of one month")]
fn a_block_of_two_months_is_a_bug() {
    let mut builder = BlockBuilder::new();
    Row::plain(0, "north", 0).push_into(&mut builder);
    let last_of_october = Row { ts_us: NOVEMBER_US - 1, ..Row::plain(1, "north", 0) };
    last_of_october.push_into(&mut builder);
    builder.finish(1, MONTH);
}

/// More rows than the server's own limit of rows in a block (1 048 449).
#[tokio::test]
async fn a_large_block_is_one_part() {
    let fixture = Fixture::new().await;
    let mut builder = BlockBuilder::new();
    let rows = 1_200_000;
    for n in 0..rows {
        Row::plain(n, ["north", "south"][n as usize % 2], n % 2_000_000).push_into(&mut builder);
    }
    let block = builder.finish(77, MONTH);
    fixture.store.insert_block(&block, "77").await.expect("inserted");
    // Parts that were written, merged away or not: a batch torn in two would have two levels of 0.
    let parts = "SELECT countIf(level = 0), sumIf(rows, active) FROM system.parts \
                 WHERE database = 'orbit' AND table = 'usage_events'";
    assert_eq!(fixture.value(parts).await, format!("1\t{rows}"));
    assert_eq!(fixture.store.count_batch(77, MONTH).await.expect("count"), rows);
}

#[tokio::test]
async fn a_token_is_taken_once() {
    let fixture = Fixture::new().await;
    let block = block(&plain(100), 5);
    for _ in 0..3 {
        fixture.store.insert_block(&block, "five").await.expect("taken or known");
    }
    assert_eq!(fixture.store.count_batch(5, MONTH).await.expect("count"), 100);
    fixture.store.insert_block(&block, "five, again").await.expect("another token");
    assert_eq!(fixture.store.count_batch(5, MONTH).await.expect("count"), 200);
}

/// An insert that the server is still at, its client gone, would be written after the count.
#[tokio::test]
async fn a_cancelled_insert_writes_nothing_more() {
    let fixture = Fixture::new().await;
    let settings = fixture.engine.settings();
    let client = clickhouse::Client::default()
        .with_url(settings.url)
        .with_user(settings.user)
        .with_password(settings.password)
        .with_database(settings.database)
        .with_setting("query_id", "slow's token");
    let slow = "INSERT INTO usage_events (sequence, batch_id, ts) \
                SELECT number, 3, toDateTime64('2026-11-01 00:00:00', 6, 'UTC') \
                FROM numbers(2000) WHERE sleepEachRow(0.1) = 0 \
                SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0";
    let insert = tokio::spawn(client.query_raw(slow).execute());
    let running = "SELECT count() FROM system.processes WHERE query_id = 'slow\\'s token'";
    while fixture.value(running).await == "0" {
        assert!(!insert.is_finished(), "{:?}", insert.await);
    }
    fixture.store.cancel_insert("slow's token").await.expect("cancelled");
    assert_eq!(fixture.value(running).await, "0");
    assert_eq!(fixture.store.count_batch(3, MONTH).await.expect("count"), 0);
    insert.await.expect("joined").expect_err("it was cancelled");
    fixture.store.cancel_insert("not running").await.expect("nothing to do");
}

/// A stopped server holds a request that nobody waits for any more, and begins it when it goes on:
/// the same token, sent again, is what keeps its rows from being there twice.
#[tokio::test]
async fn a_request_that_a_stopped_server_holds_is_not_doubled() {
    let fixture = Fixture::new().await;
    let block = block(&plain(500), 8);
    let engine = rustix::process::Pid::from_raw(fixture.engine.pid()).expect("not zero");
    let signal = |signal| rustix::process::kill_process(engine, signal).expect("it is ours");
    for round in 0..5 {
        fixture.store.execute("TRUNCATE TABLE usage_events").await.expect("truncated");
        let token = format!("round {round}");
        signal(rustix::process::Signal::STOP);
        let patience = Duration::from_millis(200);
        let lost = tokio::time::timeout(patience, fixture.store.insert_block(&block, &token));
        lost.await.expect_err("a stopped server does not answer");
        signal(rustix::process::Signal::CONT);
        while let Err(error) = fixture.store.insert_block(&block, &token).await {
            // The first one is running: its id is the token.
            assert_eq!(error.cause().code(), Some(216), "{error:?}");
            assert!(matches!(error, InsertError::Ambiguous(_)), "{error:?}");
        }
        assert_eq!(fixture.store.count_batch(8, MONTH).await.expect("count"), 500);
        let started = "SELECT count() FROM system.processes WHERE query_kind = 'Insert'";
        while fixture.value(started).await != "0" {}
        assert_eq!(fixture.store.count_batch(8, MONTH).await.expect("count"), 500);
    }
}

#[tokio::test]
async fn a_deleted_batch_is_gone_from_rows_and_projection() {
    let fixture = Fixture::new().await;
    fixture.store.insert_block(&block(&plain(300), 1), "1").await.expect("inserted");
    fixture.store.insert_block(&block(&plain(200), 2), "2").await.expect("inserted");
    // Merged, so that the batch to delete shares its part with another.
    fixture.store.execute("OPTIMIZE TABLE usage_events FINAL").await.expect("merged");
    fixture.store.delete_batch(1, MONTH).await.expect("deleted");
    assert_eq!(fixture.store.count_batch(1, MONTH).await.expect("count"), 0);
    assert_eq!(fixture.store.count_batch(2, MONTH).await.expect("count"), 200);
    let by = |projection: u8| {
        format!(
            "SELECT sum(requests), count() FROM usage_events WHERE toStartOfHour(ts) > 0 \
             SETTINGS optimize_use_projections = {projection}"
        )
    };
    assert_eq!(fixture.value(&by(1)).await, "200\t200");
    assert_eq!(fixture.value(&by(0)).await, "200\t200");
    let used = fixture.value(&format!("EXPLAIN {}", by(1))).await;
    assert!(used.contains("usage_by_hour"), "{used}");
    fixture.store.insert_block(&block(&plain(300), 1), "1, resent").await.expect("inserted");
    assert_eq!(fixture.store.count_batch(1, MONTH).await.expect("count"), 300);
}

#[tokio::test]
async fn failures_say_whether_anything_can_have_been_written() {
    let fixture = Fixture::new().await;
    let block = block(&plain(10), 1);
    let settings = fixture.engine.settings();
    let wrong = [("password", "wrong", 516), ("user", "eve", 516), ("database", "nowhere", 81)];
    for (what, value, code) in wrong {
        let mut settings = settings.clone();
        match what {
            "password" => value.clone_into(&mut settings.password),
            "user" => value.clone_into(&mut settings.user),
            _ => value.clone_into(&mut settings.database),
        }
        let store = Store::new(&settings).expect("valid settings");
        let error = store.insert_block(&block, "x").await.expect_err(what);
        assert!(matches!(error, InsertError::Refused(_)), "{what}: {error:?}");
        assert_eq!(error.cause().code(), Some(code), "{what}: {error:?}");
        assert!(!format!("{error:?}").contains(&fixture.engine.settings().password));
    }
    let finance = Store::new(&fixture.engine.finance_settings()).expect("valid settings");
    let error = finance.insert_block(&block, "x").await.expect_err("finance only reads");
    assert!(matches!(error, InsertError::Refused(_)), "{error:?}");

    fixture.engine.kill();
    let error = fixture.store.insert_block(&block, "x").await.expect_err("nobody listens");
    // The pooled connection is closed under us (unknown) or a new one is refused (known).
    assert!(error.cause().code().is_none(), "{error:?}");
    let error = fixture.store.insert_block(&block, "x").await.expect_err("nobody listens");
    assert!(matches!(error, InsertError::Refused(_)), "{error:?}");
    assert!(matches!(fixture.store.ping().await, Err(StoreError::Transport(_))));
}

#[tokio::test]
async fn a_batch_survives_a_kill_whole() {
    let fixture = Fixture::new().await;
    fixture.store.insert_block(&block(&plain(5_000), 9), "9").await.expect("inserted");
    let Fixture { engine, data, .. } = fixture;
    engine.kill();
    let engine = start(data.path());
    let store = Store::new(&engine.settings()).expect("valid settings");
    assert_eq!(store.count_batch(9, MONTH).await.expect("count"), 5_000);
    engine.stop(Duration::from_secs(30)).expect("a clean stop");
}
