//! Shipping when nothing goes wrong.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use orbit_meter::clickhouse::Store;
use orbit_meter::ship::{BeforeForget, OldestOpen, ShipSettings, Shipper};

use super::fixture::{Fixture, PATIENCE, absent, event, ship_settings};

#[test]
fn everything_appended_arrives_once_and_the_journal_is_emptied() {
    const THREADS: u64 = 4;
    const EACH: u64 = 30_000;
    let mut fixture = Fixture::new();
    let shipper = fixture.ship();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let journal = &fixture.journal;
            scope.spawn(move || {
                for number in thread * EACH..(thread + 1) * EACH {
                    journal.append(&event(number)).expect("room");
                }
            });
        }
    });
    fixture.note_appended(THREADS * EACH);
    shipper.flush(PATIENCE).expect("shipped");
    let status = shipper.status();
    assert_eq!((status.rows, status.lag_events, status.lag_bytes), (THREADS * EACH, 0, 0));
    assert_eq!((status.failures, status.resends, status.last_error), (0, 0, None));
    fixture.assert_exact();
    assert_eq!(fixture.value("SELECT uniqExact(toYYYYMM(ts)) FROM usage_events"), "2");
    let torn = "SELECT count() FROM (SELECT batch_id FROM usage_events GROUP BY batch_id \
                HAVING uniqExact(toYYYYMM(ts)) > 1)";
    assert_eq!(fixture.value(torn), "0", "batches in two partitions");
    let journal = fixture.journal.status();
    assert!(journal.segments <= THREADS, "{} segments kept", journal.segments);
    shipper.stop(PATIENCE).expect("nothing left");
}

#[test]
fn what_an_earlier_opening_left_is_shipped_and_removed() {
    let mut fixture = Fixture::new();
    for _ in 0..3 {
        fixture.append(5_000);
        fixture.reopen();
    }
    assert_eq!(fixture.journal.status().former_lanes, 3);
    fixture.append(1_000);
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    fixture.assert_exact();
    assert_eq!(fixture.value("SELECT uniqExact(epoch) FROM usage_events"), "4");
    assert_eq!(fixture.journal.status().former_lanes, 0);
    drop(shipper);

    // Nothing of it comes again, from the same directory or another opening.
    fixture.reopen();
    let shipper = fixture.ship();
    fixture.append(10);
    shipper.flush(PATIENCE).expect("shipped");
    assert_eq!(shipper.status().rows, 10);
    fixture.assert_exact();
}

#[test]
fn the_watermark_waits_for_what_is_not_shipped_and_for_open_requests() {
    const OPEN_US: i64 = 1_700_000_000_000_000;
    let mut fixture = Fixture::without_engine();
    fixture.append(100);
    let store = Store::new(&absent(&fixture.proxy)).expect("valid settings");
    let shipper =
        Shipper::start(Arc::clone(&fixture.journal), store, ship_settings()).expect("starts");
    while shipper.status().lanes.is_empty() {
        thread::yield_now();
    }
    let status = shipper.status();
    assert_eq!((status.watermark_us, status.lanes[0].1), (None, None));
    drop(shipper);

    fixture.start_engine();
    let store = Store::new(&fixture.proxied()).expect("valid settings");
    let oldest_open_us: OldestOpen = Arc::new(|| Some(OPEN_US));
    let settings = ShipSettings { oldest_open_us: Some(oldest_open_us), ..ship_settings() };
    let shipper = Shipper::start(Arc::clone(&fixture.journal), store, settings).expect("starts");
    shipper.flush(PATIENCE).expect("shipped");
    while shipper.status().watermark_us.is_none() {
        thread::yield_now();
    }
    assert_eq!(shipper.status().watermark_us, Some(OPEN_US), "a request is open since then");
    drop(shipper);

    let shipper = fixture.ship();
    while shipper.status().watermark_us <= Some(OPEN_US) {
        thread::yield_now();
    }
    fixture.assert_exact();
}

/// M2: what is kept beside the journal is durable before the journal forgets.
#[test]
fn nothing_is_forgotten_before_everything_else_is_durable() {
    const EVENTS: u64 = 1_000;
    let mut fixture = Fixture::new();
    let is_durable = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_durable);
    let before_forget: BeforeForget = Arc::new(move || {
        if asked.load(Ordering::Acquire) { Ok(()) } else { Err(io::Error::other("not yet")) }
    });
    let settings = ShipSettings { before_forget: Some(before_forget), ..ship_settings() };
    let store = Store::new(&fixture.proxied()).expect("valid settings");
    let journal = Arc::clone(&fixture.journal);
    let shipper = Shipper::start(journal, store, settings).expect("starts");
    fixture.append(EVENTS);
    while shipper.status().failures < 2 {
        thread::yield_now();
    }
    assert_eq!(fixture.value("SELECT count() FROM usage_events"), EVENTS.to_string());
    assert_eq!(fixture.journal.status().pending_events, EVENTS);
    assert_eq!(shipper.status().last_error.as_deref(), Some("not yet"));
    is_durable.store(true, Ordering::Release);
    shipper.flush(PATIENCE).expect("shipped");
    fixture.assert_exact();
}
