//! M1/watermark: what the watermark calls complete is complete, whatever is still open.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use orbit_gateway::proxy::{Edge, open};
use orbit_meter::clickhouse::{MigrateOptions, Store, testing};
use orbit_meter::ship::{ShipSettings, Shipper};
use orbit_policy::{ApiKey, Nanos};

use crate::harness::{Bench, Row, Seen, policy_text, read_until, scripted};

const US_PER_SECOND: i64 = 1_000_000;

#[test]
fn engine_process() {
    testing::serve_if_asked();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m1_a_slow_request_holds_the_watermark_until_it_has_its_row() {
    let directory = tempfile::tempdir().unwrap();
    let engine = testing::start_self(directory.path(), "watermark::engine_process");
    let store = Store::new(&engine.settings()).unwrap();
    store.migrate(&MigrateOptions::default()).await.unwrap();

    let header = "HTTP/1.1 200 OK\n\n";
    let (upstream, go) = scripted(vec!["", header, "one", "two", "end"]).await;
    let key = ApiKey::generate("test").unwrap();
    let text = policy_text(upstream, &key, "").replace("read_timeout_ms = 2_000", "");
    let at_once = |edge: &mut Edge| edge.long_answer = Nanos(0);
    let bench = Bench::of_edge(text, key, upstream, Seen::default(), |_| {}, at_once);
    let oldest = open::oldest(Arc::clone(&bench.edge.metrics), Arc::clone(&bench.edge.refusals));
    let settings = ShipSettings {
        max_delay: Duration::from_millis(10),
        oldest_open_us: Some(oldest),
        ..ShipSettings::default()
    };
    let store = Store::new(&engine.settings()).unwrap();
    let shipper = Shipper::start(Arc::clone(&bench.journal), store, settings).unwrap();
    let reached = || shipper.status().watermark_us;

    let mut slow = bench.raw("GET / HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n").await;
    while bench.edge.metrics.oldest_open_us().is_none() {
        tokio::task::yield_now().await;
    }
    let arrived_us = bench.edge.metrics.oldest_open_us().unwrap();
    // Others come and go meanwhile, for longer than the watermark lags behind anyway.
    while bench.edge.clock.unix_us() < arrived_us + 4 * US_PER_SECOND {
        assert_eq!(bench.get("/a/../b").await.0, StatusCode::BAD_REQUEST);
        bench.edge.refusals.flush(bench.edge.clock.unix_us()).unwrap();
        assert!(reached() <= Some(arrived_us), "{:?} passed {arrived_us}", reached());
    }
    // The header alone does not end it, and it has no row yet. Its first piece counts it.
    go.add_permits(1);
    read_until(&mut slow, "\r\n\r\n").await;
    assert!(reached() <= Some(arrived_us));
    assert_eq!(bench.edge.metrics.oldest_open_us(), Some(arrived_us));
    go.add_permits(1);
    read_until(&mut slow, "one").await;
    assert_eq!(bench.edge.metrics.oldest_open_us(), None);
    while reached() <= Some(arrived_us) {
        tokio::task::yield_now().await;
    }
    // It still goes on, and its parts are dated after all that was called complete.
    let complete_us = reached().unwrap();
    go.add_permits(2);
    read_until(&mut slow, "end").await;
    let rows = bench.rows();
    let of_it = rows.iter().filter(|row| row.status == 200);
    let (counting, parts): (Vec<&Row>, Vec<&Row>) = of_it.partition(|row| row.requests == 1);
    assert_eq!(counting.len(), 1);
    assert!(counting[0].ts_us >= arrived_us && counting[0].ts_us < arrived_us + US_PER_SECOND);
    assert!(!parts.is_empty(), "{rows:?}");
    assert!(parts.iter().all(|part| part.ts_us > complete_us));
    shipper.stop(Duration::from_secs(60)).unwrap();
}
