//! M1/watermark: what the watermark calls complete is complete, whatever is still open.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::StatusCode;
use orbit_gateway::clock::Clock;
use orbit_gateway::proxy::{Edge, open};
use orbit_meter::clickhouse::{MigrateOptions, Store, testing};
use orbit_meter::ship::{ShipSettings, Shipper};
use orbit_policy::Nanos;

use crate::harness::{Bench, Row, no_database, read_until, scripted, upstream};

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
    let bench = Bench::before(upstream, "", |edge| edge.long_answer = Nanos(0));
    let Edge { metrics, refusals, clock, .. } = &*bench.edge;
    let open = open::ask(Arc::clone(metrics), Arc::clone(refusals), Arc::clone(clock));
    let settings = ShipSettings {
        max_delay: Duration::from_millis(10),
        open: Some(open),
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
    shipper.stop(Duration::from_mins(1)).unwrap();
}

/// The machine's clock is set forward by an hour, as it is after a suspend: until the gateway's own clock
/// has followed, requests are dated by the former one, and must not be behind the watermark.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b3_a_step_of_the_machines_clock_does_not_take_the_watermark_past_what_is_dated_before_it()
{
    let steps_us = Arc::new(AtomicI64::new(-3_600 * US_PER_SECOND));
    let step_us = Arc::clone(&steps_us);
    let machine = Clock::start();
    let clock = Clock::following(move || machine.unix_us() + step_us.load(Ordering::Acquire));
    let (upstream, _) = upstream().await;
    let bench = Bench::before(upstream, "", |edge| edge.clock = Arc::new(clock));
    let Edge { metrics, refusals, clock, .. } = &*bench.edge;
    let open = open::ask(Arc::clone(metrics), Arc::clone(refusals), Arc::clone(clock));
    let settings = ShipSettings { open: Some(open), ..ShipSettings::default() };
    // Nobody takes what is shipped: an empty journal follows the clocks.
    let shipper = Shipper::start(Arc::clone(&bench.journal), no_database(), settings).unwrap();
    let status = || shipper.status().watermark_us;
    let reached = async |after: Option<i64>| loop {
        if status() > after {
            break status();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    // The machine's own clock, which dates nothing, is an hour ahead of it all along.
    let before_us = reached(None).await;
    assert!(before_us.is_some_and(|us| us < Clock::start().unix_us() - 3_500 * US_PER_SECOND));
    // Now it follows.
    steps_us.store(0, Ordering::Release);
    let complete_us = reached(before_us).await;
    bench.get("/fixed").await;
    let row = bench.rows().pop().expect("recorded");
    assert!(Some(row.ts_us) >= complete_us, "{row:?} is before {complete_us:?}");
}
