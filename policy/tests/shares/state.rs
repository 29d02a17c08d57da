//! What shares have spent, over reloads and restarts (P3), and what clients are told.

use orbit_policy::{ApiKey, Decision, Nanos, Policy, Reading, Reason, Record};

use crate::{EDGE, SECOND, decide, granted, key, policy, sources};

/// A holding with a limit, a child with this one, another with none, and keys of both.
struct Family {
    text: String,
    child: ApiKey,
    sibling: ApiKey,
}

impl Family {
    fn new(limit: &str) -> Family {
        let (child, a) = key("c");
        let (sibling, b) = key("d");
        let text = format!(
            "[[plan]]\nid = \"p\"\napps = [\"crm\"]\n[[tenant]]\nid = \"h\"\nplan = \"p\"\n\
             limits = [{{ name = \"requests\", rate = 60, per = \"hour\", burst = 10 }}]\n\
             [[tenant]]\nid = \"c\"\nparent = \"h\"\nlimits = [{limit}]\n\
             [[tenant]]\nid = \"d\"\nparent = \"h\"\n{a}{b}"
        );
        Family { text, child, sibling }
    }
}

const HALF: &str = r#"{ name = "requests", guarantee = "50%" }"#;

fn left(policy: &Policy, key: &ApiKey, now: u64) -> usize {
    (0..100).take_while(|_| granted(policy, key, 1, now)).count()
}

#[test]
fn what_is_guaranteed_is_there_when_siblings_took_all_else() {
    let family = Family::new(HALF);
    let policy = policy(&family.text);
    assert_eq!(left(&policy, &family.sibling, 0), 10);
    let ask = decide(&policy, &family.child, 1, 0);
    let Decision::Admit(admission) = ask else { panic!("guaranteed") };
    // The guarantee is no policy of its own; nothing is left above, but four are guaranteed.
    let names: Vec<_> = admission.limits().map(|limit| limit.name.to_owned()).collect();
    assert_eq!(names, ["subsidiary/requests", "holding/requests"]);
    let (limit, left_now, _) = admission.nearest().expect("limits");
    assert_eq!((limit.name, left_now), ("holding/requests", 4));
    let field = admission.policy_field().expect("ready made");
    assert!(!policy.load().policy_fields()[field].contains("guarantee"));
    assert_eq!(left(&policy, &family.child, 0), 4);

    // Ready is when the guarantee has a token: two minutes for one at half the rate; the limit above
    // is five tokens past its burst and has one after six.
    let Decision::Deny(denial) = decide(&policy, &family.child, 1, 0) else { panic!() };
    let Reason::Limited(limited) = denial.reason else { panic!("{:?}", denial.reason) };
    assert_eq!(limited.ready_at, Some(Nanos(120 * SECOND)));
    assert_eq!(denial.limit().expect("a limit").name, "holding/requests");
    assert_eq!(denial.violated().count(), 1);
    let Decision::Deny(denial) = decide(&policy, &family.sibling, 1, 0) else { panic!() };
    let Reason::Limited(limited) = denial.reason else { panic!("{:?}", denial.reason) };
    assert_eq!(limited.ready_at, Some(Nanos(360 * SECOND)));
}

#[test]
fn p2_a_refused_request_leaves_guarantee_and_limit_as_they_were() {
    let family = Family::new(&format!("{HALF}, {{ name = \"tight\", rate = 1, burst = 1 }}"));
    let policy = policy(&family.text);
    assert_eq!(left(&policy, &family.child, 0), 1);
    let usage = || format!("{:?}", policy.load().usage("c", Nanos(0)));
    let before = usage();
    assert_eq!(left(&policy, &family.child, 0), 0);
    assert_eq!(usage(), before);
}

#[test]
fn p3_a_reload_forgives_neither_guarantee_nor_ceiling() {
    let cases = [
        (HALF, HALF, 0),
        // Another rate: what was spent is spent, in tokens.
        (HALF, r#"{ name = "requests", guarantee = "40%", guarantee_burst = 5 }"#, 0),
        (HALF, r#"{ name = "requests", guarantee = "50%", guarantee_burst = 7 }"#, 2),
        // Another name, of the limit above and so of its share.
        ("\"requests\"", "\"calls\"", 0),
    ];
    for (from, to, expected) in cases {
        let mut family = Family::new(HALF);
        let policy = policy(&family.text);
        assert_eq!(left(&policy, &family.sibling, 0), 10);
        assert_eq!(left(&policy, &family.child, 0), 5);
        family.text = family.text.replace(from, to);
        let after_restart = restarted(&policy, &family.text);
        policy.apply(&sources(format!("{}{EDGE}", family.text)), Reading::default).expect("valid");
        for policy in [&policy, &after_restart] {
            assert_eq!(left(policy, &family.child, 0), expected, "{to}");
            assert_eq!(left(policy, &family.sibling, 0), 0, "{to}");
        }
    }
}

/// A policy of the same documents after a restart that took no time.
fn restarted(old: &Policy, text: &str) -> Policy {
    let new = policy(text);
    old.export(Nanos(0), &mut |record| {
        let restored = new.restore(record, 0, Nanos(0));
        assert!(matches!(record, Record::Emptied { .. }) || restored.found > 0);
    });
    new
}

#[test]
fn p3_a_restart_forgives_neither_guarantee_nor_what_is_past_the_burst() {
    let family = Family::new(HALF);
    let first = policy(&family.text);
    assert_eq!(left(&first, &family.sibling, 0), 10);
    assert_eq!(left(&first, &family.child, 0), 5);
    let second = restarted(&first, &family.text);
    assert_eq!(left(&second, &family.child, 0), 0);
    // Five tokens past its burst, the limit has one again after six minutes.
    assert_eq!(left(&second, &family.sibling, 360 * SECOND - 1), 0);
    assert_eq!(left(&second, &family.sibling, 360 * SECOND), 1);
    // A plain limit that is renamed to a share's name goes on as its ceiling.
    let plain = Family::new(r#"{ name = "old", rate = 60, per = "hour", burst = 10 }"#);
    let first = policy(&plain.text);
    assert_eq!(left(&first, &plain.child, 0), 10);
    let share = r#"{ name = "requests", guarantee = "50%", ceiling = "50%", burst = 10 }"#;
    let text =
        plain.text.replace(r#"{ name = "old", rate = 60, per = "hour", burst = 10 }"#, share);
    let second = restarted(&first, &text);
    assert_eq!(left(&second, &plain.child, 0), 0);
}

#[test]
fn start_empty_empties_guarantees_too() {
    let family = Family::new(HALF);
    let policy = policy(&family.text);
    policy.start_empty(Nanos(0));
    assert_eq!(left(&policy, &family.child, 0), 0);
    assert_eq!(left(&policy, &family.child, 60 * SECOND), 1, "borrowed");
    assert_eq!(left(&policy, &family.child, 120 * SECOND), 1);
}
