//! Which rule wins, and which paths are refused.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{NoRoute, RouteIndex, RouteTable, RouteTableBuilder};

fn table(rules: &[(Option<&str>, &str, &[&str])]) -> RouteTable {
    let mut builder = RouteTableBuilder::default();
    for (index, (host, path, methods)) in (0..).zip(rules) {
        assert!(builder.add(*host, path, methods, RouteIndex(index)), "rule {index} is new");
    }
    builder.build()
}

#[test]
fn the_longest_prefix_on_a_segment_boundary_wins() {
    let table = table(&[(None, "/", &[]), (None, "/crm", &[]), (None, "/crm/search/", &["GET"])]);
    let find = |path, method| table.find("any.host", path, method).expect("a route").0;
    assert_eq!(find("/", "GET"), 0);
    assert_eq!(find("/crmx", "GET"), 0);
    assert_eq!(find("/crm", "GET"), 1);
    assert_eq!(find("/crm/", "GET"), 1);
    assert_eq!(find("/crm/search", "GET"), 2);
    assert_eq!(find("/crm/search/deep/er", "GET"), 2);
    assert_eq!(find("/crm/search", "POST"), 1, "another method falls to the shorter prefix");
}

proptest! {
    #[test]
    fn the_longest_prefix_wins_whatever_the_rules(
        prefixes in prop::collection::btree_set("(/(a|bb|ccc)){0,4}", 0..6),
        paths in prop::collection::vec("(/(a|bb|ccc)){0,6}/?", 1..10),
    ) {
        let prefixes: BTreeSet<String> = prefixes;
        let rules: Vec<_> = prefixes.iter().map(|prefix| (None, prefix.as_str(), &[][..])).collect();
        let table = table(&rules);
        for path in &paths {
            let covers = |prefix: &&String| {
                let rest = path.strip_prefix(prefix.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let found = table.find("any.host", path, "GET").ok();
            let found = found.map(|route| prefixes.iter().nth(route.0 as usize).expect("a rule"));
            let longest = prefixes.iter().filter(covers).max_by_key(|prefix| prefix.len());
            prop_assert_eq!(found, longest, "{}", path);
        }
    }
}

#[test]
fn an_exact_host_wins_over_a_wildcard_over_any() {
    let table = table(&[
        (None, "/a", &[]),
        (Some("*.example.com"), "/a", &[]),
        (Some("*.eu.example.com"), "/a", &[]),
        (Some("API.example.com"), "/a", &[]),
    ]);
    let find = |host| table.find(host, "/a", "GET").map(|route| route.0);
    assert_eq!(find("api.example.com"), Ok(3));
    assert_eq!(find("Api.Example.Com:8080"), Ok(3));
    assert_eq!(find("x.example.com"), Ok(1));
    assert_eq!(find("x.eu.example.com"), Ok(2));
    assert_eq!(find("example.com"), Ok(0));
    assert_eq!(find("[::1]:8080"), Ok(0));
}

#[test]
fn a_miss_says_what_is_missing() {
    let table = table(&[(None, "/a", &["GET", "HEAD"])]);
    assert_eq!(table.find("h", "/b", "GET"), Err(NoRoute::NotFound));
    assert_eq!(table.find("h", "/a", "POST"), Err(NoRoute::MethodNotAllowed));
}

#[test]
fn paths_that_an_upstream_might_read_otherwise_are_refused() {
    let table = table(&[(None, "/", &[])]);
    for path in [
        "/a/../b",
        "/..",
        "/a/./b",
        "/%2e%2E/b",
        "/a/.%2e",
        "//b",
        "/a//b",
        "/a\\..\\b",
        "/%73earch",
        "/a%2fb",
        "/a/..%2Fb",
        "/a/..;/b",
        "/a;x=1/b",
        "/a%",
        "/a%zz",
        "/a%25b",
        "/a%00",
    ] {
        assert_eq!(table.find("h", path, "GET"), Err(NoRoute::AmbiguousPath), "{path}");
    }
    for path in ["/", "/a/", "/a.b", "/...", "/.well-known/x", "/a/b..", "/a%20b", "/caf%C3%A9"] {
        assert!(table.find("h", path, "GET").is_ok(), "{path}");
    }
}

#[test]
fn the_same_rule_twice_is_noticed() {
    let mut builder = RouteTableBuilder::default();
    assert!(builder.add(None, "/a", &["GET"], RouteIndex(0)));
    assert!(builder.add(None, "/a", &["POST"], RouteIndex(1)));
    assert!(builder.add(None, "/a", &[], RouteIndex(2)));
    assert!(!builder.add(None, "/a/", &["POST", "PUT"], RouteIndex(3)));
    assert!(!builder.add(None, "/a", &[], RouteIndex(4)));
}
