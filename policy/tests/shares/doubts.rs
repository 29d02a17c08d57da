//! Guarantees that are worth less than they seem: said with their place, and no mistake.

use orbit_policy::review;

use crate::{EDGE, sources};

fn doubts(text: &str) -> Vec<String> {
    let reviewed = review(&sources(format!("{text}{EDGE}")), 0);
    let (_, doubts) = reviewed.unwrap_or_else(|found| panic!("{found}\n{text}"));
    doubts.iter().map(ToString::to_string).collect()
}

/// A holding with these limits, on a plan with those, and tenants below, each with its parent.
fn tree(plan: &str, holding: &str, below: &[(&str, &str, &str)]) -> String {
    let mut text = format!(
        "[[plan]]\nid = \"p\"\nlimits = [{plan}]\n[[tenant]]\nid = \"h\"\nplan = \"p\"\n\
         limits = [{holding}]\n"
    );
    for (id, parent, limits) in below {
        text += &format!("[[tenant]]\nid = \"{id}\"\nparent = \"{parent}\"\nlimits = [{limits}]\n");
    }
    text
}

const HUNDRED: &str = r#"{ name = "requests", rate = 100 }"#;

#[test]
fn a_route_that_costs_more_than_a_guarantees_burst_is_named() {
    let share = |rest: &str| {
        let limit = format!("{{ name = \"requests\", guarantee = 20{rest} }}");
        doubts(&tree("", HUNDRED, &[("c", "h", &limit)]))
    };
    // The routes cost 1 and 3.
    assert_eq!(share(""), [""; 0]);
    assert_eq!(share(", guarantee_burst = 3"), [""; 0]);
    let expected = "t.toml:11:44: tenant.c.limits[0].guarantee: nothing is guaranteed to routes that \
                    cost more than the guarantee's burst of 2: `dear` (3); write a larger \
                    `guarantee_burst`";
    assert_eq!(share(", guarantee_burst = 2"), [expected]);
    // Not of routes that the limit does not hold, or that the tenant may not use.
    let narrow = r#"{ name = "requests", rate = 100, routes = ["r"] }"#;
    let limit = r#"{ name = "requests", guarantee = 1 }"#;
    assert_eq!(doubts(&tree("", narrow, &[("c", "h", limit)])), [""; 0]);
    let other =
        tree("", HUNDRED, &[("c", "h", limit)]).replace("id = \"p\"", "id = \"p\"\napps = []");
    assert_eq!(doubts(&other), [""; 0]);
    assert_eq!(doubts(&tree("", HUNDRED, &[("c", "h", limit)])).len(), 1);
}

#[test]
fn a_limit_above_that_allows_less_than_is_guaranteed_below_it_is_named() {
    let share = |guarantee: u64| format!("{{ name = \"requests\", guarantee = {guarantee} }}");
    let all = |rate: u64| format!("{HUNDRED}, {{ name = \"all\", rate = {rate} }}");
    let (thirty, twenty) = (share(30), share(20));
    let two = [("a", "h", &*thirty), ("b", "h", &*twenty)];
    assert_eq!(doubts(&tree("", &all(50), &two)), [""; 0]);
    let expected = "t.toml:15:44: tenant.b.limits[0].guarantee: `holding/all` of `h` allows 49 per \
                    second to all below it, and of `holding/requests` 50 per second are guaranteed \
                    there: others can use up what is guaranteed";
    assert_eq!(doubts(&tree("", &all(49), &two)), [expected]);
    // The plan's own, too.
    let of_plan = doubts(&tree("{ name = \"requests\", rate = 49 }", HUNDRED, &two));
    assert_eq!(of_plan.len(), 1, "{of_plan:?}");
    assert!(of_plan[0].contains("`plan/requests` of `h` allows 49 per second"), "{of_plan:?}");
    // Whoever has a plan of its own is not held by it.
    let bought = tree("{ name = \"requests\", rate = 49 }", HUNDRED, &two)
        .replace("id = \"b\"", "id = \"b\"\nplan = \"p\"");
    assert_eq!(doubts(&bought), [""; 0]);

    // A share of a share is part of what that one guarantees.
    let nested = [("a", "h", &*thirty), ("c", "a", &*share(25)), ("d", "a", &*share(5))];
    assert_eq!(doubts(&tree("", &all(30), &nested)), [""; 0]);
    // Between the two it is not.
    let tight = format!("{thirty}, {{ name = \"tight\", rate = 29 }}");
    let between = [("a", "h", &*tight), ("c", "a", &*share(25)), ("d", "a", &*share(5))];
    let found = doubts(&tree("", HUNDRED, &between));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("`subsidiary/tight` of `a` allows 29 per second"), "{found:?}");
    assert!(found[0].contains("of `holding/requests` 30 per second are guaranteed"), "{found:?}");

    // What is not one bucket, or holds other routes only, is no bottleneck of all.
    for other in [
        "{ name = \"all\", concurrent = 1 }",
        "{ name = \"all\", rate = 1, each = \"client_ip\" }",
        "{ name = \"all\", rate = 1, routes = [\"r\"] }",
    ] {
        assert_eq!(doubts(&tree("", &format!("{HUNDRED}, {other}"), &two)), [""; 0], "{other}");
    }
    // A ceiling of another limit is one; a tenant's own limit beside its share is its own affair.
    let outer = format!("{HUNDRED}, {{ name = \"all\", rate = 90 }}");
    let ceiling = "{ name = \"all\", guarantee = 5, ceiling = 10 }";
    let below = [("a", "h", ceiling), ("b", "a", &*thirty)];
    let found = doubts(&tree("", &outer, &below));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("`subsidiary/all` of `a` allows 10 per second"), "{found:?}");
    let own = format!("{thirty}, {{ name = \"all\", rate = 1 }}");
    assert_eq!(doubts(&tree("", HUNDRED, &[("a", "h", &own)])), [""; 0]);
    // A limit of the same name above the one that is shared holds them all.
    let above = [("a", "h", "{ name = \"requests\", rate = 200 }"), ("b", "a", &*share(150))];
    let found = doubts(&tree("", HUNDRED, &above));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("`holding/requests` of `h` allows 100 per second"), "{found:?}");
}
