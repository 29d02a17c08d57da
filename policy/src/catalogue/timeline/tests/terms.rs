//! What a tenant agreed to beside its plan, and from when on.

use super::{at, shown, sources, us};
use crate::check;

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
fn overrides_may_be_unlimited_and_begin_on_a_day() {
    let text = r#"
[[tenant]]
id = "t"
plan = "small"
overrides = { users = "unlimited", app_count = "unlimited", storage_gb = 800, support = "24/7" }
[[tenant]]
id = "u"
parent = "t"
overrides = { storage_gb = "unlimited" }
[[change]]
tenant = "t"
at = "2026-02-01"
overrides = { storage_gb = 900, features = ["sso"] }
[[change]]
tenant = "t"
at = "2026-03-01"
plan = "all"
[[change]]
tenant = "t"
at = "2026-04-01"
overrides = {}
"#;
    let figures = |tenant, instant| {
        let snapshot = at(text, instant);
        let has = snapshot.entitlements_of(snapshot.tenant(tenant).expect("a tenant"));
        let crate::snapshot::Figures { users, app_count, storage_gb, support, .. } = has.figures;
        (users, app_count, storage_gb, support.as_str(), has.features.join(" "))
    };
    let of = |users, apps, storage, support, features: &str| {
        (users, apps, storage, support, features.to_owned())
    };
    assert_eq!(figures("t", "2026-01-31"), of(None, None, Some(800), "24/7", ""));
    assert_eq!(figures("u", "2026-01-31"), of(None, None, None, "24/7", ""));
    // All of the earlier ones are replaced.
    assert_eq!(figures("t", "2026-02-01"), of(Some(50), Some(3), Some(900), "8/5", "sso"));
    // They stand in the place of another plan's as well.
    assert_eq!(figures("t", "2026-03-01"), of(None, None, Some(900), "8/5", "sso"));
    assert_eq!(figures("t", "2026-04-01"), of(None, None, None, "8/5", "sso"));
    let next = at(text, "2026-01-01");
    let next = &next.upcoming()[0];
    assert_eq!(&*next.what, "overrides [storage_gb features]");
}

#[test]
fn features_of_its_own_stand_in_the_place_of_the_plans_and_addons_add_theirs_and_support() {
    let more = "[[addon]]\nid = \"desk\"\nsupport = \"12/7\"\n";
    let tree = |root: &str, below: &str| {
        let text = format!(
            "{more}[[tenant]]\nid = \"t\"\n{root}\n[[tenant]]\nid = \"u\"\nparent = \"t\"\n{below}"
        );
        let snapshot = at(&text, "2026-01-01");
        ["t", "u"].map(|tenant| {
            let has = snapshot.entitlements_of(snapshot.tenant(tenant).expect("a tenant"));
            format!("{} {}", has.features.join(","), has.figures.support.as_str())
        })
    };
    assert_eq!(tree("plan = \"all\"", ""), ["sso 8/5", "sso 8/5"]);
    let bought = "plan = \"all\"\naddons = [\"ex\", \"desk\"]\noverrides = { features = [] }";
    assert_eq!(tree(bought, ""), ["gpt4 12/7", "gpt4 12/7"]);
    // What the add-ons above have stays.
    let own = "overrides = { features = [\"sso\"], support = \"8/5\" }";
    assert_eq!(tree(bought, own), ["gpt4 12/7", "sso,gpt4 8/5"]);
    // Support at the least: more is not taken away.
    let plan = "plan = \"all\"\naddons = [\"desk\"]\noverrides = { support = \"24/7\" }";
    assert_eq!(tree(plan, "addons = [\"desk\"]"), ["sso 24/7", "sso 24/7"]);
    assert_eq!(tree("plan = \"all\"", "addons = [\"desk\"]"), ["sso 8/5", "sso 12/7"]);
}

/// The limits and quotas of a tenant's plan, by name with their burst or limit.
fn of_plan(snapshot: &crate::Snapshot, tenant: &str) -> Vec<String> {
    let tenant = snapshot.tenant(tenant).expect("a tenant");
    let of_plan = tenant.chain.iter().filter(|slot| slot.level == crate::snapshot::Level::Plan);
    let shown = of_plan.map(|slot| {
        let (name, figure) = (&snapshot.labels[slot.label as usize].name, slot.quota().0);
        let kind = if slot.quota_here().is_some() { "quota " } else { "" };
        format!("{kind}{name} {figure}")
    });
    shown.collect()
}

#[test]
fn limits_and_quotas_of_its_own_stand_in_the_place_of_the_plans_by_name_from_a_day_on() {
    let text = r#"
[[plan]]
id = "p"
users = 7
limits = [
    { name = "requests", rate = 1, per = "day", burst = 5 },
    { name = "hourly", rate = 9, per = "hour" },
]
quotas = [
    { name = "calls", meter = "api_calls", limit = 100, per = "month" },
    { name = "daily", meter = "api_calls", limit = 50, per = "day" },
]
[[tenant]]
id = "t"
plan = "p"
overrides = { limits = [{ name = "requests", rate = 1, per = "day", burst = 8 }] }
[[tenant]]
id = "u"
parent = "t"
[[change]]
tenant = "t"
at = "2026-02-01"
[change.overrides]
users = 9
limits = [{ name = "daily", rate = 3, per = "day" }, { name = "more", concurrent = 4 }]
quotas = [
    { name = "calls", meter = "api_calls", limit = 300, per = "year" },
    { name = "hourly", meter = "api_calls", limit = 200, per = "hour" },
]
"#;
    for tenant in ["t", "u"] {
        let now = ["hourly 9", "requests 8", "quota calls 100", "quota daily 50", "quota users 7"];
        assert_eq!(of_plan(&at(text, "2026-01-31"), tenant), now);
        // What has the name of a quota stands in its place, too, and the other way round.
        let then = [
            "requests 5",
            "daily 3",
            "more 4",
            "quota calls 300",
            "quota hourly 200",
            "quota users 9",
        ];
        assert_eq!(of_plan(&at(text, "2026-02-01"), tenant), then);
    }
    // In the place of the figure's own quota.
    let users = text.replacen(
        "overrides = { limits = [{ name = \"requests\", rate = 1, per = \"day\", burst = 8 }] }",
        "overrides = { quotas = [{ name = \"users\", meter = \"active_users\", limit = 3, per = \"day\" }] }",
        1,
    );
    assert_ne!(users, text);
    let shown = of_plan(&at(&users, "2026-01-31"), "t");
    assert_eq!(shown.last().map(String::as_str), Some("quota users 3"));
    assert_eq!(shown.len(), 5);
}

#[test]
fn p3_terms_of_its_own_forgive_nothing_when_they_begin() {
    use crate::decide::tests::{ask, granted, hash_of};
    use crate::quota::InMemory;
    use crate::{Nanos, Policy, PolicySettings, Reading};
    let text = format!(
        "[[tenant]]\nid = \"t\"\nplan = \"small\"\n[[change]]\ntenant = \"t\"\nat = \"2026-02-01\"\n\
         overrides = {{ limits = [{{ name = \"requests\", rate = 1, per = \"day\", burst = 7 }}] }}\n\
         [[key]]\nid = \"{0}\"\ntenant = \"t\"\nhash = \"{1}\"\n[[upstream]]\nid = \"u\"\n\
         peers = [{{ address = \"127.0.0.1:1\" }}]\n[[route]]\nid = \"r\"\napp = \"a\"\n\
         upstream = \"u\"\n",
        super::KEY,
        hash_of(super::KEY)
    );
    let sources = sources(&text);
    let settings =
        PolicySettings { max_dynamic_keys: 10, hash_key: [0; 16], memory: InMemory::shared() };
    let policy = Policy::new(&sources, &settings, us("2026-01-31")).expect("valid");
    let left = || (0..20).take_while(|_| granted(&policy, ask(super::KEY, "/", 0))).count();
    assert_eq!(left(), 5);
    let at_us = us("2026-02-01");
    policy.apply(&sources, || Reading { mono: Nanos(0), unix_us: at_us }).expect("valid");
    assert_eq!(left(), 2, "seven, and five of them are spent");
}

#[test]
fn a_period_that_is_paid_by_the_year_ends_on_its_anniversary() {
    let yearly = "[[plan]]\nid = \"yearly\"\napps = [\"a\"]\n\
                  price = { amount = \"9.00\", currency = \"BRL\", per = \"year\" }\n";
    let text = |tenant: &str, changes: &str| {
        format!(
            "{yearly}[[tenant]]\nid = \"t\"\n{tenant}\n[[tenant]]\nid = \"u\"\nparent = \"t\"\n{changes}"
        )
    };
    let end = |tenant: &str, requested: &str, keys: &str| {
        format!(
            "[[change]]\ntenant = \"{tenant}\"\nrequested = \"{requested}\"\n\
             effective = \"period_end\"\n{keys}\n"
        )
    };
    let at = |day: &str, plan: &str| {
        format!("[[change]]\ntenant = \"t\"\nat = \"{day}\"\nplan = \"{plan}\"\n")
    };
    let begins = |text: &str| -> Vec<String> {
        let snapshot = check(&sources(text), 0).unwrap_or_else(|found| panic!("{found}"));
        let own = snapshot.changes().iter().filter(|change| change.tenant.is_some());
        own.map(|change| crate::dates::Utc(change.at_us).to_string()[..10].to_owned()).collect()
    };
    let since = "plan = \"yearly\"\nsince = \"2025-03-10\"";
    let small = "plan = \"small\"";
    // Asked for in the first year and in the second.
    assert_eq!(begins(&text(since, &end("t", "2025-11-20", small))), ["2026-03-10"]);
    assert_eq!(begins(&text(since, &end("t", "2026-03-10", small))), ["2027-03-10"]);
    // On the billing day of that month.
    let billed = format!("{since}\nbilling_day = 31");
    assert_eq!(begins(&text(&billed, &end("t", "2025-11-20", small))), ["2026-03-31"]);
    // What is below has the plan from above, and so its year.
    assert_eq!(begins(&text(since, &end("u", "2025-11-20", "addons = [\"ex\"]"))), ["2026-03-10"]);
    // A year begins with the change that brought the plan; one of the month has its month.
    let came = at("2025-08-10", "yearly");
    let monthly = "plan = \"small\"\nsince = \"2025-03-10\"";
    let twice = came.clone() + &end("t", "2025-06-20", "addons = [\"ex\"]");
    assert_eq!(begins(&text(monthly, &twice)), ["2025-07-10", "2025-08-10"]);
    let later = came + &end("t", "2025-09-20", small);
    assert_eq!(begins(&text(monthly, &later)), ["2025-08-10", "2026-08-10"]);
    // One that waits for the end of a month begins a year itself.
    let both = end("t", "2025-06-20", "plan = \"yearly\"") + &end("t", "2025-09-20", small);
    assert_eq!(begins(&text(monthly, &both)), ["2025-07-10", "2026-07-10"]);
    // So does the end of a trial.
    let tried = "plan = \"small\"\nsince = \"2025-03-10\"\n\
                 trial = { until = \"2025-04-10\", then = \"yearly\" }";
    let after = end("t", "2025-09-20", small);
    assert_eq!(begins(&text(tried, &after)), ["2025-04-10", "2026-04-10"]);
    // Nobody knows when a year began.
    let found = check(&sources(&text("plan = \"yearly\"", &end("t", "2025-11-20", small))), 0);
    let found = found.err().expect("refused").to_string();
    let expected = "change.t.effective: plan `yearly` is paid by the year: write `since`";
    assert!(found.contains(expected), "{found}");
}
