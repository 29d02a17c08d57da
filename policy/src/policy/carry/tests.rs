//! A restart against a process that never stopped: P1 and P3 hold across it, to the nanosecond.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::{Debt, Held, Owner, Record, Restored, Spent};
use crate::bucket::Terms;
use crate::decide::tests::hash_of;
use crate::keys::tests::key_text;
use crate::quota::InMemory;
use crate::{Body, Call, Decision, Nanos, Policy, PolicySettings, Reading, Source};

const KEY: &str = "abcdefghi1";
const SECRET: &str = "00000000000000000000000000000000";
const SECOND: u64 = Nanos::SECOND.0;

/// A limit of a document: which name, tokens per minute, burst.
type Limit = (u8, u32, u32);

/// Limits of the key, its tenant, the tenant above, the plan, and the plan's for each client.
#[derive(Clone, Debug)]
struct Shape([Vec<Limit>; 5]);

fn limit() -> impl Strategy<Value = Limit> {
    (0_u8..3, 1_u32..600, 1_u32..12)
}

fn shape() -> impl Strategy<Value = Shape> {
    let some = || {
        prop::collection::vec(limit(), 0..3).prop_map(|mut limits: Vec<Limit>| {
            limits.sort_unstable();
            limits.dedup_by_key(|limit| limit.0);
            // Documents keep the order they are written in, not that of their names.
            limits.reverse();
            limits
        })
    };
    (some(), some(), some(), some(), some()).prop_map(|(a, b, c, d, e)| Shape([a, b, c, d, e]))
}

impl Shape {
    fn sources(&self) -> Vec<Source> {
        let text = |limits: &[Limit], prefix: &str, each: &str| -> String {
            let one = |(name, rate, burst): &Limit| {
                format!(
                    "{{ name = \"{prefix}{name}\", rate = {rate}, per = \"minute\", \
                     burst = {burst}{each} }}, "
                )
            };
            limits.iter().map(one).collect()
        };
        let Shape([key, team, holding, plan, each]) = self;
        let plan = text(plan, "n", "") + &text(each, "c", ", each = \"client_ip\"");
        let (key, team, holding) =
            (text(key, "n", ""), text(team, "n", ""), text(holding, "n", ""));
        let hash = hash_of(KEY);
        let text = format!(
            "[[plan]]\nid = \"p\"\napps = [\"crm\"]\nlimits = [{plan}]\n[[app]]\nid = \"crm\"\n\
             [[upstream]]\nid = \"u\"\npeers = [{{ address = \"127.0.0.1:1\" }}]\n\
             [[route]]\nid = \"r\"\napp = \"crm\"\nupstream = \"u\"\n\
             [[route]]\nid = \"dear\"\napp = \"crm\"\nupstream = \"u\"\npath = \"/dear\"\ncost = 3\n\
             [[tenant]]\nid = \"holding\"\nplan = \"p\"\nlimits = [{holding}]\n\
             [[tenant]]\nid = \"team\"\nparent = \"holding\"\nlimits = [{team}]\n\
             [[key]]\nid = \"{KEY}\"\ntenant = \"team\"\nhash = \"{hash}\"\nlimits = [{key}]\n"
        );
        vec![Source { file: "test.toml".into(), text }]
    }

    fn policy(&self) -> Policy {
        let settings =
            PolicySettings { max_dynamic_keys: 100, hash_key: [7; 16], memory: InMemory::shared() };
        Policy::new(&self.sources(), &settings, 0).expect("valid")
    }
}

fn granted(policy: &Policy, now: u64, client: u8, dear: bool) -> bool {
    let key = key_text(KEY, SECRET);
    let decision = policy.decide(&Call {
        key: Some(key.as_bytes()),
        host: "api.example.com",
        path: if dear { "/dear" } else { "/" },
        method: "GET",
        client: IpAddr::V4(Ipv4Addr::new(10, 0, 0, client)),
        body: Body::None,
        header: &|_| None,
        now: Nanos(now),
        unix_us: now.cast_signed() / 1_000,
    });
    matches!(decision, Decision::Admit(_))
}

/// What a file would hold: records with everything they borrow.
#[derive(Default)]
struct Kept(Vec<KeptRecord>);

enum KeptRecord {
    Limits { kind: u8, id: String, plan: String, limits: Vec<(String, Spent)> },
    Other(Record<'static>),
}

impl Kept {
    fn of(policy: &Policy, now: u64) -> Kept {
        let mut kept = Kept::default();
        policy.export(Nanos(now), &mut |record| {
            kept.0.push(match *record {
                Record::Limits { owner, limits } => {
                    let (kind, id, plan) = match owner {
                        Owner::Tenant(id) => (0, id, ""),
                        Owner::Plan { tenant, plan } => (1, tenant, plan),
                        Owner::Key(id) => (2, id, ""),
                    };
                    let limits = limits.iter().map(|held| (held.name.to_owned(), held.spent));
                    let (id, plan, limits) = (id.to_owned(), plan.to_owned(), limits.collect());
                    KeptRecord::Limits { kind, id, plan, limits }
                }
                Record::Dynamic { subject, debt } => {
                    KeptRecord::Other(Record::Dynamic { subject, debt })
                }
                Record::Emptied { ago_ns } => KeptRecord::Other(Record::Emptied { ago_ns }),
            });
        });
        kept
    }

    fn restore<'s>(&'s self, policy: &Policy, elapsed_ns: u64, now: u64) -> Restored {
        let mut sum = Restored::default();
        for kept in &self.0 {
            let limits: Vec<Held<'s>>;
            let record = match kept {
                KeptRecord::Other(record) => *record,
                KeptRecord::Limits { kind, id, plan, limits: owned } => {
                    let held = |(name, spent): &'s (String, Spent)| Held { name, spent: *spent };
                    limits = owned.iter().map(held).collect();
                    let of_plan = Owner::Plan { tenant: id, plan };
                    let owners = [Owner::Tenant(id), of_plan, Owner::Key(id)];
                    let owner = owners[usize::from(*kind)];
                    Record::Limits { owner, limits: &limits }
                }
            };
            let Restored { found, unknown } = policy.restore(&record, elapsed_ns, Nanos(now));
            sum = Restored { found: sum.found + found, unknown: sum.unknown + unknown };
        }
        sum
    }
}

/// Asks, and a restart (with the time it takes and perhaps other documents) after some of them.
type Step = (u64, u8, bool, Option<(u64, Option<Shape>)>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let restart = (0_u64..30 * SECOND, prop::option::of(shape()));
    let restart = prop::option::weighted(0.1, restart);
    prop::collection::vec((0_u64..2 * SECOND, 0_u8..3, prop::bool::weighted(0.2), restart), 1..120)
}

proptest! {
    #[test]
    fn p1_p3_a_restart_is_a_pause_and_a_reload(first in shape(), steps in steps()) {
        let steady = first.policy();
        let mut restarted = first.policy();
        let mut in_force = first;
        // Each process counts its own time: real time less its base.
        let (mut now, mut base) = (0, 0);
        for (pause, client, dear, restart) in steps {
            now += pause;
            prop_assert_eq!(
                granted(&steady, now, client, dear),
                granted(&restarted, now - base, client, dear)
            );
            let Some((down, documents)) = restart else { continue };
            let kept = Kept::of(&restarted, now - base);
            now += down;
            base = now - now % 1_000;
            if let Some(documents) = documents {
                steady.apply(&documents.sources(), || Reading { mono: Nanos(now), unix_us: 0 }).expect("valid");
                in_force = documents;
            }
            restarted = in_force.policy();
            kept.restore(&restarted, down, now - base);
        }
    }

    #[test]
    fn p1_empty_admits_no_more_than_rate_times_time_plus_burst_over_a_crash(
        (_, rate, burst) in limit(),
        per_client in any::<bool>(),
        steps in prop::collection::vec(
            (0_u64..2 * SECOND, prop::option::weighted(0.1, (0_u64..20 * SECOND, any::<bool>()))),
            1..120,
        ),
    ) {
        let mut shape = Shape(Default::default());
        shape.0[if per_client { 4 } else { 1 }] = vec![(0, rate, burst)];
        let interval_ns = (60 * SECOND).div_ceil(u64::from(rate));
        let mut policy = shape.policy();
        let (mut now, mut base) = (0, 0);
        let mut grants = Vec::new();
        for (pause, restart) in steps {
            now += pause;
            if granted(&policy, now - base, 1, false) {
                grants.push(now);
            }
            let Some((down, crashed)) = restart else { continue };
            // A crash takes everything that was not saved: here, all of it.
            let kept = if crashed { Kept::default() } else { Kept::of(&policy, now - base) };
            now += down;
            base = now - now % 1_000;
            policy = shape.policy();
            kept.restore(&policy, down, now - base);
            if crashed {
                policy.start_empty(Nanos(now - base));
            }
        }
        for (first, from) in grants.iter().enumerate() {
            for (count, at) in (1..).zip(&grants[first..]) {
                prop_assert!(count <= u64::from(burst) + (at - from) / interval_ns);
            }
        }
    }
}

fn debt(interval_ns: u64, ahead_ns: u64) -> Debt {
    Debt { terms: Terms { interval_ns, burst: u64::MAX }, ahead_ns, arrears_ns: 0 }
}

#[test]
fn p3_what_was_spent_after_the_last_export_is_all_that_is_forgiven() {
    let shape = Shape([vec![], vec![(0, 1, 9)], vec![], vec![], vec![(0, 1, 9)]]);
    let policy = shape.policy();
    let spend =
        |policy: &Policy, count| (0..count).filter(|_| granted(policy, 0, 1, false)).count();
    assert_eq!(spend(&policy, 4), 4);
    let kept = Kept::of(&policy, 0);
    assert_eq!(spend(&policy, 3), 3);
    let restarted = shape.policy();
    kept.restore(&restarted, 0, 0);
    assert_eq!(spend(&restarted, 100), 5);
}

#[test]
fn start_empty_refuses_at_first_and_refills_at_the_rate() {
    for limits in [1, 4] {
        let mut shape = Shape(Default::default());
        shape.0[limits] = vec![(0, 60, 5)];
        let policy = shape.policy();
        let start = 500;
        policy.start_empty(Nanos(start));
        assert!(!granted(&policy, start + SECOND - 1, 1, false));
        assert!(granted(&policy, start + SECOND, 1, false));
        assert!(!granted(&policy, start + SECOND, 1, false));
        // A client that is seen for the first time has what came back, and no more.
        assert!(granted(&policy, start + 4 * SECOND, 2, true));
        assert_eq!(granted(&policy, start + 4 * SECOND, 2, false), limits == 4);
    }
}

#[test]
fn restoring_only_takes_away_and_says_what_nobody_holds_any_more() {
    let shape = Shape([vec![(0, 1, 5)], vec![(0, 1, 5)], vec![], vec![(0, 1, 5)], vec![(0, 1, 5)]]);
    let policy = shape.policy();
    assert!(Kept::of(&policy, 0).0.is_empty(), "nothing is spent");
    assert!(granted(&policy, 0, 1, false));
    let kept = Kept::of(&policy, 0);
    assert_eq!(kept.0.len(), 4, "key, team, the holding's plan and the client");
    assert!(granted(&policy, 0, 1, false));
    for _ in 0..3 {
        assert_eq!(kept.restore(&policy, 0, 0), Restored { found: 4, unknown: 0 });
    }
    assert!((0..3).all(|_| granted(&policy, 0, 1, false)));
    assert!(!granted(&policy, 0, 1, false));
    // Full again: nothing is left to say.
    assert!(Kept::of(&policy, 3_600 * SECOND).0.is_empty());

    let none = Shape(Default::default()).policy();
    assert_eq!(kept.restore(&none, 0, 0), Restored { found: 1, unknown: 3 });
    let foreign = Record::Limits {
        owner: Owner::Tenant("nobody"),
        limits: &[
            Held { name: "a", spent: Spent::Tokens(debt(0, u64::MAX)) },
            Held { name: "b", spent: Spent::Tokens(debt(1, 0)) },
        ],
    };
    let restored = policy.restore(&foreign, 0, Nanos(0));
    assert_eq!(restored, Restored { found: 0, unknown: 1 }, "a full bucket is no loss");
}

#[test]
fn the_worst_debt_neither_panics_nor_seals_a_bucket() {
    let shape = Shape([vec![], vec![(0, 1, 5)], vec![], vec![], vec![]]);
    let policy = shape.policy();
    for interval_ns in [0, 1, u64::MAX] {
        let debt = Debt { arrears_ns: u64::MAX, ..debt(interval_ns, u64::MAX) };
        let spent = Spent::Tokens(debt);
        let limits = &[Held { name: "n0", spent }];
        let record = Record::Limits { owner: Owner::Tenant("team"), limits };
        policy.restore(&record, 0, Nanos(u64::MAX - 5));
        policy.restore(&Record::Dynamic { subject: u128::MAX, debt }, 0, Nanos(u64::MAX - 5));
        policy.restore(&Record::Emptied { ago_ns: u64::MAX }, u64::MAX, Nanos(0));
    }
    assert!(!granted(&policy, 1, 1, false));
    policy.apply(&shape.sources(), || Reading { mono: Nanos(2), unix_us: 0 }).expect("valid");
    assert!(!granted(&policy, 3, 1, false));
}
