//! The decision: who, where, which level refuses, and all or nothing (P1, P2).

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::{Body, Call, Decision, Denial, Reason};
use crate::keys::ApiKey;
use crate::quota::InMemory;
use crate::snapshot::GrantedBy;
use crate::{Nanos, Policy, PolicySettings, Source};

const SECRET: &str = "00000000000000000000000000000000";

/// The stored hash of the test key with this id.
pub(crate) fn hash_of(_id: &str) -> String {
    let hash: [u8; 32] = Sha256::digest(SECRET).into();
    crate::keys::SecretHash(hash).to_string()
}

/// A request of the test key with this id.
pub(crate) struct Ask {
    key: String,
    path: String,
    now: u64,
    client: IpAddr,
    user: Option<String>,
}

pub(crate) fn ask(id: &str, path: &str, now: u64) -> Ask {
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Ask {
        key: crate::keys::tests::key_text(id, SECRET),
        path: path.into(),
        now,
        client,
        user: None,
    }
}

impl Ask {
    pub(crate) fn call(&self) -> Call<'_> {
        Call {
            key: Some(self.key.as_bytes()),
            host: "api.example.com",
            path: &self.path,
            method: "GET",
            client: self.client,
            body: Body::None,
            header: if self.user.is_some() { &|_| Some(b"someone") } else { &|_| None },
            now: Nanos(self.now),
            unix_us: self.now.cast_signed() / 1_000,
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a request is asked once")]
pub(crate) fn granted(policy: &Policy, ask: Ask) -> bool {
    matches!(policy.decide(&ask.call()), Decision::Admit(_))
}

fn denied(policy: &Policy, ask: &Ask) -> Denial {
    match policy.decide(&ask.call()) {
        Decision::Deny(denial) => denial,
        Decision::Admit(_) => panic!("admitted"),
    }
}

const LEVELS: [&str; 7] =
    ["key", "team", "department", "business_unit", "subsidiary", "holding", "plan"];

/// Five levels, a key and a plan, each with a limit `requests` of the given (interval s, burst).
fn full_tree(limits: [(u64, u64); 7], cost: u32) -> Policy {
    let limit = |index: usize| {
        let (seconds, burst) = limits[index];
        // A rate of 86400/s per day is an interval of s seconds.
        let rate = 86_400 / seconds;
        format!(
            r#"limits = [{{ name = "requests", rate = {rate}, per = "day", burst = {burst} }}]"#
        )
    };
    let mut text = format!(
        "[[plan]]\nid = \"p\"\n{}\n[[app]]\nid = \"crm\"\n[[app]]\nid = \"extra\"\n\
         [[upstream]]\nid = \"u\"\npeers = [{{ address = \"127.0.0.1:1\" }}]\n\
         [[route]]\nid = \"r\"\napp = \"crm\"\nupstream = \"u\"\ncost = {cost}\n\
         [[route]]\nid = \"x\"\npath = \"/extra\"\napp = \"extra\"\nupstream = \"u\"\n",
        limit(6)
    );
    text = text.replace("id = \"p\"\n", "id = \"p\"\napps = [\"crm\"]\n");
    for (depth, level) in (1..=5).rev().enumerate() {
        let parent = if depth == 0 {
            "plan = \"p\"".to_owned()
        } else {
            format!("parent = \"{}\"", LEVELS[level + 1])
        };
        text.push_str(&format!(
            "[[tenant]]\nid = \"{}\"\n{parent}\n{}\n",
            LEVELS[level],
            limit(level)
        ));
    }
    text.push_str(&format!(
        "[[key]]\nid = \"abcdefghi1\"\ntenant = \"team\"\nhash = \"{}\"\n{}\n",
        hash_of(""),
        limit(0)
    ));
    let sources = [Source { file: "t.toml".into(), text }];
    let settings =
        PolicySettings { max_dynamic_keys: 10, hash_key: [0; 16], memory: InMemory::shared() };
    Policy::new(&sources, &settings, 0).unwrap_or_else(|d| panic!("{d}"))
}

fn remaining(policy: &Policy, now: u64) -> Vec<(String, u64)> {
    let usage = policy.load().usage("team", Nanos(now)).expect("the tenant is there");
    usage
        .into_iter()
        .map(|limit| match limit.state {
            crate::snapshot::LimitState::Rate { remaining, .. } => {
                (limit.level.as_str().to_owned(), remaining)
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn each_level_refuses_when_it_is_the_tightest_and_is_named() {
    for tight in 0..7 {
        let mut limits = [(1, 100); 7];
        limits[tight] = (86_400, 3);
        let policy = full_tree(limits, 1);
        for _ in 0..3 {
            assert!(granted(&policy, ask("abcdefghi1", "/", 0)));
        }
        let denial = denied(&policy, &ask("abcdefghi1", "/", 0));
        let limit = denial.limit().expect("a limit refused");
        assert_eq!(limit.level.as_str(), LEVELS[tight]);
        assert_eq!(limit.name, format!("{}/requests", LEVELS[tight]));
        assert_eq!(denial.violated().count(), 1);
        let Reason::Limited(limited) = denial.reason else { panic!("{:?}", denial.reason) };
        assert_eq!(limited.ready_at, Some(Nanos(86_400_000_000_000)));
        assert_eq!(denial.limits().count(), 7);
    }
}

#[test]
fn p2_a_refused_request_changes_no_level() {
    let mut limits = [(1, 100); 7];
    limits[5] = (86_400, 2);
    let policy = full_tree(limits, 1);
    while granted(&policy, ask("abcdefghi1", "/", 0)) {}
    let before = remaining(&policy, 0);
    for _ in 0..1_000 {
        assert!(!granted(&policy, ask("abcdefghi1", "/", 0)));
    }
    assert_eq!(remaining(&policy, 0), before);
}

#[test]
fn the_wait_is_that_of_the_slowest_level_and_every_violated_one_is_listed() {
    let mut limits = [(1, 100); 7];
    limits[1] = (10, 1);
    limits[4] = (60, 1);
    let policy = full_tree(limits, 1);
    assert!(granted(&policy, ask("abcdefghi1", "/", 0)));
    let denial = denied(&policy, &ask("abcdefghi1", "/", 0));
    let Reason::Limited(limited) = denial.reason else { panic!("{:?}", denial.reason) };
    assert_eq!(limited.ready_at, Some(Nanos(60_000_000_000)));
    assert_eq!(denial.limit().expect("a limit").level.as_str(), "subsidiary");
    let violated: Vec<_> = denial.violated().map(|limit| limit.level.as_str()).collect();
    assert_eq!(violated, ["team", "subsidiary"]);
    assert!(!granted(&policy, ask("abcdefghi1", "/", 59_999_999_999)));
    assert!(granted(&policy, ask("abcdefghi1", "/", 60_000_000_000)));
}

#[test]
fn the_nearest_limit_is_reported_with_what_is_left() {
    let mut limits = [(1, 100); 7];
    limits[2] = (60, 5);
    let policy = full_tree(limits, 2);
    let ask = ask("abcdefghi1", "/", 0);
    let Decision::Admit(admission) = policy.decide(&ask.call()) else { panic!("refused") };
    let (limit, left, seconds) = admission.nearest().expect("there are limits");
    assert_eq!((limit.name, limit.quota, limit.window_s), ("department/requests", 5, 300));
    assert_eq!((left, seconds), (3, 60));
    assert_eq!(admission.limits().count(), 7);
}

#[test]
fn strangers_the_unentitled_and_the_unserved_are_told_apart() {
    let policy = full_tree([(1, 100); 7], 1);
    let mut stranger = ask("abcdefghi1", "/", 0);
    stranger.key = ApiKey::generate("test").expect("a key").reveal().to_owned();
    let reason = |ask: &Ask| format!("{:?}", denied(&policy, ask).reason);
    assert_eq!(reason(&stranger), "NotIdentified(Unknown)");
    stranger.key = "orb_".into();
    assert_eq!(reason(&stranger), "NotIdentified(Malformed)");
    assert_eq!(reason(&ask("abcdefghi1", "/extra", 0)), "NotEntitled");
    assert_eq!(denied(&policy, &ask("abcdefghi1", "/extra", 0)).granted_by(), GrantedBy::default());
    let ask = ask("abcdefghi1", "/", 0);
    let nobody = Call { key: None, ..ask.call() };
    let Decision::Deny(denial) = policy.decide(&nobody) else { panic!("admitted") };
    assert_eq!(format!("{:?}", denial.reason), "NotIdentified(NoKey)");
}

/// A chain by the book: check all, then take all.
struct Model([(u64, u64, u64); 7]);

impl Model {
    fn take(&mut self, cost: u64, now: u64) -> bool {
        let fits = |(tat, interval, burst): &(u64, u64, u64)| {
            (*tat).max(now) + cost * interval <= now + interval * burst
        };
        let all = self.0.iter().all(fits);
        if all {
            for (tat, interval, _) in &mut self.0 {
                *tat = (*tat).max(now) + cost * *interval;
            }
        }
        all
    }

    /// The level with the least left, the narrowest of several, and how much that is.
    fn nearest(&self, now: u64) -> (&'static str, u64) {
        let left = |(tat, interval, burst): &(u64, u64, u64)| {
            (now + interval * burst - (*tat).max(now)) / interval
        };
        let all = LEVELS.into_iter().zip(self.0.iter().map(left));
        all.min_by_key(|(_, left)| *left).expect("seven levels")
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn p1_p2_the_tree_admits_exactly_what_the_model_admits(
        limits in prop::array::uniform7((1_u64..20, 1_u64..30)),
        cost in 1_u32..4,
        steps in prop::collection::vec(0_u64..5_000_000_000, 1..300),
    ) {
        let policy = full_tree(limits, cost);
        let mut model = Model(limits.map(|(seconds, burst)| {
            let rate = 86_400 / seconds;
            (0, 86_400_000_000_000_u64.div_ceil(rate), burst)
        }));
        let mut now = 0;
        for step in steps {
            now += step;
            let decision = policy.decide(&ask("abcdefghi1", "/", now).call());
            let granted = matches!(decision, Decision::Admit(_));
            prop_assert_eq!(granted, model.take(cost.into(), now));
            if let Decision::Admit(admission) = decision {
                let (limit, left, _) = admission.nearest().expect("there are limits");
                prop_assert_eq!((limit.level.as_str(), left), model.nearest(now));
            }
        }
    }
}

/// A tenant with three of four apps and an add-on, and a route for each way to be refused.
fn entitled() -> Policy {
    let mut text = format!(
        "[[plan]]\nid = \"p\"\napp_count = 2\napps = [\"a\", \"b\", \"c\", \"d\"]\n\
         [[plan]]\nid = \"q\"\napi_tier = \"premium\"\napp_count = 3\napps = [\"a\", \"c\"]\n\
         features = [\"f\"]\n[[plan]]\nid = \"q\"\nversion = 2\nfrom = \"1970-02-01\"\n\
         apps = [\"c\", \"z\"]\n[[addon]]\nid = \"e\"\napps = [\"e\"]\n\
         features = [\"g\"]\n[[upstream]]\nid = \"u\"\npeers = [{{ address = \"127.0.0.1:1\" }}]\n\
         [[tenant]]\nid = \"t\"\nplan = \"p\"\napps = [\"a\", \"b\", \"e\", \"c\"]\naddons = [\"e\"]\n\
         [[key]]\nid = \"abcdefghi1\"\ntenant = \"t\"\nhash = \"{}\"\n",
        hash_of("")
    );
    for app in ["a", "b", "c", "d", "e", "z"] {
        text.push_str(&format!(
            "[[app]]\nid = \"{app}\"\n[[route]]\nid = \"{app}\"\npath = \"/{app}\"\n\
             app = \"{app}\"\nupstream = \"u\"\n"
        ));
    }
    for (id, app, keys) in [
        ("tier", "a", "tier = \"complete\""),
        ("f", "a", "feature = \"f\""),
        ("g", "a", "feature = \"g\""),
        ("both", "c", "feature = \"f\"\ntier = \"premium\""),
    ] {
        text.push_str(&format!(
            "[[route]]\nid = \"{id}\"\npath = \"/{app}/{id}\"\napp = \"{app}\"\nupstream = \"u\"\n\
             {keys}\n"
        ));
    }
    let sources = [Source { file: "t.toml".into(), text }];
    let settings =
        PolicySettings { max_dynamic_keys: 10, hash_key: [0; 16], memory: InMemory::shared() };
    Policy::new(&sources, &settings, 0).unwrap_or_else(|d| panic!("{d}"))
}

#[test]
fn what_is_missing_is_named_with_what_would_grant_it() {
    let policy = entitled();
    let ask = |path| ask("abcdefghi1", path, 0);
    for path in ["/a", "/a/x", "/b", "/e", "/a/g"] {
        assert!(granted(&policy, ask(path)), "{path}");
    }
    let by = |plans: &[&'static str], addons: &[&'static str]| GrantedBy {
        plans: plans.iter().map(|id| (*id).into()).collect(),
        addons: addons.to_vec(),
    };
    for (path, reason, granted_by) in [
        // Activated third, after two that count and one that does not.
        ("/c", "AppLimitExceeded", by(&["q"], &[])),
        ("/d", "AppNotActivated", by(&[], &[])),
        // Version 2 of `q` would, and nobody can have it yet.
        ("/z", "NotEntitled", by(&[], &[])),
        ("/a/tier", "ApiTierTooLow", by(&["q"], &[])),
        ("/a/f", "FeatureNotIncluded", by(&["q"], &[])),
        // What comes first is named first.
        ("/c/both", "AppLimitExceeded", by(&["q"], &[])),
    ] {
        let ask = ask(path);
        let denial = denied(&policy, &ask);
        assert_eq!(format!("{:?}", denial.reason), reason, "{path}");
        assert_eq!(denial.granted_by(), granted_by, "{path}");
    }
}

#[test]
fn what_would_grant_a_route_is_what_is_offered_to_the_tenant_where_it_is() {
    let text = format!(
        "[[app]]\nid = \"a\"\n[[app]]\nid = \"b\"\n[[upstream]]\nid = \"u\"\n\
         peers = [{{ address = \"127.0.0.1:1\" }}]\n\
         [[route]]\nid = \"b\"\napp = \"b\"\nupstream = \"u\"\n\
         [[plan]]\nid = \"p\"\napps = [\"a\"]\n\
         [[plan]]\nid = \"p\"\nversion = 2\nfrom = \"2030-01-01\"\napps = [\"a\", \"b\"]\n\
         [[plan]]\nid = \"new\"\nfrom = \"2030-01-01\"\napps = [\"b\"]\n\
         [[plan]]\nid = \"secret\"\npublic = false\napps = [\"b\"]\n\
         [[tenant]]\nid = \"t\"\nplan = \"p@1\"\nzone = \"Asia/Tokyo\"\n\
         [[key]]\nid = \"abcdefghi1\"\ntenant = \"t\"\nhash = \"{}\"\n",
        hash_of("")
    );
    let sources = [Source { file: "t.toml".into(), text }];
    let settings =
        PolicySettings { max_dynamic_keys: 10, hash_key: [0; 16], memory: InMemory::shared() };
    // Midnight in Tokyo is three in the afternoon of the day before. One snapshot serves both sides.
    let midnight_us = 1_893_456_000_000_000 - 9 * 3_600_000_000;
    let policy = Policy::new(&sources, &settings, midnight_us - 60_000_000).expect("valid");
    let ask = ask("abcdefghi1", "/", 0);
    for (unix_us, plans) in [(midnight_us - 1, &[][..]), (midnight_us, &["p@2", "new"])] {
        let call = Call { unix_us, ..ask.call() };
        let Decision::Deny(denial) = policy.decide(&call) else { panic!("admitted") };
        assert_eq!(denial.granted_by().plans, plans);
        assert_eq!(denial.missing(), [crate::snapshot::Missing::Grant]);
    }
}
