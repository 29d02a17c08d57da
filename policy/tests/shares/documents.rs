//! What a share may say, and every way in which it can be wrong (P4).

use orbit_policy::snapshot::LimitState;
use orbit_policy::{Nanos, check};

use crate::{EDGE, policy, sources};

fn findings(text: &str) -> Vec<String> {
    match check(&sources(format!("{text}{EDGE}")), 0) {
        Ok(_) => Vec::new(),
        Err(found) => found.0.iter().map(ToString::to_string).collect(),
    }
}

/// A holding of 100 a second and its child, with this limit.
fn child(limit: &str) -> String {
    format!(
        "[[plan]]\nid = \"p\"\n[[tenant]]\nid = \"h\"\nplan = \"p\"\nlimits = [\
         {{ name = \"requests\", rate = 100, per = \"second\", burst = 200 }},\
         {{ name = \"parallel\", concurrent = 5 }},\
         {{ name = \"person\", rate = 5, each = \"client_ip\" }}]\n\
         [[tenant]]\nid = \"c\"\nparent = \"h\"\n\nlimits = [{limit}]\n"
    )
}

#[test]
fn p4_every_mistake_in_a_share_is_named_with_line_and_key() {
    let share = |rest: &str| format!("{{ name = \"requests\", {rest} }}");
    let cases = [
        (share("guarantee = 0"), ":44: tenant.c.limits[0].guarantee: 0 is not within 1 to"),
        (
            share("guarantee = \"0%\""),
            ":44: tenant.c.limits[0].guarantee: `0%` is neither a number",
        ),
        (share("guarantee = \"101%\""), ".guarantee: `101%` is neither"),
        (share("guarantee = \"half\""), ".guarantee: `half` is neither"),
        (share("guarantee = 1.5"), ".guarantee: a float where an integer belongs"),
        (share("ceiling = 50"), ".guarantee: ceiling and guarantee_burst go with guarantee only"),
        (share("guarantee = 5, rate = 5"), ".rate: does not go with guarantee and ceiling"),
        (
            share("guarantee = 5, concurrent = 5"),
            ":60: tenant.c.limits[0].concurrent: a concurrency limit has no guarantee and no ceiling",
        ),
        (
            share("guarantee = 5, apps = [\"crm\"]"),
            ".guarantee: a share holds where the limit above",
        ),
        (share("guarantee = 5, routes = [\"r\"]"), ".guarantee: a share holds where"),
        (share("guarantee = 5, each = \"client_ip\""), ".guarantee: a share holds where"),
        (
            share("guarantee = 50, ceiling = 40"),
            ":58: tenant.c.limits[0].ceiling: is below the guarantee, 50 per second",
        ),
        (
            share("guarantee = 50, ceiling = 101"),
            ":58: tenant.c.limits[0].ceiling: is above the limit it is a share of, 100 per second",
        ),
        (
            share("guarantee = 6001, per = \"minute\""),
            ":44: tenant.c.limits[0].guarantee: the guarantees of `holding/requests` of `h` add up to 100.016666 per second; it has 100 per second",
        ),
        (
            share("guarantee = 1, burst = 4294967295"),
            ":44: tenant.c.limits[0].guarantee: the burst would take more than 400 days to refill",
        ),
        (
            share("guarantee = 1, per = \"day\", guarantee_burst = 401"),
            ":44: tenant.c.limits[0].guarantee: the burst would take more than 400 days to refill",
        ),
        (
            "{ name = \"other\", guarantee = 5 }".into(),
            ":20: tenant.c.limits[0].name: no tenant above has a limit `other` to share",
        ),
        (
            "{ name = \"parallel\", guarantee = 5 }".into(),
            ":20: tenant.c.limits[0].name: `parallel` above bounds requests in flight: a concurrency limit has no guarantee",
        ),
        (
            "{ name = \"person\", guarantee = 5 }".into(),
            ":20: tenant.c.limits[0].name: `person` above is one limit for each of something: it has no",
        ),
    ];
    for (limit, expected) in cases {
        let found = findings(&child(&limit));
        assert_eq!(found.len(), 1, "{limit}\n{found:#?}");
        assert!(found[0].starts_with("t.toml:11:"), "{limit}\n{}", found[0]);
        assert!(found[0].contains(expected), "{limit}\n{}", found[0]);
    }
}

#[test]
fn p4_what_is_guaranteed_of_one_limit_is_there() {
    let tenant = |id: &str, parent: &str, limit: &str| {
        format!(
            "[[tenant]]\nid = \"{id}\"\nparent = \"{parent}\"\n\
             limits = [{{ name = \"requests\", {limit} }}]\n"
        )
    };
    let holding = child("");
    let three = |last: &str| {
        holding.clone()
            + &tenant("a", "h", "guarantee = \"50%\"")
            + &tenant("b", "h", "guarantee = 1800, per = \"minute\"")
            + &tenant("d", "h", last)
    };
    assert_eq!(findings(&three("guarantee = 20")), [""; 0]);
    let sum = "t.toml:23:44: tenant.d.limits[0].guarantee: the guarantees of \
               `holding/requests` of `h` add up to 101 per second; it has 100 per second";
    assert_eq!(findings(&three("guarantee = 21")), [sum]);
    // Below a share there is its guarantee to share, and its ceiling to borrow up to.
    let below = |limit: &str| three("guarantee = 20") + &tenant("e", "a", limit);
    assert_eq!(findings(&below("guarantee = 50, ceiling = 100")), [""; 0]);
    let sum = "t.toml:27:44: tenant.e.limits[0].guarantee: the guarantees of \
               `subsidiary/requests` of `a` add up to 51 per second; it has 50 per second";
    assert_eq!(findings(&below("guarantee = 51")), [sum]);
    // A share counts towards the nearest limit of its name, whatever stands between.
    let far = holding.clone()
        + &tenant("a", "c", "guarantee = 60")
        + "[[tenant]]\nid = \"x\"\nparent = \"c\"\n"
        + &tenant("y", "x", "guarantee = 41");
    assert!(findings(&far)[0].contains("add up to 101 per second"), "{:?}", findings(&far));
}

#[test]
fn p4_shares_are_for_tenants_and_a_broken_limit_above_is_one_mistake() {
    let limit = "limits = [{ name = \"requests\", guarantee = 5 }]\n";
    let text = format!("[[plan]]\nid = \"p\"\n{limit}");
    assert_eq!(
        findings(&text),
        [
            "t.toml:3:44: plan.p.limits[0].guarantee: only a tenant's limit can be a share of one above"
        ]
    );
    let broken = child("").replace("rate = 100", "rate = \"100\"")
        + &format!("[[tenant]]\nid = \"d\"\nparent = \"c\"\n{limit}");
    let found = findings(&broken);
    assert_eq!(found.len(), 1, "{found:#?}");
}

/// Name, interval and burst of every rate limit on a tenant's chain.
fn rates(text: &str, tenant: &str) -> Vec<(String, u64, u64)> {
    let usage = policy(text).load().usage(tenant, Nanos(0)).expect("a tenant");
    let rate = |limit: orbit_policy::snapshot::LimitUsage| match limit.state {
        LimitState::Rate { interval_ns, burst, .. } => Some((limit.name, interval_ns, burst)),
        _ => None,
    };
    usage.into_iter().filter_map(rate).collect()
}

#[test]
fn what_is_left_out_is_that_of_the_limit_above() {
    let own = |limit: &str| {
        let rates = rates(&child(&format!("{{ name = \"requests\", {limit} }}")), "c");
        let [guarantee, ceiling, ..] = &rates[..] else { panic!("{rates:?}") };
        assert_eq!((&*guarantee.0, &*ceiling.0), ("requests:guarantee", "requests"));
        (guarantee.1, guarantee.2, ceiling.1, ceiling.2)
    };
    let ms = 1_000_000;
    assert_eq!(own("guarantee = 50"), (20 * ms, 100, 10 * ms, 200));
    assert_eq!(own("guarantee = \"25%\", ceiling = \"50%\""), (40 * ms, 50, 20 * ms, 100));
    let minute =
        "guarantee = 600, ceiling = 1200, per = \"minute\", burst = 7, guarantee_burst = 3";
    assert_eq!(own(minute), (100 * ms, 3, 50 * ms, 7));
    assert_eq!(own("guarantee = 1, per = \"day\"").1, 1, "never less than one token");
    // A share of a share: of its guarantee and of its ceiling.
    let nested = child("{ name = \"requests\", guarantee = 40, ceiling = 80 }")
        + "[[tenant]]\nid = \"d\"\nparent = \"c\"\n\
           limits = [{ name = \"requests\", guarantee = \"50%\", ceiling = \"50%\" }]\n";
    let found: Vec<_> = rates(&nested, "d").into_iter().map(|(_, i, b)| (i / ms, b)).collect();
    assert_eq!(found, [(50, 40), (25, 80), (25, 80), (12, 160), (10, 200)]);
}

#[test]
fn a_plan_s_limit_is_shared_by_the_tenants_under_its_buyer() {
    let text = "[[plan]]\nid = \"p\"\nlimits = [{ name = \"requests\", rate = 100 }]\n\
                [[plan]]\nid = \"q\"\nlimits = [{ name = \"requests\", rate = 7 }]\n\
                [[tenant]]\nid = \"h\"\nplan = \"p\"\n\
                [[tenant]]\nid = \"c\"\nparent = \"h\"\n\
                limits = [{ name = \"requests\", guarantee = \"60%\" }]\n";
    assert_eq!(findings(text), [""; 0]);
    let twice = format!(
        "{text}[[tenant]]\nid = \"d\"\nparent = \"h\"\n\
         limits = [{{ name = \"requests\", guarantee = 41 }}]\n"
    );
    assert!(findings(&twice)[0].contains("`plan/requests` of `h` add up to 101 per second"));
    // The plan a tenant buys itself stands beside it, not above.
    let buyer = text.replace("parent = \"h\"\n", "parent = \"h\"\nplan = \"q\"\n");
    assert!(findings(&buyer)[0].contains("no tenant above has a limit `requests` to share"));
}

#[test]
fn a_chain_may_have_sixty_four_limits_and_no_more() {
    let limits = |count: usize| {
        let limits: Vec<_> =
            (0..count).map(|n| format!("{{ name = \"n{n}\", rate = 5 }}")).collect();
        limits.join(", ")
    };
    let text = |more: &str| {
        format!(
            "[[plan]]\nid = \"p\"\n[[tenant]]\nid = \"h\"\nplan = \"p\"\nlimits = [{}]\n\
             [[tenant]]\nid = \"c\"\nparent = \"h\"\n\
             limits = [{}{more}]\n",
            limits(61),
            "{ name = \"n0\", guarantee = 1 },",
        )
    };
    assert_eq!(findings(&text("{ name = \"x\", rate = 1 }")), [""; 0]);
    let found = findings(&text("{ name = \"n60\", guarantee = 1 }"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("tenant.c.limits: 65 limits on one chain, at most 64 fit"));
}
