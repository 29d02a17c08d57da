//! Tenants over time: what they are on at an instant, what is wrong with a change, and that nothing
//! changes between the instants that are named.

mod mistakes;
mod story;
mod terms;

use std::fmt::Write;

use crate::dates::{Utc, When};
use crate::decide::tests::{ask, granted, hash_of};
use crate::quota::InMemory;
use crate::snapshot::{Snapshot, Status};
use crate::{Nanos, Policy, PolicySettings, Reading, Source, check};

const KEY: &str = "abcdefghi1";

/// Apps a to h, plan `small` (a to d, three of them), `big` in two versions, `all`, two add-ons.
const PRODUCTS: &str = r#"
[[app]]
id = "a"
[[app]]
id = "b"
[[app]]
id = "c"
[[app]]
id = "d"
[[app]]
id = "e"
[[app]]
id = "x"
[[app]]
id = "y"
[[plan]]
id = "small"
users = 50
app_count = 3
storage_gb = 100
apps = ["a", "b", "c", "d"]
limits = [{ name = "requests", rate = 1, per = "day", burst = 5 }]
[[plan]]
id = "big"
users = 200
app_count = 4
api_tier = "complete"
apps = ["a", "b", "c", "d", "e"]
limits = [{ name = "requests", rate = 1, per = "day", burst = 8 }]
[[plan]]
id = "big"
version = 2
from = "2026-06-01"
users = 220
app_count = 5
api_tier = "complete"
apps = ["a", "b", "c", "d", "e"]
features = ["sso"]
[[plan]]
id = "all"
api_tier = "premium"
features = ["sso"]
[[addon]]
id = "ex"
apps = ["x"]
features = ["gpt4"]
[[addon]]
id = "why"
apps = ["y"]
"#;

fn sources(text: &str) -> Vec<Source> {
    vec![Source { file: "t.toml".into(), text: format!("{text}\n{PRODUCTS}") }]
}

fn us(text: &str) -> i64 {
    match When::parse(text) {
        Some(When::Instant(at_us)) => at_us,
        Some(day) => day.at_us(&jiff::tz::TimeZone::UTC),
        None => panic!("{text}"),
    }
}

fn at(text: &str, instant: &str) -> Snapshot {
    check(&sources(text), us(instant)).unwrap_or_else(|found| panic!("{found}"))
}

/// `small@1 active [a b c -d] ex` and so on: apps beyond the plan's number have a minus, apps that
/// nothing grants an exclamation mark.
fn shown(snapshot: &Snapshot, tenant: &str) -> String {
    let has = snapshot.entitlements_of(snapshot.tenant(tenant).expect("a tenant"));
    let apps = has.apps.iter().map(|activated| {
        let mark = if activated.over_limit { "-" } else { "" };
        format!("{mark}{}{}", activated.app.id, if activated.granted { "" } else { "!" })
    });
    let apps = apps.collect::<Vec<_>>().join(" ");
    let mut text = format!("{}@{} {} [{apps}]", has.plan.id, has.plan.version, has.status.as_str());
    for addon in &has.addons {
        write!(text, " {}", addon.id).expect("a string");
    }
    if let Some(until_us) = has.trial_until_us {
        write!(text, " until {}", Utc(until_us)).expect("a string");
    }
    text
}

/// Checks what `tenant` is on at each instant.
fn follow(text: &str, tenant: &str, expected: &[(&str, &str)]) {
    for (instant, standing) in expected {
        assert_eq!(shown(&at(text, instant), tenant), *standing, "at {instant}");
    }
}

#[test]
fn a_tenant_stays_on_the_version_that_was_offered_when_it_came() {
    let tenant = |keys: &str| format!("[[tenant]]\nid = \"t\"\n{keys}");
    for (keys, expected) in [
        ("plan = \"big\"\nsince = \"2026-05-31\"", "big@1 active [a b c d]"),
        ("plan = \"big\"\nsince = \"2026-06-01\"", "big@2 active [a b c d e]"),
        // The days of `since` and `from` are both days in the tenant's zone.
        (
            "plan = \"big\"\nsince = \"2026-06-01\"\nzone = \"Asia/Tokyo\"",
            "big@2 active [a b c d e]",
        ),
        ("plan = \"big\"\nsince = \"2026-05-31T23:59:59.999Z\"", "big@1 active [a b c d]"),
        ("plan = \"big@2\"", "big@2 active [a b c d e]"),
        ("plan = \"big@1\"\nsince = \"2030-01-01\"", "big@1 active [a b c d]"),
        ("plan = \"small\"", "small@1 active [a b c]"),
    ] {
        // Whatever the time is.
        for instant in ["2020-01-01", "2026-06-01", "2040-01-01"] {
            assert_eq!(shown(&at(&tenant(keys), instant), "t"), expected, "{keys} at {instant}");
        }
    }
}

#[test]
fn an_upgrade_is_at_its_instant_and_a_downgrade_at_the_end_of_the_period() {
    let text = r#"
[[tenant]]
id = "t"
plan = "small"
since = "2025-01-31"
zone = "America/Sao_Paulo"
[[tenant]]
id = "below"
parent = "t"
[[change]]
tenant = "t"
at = "2026-03-01T12:00:00Z"
plan = "big"
addons = ["ex"]
[[change]]
tenant = "t"
requested = "2026-11-10"
effective = "period_end"
plan = "small"
addons = []
"#;
    let expected = [
        ("2026-03-01T11:59:59.999999Z", "small@1 active [a b c]"),
        ("2026-03-01T12:00:00Z", "big@1 active [a b c d x] ex"),
        ("2026-06-01", "big@1 active [a b c d x] ex"),
        // November has no 31st: the period ends as the 30th begins there.
        ("2026-11-30T02:59:59.999999Z", "big@1 active [a b c d x] ex"),
        ("2026-11-30T03:00:00Z", "small@1 active [a b c]"),
    ];
    follow(text, "t", &expected);
    follow(text, "below", &expected);
    let snapshot = at(text, "2026-03-02");
    assert_eq!(snapshot.next_change_us(), Some(us("2026-06-01")), "another version is offered");
    let below = snapshot.tenant("below").expect("a tenant");
    let next = snapshot.entitlements_of(below).next_change.expect("a change above");
    assert_eq!(next.at_us, us("2026-11-30T03:00:00Z"));
    assert_eq!((next.tenant.as_deref(), &*next.what), (Some("t"), "plan small@1, add-ons []"));
    assert_eq!(at(text, "2026-12-01").next_change_us(), None);
}

#[test]
fn who_came_onto_a_plan_by_a_change_has_the_version_of_that_day() {
    let text = r#"
[[tenant]]
id = "t"
plan = "big"
since = "2026-01-01"
[[change]]
tenant = "t"
at = "2026-02-01"
plan = "small"
[[change]]
tenant = "t"
at = "2026-07-01"
plan = "big"
[[change]]
tenant = "t"
at = "2026-08-01"
plan = "big@1"
apps = ["e", "a"]
"#;
    follow(
        text,
        "t",
        &[
            ("2026-01-15", "big@1 active [a b c d]"),
            ("2026-02-15", "small@1 active [a b c]"),
            ("2026-07-15", "big@2 active [a b c d e]"),
            ("2026-08-15", "big@1 active [e a]"),
        ],
    );
}

#[test]
fn a_trial_ends_by_itself_or_by_a_purchase() {
    let trial = |then: &str, more: &str| {
        format!(
            "[[tenant]]\nid = \"t\"\nplan = \"big@2\"\nzone = \"America/Sao_Paulo\"\n\
             trial = {{ until = \"2026-12-01\", then = \"{then}\" }}\n{more}"
        )
    };
    let change =
        |at: &str, keys: &str| format!("[[change]]\ntenant = \"t\"\nat = \"{at}\"\n{keys}\n");
    let (last, over) = ("2026-12-01T02:59:59.999999Z", "2026-12-01T03:00:00Z");
    let trying = "big@2 active [a b c d e] until 2026-12-01T03:00:00Z";
    let suspended = "big@2 suspended [a b c d e]";
    follow(&trial("suspended", ""), "t", &[(last, trying), (over, suspended)]);
    follow(&trial("small", ""), "t", &[(last, trying), (over, "small@1 active [a b c]")]);

    // Bought in time: the trial is over, and its end has no effect.
    let bought = trial("suspended", &change("2026-11-20T00:00:00Z", "plan = \"all\""));
    let until = "big@2 active [a b c d e] until 2026-11-20T00:00:00Z";
    let all = "all@1 active [a b c d e x y]";
    follow(&bought, "t", &[("2026-11-19", until), ("2026-11-20", all), (over, all)]);
    // At the very instant is in time.
    let bought = trial("suspended", &change("2026-12-01", "plan = \"all\""));
    follow(&bought, "t", &[(last, trying), (over, all)]);
    // Bought afterwards: served again.
    let bought = trial("suspended", &change("2027-01-01", "plan = \"small\""));
    let small = "small@1 active [a b c]";
    follow(&bought, "t", &[(over, suspended), ("2027-01-02", small)]);
    // A word of the operator about the status counts as well.
    let pardoned = trial("suspended", &change("2027-01-01", "status = \"active\""));
    follow(&pardoned, "t", &[(over, suspended), ("2027-01-02", "big@2 active [a b c d e]")]);
    // Add-ons do not buy the plan.
    let more = trial("suspended", &change("2026-11-20", "addons = [\"ex\"]"));
    follow(&more, "t", &[(over, "big@2 suspended [a b c d e x] ex")]);
}

#[test]
fn suspension_and_reinstatement_hold_for_all_below() {
    let text = r#"
[[tenant]]
id = "t"
plan = "small"
[[tenant]]
id = "u"
parent = "t"
[[change]]
tenant = "t"
at = "2026-02-01"
status = "unpaid"
[[change]]
tenant = "t"
at = "2026-03-01"
status = "suspended"
[[change]]
tenant = "t"
at = "2026-04-01"
status = "active"
[[change]]
tenant = "u"
at = "2026-04-15"
status = "suspended"
"#;
    for (instant, above, below) in [
        ("2026-01-31", Status::Active, Status::Active),
        ("2026-02-01", Status::Unpaid, Status::Unpaid),
        ("2026-03-01", Status::Suspended, Status::Suspended),
        ("2026-04-01", Status::Active, Status::Active),
        ("2026-04-15", Status::Active, Status::Suspended),
    ] {
        let snapshot = at(text, instant);
        let status = |tenant| snapshot.tenant(tenant).expect("a tenant").status;
        assert_eq!((status("t"), status("u")), (above, below), "at {instant}");
    }
}

#[test]
fn p3_a_change_of_plan_at_its_instant_forgives_nothing() {
    let text = format!(
        "[[tenant]]\nid = \"t\"\nplan = \"small\"\n[[change]]\ntenant = \"t\"\nat = \"2026-02-01\"\n\
         plan = \"big@1\"\n[[key]]\nid = \"{KEY}\"\ntenant = \"t\"\nhash = \"{}\"\n[[upstream]]\n\
         id = \"u\"\npeers = [{{ address = \"127.0.0.1:1\" }}]\n[[route]]\nid = \"r\"\napp = \"a\"\n\
         upstream = \"u\"\n",
        hash_of(KEY)
    );
    let sources = sources(&text);
    let settings =
        PolicySettings { max_dynamic_keys: 10, hash_key: [0; 16], memory: InMemory::shared() };
    let before = us("2026-01-31T23:59:59Z");
    let policy = Policy::new(&sources, &settings, before).expect("valid");
    let left = || (0..20).take_while(|_| granted(&policy, ask(KEY, "/", 0))).count();
    assert_eq!(left(), 5);
    let at_us = policy.load().next_change_us().expect("a change");
    assert_eq!(at_us, us("2026-02-01"));
    policy.apply(&sources, || Reading { mono: Nanos(0), unix_us: at_us }).expect("valid");
    assert_eq!(left(), 3, "eight, and five of them are spent");
}
