//! Which meters a route has, what a table may say, and every mistake in one (P4).

use std::sync::Arc;

use crate::dynamic::DynamicBuckets;
use crate::meters::{Aggregate, MeterValue};
use crate::{MeterId, Snapshot, Source, catalogue};

const BASE: &str = r#"
[[app]]
id = "crm"
end_user_header = "X-End-User"
[[app]]
id = "files"
[[upstream]]
id = "u"
peers = [{ address = "127.0.0.1:1" }]
[[route]]
id = "crm"
app = "crm"
upstream = "u"
[[route]]
id = "upload"
path = "/files"
app = "files"
upstream = "u"
meter = "uploads"
cost = 3
"#;

fn build(text: &str) -> Result<Snapshot, Vec<String>> {
    // The tables under test come first, so that their lines are their own.
    let source = |file: &str, text: &str| Source { file: file.into(), text: text.into() };
    let sources = [source("m.toml", text), source("base.toml", BASE)];
    let dynamic = Arc::new(DynamicBuckets::new(0, [0; 16]));
    catalogue::build(&sources, 0, None, &dynamic, None)
        .map_err(|found| found.0.iter().map(ToString::to_string).collect())
}

fn lists(snapshot: &Snapshot, route: &str) -> (String, Vec<String>, Vec<String>) {
    let route = snapshot.routes().iter().find(|found| &*found.id == route).expect("a route");
    let ids = |list: &[MeterId]| list.iter().map(|id| snapshot.meter(*id).id.to_string()).collect();
    (snapshot.meter(route.meter_id).id.to_string(), ids(&route.measured), ids(&route.distinct))
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn without_a_table_the_meters_of_the_plan_are_there() {
    let snapshot = build("").expect("valid");
    let ids: Vec<&str> = snapshot.meters().iter().map(|meter| &*meter.id).collect();
    let expected = [
        "active_integrations",
        "active_users",
        "api_calls",
        "automations",
        "data_in",
        "data_out",
        "processing",
        "storage",
        "uploads",
    ];
    assert_eq!(ids, expected);
    let meter = |id| snapshot.meter(snapshot.meter_id(id).expect("a meter"));
    assert_eq!(meter("storage").aggregate, Aggregate::Gauge);
    assert_eq!(meter("active_integrations").field, "member".into());
    assert_eq!(meter("uploads").aggregate, Aggregate::Sum);
    assert_eq!(snapshot.meter_id("no_such"), None);
    assert_eq!(
        snapshot.volume().map(|id| snapshot.meter(id).id.to_string()),
        ["data_in", "data_out"]
    );
    // Users are known where the app names them; bytes need no rows of their own.
    let processing = strings(&["processing"]);
    assert_eq!(
        lists(&snapshot, "crm"),
        ("api_calls".into(), processing.clone(), strings(&["active_users"]))
    );
    assert_eq!(lists(&snapshot, "upload"), ("uploads".into(), processing, vec![]));
}

#[test]
fn a_table_defines_narrows_and_adds() {
    let snapshot = build(
        r#"
[[meter]]
id = "storage"
title = "Files"
value = "request_bytes"
routes = ["upload"]
[[meter]]
id = "processing"
apps = ["crm"]
[[meter]]
id = "uploads"
unit = "files"
aggregate = "count"
value = "cost"
[[meter]]
id = "exports"
aggregate = "sum"
value = "cost"
apps = ["files"]
routes = ["crm"]
[[meter]]
id = "active_integrations"
value = "request_header:X-Integration"
[[meter]]
id = "temperature"
unit = "C"
aggregate = "last"
value = "event"
field = "data.celsius"
"#,
    )
    .unwrap_or_else(|found| panic!("{found:#?}"));
    let meter = |id| snapshot.meter(snapshot.meter_id(id).expect("a meter"));
    assert_eq!((&*meter("storage").title, &*meter("storage").unit), ("Files", "bytes"));
    assert_eq!(meter("storage").aggregate, Aggregate::Gauge, "what a table leaves out stays");
    assert_eq!(&*meter("temperature").field, "celsius");
    let integration = MeterValue::RequestHeader("x-integration".into());
    assert_eq!(meter("active_integrations").value, integration);
    assert_eq!(
        lists(&snapshot, "crm"),
        (
            "api_calls".into(),
            strings(&["exports", "processing"]),
            strings(&["active_integrations", "active_users"])
        )
    );
    assert_eq!(
        lists(&snapshot, "upload"),
        ("uploads".into(), strings(&["exports", "storage"]), strings(&["active_integrations"]))
    );
}

/// Tables with every mistake there is.
const MISTAKES: &str = r#"[[meter]]
id = "1st"
aggregate = "sum"
value = "event"
[[meter]]
id = "bare"
[[meter]]
id = "mean"
aggregate = "average"
value = "weight"
[[meter]]
id = "costliest"
aggregate = "max"
value = "cost"
[[meter]]
id = "who"
aggregate = "sum"
value = "end_user"
[[meter]]
id = "held"
aggregate = "gauge"
value = "response_bytes"
[[meter]]
id = "secret"
aggregate = "distinct"
value = "request_header:Authorization"
[[meter]]
id = "forged"
aggregate = "sum"
value = "request_header:X-Orbit-Weight"
[[meter]]
id = "spaced"
aggregate = "sum"
value = "response_header:X Weight"
field = "quantity"
[[meter]]
id = "files-users"
aggregate = "distinct"
value = "end_user"
apps = ["files", "fils"]
routes = ["upload"]
[[meter]]
id = "nowhere"
aggregate = "sum"
value = "event"
apps = ["crm"]
colour = "red"
[[meter]]
id = "data_in"
routes = ["crm"]
[[meter]]
id = "tally"
aggregate = "count"
value = "event"
field = "data.x"
[[meter]]
id = "tally"
aggregate = "count"
value = "event"
[[meter]]
id = "refusals"
aggregate = "count"
value = "event"
[[meter]]
id = "uploads"
aggregate = "sum"
value = "response_header:X-Size"
[[meter]]
id = "other"
aggregate = "sum"
value = "cookie:x"
[[meter]]
id = "late"
aggregate = "distinct"
value = "response_header:X-User"
"#;

#[test]
fn p4_every_mistake_in_a_meter_is_named() {
    let expected = [
        "m.toml:2:6: meter.1st.id: a meter's id starts with a letter",
        "m.toml:5:3: meter.bare.aggregate: the key is missing",
        "m.toml:5:3: meter.bare.value: the key is missing",
        "m.toml:9:13: meter.mean.aggregate: `average` is not one of count, sum, max, distinct,",
        "m.toml:10:9: meter.mean.value: `weight` is not one of cost, request_bytes,",
        "m.toml:13:13: meter.costliest.aggregate: a route's cost is the same for each",
        "m.toml:17:13: meter.who.aggregate: who asks is no number",
        "m.toml:21:13: meter.held.aggregate: bytes are known as they flow: sum or max",
        "m.toml:26:9: meter.secret.value: `authorization` may hold the client's key",
        "m.toml:30:9: meter.forged.value: a client's `X-Orbit-` fields are not believed",
        "m.toml:34:9: meter.spaced.value: `X Weight` is not a header name",
        "m.toml:35:9: meter.spaced.field: a field is `data.NAME`",
        "m.toml:40:9: meter.files-users.apps: app `files` has no `end_user_header`",
        "m.toml:40:18: meter.files-users.apps: there is no app `fils`; did you mean `files`?",
        "m.toml:41:11: meter.files-users.routes: app `files` has no `end_user_header`",
        "m.toml:42:3: meter.nowhere.routes: an event takes no route",
        "m.toml:47:1: meter.nowhere.colour: unknown key; known here are id, title, unit,",
        "m.toml:48:3: meter.data_in.value: is the bytes of every request",
        "m.toml:55:9: meter.tally.field: `count` counts events",
        "m.toml:57:6: meter.tally.id: the id is taken already, at m.toml:52",
        "m.toml:61:6: meter.refusals.id: `refusals` is what refused requests are counted on",
        "m.toml:71:9: meter.other.value: `cookie:x` is not one of cost,",
        "m.toml:74:13: meter.late.aggregate: who is counted must be known before",
        "base.toml:19:9: route.upload.meter: `uploads` is not counted by a route's cost but by \
         the answer's header `x-size`",
    ];
    let found = build(MISTAKES).err().expect("mistakes");
    for start in expected {
        assert!(found.iter().any(|line| line.starts_with(start)), "{start}\n{found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn p4_a_route_has_room_for_eight_further_meters() {
    let table = |number: usize| {
        format!(
            "[[meter]]\nid = \"m{number}\"\naggregate = \"sum\"\n\
             value = \"response_header:x-m{number}\"\nroutes = [\"crm\"]\n"
        )
    };
    // With the built-in `processing`.
    let seven: String = (0..7).map(table).collect();
    let snapshot = build(&seven).expect("valid");
    assert_eq!(lists(&snapshot, "crm").1.len(), 8);
    assert_eq!(lists(&snapshot, "upload").1.len(), 1);
    let found = build(&(0..8).map(table).collect::<String>()).err().expect("one too many");
    let start = "m.toml:37:6: meter.m7.routes: route `crm` would be measured by more than 8";
    assert!(found.len() == 1 && found[0].starts_with(start), "{found:#?}");
}

#[test]
fn the_example_says_what_is_built_in() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/policy/meters.toml");
    let text = std::fs::read_to_string(path).expect("the example");
    let edges = "[[app]]\nid = \"ai\"\n[[route]]\nid = \"documents\"\npath = \"/documents\"\n\
                 app = \"ai\"\nupstream = \"u\"\n";
    let example = build(&(text + edges)).unwrap_or_else(|found| panic!("{found:#?}"));
    let plain = build("").expect("valid");
    for meter in plain.meters() {
        let mut meter = meter.clone();
        if *meter.id == *"storage" {
            meter.value = MeterValue::RequestBytes;
        }
        assert_eq!(Some(&meter), example.meter_id(&meter.id).map(|id| example.meter(id)));
    }
    let tokens = example.meter_id("ai_tokens").map(|id| example.meter(id)).expect("a meter");
    assert_eq!((&*tokens.unit, &*tokens.field), ("tokens", "tokens"));
    assert_eq!(example.meters().len(), plain.meters().len() + 1);
}
