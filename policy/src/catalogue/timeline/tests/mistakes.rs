//! What is wrong with terms and times, today and at any instant to come (P4).

use super::{sources, us};
use crate::check;

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
fn p4_mistakes_in_overrides_have_their_place_whenever_they_are_in_force() {
    let tenant = |overrides: &str| {
        format!("[[tenant]]\nid = \"t\"\nplan = \"small\"\noverrides = {{ {overrides} }}")
    };
    let change = |overrides: &str, at: &str| {
        format!(
            "[[tenant]]\nid = \"t\"\nplan = \"small\"\n[[change]]\ntenant = \"t\"\nat = \"{at}\"\n\
             overrides = {{ {overrides} }}"
        )
    };
    let below = |overrides: &str| {
        format!(
            "[[tenant]]\nid = \"t\"\nplan = \"small\"\n[[tenant]]\nid = \"u\"\nparent = \"t\"\n\
             overrides = {{ {overrides} }}"
        )
    };
    let share = "limits = [{ name = \"requests\", guarantee = 5 }]";
    let rate = "limits = [{ name = \"requests\", rate = 5 }]";
    let cases = [
        (
            tenant("users = \"many\""),
            "t.toml:4:23: tenant.t.overrides.users: `many` is neither a number nor \"unlimited\"",
        ),
        (tenant("users = 0"), "t.toml:4:23: tenant.t.overrides.users: 0 is not within 1"),
        (
            tenant("support = \"9/5\""),
            "t.toml:4:25: tenant.t.overrides.support: `9/5` is not one of",
        ),
        (
            tenant("features = [\"gpt5\"]"),
            "t.toml:4:27: tenant.t.overrides.features: no plan and no add-on has the feature `gpt5`",
        ),
        (tenant("title = \"a\""), "t.toml:4:15: tenant.t.overrides.title: unknown key"),
        (
            tenant(share),
            "t.toml:4:58: tenant.t.overrides.limits[0].guarantee: only a tenant's limit",
        ),
        (
            tenant("quotas = [{ name = \"q\", meter = \"calls\", limit = 1, per = \"day\" }]"),
            "t.toml:4:47: tenant.t.overrides.quotas[0].meter: there is no meter `calls`",
        ),
        (
            tenant("limits = [{ name = \"a\", rate = 5 }, { name = \"a\", rate = 6 }]"),
            "t.toml:4:60: tenant.t.overrides.limits[1].name: the name is taken already, at t.toml:4",
        ),
        // In a change to come, and in one of the past.
        (
            change("features = [\"gpt5\"]", "2999-01-01"),
            "t.toml:7:27: change.t.overrides.features: no plan and no add-on has the feature",
        ),
        (
            change(share, "2999-01-01"),
            "t.toml:7:58: change.t.overrides.limits[0].guarantee: only a",
        ),
        (
            change(share, "1960-01-01"),
            "t.toml:7:58: change.t.overrides.limits[0].guarantee: only a",
        ),
        (
            below(rate),
            "t.toml:5:6: tenant.u.overrides: limits and quotas of `overrides` stand in the place of",
        ),
        (
            change("users = 5", "2999-01-01")
                + "\n[[change]]\ntenant = \"t\"\nat = \"2999-01-01\"\noverrides = {}",
            "t.toml:8:3: change.t.overrides: another change says so at the same instant, at t.toml:4",
        ),
    ];
    for (text, expected) in cases {
        let found = check(&sources(&text), 0).err().unwrap_or_else(|| panic!("accepted: {text}"));
        let lines: Vec<_> = found.0.iter().map(ToString::to_string).collect();
        assert!(lines.iter().any(|line| line.starts_with(expected)), "{expected}\n{lines:#?}");
    }
}

#[test]
fn p4_a_chain_that_later_terms_make_too_long_is_found_today() {
    let limits = |count: usize| -> String {
        let one = |index| format!("{{ name = \"l{index}\", concurrent = 1 }}");
        (0..count).map(one).collect::<Vec<_>>().join(", ")
    };
    let text = |count: usize, keys: &str| {
        format!(
            "[[tenant]]\nid = \"t\"\nplan = \"all\"\nlimits = [{}]\n[[tenant]]\nid = \"u\"\n\
             parent = \"t\"\nlimits = [{}]\n[[change]]\n{keys}\nat = \"2999-01-01\"\n",
            limits(28),
            limits(count),
        )
    };
    let own = format!("tenant = \"t\"\noverrides = {{ limits = [{}] }}", limits(8));
    assert!(check(&sources(&text(28, &own)), 0).is_ok());
    let found = check(&sources(&text(29, &own)), 0).err().expect("65 limits").to_string();
    assert!(found.contains("tenant.u.limits: 65 limits on one chain"), "{found}");
    // A figure below a plan is a quota of its own, and holds whoever is under it.
    let users = "tenant = \"t\"\noverrides = { users = 5 }";
    assert!(check(&sources(&text(35, users)), 0).is_ok());
    assert!(check(&sources(&text(36, users)), 0).is_err());
    let users = "tenant = \"u\"\noverrides = { users = 5 }";
    let below = |count| text(count, users) + "[[tenant]]\nid = \"v\"\nparent = \"u\"\n";
    assert!(check(&sources(&below(35)), 0).is_ok());
    let found = check(&sources(&below(36)), 0).err().expect("65 limits").to_string();
    assert!(found.contains("tenant.v.limits: 65 limits on one chain"), "{found}");
}

#[test]
fn p4_a_grant_is_for_a_quota_that_is_there_at_its_own_instant() {
    let quota = |name: &str| {
        format!(
            "quotas = [{{ name = \"{name}\", meter = \"api_calls\", limit = 9, per = \"month\" }}]"
        )
    };
    let document = |name: &str, at: &str| {
        format!(
            "[[plan]]\nid = \"one\"\n{}\n[[plan]]\nid = \"two\"\n{}\n[[plan]]\nid = \"three\"\n\
             users = 5\n[[tenant]]\nid = \"t\"\nplan = \"one\"\nzone = \"Asia/Tokyo\"\n\
             [[change]]\ntenant = \"t\"\nat = \"2026-02-01\"\nplan = \"two\"\n\
             [[change]]\ntenant = \"t\"\nat = \"2026-03-01\"\nplan = \"three\"\n\
             [[change]]\ntenant = \"t\"\nat = \"2026-04-01\"\noverrides = {{ {} }}\n\
             [[grant]]\ntenant = \"t\"\nquota = \"{name}\"\namount = 1\nat = \"{at}\"\n",
            quota("first"),
            quota("second"),
            quota("own"),
        )
    };
    let (jan, feb, march, april) = ("2026-01-31", "2026-02-01", "2026-03-01", "2026-04-01");
    for (name, at, is_there) in [
        ("first", jan, true),
        ("first", feb, false),
        // In the tenant's zone it is February already.
        ("first", "2026-01-31T15:00:00Z", false),
        ("second", "2026-01-31T15:00:00Z", true),
        ("second", "2026-01-31T14:59:59Z", false),
        ("second", march, false),
        ("users", feb, false),
        ("users", march, true),
        ("own", march, false),
        ("own", april, true),
        ("users", april, true),
    ] {
        // Whenever the documents are judged.
        for judged in ["2026-01-01", "2026-02-15", "2026-03-15", "2027-01-01"] {
            let found = check(&sources(&document(name, at)), us(judged)).err();
            let lines: Vec<_> =
                found.iter().flat_map(|found| &found.0).map(ToString::to_string).collect();
            assert_eq!(lines.is_empty(), is_there, "{name} at {at}, judged {judged}: {lines:?}");
            let expected =
                format!("grant.t.{name}.quota: neither `t` nor its plan has a quota `{name}`");
            assert!(lines.iter().all(|line| line.contains(&expected)), "{lines:?}");
        }
    }
    // A gauge has no window to grant anything of, whenever its quota is there.
    let level = document("second", feb).replace(
        "name = \"second\", meter = \"api_calls\", limit = 9, per = \"month\"",
        "name = \"second\", meter = \"storage\", limit = 9",
    );
    assert!(level.contains("meter = \"storage\""));
    for judged in ["2026-01-01", "2026-02-15", "2027-01-01"] {
        let found = check(&sources(&level), us(judged)).err().expect("refused").to_string();
        assert!(found.contains("grant.t.second.quota: `second` is a quota of a gauge"), "{found}");
    }
    let found =
        check(&sources(&document("first", "soon")), us("2026-02-15")).err().expect("refused");
    let lines: Vec<_> = found.0.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("grant.t.first.at: is neither a day"), "{lines:?}");
}
