//! What networks and servers do to an insert, one at a time.

use std::sync::Arc;
use std::time::Duration;

use orbit_meter::clickhouse::Store;
use orbit_meter::ship::Shipper;

use super::fixture::{Fixture, PATIENCE, absent, ship_settings};
use super::proxy::{Fault, Note};

/// The one batch a test is about.
fn batch(fixture: &Fixture) -> (u64, u32) {
    let line = fixture.value("SELECT DISTINCT batch_id, toYYYYMM(ts) FROM usage_events");
    let (id, month) = line.split_once('\t').expect("one batch");
    (id.parse().expect("a number"), month.parse().expect("a number"))
}

/// Leaves a batch that ClickHouse took and the shipper does not know of, and no shipper.
fn taken_without_answer(events: u64) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.proxy.arm(Fault::DropAnswer);
    let shipper = fixture.ship();
    fixture.append(events);
    assert!(matches!(fixture.proxy.note(), Note::AnswerDropped));
    drop(shipper);
    fixture
}

#[test]
fn dropped_between_insert_and_cursor_does_not_double() {
    // Fewer than ten events, of which the first would be of another month.
    let mut fixture = taken_without_answer(1);
    assert_eq!(fixture.value("SELECT count() FROM usage_events"), "1");
    fixture.append(9);
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    assert_eq!(shipper.status().resends, 0, "found where it was");
    fixture.assert_exact();
}

#[test]
fn the_same_after_the_process_came_back() {
    let mut fixture = taken_without_answer(1);
    fixture.reopen();
    fixture.append(9);
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    fixture.assert_exact();
}

#[test]
fn a_token_without_its_rows_is_replaced() {
    let fixture = taken_without_answer(1);
    // What a kill between the token log and the part leaves: the token is known, the rows are not.
    let (id, month) = batch(&fixture);
    let store = fixture.store();
    fixture.runtime.block_on(store.delete_batch(id, month)).expect("deleted");
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    assert!(shipper.status().resends > 0);
    fixture.assert_exact();
}

#[test]
fn part_of_a_batch_is_replaced_by_all_of_it() {
    let mut fixture = Fixture::new();
    // Two months, two batches: the first month's comes first.
    fixture.append(1_000);
    fixture.proxy.arm(Fault::DropAnswer);
    let shipper = fixture.ship();
    assert!(matches!(fixture.proxy.note(), Note::AnswerDropped));
    drop(shipper);
    let store = fixture.store();
    let half = "ALTER TABLE usage_events DELETE WHERE sequence % 2 = 1 SETTINGS mutations_sync = 2";
    fixture.runtime.block_on(store.execute(half)).expect("deleted");
    let left: u64 = fixture.value("SELECT count() FROM usage_events").parse().expect("a number");
    assert!(left > 0 && left < 900, "{left}");
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    fixture.assert_exact();
}

#[test]
fn an_insert_that_arrives_after_its_resend_does_not_double() {
    let mut fixture = Fixture::new();
    fixture.proxy.arm(Fault::Hold);
    let shipper = fixture.ship();
    fixture.append(1);
    let Note::Held(request) = fixture.proxy.note() else { panic!("held") };
    shipper.flush(PATIENCE).expect("shipped by the resend");
    assert_eq!(shipper.status().resends, 1);
    fixture.assert_exact();
    // The first insert, long given up, reaches the server now.
    let answer = fixture.proxy.release(&request);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    fixture.assert_exact();
}

#[test]
fn a_connection_cut_anywhere_costs_nothing() {
    let mut fixture = Fixture::new();
    let shipper = fixture.ship();
    // From the end of the head on: a head that is cut makes the embedded engine abort, which is
    // what the kills in `death` are about.
    for limit in [1_500, 4_000, 30_000, 65_536, 100_000, 150_000, usize::MAX] {
        fixture.proxy.arm(Fault::CutRequest(limit));
        fixture.append(2_000);
        assert!(matches!(fixture.proxy.note(), Note::Cut), "{limit}");
        shipper.flush(PATIENCE).expect("shipped");
    }
    for _ in 0..3 {
        fixture.proxy.arm(Fault::CutAnswer);
        fixture.append(2_000);
        assert!(matches!(fixture.proxy.note(), Note::AnswerDropped));
        shipper.flush(PATIENCE).expect("shipped");
    }
    assert!(shipper.status().failures >= 10);
    fixture.assert_exact();
}

#[test]
fn clickhouse_that_is_not_there_yet_is_waited_for() {
    let mut fixture = Fixture::without_engine();
    let store = Store::new(&absent(&fixture.proxy)).expect("valid settings");
    let shipper =
        Shipper::start(Arc::clone(&fixture.journal), store, ship_settings()).expect("starts");
    fixture.append(5_000);
    let error = shipper.flush(Duration::from_millis(300)).expect_err("nobody there");
    assert_eq!(error.waiting, 5_000);
    while shipper.status().failures == 0 {
        std::thread::yield_now();
    }
    let status = shipper.status();
    assert!(status.last_error.is_some());
    assert_eq!((status.rows, status.lag_events), (0, 5_000));
    drop(shipper);
    fixture.start_engine();
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    fixture.assert_exact();
}
