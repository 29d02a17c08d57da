//! A level behind a guaranteed limit refuses while threads race for its last tokens: what is taken past
//! a burst, where nothing else bounds it, is exactly what was admitted (P1, P2).

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use orbit_policy::snapshot::LimitState;
use orbit_policy::{Nanos, Policy};

use crate::{granted, key, policy};

const THREADS: u64 = 4;
/// Tokens at the gate, for twice as many requests.
const GATE: u64 = 16;
const ROUNDS: u64 = 3_000;

fn left(policy: &Policy, tenant: &str, name: &str) -> u64 {
    let usage = policy.load().usage(tenant, Nanos(0)).expect("a tenant");
    let limit = usage.iter().find(|limit| limit.tenant == tenant && limit.name == name);
    match limit.map(|limit| limit.state) {
        Some(LimitState::Rate { remaining, .. }) => remaining,
        other => panic!("{other:?}"),
    }
}

#[test]
fn p1_p2_a_refusal_behind_a_guaranteed_limit_costs_it_nothing() {
    // The holding's limit has far more than the gate; what is forced is seen in what it has left.
    let (key, table) = key("c");
    let text = format!(
        "[[plan]]\nid = \"p\"\napps = [\"crm\"]\n[[tenant]]\nid = \"h\"\nplan = \"p\"\nlimits = [\
         {{ name = \"requests\", rate = 1, per = \"hour\", burst = 300 }},\
         {{ name = \"gate\", rate = 1, per = \"hour\", burst = {GATE} }}]\n\
         [[tenant]]\nid = \"c\"\nparent = \"h\"\nlimits = [\
         {{ name = \"requests\", guarantee = \"50%\", guarantee_burst = 300, burst = 300 }}]\n{table}"
    );
    for _ in 0..ROUNDS {
        let policy = policy(&text);
        let (start, admitted) = (Barrier::new(THREADS as usize), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..2 * GATE / THREADS {
                        let granted = granted(&policy, &key, 1, 0);
                        admitted.fetch_add(granted.into(), Ordering::Relaxed);
                    }
                });
            }
        });
        let admitted = admitted.into_inner();
        assert_eq!((admitted, left(&policy, "h", "gate")), (GATE, 0));
        assert_eq!(left(&policy, "h", "requests"), 300 - admitted);
        // Where a burst bounds it, one may be lost for each thread that came second.
        let ceiling = 300 - left(&policy, "c", "requests");
        assert!((admitted..admitted + THREADS).contains(&ceiling), "{ceiling} of {admitted}");
    }
}
