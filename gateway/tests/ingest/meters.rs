//! Events on meters that a table defines: what of the data each aggregate takes, and members (M5).

use std::collections::BTreeSet;

use orbit_meter::event::{Flags, member_id};
use orbit_meter::ingest::request_id;
use serde_json::{Value, json};

use super::node::{Node, POLICY, Row, event};

const NANO: i128 = 1_000_000_000;

const METERS: &str = r#"
[[meter]]
id = "runs"
aggregate = "count"
value = "event"
[[meter]]
id = "tokens"
aggregate = "sum"
value = "event"
field = "data.tokens"
[[meter]]
id = "peak"
aggregate = "max"
value = "event"
[[meter]]
id = "version"
aggregate = "last"
value = "event"
field = "data.build-number"
[[meter]]
id = "devices"
aggregate = "distinct"
value = "request_header:X-Device"
field = "data.serial"
[[tenant]]
id = "acme-shop"
parent = "acme"
[[tenant]]
id = "globex"
plan = "business"
"#;

fn node(home: &std::path::Path) -> Node {
    let node = Node::start(home);
    node.apply(&format!("{POLICY}{METERS}"));
    node
}

fn sent(id: &str, meter: &str, subject: &str, data: Value) -> Value {
    let mut event = event(id);
    event["type"] = meter.into();
    event["subject"] = subject.into();
    event["data"] = data;
    event
}

/// Meter, flags, quantity and requests of each row.
fn brief(rows: &[Row]) -> Vec<(&str, Flags, i128, u32)> {
    rows.iter().map(|row| (&*row.meter, row.flags, row.quantity_nano, row.requests)).collect()
}

#[test]
fn each_aggregate_takes_its_own_of_an_event() {
    let home = tempfile::tempdir().unwrap();
    let node = node(home.path());
    let events = [
        sent("1", "runs", "acme", json!({ "quantity": 9, "anything": [1] })),
        sent("2", "runs", "acme", Value::Null),
        sent("3", "tokens", "acme", json!({ "tokens": "0.5", "quantity": 9 })),
        sent("4", "peak", "acme", json!({ "quantity": 3 })),
        sent("5", "version", "acme", json!({ "build-number": 71, "build": 1 })),
        sent("6", "storage", "acme", json!({ "quantity": 1_000_000 })),
        sent("7", "storage", "acme", json!({ "quantity": 0 })),
        sent("8", "processing", "acme", json!({})),
        sent("9", "nobody-defined-this", "acme", json!({ "quantity": 2 })),
        sent("10", "data_in", "acme", json!({ "quantity": 4 })),
    ];
    assert_eq!(node.batch(&events).counts(), (10, 0, 0));
    let plain = |meter, quantity| (meter, Flags::NONE, quantity, 1);
    assert_eq!(
        brief(&node.rows()),
        [
            plain("runs", NANO),
            plain("runs", NANO),
            plain("tokens", NANO / 2),
            plain("peak", 3 * NANO),
            plain("version", 71 * NANO),
            plain("storage", 1_000_000 * NANO),
            plain("storage", 0),
            plain("processing", NANO),
            plain("nobody-defined-this", 2 * NANO),
            plain("data_in", 4 * NANO),
        ]
    );
    node.stop();
}

#[test]
fn m5_a_member_has_one_id_below_one_root_and_each_event_its_own() {
    let home = tempfile::tempdir().unwrap();
    let node = node(home.path());
    let device =
        |id, subject, serial: &str| sent(id, "devices", subject, json!({ "serial": serial }));
    let events = [
        device("1", "acme-web", "sn-1"),
        device("2", "acme-shop", "sn-1"),
        device("3", "acme", "sn-2"),
        device("4", "globex", "sn-1"),
    ];
    assert_eq!(node.batch(&events).counts(), (4, 0, 0));
    assert_eq!(node.batch(&events).counts(), (0, 4, 0), "counted once");
    node.stop();
    // Whatever is known about the events survives, and the members are not taken for events.
    let node = self::node(home.path());
    assert_eq!(node.index.entries(), 4);
    assert_eq!(node.batch(&events).counts(), (0, 4, 0));
    node.stop();
    // Made anew from the journal, which holds the members' rows too.
    std::fs::remove_dir_all(home.path().join("journal/ingest")).unwrap();
    let node = self::node(home.path());
    assert_eq!(node.index.entries(), 4);
    assert_eq!(node.batch(&events).counts(), (0, 4, 0));

    let rows = node.rows();
    let (members, own): (Vec<&Row>, Vec<&Row>) =
        rows.iter().partition(|row| row.flags.contains(Flags::MEMBER));
    let ids: Vec<[u8; 16]> = own.iter().map(|row| row.request_id).collect();
    assert_eq!(ids, ["1", "2", "3", "4"].map(|id| request_id("/test", id)));
    assert!(own.iter().all(|row| (row.quantity_nano, row.requests) == (NANO, 1)));
    assert!(members.iter().all(|row| (row.quantity_nano, row.requests) == (NANO, 0)));
    let member = |root, serial: &str| member_id("devices", root, serial.as_bytes());
    let ids: Vec<[u8; 16]> = members.iter().map(|row| row.request_id).collect();
    let (first, second, other) =
        (member("acme", "sn-1"), member("acme", "sn-2"), member("globex", "sn-1"));
    assert_eq!(ids, [first, first, second, other]);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 3);
    for (member, own) in members.iter().zip(own) {
        assert_eq!((&member.tenant, &member.path), (&own.tenant, &own.path));
        assert_eq!((&*member.meter, member.ts_us), ("devices", own.ts_us));
    }
    node.stop();
}

#[test]
fn data_that_says_nothing_on_its_meter_is_refused_with_the_reason() {
    let home = tempfile::tempdir().unwrap();
    let node = node(home.path());
    let wrong = [
        ("tokens", json!({ "quantity": 1 }), "invalid_quantity", "data.tokens is missing"),
        ("tokens", Value::Null, "invalid_quantity", "data.tokens is missing"),
        ("tokens", json!({ "tokens": "many" }), "invalid_quantity", "tokens is not a decimal"),
        ("storage", json!({}), "invalid_quantity", "data.quantity is missing"),
        ("peak", json!({ "quantity": null }), "invalid_quantity", "data.quantity is missing"),
        ("devices", json!({ "serial": 5 }), "invalid_data", "data.serial must be a text"),
        ("devices", json!({ "serial": "" }), "invalid_data", "data.serial must be a text"),
        ("devices", json!({ "serial": "x".repeat(1025) }), "invalid_data", "1 to 1024 bytes"),
        ("active_integrations", json!({}), "invalid_data", "data.member must be a text"),
        ("runs", json!([1]), "invalid_data", "data must be an object"),
    ];
    let events: Vec<Value> = wrong
        .iter()
        .enumerate()
        .map(|(index, (meter, data, ..))| sent(&index.to_string(), meter, "acme", data.clone()))
        .collect();
    let problem = node.batch(&events).problem(422);
    for (index, (meter, _, reason, detail)) in wrong.iter().enumerate() {
        let rejected = &problem["rejected"][index];
        assert_eq!(rejected["reason"], *reason, "{meter}: {rejected}");
        assert!(rejected["detail"].as_str().unwrap().contains(detail), "{meter}: {rejected}");
    }
    assert_eq!(node.rows(), []);
    node.stop();
}

#[test]
fn quotas_are_charged_once_for_what_is_used_and_levels_are_as_high_as_told() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    let quota = |meter| {
        format!("{{ name = \"{meter}\", meter = \"{meter}\", limit = 9, per = \"year\" }},")
    };
    let quotas = ["tokens", "runs"].map(quota).concat();
    let plan = format!("[[plan]]\nid = \"business\"\nstorage_gb = 1\nquotas = [{quotas}]\n");
    let policy = format!("{POLICY}{METERS}").replace("[[plan]]\nid = \"business\"\n", &plan);
    node.apply(&policy);
    let events = [
        sent("1", "tokens", "acme-web", json!({ "tokens": "1.25" })),
        sent("2", "tokens", "acme", json!({ "tokens": 3 })),
        sent("3", "runs", "acme-web", json!({ "quantity": 50 })),
        sent("4", "storage", "acme-web", json!({ "quantity": 50 })),
        sent("5", "peak", "acme-web", json!({ "quantity": 50 })),
        sent("6", "storage", "acme", json!({ "quantity": "6.5" })),
    ];
    assert_eq!(node.batch(&events).counts(), (6, 0, 0));
    assert_eq!(node.batch(&events).counts(), (0, 6, 0));
    let mut older = sent("7", "storage", "acme-web", json!({ "quantity": 1_000 }));
    let second = jiff::Timestamp::from_microsecond(node.clock.unix_us() - 60_000_000).unwrap();
    older["time"] = second.to_string().into();
    assert_eq!(node.batch(&[older]).counts(), (1, 0, 0));
    let snapshot = node.policy.load();
    let used: Vec<(String, u64)> = snapshot
        .quotas_of("acme-web", node.clock.unix_us())
        .unwrap()
        .iter()
        .map(|quota| (quota.meter.to_owned(), quota.used))
        .collect();
    let of = |meter: &str| used.iter().find(|(found, _)| found == meter).unwrap().1;
    assert_eq!([of("tokens"), of("runs"), of("storage")], [5, 1, 57], "the latest counts");
    node.stop();
}
