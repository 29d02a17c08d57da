//! Trees as deep as they may be: one more level is refused, and every level of a chain has a name and
//! a say of its own.

use std::collections::HashSet;

use orbit_policy::snapshot::LimitState;
use orbit_policy::{ApiKey, Decision, Nanos, Policy, Reason, check};

use crate::{EDGE, SECOND, decide, granted, key, policy, sources};

const DEPTH: usize = 8;

/// A chain of so many tenants `t1` to `tN`, the first a root, each with the limits given for it, and
/// a key of the last.
fn chain(depth: usize, limits: impl Fn(usize) -> String) -> (String, ApiKey) {
    let mut text = "[[plan]]\nid = \"p\"\napps = [\"crm\"]\n".to_owned();
    for level in 1..=depth {
        let above = match level {
            1 => "plan = \"p\"".to_owned(),
            _ => format!("parent = \"t{}\"", level - 1),
        };
        text += &format!("[[tenant]]\nid = \"t{level}\"\n{above}\nlimits = [{}]\n", limits(level));
    }
    let (key, table) = key(&format!("t{depth}"));
    (text + &table, key)
}

#[test]
fn p4_eight_levels_are_accepted_and_a_ninth_is_refused_at_its_place() {
    let none = |_| String::new();
    assert!(check(&sources(chain(DEPTH, none).0 + EDGE), 0).is_ok());
    let (text, _) = chain(DEPTH + 1, none);
    let found = check(&sources(text.clone() + EDGE), 0).err().expect("too deep").0;
    let line = 1 + text.lines().position(|line| line == "id = \"t9\"").expect("the ninth");
    let expected =
        format!("t.toml:{line}:6: tenant.t9.parent: the tree is deeper than 8 levels here");
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
}

#[test]
fn each_of_eight_levels_refuses_when_it_is_the_tightest_and_has_a_name_of_its_own() {
    let names = [
        "holding",
        "subsidiary",
        "business_unit",
        "department",
        "team",
        "project",
        "project-2",
        "project-3",
    ];
    for tight in 1..=DEPTH {
        let (text, key) = chain(DEPTH, |level| {
            let burst = if level == tight { 2 } else { 50 };
            format!("{{ name = \"requests\", rate = 1, per = \"hour\", burst = {burst} }}")
        });
        let policy = policy(&text);
        let Decision::Admit(admission) = decide(&policy, &key, 1, 0) else { panic!("refused") };
        let shown: Vec<String> = admission.limits().map(|limit| limit.name.to_owned()).collect();
        let expected: Vec<_> = names.iter().rev().map(|name| format!("{name}/requests")).collect();
        assert_eq!(shown, expected);
        let field = admission.policy_field().expect("ready made");
        let field = policy.load().policy_fields()[field].clone();
        let members: HashSet<&str> =
            field.split(", ").map(|item| &item[..item.find(';').unwrap()]).collect();
        assert_eq!(members.len(), DEPTH, "{field}");
        let nearest = admission.nearest().map(|(limit, left, _)| (limit.tenant.to_owned(), left));
        assert_eq!(nearest, Some((format!("t{tight}"), 1)));
        assert!(granted(&policy, &key, 1, 0));
        let Decision::Deny(denial) = decide(&policy, &key, 1, 0) else { panic!("admitted") };
        let limit = denial.limit().expect("a limit");
        assert_eq!((limit.tenant, limit.name), (&*format!("t{tight}"), &*expected[DEPTH - tight]));
        assert!(
            matches!(denial.reason, Reason::Limited(limited) if limited.ready_at == Some(Nanos(3_600 * SECOND)))
        );
    }
}

/// What is left of the limit that stands at a tenant.
fn left(policy: &Policy, tenant: &str, name: &str) -> u64 {
    let usage = policy.load().usage(tenant, Nanos(0)).expect("a tenant");
    let limit = usage.iter().find(|limit| limit.tenant == tenant && limit.name == name);
    match limit.map(|limit| limit.state) {
        Some(LimitState::Rate { remaining, .. }) => remaining,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_guaranteed_eight_levels_down_is_secured_all_the_way_up() {
    let (text, key) = chain(DEPTH, |level| match level {
        1 => r#"{ name = "requests", rate = 640, per = "minute", burst = 640 }"#.to_owned(),
        _ => r#"{ name = "requests", guarantee = "50%", guarantee_burst = 5 }"#.to_owned(),
    });
    let (greedy, table) = crate::key("t1");
    let policy = policy(&(text + &table));
    assert_eq!((0..1_000).filter(|_| granted(&policy, &greedy, 1, 0)).count(), 640);
    // Nothing is left to borrow, and five are guaranteed.
    assert_eq!((0..1_000).filter(|_| granted(&policy, &key, 1, 0)).count(), 5);
    for level in 2..=DEPTH {
        assert_eq!(left(&policy, &format!("t{level}"), "requests:guarantee"), 0, "t{level}");
        assert_eq!(left(&policy, &format!("t{level}"), "requests"), 635, "t{level}");
    }
    // Whatever comes back of the limit is taken by the greedy one. What is guaranteed right below it,
    // 320 a minute, is idle and secures everything under it.
    let after = |now| {
        while granted(&policy, &greedy, 1, now) {}
        granted(&policy, &key, 1, now)
    };
    assert!(!after(60 * SECOND / 320 - 1));
    assert!(after(60 * SECOND / 320));
}
