//! Quotas of distinct meters through whole decisions: against hash sets, over levels and months,
//! with refusals elsewhere on the chain (**P1**, **P2**), and under sixteen threads.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use orbit_policy::members::member_id;
use orbit_policy::quota::Reported;
use orbit_policy::{
    ApiKey, Body, Call, Decision, Nanos, Policy, PolicySettings, Reading, Reason, Source,
};
use proptest::prelude::*;

const MONTH_US: i64 = 31 * 86_400 * 1_000_000;
/// Seven levels: three teams of two departments, and the holding with its plan.
const LEVELS: [(&str, Option<usize>); 6] = [
    ("holding", None),
    ("dept-a", Some(0)),
    ("dept-b", Some(0)),
    ("team-a", Some(1)),
    ("team-b", Some(1)),
    ("team-c", Some(2)),
];
const TEAMS: std::ops::Range<usize> = 3..6;

fn settings() -> PolicySettings {
    let memory = std::sync::Arc::new(orbit_policy::quota::InMemory::default());
    PolicySettings { max_dynamic_keys: 100, hash_key: [3; 16], memory }
}

/// `caps` of the plan and of each level; `limit` is one more limit, at the holding.
fn policy(caps: &[Option<u64>; 7], limit: &str) -> (Policy, Vec<ApiKey>) {
    let quota = |cap: Option<u64>| {
        let users = |cap| {
            format!(
                "quotas = [{{ name = \"users\", meter = \"active_users\", limit = {cap}, per = \"month\" }}]"
            )
        };
        cap.map(users).unwrap_or_default()
    };
    let mut text = format!(
        "[[plan]]\nid = \"p\"\napps = [\"crm\"]\n{}\n\
         [[app]]\nid = \"crm\"\nend_user_header = \"x-user\"\n\
         [[upstream]]\nid = \"u\"\npeers = [{{ address = \"127.0.0.1:1\" }}]\n\
         [[route]]\nid = \"r\"\napp = \"crm\"\nupstream = \"u\"\n",
        quota(caps[6])
    );
    let mut keys = Vec::new();
    for (index, (id, parent)) in LEVELS.iter().enumerate() {
        let above = match parent {
            None => format!("plan = \"p\"\nlimits = [{limit}]"),
            Some(parent) => format!("parent = \"{}\"", LEVELS[*parent].0),
        };
        text.push_str(&format!("[[tenant]]\nid = \"{id}\"\n{above}\n{}\n", quota(caps[index])));
        if TEAMS.contains(&index) {
            let key = ApiKey::generate("test").expect("a key");
            text.push_str(&format!(
                "[[key]]\nid = \"{}\"\ntenant = \"{id}\"\nhash = \"{}\"\n",
                key.id, key.hash
            ));
            keys.push(key);
        }
    }
    let sources = [Source { file: "t.toml".into(), text }];
    let policy = Policy::new(&sources, &settings(), 0).unwrap_or_else(|error| panic!("{error}"));
    (policy, keys)
}

fn decide(policy: &Policy, key: &ApiKey, user: &str, now_us: i64) -> Decision {
    policy.decide(&Call {
        key: Some(key.reveal().as_bytes()),
        host: "x",
        path: "/",
        method: "GET",
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        body: Body::None,
        header: &|name| (name == "x-user" && !user.is_empty()).then_some(user.as_bytes()),
        now: Nanos(now_us.cast_unsigned() * 1_000),
        unix_us: now_us,
    })
}

/// What every quota says it has, by tenant and level.
fn used(policy: &Policy, now_us: i64) -> BTreeMap<(String, bool), u64> {
    let mut used = BTreeMap::new();
    policy.each_quota(now_us, &mut |view| {
        assert!(!view.estimated);
        let of_plan = view.level == orbit_policy::snapshot::Level::Plan;
        used.insert((view.tenant.to_owned(), of_plan), view.used);
    });
    used
}

/// The levels of a team, itself first, the plan (6) last.
fn chain(team: usize) -> Vec<usize> {
    let mut chain = vec![team];
    while let Some(above) = LEVELS[chain[chain.len() - 1]].1 {
        chain.push(above);
    }
    chain.push(6);
    chain
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn p1_p2_quotas_of_users_answer_as_hash_sets_do(
        caps in prop::array::uniform7(prop::option::of(0_u64..12)),
        steps in prop::collection::vec((0_usize..3, 0_u32..20, 0_u8..100), 1..300),
    ) {
        // A limit that refuses now and then, whatever the quotas say.
        let limit = "{ name = \"requests\", rate = 1, per = \"second\", burst = 3 }";
        let (policy, keys) = policy(&caps, limit);
        let mut model: Vec<HashSet<u32>> = vec![HashSet::new(); 7];
        let mut now_us = 5 * MONTH_US;
        for (team, user, pass) in steps {
            now_us += i64::from(pass) * 10_000;
            if pass == 99 {
                now_us += MONTH_US;
                model.iter_mut().for_each(HashSet::clear);
            }
            let levels = chain(TEAMS.start + team);
            let fits = levels.iter().all(|level| {
                let known = model[*level].contains(&user);
                known || caps[*level].is_none_or(|cap| (model[*level].len() as u64) < cap)
            });
            // User 0 does not say who it is, and is one user like any other.
            let name = if user == 0 { String::new() } else { format!("user-{user}") };
            match decide(&policy, &keys[team], &name, now_us) {
                Decision::Admit(admission) => {
                    prop_assert!(fits);
                    let members: Vec<_> = admission.permit.members().collect();
                    prop_assert_eq!(members.len(), 1);
                    for member in members {
                        let is_new = levels.iter().any(|level| {
                            caps[*level].is_some() && !model[*level].contains(&user)
                        });
                        prop_assert_eq!(member.is_new, is_new, "a row for every new member");
                        let id = member_id("active_users", "holding", name.as_bytes());
                        prop_assert_eq!(member.id, id);
                        for level in &levels {
                            model[*level].insert(user);
                        }
                    }
                }
                Decision::Deny(denial) => match denial.reason {
                    Reason::QuotaExhausted(exhausted) => {
                        prop_assert!(!fits);
                        prop_assert!(exhausted.resets_us.is_some_and(|end_us| end_us > now_us));
                        prop_assert_eq!(exhausted.used, exhausted.limit, "full to the unit");
                    }
                    Reason::Limited(_) => {}
                    reason => prop_assert!(false, "{:?}", reason),
                },
            }
            let used = used(&policy, now_us);
            for (level, cap) in caps.iter().enumerate().filter(|(_, cap)| cap.is_some()) {
                let at = LEVELS.get(level).map_or(("holding", true), |(id, _)| (*id, false));
                let seen = used[&(at.0.to_owned(), at.1)];
                prop_assert_eq!(seen, model[level].len() as u64, "{:?} {:?}", at, cap);
            }
        }
    }
}

#[test]
fn p1_sixteen_threads_meet_the_plans_figure_to_the_unit_and_nobody_known_is_refused() {
    let caps = [None, Some(80), Some(80), None, None, None, Some(100)];
    let (policy, keys) = policy(&caps, "");
    let (admitted, refused) = (Mutex::new(HashSet::new()), Mutex::new(HashSet::new()));
    std::thread::scope(|scope| {
        for thread in 0..16_usize {
            let (policy, keys) = (&policy, &keys);
            let (admitted, refused) = (&admitted, &refused);
            scope.spawn(move || {
                for turn in 0..3_000_usize {
                    // A user is always of the same department, by one of its teams.
                    let user = (turn * 11 + thread * 37) % 300;
                    let team = if user % 2 == 0 { turn % 2 } else { 2 };
                    let name = format!("user-{user}");
                    let list = match decide(policy, &keys[team], &name, 5 * MONTH_US) {
                        Decision::Admit(_) => admitted,
                        Decision::Deny(_) => refused,
                    };
                    list.lock().expect("no panic").insert(user);
                }
            });
        }
    });
    let (admitted, refused) =
        (admitted.into_inner().expect("no panic"), refused.into_inner().expect("no panic"));
    assert_eq!(admitted.len(), 100, "P1: exactly the plan's users");
    assert!(admitted.is_disjoint(&refused), "nobody who has a place was ever refused");
    assert_eq!(admitted.len() + refused.len(), 300);
    let used = used(&policy, 5 * MONTH_US);
    let of_a = admitted.iter().filter(|user| *user % 2 == 0).count() as u64;
    assert_eq!(used[&("dept-a".to_owned(), false)], of_a, "P2: refused ones are counted nowhere");
    assert_eq!(used[&("dept-b".to_owned(), false)], 100 - of_a);
}

#[test]
fn p1_the_users_of_a_plan_are_a_quota_unless_one_of_that_name_is_written() {
    let text = |key: &ApiKey, written: &str| {
        format!(
            "[[plan]]\nid = \"p\"\nusers = 2\napps = [\"crm\"]\n{written}\n\
             [[app]]\nid = \"crm\"\nend_user_header = \"x-user\"\n\
             [[upstream]]\nid = \"u\"\npeers = [{{ address = \"127.0.0.1:1\" }}]\n\
             [[route]]\nid = \"r\"\napp = \"crm\"\nupstream = \"u\"\n\
             [[tenant]]\nid = \"t\"\nplan = \"p\"\n\
             [[tenant]]\nid = \"below\"\nparent = \"t\"\n\
             [[key]]\nid = \"{}\"\ntenant = \"below\"\nhash = \"{}\"\n",
            key.id, key.hash
        )
    };
    let key = ApiKey::generate("test").expect("a key");
    let sources = |written: &str| [Source { file: "t.toml".into(), text: text(&key, written) }];
    let policy = Policy::new(&sources(""), &settings(), 0).expect("valid");
    let admitted = |policy: &Policy, user: &str| {
        matches!(decide(policy, &key, user, 5 * MONTH_US), Decision::Admit(_))
    };
    let answers = ["a", "b", "c", "a", ""].map(|user| admitted(&policy, user));
    assert_eq!(answers, [true, true, false, true, false], "who does not say is a user, too");
    let billed = "quotas = [{ name = \"users\", meter = \"active_users\", limit = 2, \
                  per = \"month\", at_limit = \"allow_and_bill\" }]";
    policy.apply(&sources(billed), || Reading { mono: Nanos(0), unix_us: 0 }).expect("valid");
    assert!(admitted(&policy, "c"), "what is beyond is billed");
    let mut seen = Vec::new();
    policy.each_quota(5 * MONTH_US, &mut |view| {
        seen.push((view.full_name.to_owned(), view.limit, view.used, view.overage()));
    });
    assert_eq!(seen, [("plan/users".to_owned(), 2, 3, 1)], "P3: a reload forgave nobody");
    // Another period, another count: who was there this month is counted in this year.
    let by_year =
        "quotas = [{ name = \"users\", meter = \"active_users\", limit = 3, per = \"year\" }]";
    policy.apply(&sources(by_year), || Reading { mono: Nanos(0), unix_us: 0 }).expect("valid");
    let answers = ["d", "a", "b", "c"].map(|user| admitted(&policy, user));
    assert_eq!(answers, [false, true, true, true], "P3");
    let event = Reported { path: "t/below", plan: "p", meter: "active_users", at_us: 5 * MONTH_US };
    policy.charge_member(&event, &member_id("active_users", "t", b"e"), 5 * MONTH_US);
    let mut used = 0;
    policy.each_quota(5 * MONTH_US, &mut |view| used = view.used);
    assert_eq!(used, 4, "an event is counted whatever the limit");
    assert!(admitted(&policy, "e"), "and who it names is known");
}

#[test]
fn a_member_has_a_row_in_every_day_of_every_tenant_above() {
    let key = ApiKey::generate("test").expect("a key");
    let text = format!(
        "[[plan]]\nid = \"p\"\napps = [\"crm\"]\n\
         [[app]]\nid = \"crm\"\nend_user_header = \"x-user\"\n\
         [[upstream]]\nid = \"u\"\npeers = [{{ address = \"127.0.0.1:1\" }}]\n\
         [[route]]\nid = \"r\"\napp = \"crm\"\nupstream = \"u\"\n\
         [[tenant]]\nid = \"holding\"\nplan = \"p\"\nzone = \"America/Sao_Paulo\"\n\
         [[tenant]]\nid = \"unit\"\nparent = \"holding\"\n\
         [[tenant]]\nid = \"team\"\nparent = \"unit\"\nzone = \"Asia/Tokyo\"\n\
         [[key]]\nid = \"{}\"\ntenant = \"team\"\nhash = \"{}\"\n",
        key.id, key.hash
    );
    let sources = [Source { file: "t.toml".into(), text }];
    let policy = Policy::new(&sources, &settings(), 0).expect("valid");
    let row = |unix_us| match decide(&policy, &key, "ana", unix_us) {
        Decision::Admit(admission) => {
            let rows: Vec<_> = admission.permit.members().map(|member| member.row).collect();
            rows[0]
        }
        Decision::Deny(denial) => panic!("{:?}", denial.reason),
    };
    let hour_us = 3_600_000_000;
    // 2026-11-10T00:00:00Z; midnight is at 15:00 in Tokyo and at 03:00 in Sao Paulo.
    let day_us = 1_794_268_800_000_000;
    let rows = [0, 2, 3, 14, 15, 26, 27].map(|hour| row(day_us + hour * hour_us));
    let changes: Vec<bool> = rows.windows(2).map(|pair| pair[0] != pair[1]).collect();
    assert_eq!(changes, [false, true, false, true, false, true]);
}
