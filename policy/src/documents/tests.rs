//! Reading documents: TOML as it is written, and mistakes that do not hide one another.

use super::{Source, read};
use crate::diagnostics::Findings;

fn findings(text: &str) -> Vec<String> {
    let sources = [Source { file: "t.toml".into(), text: text.into() }];
    let mut findings = Findings::default();
    read(&sources, &mut findings);
    findings.resolve(&sources).0.iter().map(ToString::to_string).collect()
}

#[test]
fn every_way_to_write_a_table_is_read() {
    let text = r#"
[[plan]]
id = "business" # a comment
support = '12/7'
limits = [
    { name = "requests", rate = 1_000, per = "minute", burst = 0x10 },
    { name = "parallel", concurrent = 5 },
]

[[tenant]]
"id" = "acme"
plan = "bus\u0069ness"

[[tenant.limits]]
name = "requests"
rate = 5

[[tenant.limits]]
name = "searches"
rate = 1
routes = ["search"]

[[upstream]]
id = "u"
protocol = "http2"
health.path = "/healthz"
health.interval_ms = 500
peers = [{ address = "127.0.0.1:1" }]
"#;
    let sources = [Source { file: "t.toml".into(), text: text.into() }];
    let mut found = Findings::default();
    let documents = read(&sources, &mut found);
    assert_eq!(found.resolve(&sources).0, []);
    assert_eq!(documents.plans[0].limits.len(), 2);
    assert_eq!(documents.tenants[0].plan.as_ref().expect("a plan").value, "business");
    assert_eq!(documents.tenants[0].limits.len(), 2);
    assert_eq!(documents.upstreams[0].protocol, crate::snapshot::Protocol::Http2);
    let health = documents.upstreams[0].health.as_ref().expect("a health check");
    assert_eq!((&*health.path, health.interval_ms), ("/healthz", 500));
}

#[test]
fn every_mistake_is_named_with_line_and_key() {
    let text = r#"[[plan]]
id = "Business!"
users = "many"
colour = "red"

[[tenant]]
plan = "business"

[[tenant]]
id = "acme"
id = "again"
limits = [{ name = "a", rate = -1, per = "week" }, { name = "b" }]

[limits]
x = 1

[[tennant]]
id = "typo"

[[key]]
id = 5
tenant = "acme"
hash = "md5:1"
"#;
    let expected = [
        "t.toml:2:6: plan.Business!.id: an id is 1 to 64 of",
        "t.toml:3:9: plan.Business!.users: a string where an integer belongs",
        "t.toml:4:1: plan.Business!.colour: unknown key; known here are id, title, users",
        "t.toml:6:3: tenant[0].id: the key is missing",
        "t.toml:11:1: the key is already there",
        "t.toml:12:32: tenant.acme.limits[0].rate: -1 is not within 1 to",
        "t.toml:12:42: tenant.acme.limits[0].per: `week` is not one of second, minute, hour, day",
        "t.toml:12:52: tenant.acme.limits[1].rate: a limit needs rate",
        "t.toml:14:2: limits: a table where `[[limits]]` tables belong",
        "t.toml:17:3: tennant: unknown kind of table; known are plan, addon,",
        "t.toml:21:6: key[0].id: an integer where a string belongs",
        "t.toml:23:8: key[0].hash: is not `sha256:` and 64 hexadecimal digits",
    ];
    let found = findings(text);
    for start in expected {
        assert!(found.iter().any(|line| line.starts_with(start)), "{start}\n{found:#?}");
    }
}

#[test]
fn a_route_cannot_take_the_gateways_own_paths() {
    let route = |path: &str| {
        findings(&format!(
            "[[route]]\nid = \"r\"\napp = \"a\"\nupstream = \"u\"\npath = \"{path}\""
        ))
    };
    for path in ["/orbit", "/orbit/", "/orbit/v1/usage", "/orbit/anything"] {
        let expected = "t.toml:5:8: route.r.path: paths from `/orbit` on are the gateway's own";
        assert_eq!(route(path), [expected], "{path}");
    }
    for path in ["/", "/orbital", "/api/orbit", "/Orbit"] {
        assert_eq!(route(path), [""; 0], "{path}");
    }
}

#[test]
fn syntax_errors_do_not_hide_one_another() {
    let found = findings("[[plan]]\nid = \nusers = 1\n\n[[plan]\nid = \"b\"\nusers == 2\n");
    assert!(found.iter().any(|line| line.starts_with("t.toml:2:")), "{found:#?}");
    assert!(found.iter().any(|line| line.starts_with("t.toml:5:")), "{found:#?}");
    assert!(found.iter().any(|line| line.starts_with("t.toml:7:")), "{found:#?}");
}

#[test]
fn hostile_text_is_refused_without_harm() {
    let deep = format!("x = {}1{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(!findings(&deep).is_empty());
    for text in ["\u{0}", "[[", "]]", "= 1", "a.b.c", "[[plan]]\n[[plan.id]]\n[plan.id.x]\n", "'''"]
    {
        assert!(!findings(text).is_empty(), "{text:?}");
    }
}
