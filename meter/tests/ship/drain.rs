//! Shipping when nothing goes wrong.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;

use orbit_meter::clickhouse::Store;
use orbit_meter::ship::{AskOpen, BeforeForget, Open, ShipSettings, Shipper};

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
    let open: AskOpen = Arc::new(|| Open { now_us: i64::MAX, oldest_us: Some(OPEN_US) });
    let settings = ShipSettings { open: Some(open), ..ship_settings() };
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

/// What is dated by a clock that does not know yet that the machine's was set forward, or that lags
/// behind after a suspend, is not called complete before it arrived.
#[test]
fn b3_the_watermark_follows_the_clock_that_dates_events() {
    const BEHIND_US: i64 = 1_700_000_000_000_000;
    let mut fixture = Fixture::new();
    fixture.append(100);
    let ticks = Arc::new(AtomicI64::new(0));
    let ticking = Arc::clone(&ticks);
    let open: AskOpen = Arc::new(move || {
        let now_us = BEHIND_US + ticking.fetch_add(1, Ordering::AcqRel);
        Open { now_us, oldest_us: None }
    });
    let store = Store::new(&fixture.proxied()).expect("valid settings");
    let settings = ShipSettings { open: Some(open), ..ship_settings() };
    let shipper = Shipper::start(Arc::clone(&fixture.journal), store, settings).expect("starts");
    shipper.flush(PATIENCE).expect("shipped");
    let reached = || shipper.status().watermark_us;
    while reached().is_none() {
        thread::yield_now();
    }
    let first = reached();
    while reached() == first {
        thread::yield_now();
    }
    let latest_us = BEHIND_US + ticks.load(Ordering::Acquire);
    assert!(reached() < Some(latest_us), "{:?} is after {latest_us}", reached());
    shipper.stop(PATIENCE).expect("nothing left");
    let told = "SELECT max(toUnixTimestamp64Micro(watermark)) FROM usage_nodes";
    assert!(fixture.number(told) < latest_us.unsigned_abs() + 1_000, "its last word");
}

/// M4: a plan fits in the state's files however many lanes there are to ship.
#[test]
fn m4_a_plan_is_of_few_lanes_however_many_there_are() {
    const OPENINGS: u64 = 100;
    let mut fixture = Fixture::new();
    for _ in 0..OPENINGS {
        fixture.append(3);
        fixture.reopen();
    }
    thread::scope(|scope| {
        for number in 0..40 {
            let journal = &fixture.journal;
            let number = 3 * OPENINGS + number;
            scope.spawn(move || journal.append(&event(number)).expect("room"));
        }
    });
    fixture.note_appended(40);
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    fixture.assert_exact();
    let most = fixture.number("SELECT max(length(ranges)) FROM usage_batches");
    assert!((32..=64).contains(&most), "{most} ranges in a plan");
    assert_eq!(fixture.journal.status().former_lanes, 0);
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
