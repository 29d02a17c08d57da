//! What the shipper says of its node, and what follows for all of them.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use orbit_meter::clickhouse::Store;
use orbit_meter::clickhouse::nodes::{Node, NodeState, overall};
use orbit_meter::ship::{AskOpen, Open, ShipSettings, Shipper};

use super::fixture::{Fixture, PATIENCE, absent, ship_settings};

const AWAY_AFTER: Duration = Duration::from_secs(30);

fn nodes(fixture: &Fixture) -> Vec<Node> {
    fixture.runtime.block_on(fixture.store().nodes()).expect("read")
}

/// The only node's latest word, once it is as wanted.
fn node(fixture: &Fixture, is_wanted: impl Fn(&Node) -> bool) -> Node {
    loop {
        if let Some(node) = nodes(fixture).pop().filter(&is_wanted) {
            return node;
        }
        thread::yield_now();
    }
}

#[test]
fn a_node_tells_how_far_it_is_until_it_has_stopped() {
    let mut fixture = Fixture::new();
    let shipper = fixture.ship();
    fixture.append(5_000);
    shipper.flush(PATIENCE).expect("shipped");
    let first = node(&fixture, |node| node.watermark_us.is_some() && !node.lanes.is_empty());
    assert_eq!((first.node, first.epoch), (fixture.journal.node(), fixture.journal.epoch()));
    assert_eq!((first.state, first.backlog_events), (NodeState::Running, 0));
    assert!(!first.host.is_empty());
    let later = node(&fixture, |node| node.watermark_us > first.watermark_us);
    assert!(later.updated_us > first.updated_us);
    let lane = node(&fixture, |node| node.lanes[0].watermark_us.is_some()).lanes[0];
    assert_eq!((lane.epoch, lane.lane), (fixture.journal.epoch(), 0));

    shipper.stop(PATIENCE).expect("nothing left");
    let last = nodes(&fixture).pop().expect("known");
    assert_eq!(last.state, NodeState::Stopped);
    assert!(last.watermark_us >= later.watermark_us, "{last:?}");
    // However long ago: it is not away, and holds back nobody.
    let far = last.updated_us + 1_000_000_000_000;
    let other = Node { node: 1, state: NodeState::Running, updated_us: far, ..last.clone() };
    let other = Node { watermark_us: Some(far), ..other };
    let all = overall(&[last, other], far, AWAY_AFTER);
    assert_eq!((all.watermark_us, all.away), (Some(far), vec![]));
}

#[test]
fn a_node_that_went_without_a_word_is_away_until_it_is_retired_or_back() {
    let mut fixture = Fixture::new();
    let shipper = fixture.ship();
    fixture.append(100);
    shipper.flush(PATIENCE).expect("shipped");
    let last = node(&fixture, |node| node.watermark_us.is_some());
    drop(shipper);
    let last = nodes(&fixture).pop().unwrap_or(last);
    assert_eq!(last.state, NodeState::Running);
    let later = last.updated_us + 31_000_000;
    let all = overall(&nodes(&fixture), later, AWAY_AFTER);
    assert_eq!((all.watermark_us, all.away), (last.watermark_us, vec![last.node]));

    let store = fixture.store();
    let retired = fixture.runtime.block_on(store.retire_node(last.node)).expect("written");
    assert!(retired);
    let all = overall(&nodes(&fixture), later, AWAY_AFTER);
    assert_eq!((all.watermark_us, all.away), (None, vec![]));
    let unknown = fixture.runtime.block_on(store.retire_node(last.node ^ 1)).expect("read");
    assert!(!unknown);

    fixture.reopen();
    let shipper = fixture.ship();
    let back = node(&fixture, |node| node.state == NodeState::Running);
    assert_eq!((back.node, back.epoch), (last.node, last.epoch + 1));
    drop(shipper);
}

/// Lanes of an earlier opening, and an open request, hold the node where it was.
#[test]
fn what_is_not_shipped_holds_the_nodes_watermark() {
    const OPEN_US: i64 = 1_700_000_000_000_000;
    let mut fixture = Fixture::new();
    fixture.append(3_000);
    fixture.reopen();
    fixture.append(10);
    let open: AskOpen = Arc::new(|| Open { now_us: i64::MAX, oldest_us: Some(OPEN_US) });
    let store = Store::new(&fixture.proxied()).expect("valid settings");
    let settings = ShipSettings { open: Some(open), ..ship_settings() };
    // Nothing of the data gets through.
    fixture.execute("RENAME TABLE usage_events TO elsewhere");
    let shipper = Shipper::start(Arc::clone(&fixture.journal), store, settings).expect("starts");
    let held = node(&fixture, |node| node.lanes.len() == 2);
    assert_eq!((held.watermark_us, held.backlog_events), (None, 3_010));
    assert_eq!(held.lanes.iter().map(|lane| lane.epoch).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(held.lanes[0].watermark_us, None);
    fixture.execute("RENAME TABLE elsewhere TO usage_events");
    shipper.flush(PATIENCE).expect("shipped");
    let open = node(&fixture, |node| node.watermark_us.is_some());
    assert_eq!(open.watermark_us, Some(OPEN_US));
    shipper.stop(PATIENCE).expect("nothing left in the journal");
    let last = nodes(&fixture).pop().expect("known");
    assert_eq!(last.watermark_us, Some(OPEN_US));
    // Sums that wait for room are in no journal yet: it has not stopped with nothing left.
    assert_eq!(last.state, NodeState::Running);
}

/// M3: a database that was restored from an older backup is told what it lacks.
#[test]
fn m3_a_node_says_again_how_far_it_shipped() {
    let mut fixture = Fixture::new();
    for _ in 0..3 {
        let shipper = fixture.ship();
        fixture.append(1_000);
        shipper.flush(PATIENCE).expect("shipped");
        shipper.stop(PATIENCE).expect("nothing left");
        fixture.reopen();
    }
    let told = "SELECT arraySort(groupArray((epoch, lane, shipped))) FROM usage_lanes FINAL";
    assert_eq!(fixture.value(told), "[(1,0,1000),(2,0,1000),(3,0,1000)]");
    let when = "SELECT arraySort(groupArray(advanced_at)) FROM usage_lanes FINAL";
    let before = fixture.value(when);
    for lost in ["events", "batches", "lanes"] {
        fixture.execute(&format!("TRUNCATE TABLE usage_{lost}"));
    }
    let shipper = fixture.ship();
    fixture.wait_for("SELECT count() FROM usage_lanes");
    assert_eq!(fixture.value(told), "[(1,0,1000),(2,0,1000),(3,0,1000)]");
    assert_eq!(fixture.value(when), before, "and when that was");
    shipper.stop(PATIENCE).expect("nothing left");
}

/// With ClickHouse away there is nothing to say it to, and that is no failure of shipping.
#[test]
fn telling_it_to_nobody_is_no_failure() {
    let fixture = Fixture::without_engine();
    let store = Store::new(&absent(&fixture.proxy)).expect("valid settings");
    let shipper =
        Shipper::start(Arc::clone(&fixture.journal), store, ship_settings()).expect("starts");
    while shipper.status().watermark_us.is_none() {
        thread::yield_now();
    }
    let first = shipper.status().watermark_us;
    while shipper.status().watermark_us == first {
        thread::yield_now();
    }
    assert_eq!((shipper.status().failures, shipper.status().last_error), (0, None));
    shipper.stop(Duration::from_secs(1)).expect("nothing was there");
}
