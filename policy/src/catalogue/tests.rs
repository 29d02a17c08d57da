//! Documents against each other: every mistake at once (P4), and state across reloads (P3).

use crate::decide::tests::{ask, granted, hash_of};
use crate::quota::InMemory;
use crate::{Nanos, Policy, PolicySettings, Reading, Source, Summary, check};

fn sources(files: &[(&str, &str)]) -> Vec<Source> {
    files.iter().map(|(file, text)| Source { file: (*file).into(), text: (*text).into() }).collect()
}

fn settings() -> PolicySettings {
    PolicySettings { max_dynamic_keys: 100, hash_key: [7; 16], memory: InMemory::shared() }
}

#[test]
fn p4_every_mistake_between_documents_is_named_and_changes_nothing() {
    let key_hash = hash_of("abcdefghi1");
    let good = format!(
        r#"
[[plan]]
id = "business"
limits = [{{ name = "requests", rate = 1, per = "day", burst = 3 }}]
[[app]]
id = "crm"
[[upstream]]
id = "u"
peers = [{{ address = "127.0.0.1:1" }}]
[[route]]
id = "r"
app = "crm"
upstream = "u"
[[tenant]]
id = "acme"
plan = "business"
[[key]]
id = "abcdefghi1"
tenant = "acme"
hash = "{key_hash}"
"#
    );
    let policy = Policy::new(&sources(&[("good.toml", &good)]), &settings(), 0).expect("valid");
    assert!(granted(&policy, ask("abcdefghi1", "/", 0)));
    let bad = r#"[[plan]]
id = "business"
apps = ["cmr"]
[[app]]
id = "crm"
[[app]]
id = "crm"
[[upstream]]
id = "u"
peers = [{ address = "nowhere" }]
[[route]]
id = "r"
app = "crm"
upstream = "u"
[[route]]
id = "s"
app = "crm"
upstream = "v"
[[tenant]]
id = "acme"
plan = "busines"
[[tenant]]
id = "one"
parent = "two"
[[tenant]]
id = "two"
parent = "three"
[[tenant]]
id = "three"
parent = "one"
[[tenant]]
id = "orphan"
parent = "nobody"
"#;
    let keys = format!(
        "[[key]]\nid = \"abcdefghi1\"\ntenant = \"acme\"\nhash = \"{key_hash}\"\n\
         [[key]]\nid = \"abcdefghi1\"\ntenant = \"acme\"\nhash = \"{key_hash}\"\n\
         [[key]]\nid = \"short\"\ntenant = \"acne\"\nhash = \"{key_hash}\"\n"
    );
    let refused = policy
        .apply(&sources(&[("a.toml", bad), ("keys.toml", &keys)]), || Reading {
            mono: Nanos(1),
            unix_us: 0,
        })
        .expect_err("every one of these is a mistake");
    let expected = [
        "a.toml:3:9: plan.business.apps: there is no app `cmr`; did you mean `crm`?",
        "a.toml:7:6: app.crm.id: the id is taken already, at a.toml:5",
        "a.toml:10:22: upstream.u.peers[0].address: is not HOST:PORT",
        "a.toml:15:3: route.s.path: another route has the same host, path and method",
        "a.toml:18:12: route.s.upstream: there is no upstream `v`",
        "a.toml:21:8: tenant.acme.plan: there is no plan `busines`; did you mean `business`?",
        "a.toml:24:10: tenant.one.parent: a cycle in the tree: one -> two -> three -> one",
        "a.toml:33:10: tenant.orphan.parent: there is no tenant `nobody`",
        "keys.toml:6:6: key.abcdefghi1.id: the key id is taken already, at keys.toml:2",
        "keys.toml:10:6: key.short.id: a key id is 10 letters and digits",
        "keys.toml:11:10: key.short.tenant: there is no tenant `acne`; did you mean `acme`?",
    ];
    let found: Vec<String> = refused.0.iter().map(ToString::to_string).collect();
    for start in expected {
        assert!(found.iter().any(|line| line.starts_with(start)), "{start}\n{found:#?}");
    }
    // What only follows from these is not listed: the reference to the broken upstream `u`, the
    // plan an orphan would inherit.
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert_eq!(policy.load().version(), 1);
    assert!(granted(&policy, ask("abcdefghi1", "/", 1)));
}

#[test]
fn a_flood_of_wrong_references_has_a_few_hints_and_no_end_of_time() {
    let mut text = String::from("[[plan]]\nid = \"p\"\n");
    for index in 0..10_000 {
        text += &format!("[[tenant]]\nid = \"tenant-{index}\"\nplan = \"p\"\n");
        text +=
            &format!("[[change]]\ntenant = \"tenamt-{index}\"\nat = \"2030-01-01\"\naddons = []\n");
    }
    let found = check(&sources(&[("t.toml", &text)]), 0).err().expect("refused").0;
    assert_eq!(found.len(), 10_000);
    let hints: Vec<_> = found.iter().filter(|one| one.message.contains("did you mean")).collect();
    assert_eq!(hints.len(), 10, "of 100 000 comparisons");
    assert!(hints[0].message.ends_with("`tenamt-0`; did you mean `tenant-0`?"), "{}", hints[0]);
}

#[test]
fn an_empty_policy_is_valid_and_identifies_nobody() {
    let summary = Summary::of(&check(&[], 0).expect("valid"));
    assert_eq!(summary.tenants, 0);
    let policy = Policy::new(&[], &settings(), 0).expect("valid");
    assert!(!granted(&policy, ask("abcdefghi1", "/", 0)));
}

/// A holding with one subsidiary; `{tenant}`, `{plan}` and `{key}` take limits.
fn tree(tenant: &str, plan: &str, key: &str) -> Vec<Source> {
    let hash = hash_of("abcdefghi1");
    let text = format!(
        r#"
[[plan]]
id = "business"
limits = [{plan}]
[[plan]]
id = "enterprise"
limits = [{plan}]
[[app]]
id = "crm"
[[upstream]]
id = "u"
peers = [{{ address = "127.0.0.1:1" }}]
[[route]]
id = "r"
app = "crm"
upstream = "u"
[[tenant]]
id = "acme"
plan = "business"
[[tenant]]
id = "other"
plan = "enterprise"
[[tenant]]
id = "acme-brasil"
parent = "acme"
limits = [{tenant}]
[[key]]
id = "abcdefghi1"
tenant = "acme-brasil"
hash = "{hash}"
limits = [{key}]
"#
    );
    vec![Source { file: "tree.toml".into(), text }]
}

const SLOW: &str = r#"{ name = "slow", rate = 1, per = "hour", burst = 5 }"#;

/// Grants until the first refusal, at most `most`.
fn left(policy: &Policy, now: u64, most: usize) -> usize {
    (0..most).take_while(|_| granted(policy, ask("abcdefghi1", "/", now))).count()
}

#[test]
fn p3_no_edit_forgives_what_was_spent() {
    let places: [fn(&str) -> Vec<Source>; 3] =
        [|limit| tree(limit, "", ""), |limit| tree("", limit, ""), |limit| tree("", "", limit)];
    for place in places {
        let edits = [
            ("nothing", SLOW, 2),
            ("the rate, down", r#"{ name = "slow", rate = 1, per = "day", burst = 5 }"#, 2),
            ("the rate, up", r#"{ name = "slow", rate = 2, per = "hour", burst = 5 }"#, 2),
            ("the burst, up", r#"{ name = "slow", rate = 1, per = "hour", burst = 7 }"#, 4),
            ("the burst, down", r#"{ name = "slow", rate = 1, per = "hour", burst = 3 }"#, 0),
            ("the name", r#"{ name = "renamed", rate = 1, per = "hour", burst = 5 }"#, 2),
        ];
        for (edit, limit, expected) in edits {
            let policy = Policy::new(&place(SLOW), &settings(), 0).expect("valid");
            assert_eq!(left(&policy, 0, 3), 3);
            let old = policy.load();
            policy.apply(&place(limit), Reading::default).expect("valid");
            assert_eq!(policy.load().version(), 2);
            assert_eq!(left(&policy, 0, 10), expected, "after an edit of {edit}");
            drop(old);
        }
    }
}

#[test]
fn p3_moving_a_tenant_or_changing_its_plan_forgives_nothing() {
    let before = tree(SLOW, SLOW, SLOW);
    let policy = Policy::new(&before, &settings(), 0).expect("valid");
    assert_eq!(left(&policy, 0, 3), 3);
    let mut after = before.clone();
    after[0].text = after[0].text.replace("parent = \"acme\"", "parent = \"other\"");
    policy.apply(&after, Reading::default).expect("valid");
    assert_eq!(left(&policy, 0, 10), 2, "its own limit and its key's hold on");
    let policy = Policy::new(&before, &settings(), 0).expect("valid");
    assert_eq!(left(&policy, 0, 3), 3);
    after[0].text = before[0].text.replacen(
        "id = \"acme\"\nplan = \"business\"",
        "id = \"acme\"\nplan = \"enterprise\"",
        1,
    );
    assert_ne!(after, before);
    policy.apply(&after, Reading::default).expect("valid");
    assert_eq!(left(&policy, 0, 10), 2);
}

#[test]
fn p3_a_limit_is_taken_for_a_renamed_one_within_one_plan_only() {
    // `acme` is on `business`, with two limits of which one is used up to the last three.
    let of_plan = |limits: [&str; 2], plan: &str| {
        let [business, enterprise] = limits;
        let mut sources = tree("", "", "");
        sources[0].text = sources[0]
            .text
            .replacen("limits = []", &format!("limits = [{business}]"), 1)
            .replacen("limits = []", &format!("limits = [{enterprise}]"), 1)
            .replacen("plan = \"business\"", &format!("plan = \"{plan}\""), 1);
        sources
    };
    let other = r#"{ name = "other", rate = 1, per = "hour", burst = 5 }"#;
    let restarted = |before: &Policy, after: &[Source]| {
        let policy = Policy::new(after, &settings(), 0).expect("valid");
        before.export(Nanos(0), &mut |record| _ = policy.restore(record, 0, Nanos(0)));
        policy
    };
    for (limits, plan, expected) in [
        // Another plan, and nothing of the name: a limit of its own.
        ([SLOW, other], "enterprise", 5),
        // The same name is the same limit, whichever plan has it.
        ([SLOW, SLOW], "enterprise", 2),
        // Another name in the same plan: renamed.
        ([other, SLOW], "business", 2),
    ] {
        let policy = Policy::new(&of_plan([SLOW, SLOW], "business"), &settings(), 0);
        let policy = policy.expect("valid");
        assert_eq!(left(&policy, 0, 3), 3);
        let after = of_plan(limits, plan);
        let restarted = restarted(&policy, &after);
        policy.apply(&after, Reading::default).expect("valid");
        for policy in [policy, restarted] {
            assert_eq!(left(&policy, 0, 10), expected, "{limits:?} of {plan}");
        }
    }
}

#[test]
fn p3_a_downgrade_locks_nobody_out_and_going_back_forgives_nothing() {
    const HOUR: u64 = 3_600_000_000_000;
    let wide = tree(r#"{ name = "slow", rate = 50, per = "day" }"#, "", "");
    let narrow = tree(r#"{ name = "slow", rate = 4, per = "day" }"#, "", "");
    let policy = Policy::new(&wide, &settings(), 0).expect("valid");
    assert_eq!(left(&policy, 0, 40), 40);
    let apply = |policy: &Policy, sources: &[Source], hours: u64| {
        let now = || Reading { mono: Nanos(hours * HOUR), unix_us: 0 };
        policy.apply(sources, now).expect("valid");
    };
    apply(&policy, &narrow, 0);
    assert_eq!(left(&policy, 0, 10), 0, "forty are spent of four");
    assert_eq!(left(&policy, 6 * HOUR - 1, 10), 0);
    assert_eq!(left(&policy, 6 * HOUR, 10), 1, "a token in six hours, whatever was spent before");
    // Full a day later; a restart onto the old terms is as good as a reload onto them.
    let restarted = Policy::new(&wide, &settings(), 0).expect("valid");
    policy.export(Nanos(30 * HOUR), &mut |record| {
        restarted.restore(record, 0, Nanos(30 * HOUR));
    });
    apply(&policy, &wide, 30);
    for policy in [policy, restarted] {
        assert_eq!(left(&policy, 30 * HOUR, 50), 14, "36 of the 41 are still in arrears");
    }
}

#[test]
fn p3_two_hundred_reloads_refill_nothing() {
    let policy = Policy::new(&tree(SLOW, "", ""), &settings(), 0).expect("valid");
    assert_eq!(left(&policy, 0, 4), 4);
    for round in 0..200 {
        let limit =
            format!(r#"{{ name = "slow", rate = 1, per = "hour", burst = {} }}"#, 5 + round % 2);
        policy
            .apply(&tree(&limit, "", ""), || Reading { mono: Nanos(round), unix_us: 0 })
            .expect("valid");
    }
    assert_eq!(left(&policy, 200, 10), 2, "burst is 6 now, 4 are spent");
}

#[test]
fn a_limit_in_use_keeps_counting_who_is_in_flight() {
    let parallel = r#"{ name = "parallel", concurrent = 1 }"#;
    let policy = Policy::new(&tree(parallel, "", ""), &settings(), 0).expect("valid");
    let first = policy.decide(&ask("abcdefghi1", "/", 0).call());
    policy.apply(&tree(parallel, "", ""), Reading::default).expect("valid");
    assert!(!granted(&policy, ask("abcdefghi1", "/", 0)));
    drop(first);
    assert!(granted(&policy, ask("abcdefghi1", "/", 0)));
}

#[test]
fn the_tree_decides_levels_paths_and_inheritance() {
    let text = r#"
[[plan]]
id = "p"
[[tenant]]
id = "a"
plan = "p"
status = "unpaid"
[[tenant]]
id = "b"
parent = "a"
[[tenant]]
id = "c"
parent = "b"
level = "team"
status = "suspended"
[[tenant]]
id = "d"
parent = "c"
status = "active"
"#;
    let policy = Policy::new(&sources(&[("t.toml", text)]), &settings(), 0).expect("valid");
    let snapshot = policy.load();
    let tenant = |id| {
        let tenant = snapshot.tenant(id).expect("a tenant");
        format!("{} {} {:?}", tenant.path, tenant.level.as_str(), tenant.status)
    };
    assert_eq!(tenant("a"), "a holding Unpaid");
    assert_eq!(tenant("b"), "a/b subsidiary Unpaid");
    assert_eq!(tenant("c"), "a/b/c team Suspended");
    assert_eq!(tenant("d"), "a/b/c/d project Suspended");
}
