//! What is taken and what is refused, and the answer to each.

use serde_json::{Value, json};

use super::node::{BATCH, Node, SINGLE, event, exchange, with};

const NANO: i128 = 1_000_000_000;

#[test]
fn one_event_in_every_form_becomes_a_row() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    let at_us = node.clock.unix_us() - 3_600_000_000;
    let time = jiff::Timestamp::from_microsecond(at_us).unwrap().to_string();
    let mut sent = with("one", "time", time.clone());
    sent["data"] = json!({ "quantity": "12.5", "app": "crm" });
    let answer = node.post(SINGLE, "", &sent.to_string());
    assert_eq!(answer.counts(), (1, 0, 0));
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    assert!(answer.head.contains("cache-control: no-store"), "{}", answer.head);

    assert_eq!(node.batch(&[event("two"), event("three")]).counts(), (2, 0, 0));
    let fields = "Content-Type: application/json\r\nce-specversion: 1.0\r\nce-id: fo%C3%BCr\r\n\
                  ce-source: /test\r\nce-type: processing\r\nce-subject: acme\r\n";
    assert_eq!(node.send(fields, r#"{"quantity":7}"#).counts(), (1, 0, 0));
    let bare = "ce-specversion: 1.0\r\nce-id: five\r\nce-source: /test\r\nce-type: automations\r\n\
                ce-subject: acme\r\n";
    assert_eq!(node.send(bare, "").counts(), (1, 0, 0));
    assert_eq!(node.batch(&[]).counts(), (0, 0, 0));

    let rows = node.rows();
    assert_eq!(rows.len(), 5);
    let first = &rows[0];
    assert_eq!((first.ts_us, first.requests), (at_us, 1));
    assert_eq!(
        (&*first.tenant, &*first.path, &*first.plan, &*first.app, &*first.meter),
        ("acme-web", "acme/acme-web", "business", "crm", "storage")
    );
    let quantities: Vec<i128> = rows.iter().map(|row| row.quantity_nano).collect();
    assert_eq!(quantities, [12_500_000_000, 2 * NANO, 2 * NANO, 7 * NANO, NANO]);
    let id = |id| orbit_meter::ingest::request_id("/test", id);
    let ids: Vec<[u8; 16]> = rows.iter().map(|row| row.request_id).collect();
    assert_eq!(ids, [id("one"), id("two"), id("three"), id("foür"), id("five")]);
    assert_eq!((&*rows[3].meter, &*rows[3].path), ("processing", "acme"));
    let now_us = node.clock.unix_us();
    assert!((now_us - 60_000_000..=now_us).contains(&rows[1].ts_us), "dated on arrival");
    node.stop();
}

#[test]
fn quantities_are_exact() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    // As text and as bare numbers, which a float would spoil.
    let exact: [(&str, i128); 7] = [
        ("0.000000001", 1),
        ("123456789012345678901234567.123456789", 123_456_789_012_345_678_901_234_567_123_456_789),
        ("9007199254740993", 9_007_199_254_740_993 * NANO),
        ("0.1", 100_000_000),
        ("1e-7", 100),
        ("1.5e3", 1500 * NANO),
        ("0", 0),
    ];
    let mut bodies = Vec::new();
    for (text, _) in exact {
        for quantity in [text.to_owned(), format!("\"{text}\"")] {
            let id = bodies.len();
            bodies.push(format!(
                r#"{{"specversion":"1.0","id":"{id}","source":"s","type":"storage",
                "subject":"acme","data":{{"quantity":{quantity}}}}}"#
            ));
        }
    }
    let answer = node.post(BATCH, "", &format!("[{}]", bodies.join(",")));
    assert_eq!(answer.counts(), (14, 0, 0));
    let kept: Vec<i128> = node.rows().iter().map(|row| row.quantity_nano).collect();
    let meant: Vec<i128> = exact.iter().flat_map(|(_, nano)| [*nano, *nano]).collect();
    assert_eq!(kept, meant);
    node.stop();
}

/// Every way to be wrong with its reason; `null` takes a member out.
fn wrong() -> Vec<(Value, &'static str)> {
    let data = |value: Value| with("x", "data", value);
    let quantity = |value: Value| data(json!({ "quantity": value }));
    vec![
        (json!(5), "malformed"),
        (with("x", "source", 5), "malformed"),
        (with("x", "specversion", "0.3"), "unsupported_specversion"),
        (with("x", "specversion", Value::Null), "missing_attribute"),
        (with("x", "id", ""), "missing_attribute"),
        (with("x", "source", Value::Null), "missing_attribute"),
        (with("x", "type", Value::Null), "missing_attribute"),
        (with("x", "subject", Value::Null), "missing_attribute"),
        (with("x", "type", "Storage GB"), "invalid_attribute"),
        (with("x", "time", "yesterday"), "invalid_attribute"),
        (with(&"i".repeat(1025), "extension", 1), "invalid_attribute"),
        (with("x", "source", "s".repeat(1025)), "invalid_attribute"),
        (data(json!([1])), "invalid_data"),
        (data(json!({ "app": 1 })), "invalid_data"),
        (with("x", "data_base64", "e30="), "invalid_data"),
        (quantity(json!("many")), "invalid_quantity"),
        (quantity(json!(-1)), "invalid_quantity"),
        (quantity(json!("0.0000000001")), "invalid_quantity"),
        (quantity(json!("1e30")), "invalid_quantity"),
        (quantity(json!(true)), "invalid_quantity"),
        (with("x", "time", "2001-01-01T00:00:00Z"), "too_old"),
        (with("x", "time", "2150-01-01T00:00:00Z"), "in_the_future"),
        (with("x", "subject", "nobody"), "unknown_tenant"),
        (data(json!({ "app": "nothing", "quantity": 1 })), "unknown_app"),
    ]
}

#[test]
fn each_bad_event_is_named_with_its_reason_and_the_others_are_kept() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    for (round, (bad, reason)) in wrong().into_iter().enumerate() {
        let good = |name: &str| event(&format!("{name}-{round}"));
        let answer = node.batch(&[good("before"), bad.clone(), good("after")]);
        assert_eq!(answer.counts(), (2, 0, 1), "{bad}");
        let rejected = &answer.json()["rejected"][0];
        assert_eq!((&rejected["index"], &rejected["reason"]), (&json!(1), &json!(reason)), "{bad}");
        assert!(rejected["detail"].as_str().is_some_and(|text| !text.is_empty()), "{rejected}");
        let id = bad["id"].as_str().map(|id| id.chars().take(128).collect::<String>());
        if reason != "malformed" {
            assert_eq!(rejected["id"].as_str(), id.as_deref(), "{rejected}");
        }
        // Alone it is all of its request.
        let alone = node.post(SINGLE, "", &bad.to_string()).problem(422);
        assert_eq!(alone["rejected"][0]["reason"], reason);
    }
    assert_eq!(node.rows().len(), 2 * wrong().len());
    node.stop();
}

#[test]
fn strict_handling_keeps_all_or_nothing() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    let strict = "Prefer: handling=strict\r\n";
    let mixed =
        json!([event("a"), with("b", "subject", "nobody"), event("c"), with("d", "type", "")]);
    let problem = node.post(BATCH, strict, &mixed.to_string()).problem(422);
    let rejected: Vec<(u64, &str)> = (problem["rejected"].as_array().unwrap().iter())
        .map(|one| (one["index"].as_u64().unwrap(), one["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(rejected, [(1, "unknown_tenant"), (3, "missing_attribute")]);
    assert_eq!(problem["accepted"], 0);
    assert!(node.rows().is_empty(), "nothing is kept");

    let good = json!([event("a"), event("c")]).to_string();
    let answer = node.post(BATCH, strict, &good);
    assert_eq!(answer.counts(), (2, 0, 0));
    assert!(answer.head.contains("preference-applied: handling=strict"), "{}", answer.head);
    // Leniently, what is good of the first is known by now.
    assert_eq!(node.post(BATCH, "", &mixed.to_string()).counts(), (0, 2, 2));
    assert_eq!(node.rows().len(), 2);
    node.stop();
}

#[test]
fn requests_that_are_none_are_problems() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    let one = event("a").to_string();
    node.post(SINGLE, "", "{").problem(400);
    node.post(BATCH, "", &one).problem(400);
    node.post(BATCH, "", "").problem(400);
    node.post("application/json", "", &one).problem(415);
    node.post("text/plain", "ce-specversion: 1.0\r\n", "hello").problem(415);
    node.post(SINGLE, "Content-Encoding: gzip\r\n", &one).problem(415);
    node.send("Content-Type: application/json\r\nce-specversion: 1.0\r\n", "{").problem(400);
    node.post(BATCH, "", &" ".repeat((1 << 20) + 1)).problem(413);
    let many = vec!["{}"; 10_001].join(",");
    node.post(BATCH, "", &format!("[{many}]")).problem(413);

    let ask = |method, target, fields: &str| {
        exchange(node.address(), method, target, fields, "").unwrap()
    };
    for fields in ["", "Authorization: Bearer nonsense\r\n", "Authorization: Basic eDp5\r\n"] {
        let answer = ask("POST", "/v1/events", fields);
        let problem = answer.problem(401);
        assert!(
            answer.head.contains("www-authenticate: bearer realm=\"orbit\""),
            "{}",
            answer.head
        );
        assert!(problem["detail"].as_str().unwrap().contains("ingest token"), "{problem}");
    }
    let token = std::fs::read_to_string(home.path().join("ingest.token")).unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", token.trim());
    ask("GET", "/v1/events", &bearer).problem(405);
    ask("POST", "/v1/else", &bearer).problem(404);
    assert!(node.rows().is_empty());
    node.stop();
}

#[test]
fn what_happens_is_counted_without_tenants() {
    let metrics = orbit_gateway::telemetry::Metrics::install().unwrap();
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    let answer = node.batch(&[event("a"), event("a"), with("b", "type", "")]);
    assert_eq!(answer.counts(), (1, 1, 1));
    node.post(SINGLE, "", "{").problem(400);
    let text = metrics.render();
    for series in [
        "orbit_ingest_events_total{result=\"accepted\"} ",
        "orbit_ingest_events_total{result=\"duplicate\"} ",
        "orbit_ingest_events_total{result=\"rejected\"} ",
        "orbit_ingest_requests_total{code=\"202\"} ",
        "orbit_ingest_requests_total{code=\"400\"} ",
        "orbit_ingest_index_entries ",
    ] {
        assert!(text.contains(series), "{series}: {text}");
    }
    assert!(!text.contains("acme"), "{text}");
    node.stop();
}
