//! Tenants over time: what they are on at an instant, what is wrong with a change, and that nothing
//! changes between the instants that are named.

use std::fmt::Write;

use proptest::prelude::*;

use crate::dates::{Utc, When, period_end_us};
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
fn apps_count_in_the_order_of_their_activation_and_those_of_addons_do_not_count() {
    let tree = |keys: &str, below: &str| {
        format!("[[tenant]]\nid = \"t\"\n{keys}\n[[tenant]]\nid = \"u\"\nparent = \"t\"\n{below}")
    };
    let small = |keys: &str| tree(&format!("plan = \"small\"\n{keys}"), "");
    for (text, above, below) in [
        (small("apps = [\"d\", \"a\", \"d\"]"), "[d a]", "[d a]"),
        (small("apps = [\"d\", \"c\", \"b\", \"a\"]"), "[d c b -a]", "[d c b -a]"),
        // The add-on's app has a place of its own, what nothing grants takes none.
        (
            small("apps = [\"x\", \"e\", \"d\", \"c\", \"b\", \"a\"]\naddons = [\"ex\"]"),
            "[x e! d c b -a] ex",
            "[x e! d c b -a] ex",
        ),
        (small("apps = [\"a\"]\naddons = [\"ex\"]"), "[a] ex", "[a] ex"),
        (small("overrides = { app_count = 1 }"), "[a]", "[a]"),
        (small("apps = []"), "[]", "[]"),
        // Fewer below, in whatever order; not more than above.
        (
            tree(
                "plan = \"small\"\napps = [\"a\", \"b\", \"c\", \"d\"]",
                "apps = [\"d\", \"b\", \"e\"]",
            ),
            "[a b c -d]",
            "[-d b]",
        ),
        (tree("plan = \"small\"", "addons = [\"why\"]"), "[a b c]", "[a b c y] why"),
        (tree("plan = \"small\"", "overrides = { app_count = 1 }"), "[a b c]", "[a -b -c]"),
        // A plan of its own is a contract of its own.
        (
            tree("plan = \"small\"\naddons = [\"ex\"]\napps = [\"a\"]", "plan = \"all\""),
            "[a] ex",
            "[a b c d e x y]",
        ),
    ] {
        let snapshot = at(&text, "2026-01-01");
        let apps = |tenant| {
            let shown = shown(&snapshot, tenant);
            shown[shown.find('[').expect("a list")..].to_owned()
        };
        assert_eq!((apps("t").as_str(), apps("u").as_str()), (above, below), "{text}");
    }
}

#[test]
fn overrides_stand_in_the_place_of_the_plans_figures_and_are_inherited() {
    let text = r#"
[[tenant]]
id = "t"
plan = "small"
overrides = { users = 60, api_tier = "premium" }
[[tenant]]
id = "u"
parent = "t"
overrides = { users = 5 }
[[tenant]]
id = "v"
parent = "t"
plan = "small"
[[change]]
tenant = "t"
at = "2026-02-01"
plan = "big@2"
"#;
    let figures = |tenant, instant| {
        let snapshot = at(text, instant);
        let has = snapshot.entitlements_of(snapshot.tenant(tenant).expect("a tenant"));
        let figures = has.figures;
        let tier = figures.api_tier.as_str();
        (figures.users, figures.app_count, figures.storage_gb, tier)
    };
    assert_eq!(figures("t", "2026-01-01"), (Some(60), Some(3), Some(100), "premium"));
    assert_eq!(figures("u", "2026-01-01"), (Some(5), Some(3), Some(100), "premium"));
    assert_eq!(figures("v", "2026-01-01"), (Some(50), Some(3), Some(100), "basic"));
    assert_eq!(figures("t", "2026-02-01"), (Some(60), Some(5), None, "premium"));
}

#[test]
fn p4_every_mistake_of_terms_and_times_has_its_place() {
    let tenant = |keys: &str| format!("[[tenant]]\nid = \"t\"\nplan = \"small\"\n{keys}");
    let change = |keys: &str| tenant(&format!("[[change]]\ntenant = \"t\"\n{keys}"));
    let cases = [
        (tenant("since = \"yesterday\""), "t.toml:4:9: tenant.t.since: is neither a date"),
        (tenant("since = 2026-01-01"), "t.toml:4:9: tenant.t.since: a date-time where a string"),
        (tenant("zone = \"Mars/Olympus\""), "t.toml:4:8: tenant.t.zone: there is no time zone"),
        (tenant("billing_day = 32"), "t.toml:4:15: tenant.t.billing_day: 32 is not within 1"),
        (tenant("apps = [\"a\", \"q\"]"), "t.toml:4:14: tenant.t.apps: there is no app `q`"),
        (tenant("overrides = { user = 1 }"), "t.toml:4:15: tenant.t.overrides.user: unknown key"),
        (tenant("trial = { then = \"all\" }"), "t.toml:4:9: tenant.t.trial.until: the key is miss"),
        (
            tenant("trial = { until = \"2026-01-01\", then = \"al\" }"),
            "t.toml:4:40: tenant.t.trial.then: there is no plan `al`; did you mean `all`?",
        ),
        (
            tenant("since = \"2026-01-02\"\ntrial = { until = \"2026-01-01\", then = \"all\" }"),
            "t.toml:5:19: tenant.t.trial.until: the trial ends before `since`",
        ),
        (
            "[[tenant]]\nid = \"t\"\nplan = \"big\"".into(),
            "t.toml:3:8: tenant.t.plan: plan `big` has the versions 1, 2: write `since`",
        ),
        (
            "[[tenant]]\nid = \"t\"\nplan = \"big@3\"".into(),
            "t.toml:3:8: tenant.t.plan: plan `big` has no version `3`, it has 1, 2",
        ),
        (
            "[[tenant]]\nid = \"t\"\nplan = \"bug@2\"".into(),
            "t.toml:3:8: tenant.t.plan: there is no plan `bug`; did you mean `big`?",
        ),
        (
            "[[tenant]]\nid = \"t\"\nplan = \"new\"\nsince = \"2026-01-31\"\n\
             [[plan]]\nid = \"new\"\nfrom = \"2026-02-01\""
                .into(),
            "t.toml:3:8: tenant.t.plan: plan `new` is offered from 2026-02-01 on",
        ),
        (
            "[[plan]]\nid = \"new\"\n[[plan]]\nid = \"new\"".into(),
            "t.toml:4:6: plan.new.id: version 1 is there already, at t.toml:2",
        ),
        (
            "[[plan]]\nid = \"new\"\n[[plan]]\nid = \"new\"\nversion = 2".into(),
            "t.toml:4:6: plan.new.from: another version is offered from the same day on",
        ),
        (
            "[[plan]]\nid = \"n\"\nprice = { amount = \"1.005\", currency = \"BRL\", per = \"month\" }".into(),
            "t.toml:3:20: plan.n.price.amount: is not an amount of BRL: digits, and at most 2",
        ),
        (
            "[[addon]]\nid = \"n\"\nprice = { amount = \"1\", currency = \"BRX\" }".into(),
            "t.toml:3:9: addon.n.price.per: the key is missing",
        ),
        (change("at = \"2026-01-01\""), "t.toml:4:3: change[0].plan: a change has some of plan"),
        (change("plan = \"all\""), "t.toml:4:3: change[0].at: a change has either `at`, or"),
        (
            change("at = \"2026-01-01\"\nrequested = \"2026-01-01\"\nplan = \"all\""),
            "t.toml:4:3: change[0].at: a change has either `at`, or",
        ),
        (
            change("requested = \"2026-01-01\"\nplan = \"all\""),
            "t.toml:4:3: change[0].at: a change has either `at`, or",
        ),
        (
            tenant("[[change]]\ntenant = \"u\"\nat = \"2026-01-01\"\nplan = \"all\""),
            "t.toml:5:10: change.u.tenant: there is no tenant `u`",
        ),
        // A mistake in the future is one today.
        (
            change("at = \"2999-01-01\"\nplan = \"al\""),
            "t.toml:7:8: change.t.plan: there is no plan `al`",
        ),
        (
            change("at = \"2999-01-01\"\nplan = \"all\"\n[[change]]\ntenant = \"t\"\n\
                    at = \"2999-01-01T00:00:00Z\"\nplan = \"small\""),
            "t.toml:8:3: change.t.plan: another change says so at the same instant, at t.toml:4",
        ),
        (
            change("at = \"2025-12-31\"\nplan = \"all\"").replace(
                "plan = \"small\"",
                "plan = \"small\"\nsince = \"2026-01-01\"",
            ),
            "t.toml:5:3: change.t.at: the change is before `since`",
        ),
        (
            "[[upstream]]\nid = \"u\"\npeers = [{ address = \"127.0.0.1:1\" }]\n[[route]]\nid = \"r\"\n\
             app = \"a\"\nupstream = \"u\"\nfeature = \"gpt5\""
                .into(),
            "t.toml:8:11: route.r.feature: no plan and no add-on has the feature `gpt5`",
        ),
    ];
    for (text, expected) in cases {
        let found = check(&sources(&text), 0).err().unwrap_or_else(|| panic!("accepted: {text}"));
        let lines: Vec<_> = found.0.iter().map(ToString::to_string).collect();
        assert!(lines.iter().any(|line| line.starts_with(expected)), "{expected}\n{lines:#?}");
    }
}

#[test]
fn p4_a_chain_that_a_later_plan_makes_too_long_is_found_today() {
    let limits = |count: usize| -> String {
        let one = |index| format!("{{ name = \"l{index}\", concurrent = 1 }}");
        (0..count).map(one).collect::<Vec<_>>().join(", ")
    };
    let text = |more: usize| {
        format!(
            "[[tenant]]\nid = \"t\"\nplan = \"small\"\nlimits = [{}]\n[[tenant]]\nid = \"u\"\n\
             parent = \"t\"\nlimits = [{}]\n[[change]]\ntenant = \"t\"\nat = \"2999-01-01\"\n\
             plan = \"wide\"\n[[plan]]\nid = \"wide\"\nlimits = [{}]\n",
            limits(28),
            limits(28),
            limits(more),
        )
    };
    assert!(check(&sources(&text(8)), 0).is_ok());
    let found = check(&sources(&text(9)), 0).err().expect("65 limits").to_string();
    assert!(found.contains("tenant.u.limits: 65 limits on one chain"), "{found}");
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

/// A change in a random document: which tenant, the day, and what it says.
#[derive(Clone, Debug)]
struct Says {
    tenant: usize,
    day: i64,
    at_period_end: bool,
    plan: Option<usize>,
    addons: Option<Vec<usize>>,
    apps: Option<Vec<usize>>,
    status: Option<usize>,
}

const PLANS: [&str; 5] = ["small", "big", "big@1", "big@2", "all"];
const ADDONS: [&str; 2] = ["ex", "why"];
const APPS: [&str; 7] = ["a", "b", "c", "d", "e", "x", "y"];
const STATUSES: [&str; 3] = ["active", "unpaid", "suspended"];
const ZONES: [&str; 3] = ["UTC", "America/Sao_Paulo", "Europe/Berlin"];
const TENANTS: usize = 4;
const DAYS: i64 = 900;

/// A tenant in a random document: whether it is below the one before, its zone, its billing day,
/// and the last day of its trial with the plan after it.
type Told = (bool, usize, u8, Option<(i64, usize)>);

#[derive(Clone, Debug)]
struct Story {
    tenants: Vec<Told>,
    changes: Vec<Says>,
}

fn story() -> impl Strategy<Value = Story> {
    let some = |count: usize| prop::collection::vec(0..count, 0..4);
    let trial = prop::option::of((1..DAYS, 0..6_usize));
    let tenant = (any::<bool>(), 0..ZONES.len(), 1..=31_u8, trial);
    let change = (
        (0..TENANTS, 1..DAYS, any::<bool>()),
        prop::option::of(0..PLANS.len()),
        prop::option::of(some(ADDONS.len())),
        prop::option::of(some(APPS.len())),
        prop::option::of(0..STATUSES.len()),
    );
    let change = change.prop_map(|((tenant, day, at_period_end), plan, addons, apps, status)| {
        Says { tenant, day, at_period_end, plan, addons, apps, status }
    });
    (prop::collection::vec(tenant, TENANTS), prop::collection::vec(change, 0..8))
        .prop_map(|(tenants, changes)| Story { tenants, changes })
}

/// A day counted from the first of 2025.
fn day(number: i64) -> String {
    let first = jiff::civil::date(2025, 1, 1);
    first.saturating_add(jiff::Span::new().days(number)).to_string()
}

impl Story {
    fn text(&self) -> String {
        let mut text = String::new();
        for (index, (below, zone, billing_day, trial)) in self.tenants.iter().enumerate() {
            let from = if *below && index > 0 {
                format!("parent = \"t{}\"", index - 1)
            } else {
                "plan = \"big\"".to_owned()
            };
            writeln!(
                text,
                "[[tenant]]\nid = \"t{index}\"\n{from}\nsince = \"{}\"\nzone = \"{}\"\n\
                 billing_day = {billing_day}",
                day(0),
                ZONES[*zone]
            )
            .expect("a string");
            if let Some((until, then)) = trial {
                let then = PLANS.get(*then).unwrap_or(&"suspended");
                let until = day(*until);
                writeln!(text, "trial = {{ until = \"{until}\", then = \"{then}\" }}")
                    .expect("a string");
            }
        }
        for says in &self.changes {
            text.push_str(&says.text());
        }
        text
    }
}

impl Says {
    /// A change says something: where nothing else does, that the tenant is active.
    fn says_status(&self) -> Option<usize> {
        let nothing = self.plan.is_none() && self.addons.is_none() && self.apps.is_none();
        self.status.or_else(|| nothing.then_some(0))
    }

    fn text(&self) -> String {
        let date = day(self.day);
        let mut text = format!("[[change]]\ntenant = \"t{}\"\n", self.tenant);
        if self.at_period_end {
            write!(text, "requested = \"{date}\"\neffective = \"period_end\"\n").expect("a string");
        } else {
            writeln!(text, "at = \"{date}\"").expect("a string");
        }
        let list = |names: &[&str], chosen: &[usize]| {
            let names = chosen.iter().map(|index| format!("\"{}\"", names[*index]));
            names.collect::<Vec<_>>().join(", ")
        };
        if let Some(plan) = self.plan {
            writeln!(text, "plan = \"{}\"", PLANS[plan]).expect("a string");
        }
        if let Some(addons) = &self.addons {
            writeln!(text, "addons = [{}]", list(&ADDONS, addons)).expect("a string");
        }
        if let Some(apps) = &self.apps {
            writeln!(text, "apps = [{}]", list(&APPS, apps)).expect("a string");
        }
        if let Some(status) = self.says_status() {
            writeln!(text, "status = \"{}\"", STATUSES[status]).expect("a string");
        }
        text
    }
}

impl Story {
    /// What the first tenant, a root, is on: plan, add-ons as a set, status. By the book: look for
    /// the latest that was said.
    fn first_tenant_at(&self, at_us: i64) -> (String, Vec<&'static str>, Status) {
        let (_, zone, billing_day, trial) = &self.tenants[0];
        let zone = jiff::tz::TimeZoneDatabase::bundled().get(ZONES[*zone]).expect("a zone");
        let us = |number| When::parse(&day(number)).expect("a day").at_us(&zone);
        let instant = |says: &Says| {
            let said_us = us(says.day);
            if says.at_period_end { period_end_us(said_us, *billing_day, &zone) } else { said_us }
        };
        let said: Vec<_> = self.changes.iter().filter(|says| says.tenant == 0).collect();
        let past = || said.iter().filter(|says| instant(says) <= at_us).copied();
        let latest = |is: &dyn Fn(&Says) -> bool| {
            past().filter(|says| is(says)).max_by_key(|says| instant(says))
        };
        let plan = latest(&|says| says.plan.is_some());
        let mut on = plan.and_then(|says| says.plan).map_or("big", |plan| PLANS[plan]);
        let mut came_us = plan.map_or(us(0), instant);
        let word = latest(&|says| says.says_status().is_some());
        let mut status = word.and_then(Says::says_status).unwrap_or(0);
        if let Some((until, then)) = trial {
            let until_us = us(*until);
            let bought = said.iter().any(|says| says.plan.is_some() && instant(says) <= until_us);
            if !bought && until_us <= at_us {
                match PLANS.get(*then) {
                    Some(then) if plan.is_none() => (on, came_us) = (then, until_us),
                    Some(_) => {}
                    // Suspended, until a plan or a status is said from then on.
                    None => {
                        let later = past().filter(|says| instant(says) >= until_us);
                        let freed = later
                            .into_iter()
                            .any(|says| says.plan.is_some() || says.says_status().is_some());
                        status = if freed { status } else { 2 };
                    }
                }
            }
        }
        let second = came_us >= When::parse("2026-06-01").expect("a day").at_us(&zone);
        let plan = match on {
            "big" if second => "big@2".to_owned(),
            "big" => "big@1".to_owned(),
            pinned if pinned.contains('@') => pinned.to_owned(),
            other => format!("{other}@1"),
        };
        let addons = latest(&|says| says.addons.is_some()).and_then(|says| says.addons.clone());
        let mut addons: Vec<_> = addons.iter().flatten().map(|index| ADDONS[*index]).collect();
        addons.sort_unstable();
        addons.dedup();
        (plan, addons, [Status::Active, Status::Unpaid, Status::Suspended][status])
    }
}

/// What a snapshot says of it.
fn own(snapshot: &Snapshot, tenant: &str) -> (String, Vec<&'static str>, Status) {
    let has = snapshot.entitlements_of(snapshot.tenant(tenant).expect("a tenant"));
    let is = |name: &&&str| has.addons.iter().any(|addon| *addon.id == ***name);
    let mut addons: Vec<_> = ADDONS.iter().filter(is).copied().collect();
    addons.sort_unstable();
    (format!("{}@{}", has.plan.id, has.plan.version), addons, has.status)
}

/// Everything that resolves, as text.
fn digest(snapshot: &Snapshot) -> String {
    let tenants = snapshot.tenants.iter().map(|tenant| {
        let has = snapshot.entitlements_of(tenant);
        let plans: Vec<_> = snapshot.plans.iter().map(|plan| plan.is_offered).collect();
        format!("{tenant:?} {:?} {:?} {plans:?}\n", has.figures, has.next_change)
    });
    // Buckets are made anew for each.
    tenants.collect::<String>().replace("Bucket", "")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_resolves_differently_but_at_the_instants_that_are_named(
        story in story(),
        parts in prop::collection::vec(0.0..1.0_f64, 3),
    ) {
        let sources = sources(&story.text());
        let first_us = us("2024-12-01");
        let first = check(&sources, first_us);
        // Changes of one thing at one instant are refused.
        prop_assume!(first.is_ok());
        let mut snapshot = first.expect("valid");
        let mut steps = 0;
        loop {
            let next_us = snapshot.next_change_us();
            let end_us = next_us.unwrap_or(us("2100-01-01"));
            let from_us = snapshot.at_us();
            for part in &parts {
                let between_us = from_us + ((end_us - from_us) as f64 * part) as i64;
                let again = check(&sources, between_us.min(end_us - 1)).expect("valid before");
                prop_assert_eq!(digest(&again), digest(&snapshot));
                prop_assert_eq!(again.next_change_us(), next_us);
                prop_assert_eq!(own(&again, "t0"), story.first_tenant_at(again.at_us()));
            }
            let Some(next_us) = next_us else { break };
            snapshot = check(&sources, next_us).expect("valid at any instant");
            prop_assert!(snapshot.next_change_us().is_none_or(|later_us| later_us > next_us));
            steps += 1;
        }
        prop_assert!(steps <= story.changes.len() + TENANTS + 1);
    }
}
