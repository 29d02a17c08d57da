//! Every mistake in quotas and grants (P4), and what they come to.

use crate::quota::InMemory;
use crate::{Policy, PolicySettings, Source, check};

const EDGES: &str = "[[app]]\nid = \"crm\"\n[[upstream]]\nid = \"u\"\n\
                     peers = [{ address = \"127.0.0.1:1\" }]\n";

fn sources(text: &str) -> Vec<Source> {
    vec![Source { file: "q.toml".into(), text: format!("{text}\n{EDGES}") }]
}

fn mistakes(text: &str) -> Vec<String> {
    match check(&sources(text), 0) {
        Ok(_) => Vec::new(),
        Err(diagnostics) => diagnostics.0.iter().map(ToString::to_string).collect(),
    }
}

/// The mistakes of a plan with this quota, whose keys start in the seventh column of the third line.
fn of_quota(quota: &str) -> Vec<String> {
    mistakes(&format!(
        "[[plan]]\nid = \"p\"\nquotas = [{{ {quota} }}]\n[[tenant]]\nid = \"t\"\nplan = \"p\""
    ))
}

const GOOD: &str = r#"name = "calls", meter = "api_calls", limit = 10, per = "month""#;

#[test]
fn p4_every_mistake_in_a_quota_is_named() {
    assert_eq!(of_quota(GOOD), [""; 0]);
    for (quota, expected) in [
        (
            r#"name = "calls""#,
            &[
                "q.toml:3:11: plan.p.quotas[0].limit: the key is missing",
                "q.toml:3:11: plan.p.quotas[0].meter: the key is missing",
                "q.toml:3:11: plan.p.quotas[0].per: the key is missing",
            ][..],
        ),
        (
            r#"name = "calls", meter = "api_cals", limit = 10, per = "month""#,
            &["q.toml:3:37: plan.p.quotas[0].meter: there is no meter `api_cals`"],
        ),
        (
            r#"name = "calls", meter = "api_calls", limit = "10 GB", per = "minute""#,
            &[
                "q.toml:3:58: plan.p.quotas[0].limit: a string where an integer belongs",
                "q.toml:3:73: plan.p.quotas[0].per: `minute` is not one of hour, day, month, year, billing_period",
            ],
        ),
    ] {
        assert_eq!(of_quota(quota), expected, "{quota}");
    }
    for (more, expected) in [
        ("thresholds = [50, 50]", "thresholds: thresholds go up"),
        ("thresholds = [0]", "thresholds: 0 is not within 1 to 1000"),
        ("thresholds = [\"80%\"]", "thresholds: a string where an integer belongs"),
        ("thresholds = 80", "thresholds: an integer where an array of integers belongs"),
        ("grace = \"5\"", "grace: `5` is neither a number nor a share from \"1%\" to \"100%\""),
        ("roll_over = -1", "roll_over: -1 is not within 0 to 1125899906842624"),
        (
            "at_limit = \"stop\"",
            "at_limit: `stop` is not one of block, allow_and_bill, throttle_to",
        ),
        (
            "at_limit = \"throttle_to\"",
            "throttle: throttle_to needs throttle = { rate = .., per = .., burst = .. }",
        ),
        ("throttle = { rate = 1 }", "throttle: goes with at_limit = \"throttle_to\" only"),
        (
            "at_limit = \"throttle_to\", throttle = { per = \"day\" }",
            "throttle.rate: the key is missing",
        ),
        (
            "at_limit = \"throttle_to\", throttle = { rate = 20_000_000 }",
            "throttle.rate: is above 10000000 per second",
        ),
        (
            "at_limit = \"allow_and_bill\", grace = 1",
            "grace: does not go with allow_and_bill, which never ends",
        ),
    ] {
        let found = of_quota(&format!("{GOOD}, {more}"));
        assert_eq!(found.len(), 1, "{more}: {found:?}");
        let end = format!(": plan.p.quotas[0].{expected}");
        assert!(found[0].starts_with("q.toml:3:") && found[0].ends_with(&end), "{found:?}");
    }
    let unknown = of_quota(&format!("{GOOD}, soft = true"));
    assert!(unknown[0].contains("quotas[0].soft: unknown key; known here are name, meter"));
}

#[test]
fn p4_what_does_not_fit_the_quotas_meter_is_named_with_the_reason() {
    assert_eq!(of_quota(r#"name = "s", meter = "storage", limit = 10"#), [""; 0]);
    let billed = r#"name = "s", meter = "storage", limit = 9, grace = 1, thresholds = [80], at_limit = "block""#;
    assert_eq!(of_quota(billed), [""; 0]);
    let gauge = "`storage` is a gauge: its level lasts and has no window";
    for (quota, expected) in [
        (r#"name = "c", meter = "api_calls", limit = 1"#, "per: the key is missing".to_owned()),
        (r#"name = "s", meter = "storage", limit = 1, per = "month""#, format!("per: {gauge}")),
        (
            r#"name = "s", meter = "storage", limit = 1, roll_over = 5"#,
            format!("roll_over: {gauge} of which anything could be left over"),
        ),
        (
            r#"name = "s", meter = "storage", limit = 1, at_limit = "throttle_to", throttle = { rate = 1 }"#,
            format!("at_limit: {gauge}, so there is no rate at which it could rise further"),
        ),
        (
            r#"name = "m", meter = "top", limit = 1, per = "day""#,
            "meter: `top` does not add up, so there is nothing to use up: a quota is of a count, sum, \
             distinct or gauge"
                .to_owned(),
        ),
    ] {
        let top = "[[meter]]\nid = \"top\"\naggregate = \"max\"\nvalue = \"event\"\n";
        let text = format!(
            "[[plan]]\nid = \"p\"\nquotas = [{{ {quota} }}]\n{top}\
             [[tenant]]\nid = \"t\"\nplan = \"p\""
        );
        let found = mistakes(&text);
        let end = format!(": plan.p.quotas[0].{expected}");
        assert!(found.len() == 1 && found[0].ends_with(&end), "{quota}: {found:?}");
        assert!(found[0].starts_with("q.toml:3:"), "{found:?}");
    }
    let grant = "[[plan]]\nid = \"p\"\nstorage_gb = 1\n[[tenant]]\nid = \"t\"\nplan = \"p\"\n\
                 [[grant]]\ntenant = \"t\"\nquota = \"storage\"\namount = 1\nat = \"2026-11-10\"\n";
    assert_eq!(
        mistakes(grant),
        ["q.toml:9:9: grant.t.storage.quota: `storage` is a quota of a gauge, whose level has no \
          window that a grant could be for: raise its limit"]
    );
    let sum = "[[meter]]\nid = \"storage\"\naggregate = \"sum\"\nvalue = \"event\"\n\
               [[plan]]\nid = \"p\"\nstorage_gb = 1\n[[tenant]]\nid = \"t\"\nplan = \"p\"\n";
    assert_eq!(
        mistakes(sum),
        ["q.toml:3:13: meter.storage.aggregate: is what `storage_gb` of plans is about, a gauge: \
          give another meter another id"]
    );
}

#[test]
fn a_figure_of_storage_is_a_quota_by_itself() {
    let written =
        r#"quotas = [{ name = "storage", meter = "storage", limit = 7, thresholds = [50] }]"#;
    let seen = |plan: &str, tenant: &str, below: &str| {
        let text = format!(
            "[[plan]]\nid = \"p\"\n{plan}\n[[tenant]]\nid = \"t\"\nplan = \"p\"\n{tenant}\n\
             [[tenant]]\nid = \"b\"\nparent = \"t\"\n{below}\n"
        );
        let memory = InMemory::shared();
        let settings = PolicySettings { max_dynamic_keys: 1, hash_key: [0; 16], memory };
        let policy = Policy::new(&sources(&text), &settings, 0).expect("valid");
        let mut seen = Vec::new();
        policy.each_quota(0, &mut |view| {
            seen.push((view.full_name.to_owned(), view.limit, view.thresholds.to_vec()));
        });
        seen.sort();
        seen
    };
    let one = |name: &str, limit: u64| (name.to_owned(), limit, vec![80, 95]);
    assert_eq!(seen("storage_gb = 100", "", ""), [one("plan/storage", 100_000_000_000)]);
    let over = "overrides = { storage_gb = 3 }";
    assert_eq!(seen("storage_gb = 100", over, ""), [one("plan/storage", 3_000_000_000)]);
    let both = [one("plan/storage", 100_000_000_000), one("subsidiary/storage", 3_000_000_000)];
    assert_eq!(seen("storage_gb = 100", "", over), both);
    let explicit = ("plan/storage".to_owned(), 7, vec![50]);
    assert_eq!(seen(&format!("storage_gb = 100\n{written}"), "", ""), [explicit]);
    assert_eq!(seen("", "", ""), []);
}

#[test]
fn p4_a_name_is_taken_once_among_the_limits_and_quotas_of_an_owner() {
    let quota =
        |name| format!(r#"{{ name = "{name}", meter = "api_calls", limit = 1, per = "day" }}"#);
    let (a, b) = (quota("a"), quota("b"));
    let limit = r#"{ name = "b", rate = 1 }"#;
    let text = format!(
        "[[plan]]\nid = \"p\"\nquotas = [{a}, {a}]\n[[tenant]]\nid = \"t\"\nplan = \"p\"\n\
         limits = [{limit}]\nquotas = [{a}, {b}]\n"
    );
    assert_eq!(
        mistakes(&text),
        [
            "q.toml:3:81: plan.p.quotas[1].name: the name is taken already, at q.toml:3",
            "q.toml:8:81: tenant.t.quotas[1].name: the name is taken already, at q.toml:7",
        ]
    );
}

#[test]
fn p4_zones_and_grants_must_lead_somewhere() {
    let quota = format!("{{ {GOOD} }}");
    let text = format!(
        r#"[[plan]]
id = "p"
quotas = [{quota}]
[[tenant]]
id = "t"
plan = "p"
zone = "America/Sao_Paolo"
billing_day = 32
[[tenant]]
id = "below"
parent = "t"
[[tenant]]
id = "fine"
plan = "p"
[[grant]]
tenant = "fine"
quota = "calls"
amount = 0
at = "2026-11-10"
[[grant]]
tenant = "fine"
quota = "cals"
amount = 1
at = "2026-11-10"
[[grant]]
tenant = "nobody"
quota = "calls"
amount = 1
at = "2026-11-10"
[[grant]]
tenant = "fine"
quota = "calls"
amount = 1
at = "10.11.2026"
[[grant]]
tenant = "fine"
"#
    );
    assert_eq!(
        mistakes(&text),
        [
            "q.toml:7:8: tenant.t.zone: there is no time zone `America/Sao_Paolo`; a zone is a name such as America/Sao_Paulo",
            "q.toml:8:15: tenant.t.billing_day: 32 is not within 1 to 31",
            "q.toml:18:10: grant[0].amount: 0 is not within 1 to 1125899906842624",
            "q.toml:22:9: grant.fine.cals.quota: neither `fine` nor its plan has a quota `cals` there",
            "q.toml:26:10: grant.nobody.tenant: there is no tenant `nobody`",
            "q.toml:34:6: grant.fine.calls.at: is neither a day such as 2026-11-10 nor an RFC 3339 instant",
            "q.toml:35:3: grant[4].amount: the key is missing",
            "q.toml:35:3: grant[4].at: the key is missing",
            "q.toml:35:3: grant[4].quota: the key is missing",
        ]
    );
}

#[test]
fn zone_and_billing_day_are_those_of_the_nearest_tenant_above_that_says_so() {
    let quota = r#"{ name = "calls", meter = "api_calls", limit = 200, per = "billing_period", thresholds = [50, 100], grace = "5%" }"#;
    let text = format!(
        r#"
[[plan]]
id = "p"
quotas = [{quota}]
[[tenant]]
id = "holding"
plan = "p"
zone = "America/Sao_Paulo"
billing_day = 31
[[tenant]]
id = "middle"
parent = "holding"
zone = "Europe/Berlin"
[[tenant]]
id = "leaf"
parent = "middle"
quotas = [{quota}]
"#
    );
    let memory = InMemory::shared();
    let settings = PolicySettings { max_dynamic_keys: 1, hash_key: [0; 16], memory };
    let policy = Policy::new(&sources(&text), &settings, 0).expect("valid");
    // 2026-11-10T12:00:00Z
    let snapshot = policy.load();
    let quotas = snapshot.quotas_of("leaf", 1_794_312_000_000_000).expect("the tenant is there");
    let seen: Vec<_> = quotas
        .iter()
        .map(|quota| (quota, quota.window.expect("it has windows")))
        .map(|(quota, window)| {
            (quota.tenant, quota.full_name, window.zone, window.start_us / 1_000_000)
        })
        .collect();
    // The 31st of October, at midnight there.
    let berlin = ("leaf", "business_unit/calls", "Europe/Berlin", 1_793_401_200);
    let sao_paulo = ("holding", "plan/calls", "America/Sao_Paulo", 1_793_415_600);
    assert_eq!(seen, [berlin, sao_paulo]);
    assert_eq!((quotas[0].grace, quotas[0].thresholds), (10, &[50, 100][..]));
}
