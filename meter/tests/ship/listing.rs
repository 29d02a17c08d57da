//! M3: whatever dies around the manifest's insert, it tells the same in the end.

use rustix::process::{Pid, Signal, kill_process};

use super::fixture::{Fixture, PATIENCE};
use super::proxy::{Fault, Note};

const BATCHES: &str = "usage_batches";

/// A repeat wrote the same again, but for the time of writing.
#[track_caller]
fn assert_repeated(fixture: &Fixture) {
    let versions = "SELECT uniqExact(* EXCEPT written_at) - uniqExact(batch_id) FROM usage_batches";
    assert_eq!(fixture.value(versions), "0", "a batch was listed in two ways");
}

#[test]
fn m3_an_insert_of_the_manifest_cut_anywhere_is_repeated() {
    let mut fixture = Fixture::new();
    let shipper = fixture.ship();
    for limit in [600, 700, 800, 900, usize::MAX] {
        fixture.proxy.arm_at(BATCHES, Fault::CutRequest(limit));
        fixture.append(2_000);
        assert!(matches!(fixture.proxy.note(), Note::Cut), "{limit}");
        shipper.flush(PATIENCE).expect("shipped");
    }
    for fault in [Fault::CutAnswer, Fault::CutAnswer] {
        fixture.proxy.arm_at(BATCHES, fault);
        fixture.append(2_000);
        assert!(matches!(fixture.proxy.note(), Note::AnswerDropped));
        shipper.flush(PATIENCE).expect("shipped");
    }
    assert!(shipper.status().failures >= 7);
    assert_eq!(shipper.status().resends, 0, "no batch was sent again");
    fixture.assert_exact();
    assert_repeated(&fixture);
}

/// Between the rows and the manifest: the next process lists what it finds delivered.
#[test]
fn m3_stopped_between_insert_and_manifest_lists_it_after_all() {
    let mut fixture = Fixture::new();
    fixture.proxy.arm_at(BATCHES, Fault::Hold);
    let shipper = fixture.ship();
    fixture.append(2_000);
    let Note::Held(request) = fixture.proxy.note() else { panic!("held") };
    drop(shipper);
    assert_eq!(fixture.value("SELECT count() FROM usage_events"), "2000");
    assert_eq!(fixture.value("SELECT count() FROM usage_batches"), "0");
    fixture.reopen();
    assert_eq!(fixture.journal.pending().0, 2_000, "the journal keeps what is not listed");
    fixture.append(500);
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    assert_eq!(shipper.status().resends, 0, "the rows were there");
    fixture.assert_exact();
    // The first process's insert, long given up, reaches the server now.
    let answer = fixture.proxy.release(&request);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    fixture.assert_exact();
    assert_repeated(&fixture);
}

/// Between the manifest and the cursor: it is listed once more.
#[test]
fn m3_stopped_between_manifest_and_cursor_lists_the_same_again() {
    let mut fixture = Fixture::new();
    fixture.proxy.arm_at(BATCHES, Fault::DropAnswer);
    let shipper = fixture.ship();
    fixture.append(2_000);
    assert!(matches!(fixture.proxy.note(), Note::AnswerDropped));
    drop(shipper);
    assert_eq!(fixture.value("SELECT count() FROM usage_batches"), "2", "one for each month");
    fixture.reopen();
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    assert_eq!(fixture.value("SELECT count() FROM usage_batches FINAL"), "2");
    fixture.assert_exact();
    assert_repeated(&fixture);
}

/// Data goes on while the manifest cannot be written, but only so far; and the cursor not at all.
#[test]
fn m3_without_a_manifest_the_cursor_stays_and_shipping_stops_at_a_bound() {
    const ROWS: u64 = 400_000;
    /// Plans that may wait, and those in flight when the last of these came to wait.
    const BOUND: u64 = 8 + 1;
    let mut fixture = Fixture::new();
    fixture.execute("RENAME TABLE usage_batches TO elsewhere");
    fixture.append(ROWS);
    let shipper = fixture.ship();
    // A plan of full blocks has 20 000 rows of two months.
    let plans = "SELECT count(DISTINCT batch_id) / 2 FROM usage_events";
    fixture.wait_for(&format!("SELECT ({plans}) >= {BOUND}"));
    let failures = shipper.status().failures;
    while shipper.status().failures < failures + 5 {
        std::thread::yield_now();
    }
    assert_eq!(fixture.number(plans), BOUND);
    assert_eq!(fixture.journal.pending().0, ROWS, "nothing is acknowledged");
    assert_eq!(shipper.status().rows, 0);
    fixture.execute("RENAME TABLE elsewhere TO usage_batches");
    shipper.flush(PATIENCE).expect("shipped");
    assert_eq!(shipper.status().rows, ROWS);
    fixture.assert_exact();
}

/// The server stops in the middle of it all, and goes on when another process has taken over.
#[test]
fn m3_a_server_that_was_stopped_finds_every_repeat_the_same() {
    let mut fixture = Fixture::new();
    for table in ["usage_events", BATCHES] {
        let engine = Pid::from_raw(fixture.engine().pid()).expect("not zero");
        let shipper = fixture.ship();
        fixture.append(1_000);
        shipper.flush(PATIENCE).expect("shipped");
        fixture.proxy.arm_at(table, Fault::Watch);
        if table == BATCHES {
            fixture.append(3_000);
            assert!(matches!(fixture.proxy.note(), Note::Sent));
            kill_process(engine, Signal::STOP).expect("it is ours");
        } else {
            kill_process(engine, Signal::STOP).expect("it is ours");
            fixture.append(3_000);
            assert!(matches!(fixture.proxy.note(), Note::Sent));
        }
        drop(shipper);
        fixture.reopen();
        let shipper = fixture.ship();
        kill_process(engine, Signal::CONT).expect("it is ours");
        shipper.flush(PATIENCE).expect("shipped");
        fixture.assert_exact();
        assert_repeated(&fixture);
    }
}

#[test]
fn m3_after_a_long_outage_everything_is_listed() {
    let mut fixture = Fixture::new();
    let shipper = fixture.ship();
    fixture.append(1_000);
    shipper.flush(PATIENCE).expect("shipped");
    fixture.kill_engine();
    for _ in 0..3 {
        fixture.append(50_000);
        let failures = shipper.status().failures;
        while shipper.status().failures == failures {
            std::thread::yield_now();
        }
    }
    fixture.start_engine();
    shipper.flush(PATIENCE).expect("shipped");
    fixture.assert_exact();
}

/// A directory that lost its identity goes on as another node; what the first one left is still its.
#[test]
fn m3_a_batch_is_of_one_node() {
    let mut fixture = Fixture::new();
    fixture.append(3_000);
    let first = fixture.journal.node();
    fixture.reopen_after(|directory| {
        for copy in ["identity.0", "identity.1"] {
            std::fs::write(directory.join(copy), [7; 4096]).expect("writable");
        }
    });
    assert_ne!(fixture.journal.node(), first);
    fixture.append(2_000);
    let shipper = fixture.ship();
    shipper.flush(PATIENCE).expect("shipped");
    fixture.assert_exact();
    let nodes = "SELECT uniqExact(node) FROM usage_batches";
    assert_eq!(fixture.value(nodes), "2");
}
