//! M2 for ingested events: once, however often they are sent; and nothing half-kept.

use std::collections::HashSet;

use orbit_meter::journal::Position;
use serde_json::{Value, json};

use super::node::{BATCH, Node, SINGLE, event, with};

fn batch(from: usize, count: usize) -> Vec<Value> {
    (from..from + count).map(|id| event(&id.to_string())).collect()
}

#[test]
fn what_is_sent_again_is_a_success_and_counts_no_more() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    assert_eq!(node.batch(&batch(0, 100)).counts(), (100, 0, 0));
    assert_eq!(node.batch(&batch(0, 100)).counts(), (0, 100, 0));
    assert_eq!(node.batch(&batch(50, 100)).counts(), (50, 50, 0));
    assert_eq!(node.batch(&[event("x"), event("x"), event("x")]).counts(), (1, 2, 0));
    // Another source's id is another event; other data under the same name is not.
    let elsewhere = with("x", "source", "/elsewhere");
    let changed = with("x", "data", json!({ "quantity": 99 }));
    assert_eq!(node.batch(&[elsewhere, changed]).counts(), (1, 1, 0));
    node.stop();

    for _ in 0..3 {
        let node = Node::start(home.path());
        assert_eq!(node.batch(&batch(0, 150)).counts(), (0, 150, 0));
        let rows = node.rows();
        let distinct: HashSet<[u8; 16]> = rows.iter().map(|row| row.request_id).collect();
        assert_eq!((rows.len(), distinct.len()), (152, 152));
        node.stop();
    }
}

#[test]
fn what_was_counted_is_a_success_even_when_it_would_be_refused_by_now() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    assert_eq!(node.batch(&[event("a")]).counts(), (1, 0, 0));
    node.apply("[[plan]]\nid = \"business\"\n[[tenant]]\nid = \"other\"\nplan = \"business\"\n");
    assert_eq!(node.batch(&[event("a")]).counts(), (0, 1, 0));
    let strict = "Prefer: handling=strict\r\n";
    assert_eq!(node.post(SINGLE, strict, &event("a").to_string()).counts(), (0, 1, 0));
    let unknown = node.batch(&[event("b")]).problem(422);
    assert_eq!(unknown["rejected"][0]["reason"], "unknown_tenant");
    node.stop();
}

/// M4: no acknowledged event is lost, and what is sent again after a 503 counts once.
#[test]
fn a_full_journal_is_503_and_the_same_request_completes_later() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::with_room(home.path(), 4 * 64 * 1024);
    let strict = "Prefer: handling=strict\r\n";
    let mut sent = 0;
    let refused = loop {
        let body = Value::from(batch(sent, 500)).to_string();
        let answer = node.post(BATCH, strict, &body);
        if answer.status != 202 {
            break answer;
        }
        sent += 500;
    };
    let problem = refused.problem(503);
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
    let kind = problem["type"].as_str().unwrap();
    assert!(kind.ends_with("#temporary-reduced-capacity"), "{kind}");
    assert!(node.rows().len() >= sent, "what was acknowledged is there");

    // As the shipper does when ClickHouse is back.
    let mut shipped = node.rows();
    for lane in node.journal.lanes() {
        let mut reader = node.journal.reader(lane, None).unwrap();
        while reader.read().unwrap().is_some() {}
        let end: Position = reader.position();
        node.index.sync().unwrap();
        node.journal.acknowledge(lane, end).unwrap();
    }
    while node.journal.is_full() {
        std::thread::yield_now();
    }
    let again = node.post(BATCH, strict, &Value::from(batch(sent, 500)).to_string());
    let (accepted, duplicates, _) = again.counts();
    assert_eq!(accepted + duplicates, 500);
    // The last segment was both shipped and kept.
    shipped.extend(node.rows());
    let events: HashSet<_> = shipped.iter().map(|row| row.id).collect();
    let distinct: HashSet<_> = shipped.iter().map(|row| row.request_id).collect();
    assert_eq!((events.len(), distinct.len()), (sent + 500, sent + 500));
    node.stop();
}
