//! What looking for alerts costs with very many quotas and limits.
//!
//! `cargo run --release --package orbit-gateway --example alert_looks`
#![allow(clippy::print_stdout, reason = "what it is for")]

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use orbit_gateway::alerts::capacity::CapacityWatch;
use orbit_gateway::alerts::outbox::Findings;
use orbit_gateway::alerts::quotas::{Found, QuotaWatch};
use orbit_policy::quota::{InMemory, Reported};
use orbit_policy::{Nanos, Policy, PolicySettings, Source};

const TENANTS: usize = 100_000;
const NOW_US: i64 = 1_794_312_000_000_000;

/// Tenants with a quota an hour and one a month, and a rate limit each.
fn documents() -> Vec<Source> {
    let mut text = String::from(
        "[[plan]]\nid = \"p\"\nlimits = [{ name = \"requests\", rate = 10, per = \"second\" }]\n\
         quotas = [\n\
         { name = \"hour\", meter = \"api_calls\", limit = 1_000, per = \"hour\", thresholds = [80] },\n\
         { name = \"month\", meter = \"api_calls\", limit = 100_000, per = \"month\", thresholds = [80] },\n\
         ]\n",
    );
    for tenant in 0..TENANTS {
        text += &format!("[[tenant]]\nid = \"t{tenant}\"\nplan = \"p\"\n");
    }
    vec![Source { file: "p.toml".into(), text }]
}

/// The shortest of some runs, in milliseconds.
fn ms(runs: u32, mut work: impl FnMut()) -> f64 {
    let one = |_| {
        #[expect(clippy::disallowed_methods, reason = "it measures")]
        let begun = Instant::now();
        work();
        begun.elapsed().as_secs_f64() * 1e3
    };
    (0..runs).map(one).fold(f64::INFINITY, f64::min)
}

fn main() {
    let memory = InMemory::shared();
    let settings = PolicySettings { max_dynamic_keys: 1, hash_key: [0; 16], memory };
    let policy = Policy::new(&documents(), &settings, NOW_US).expect("valid documents");
    policy.roll(NOW_US);
    let mut watch = QuotaWatch::new(HashMap::new());
    let mut look = |now_us| {
        let (mut signals, mut findings) = (Vec::new(), Findings::default());
        let mut found = Found { signals: &mut signals, findings: &mut findings };
        watch.look(&policy.load(), now_us, &mut found);
        findings.told.len()
    };
    println!("{} quotas", 2 * TENANTS);
    let count = |tenants: std::ops::Range<usize>| {
        for number in tenants {
            let path = &format!("t{number}");
            let calls = Reported { path, plan: "p", meter: "api_calls", at_us: NOW_US };
            policy.charge_event(&calls, 1, NOW_US);
        }
    };
    println!("  the first look         {:8.2} ms", ms(1, || assert!(look(NOW_US) <= 2 * TENANTS)));
    println!("  nothing was counted    {:8.2} ms", ms(20, || assert!(look(NOW_US) <= 2 * TENANTS)));
    for changed in [1_000, 10_000, TENANTS] {
        let mut spent_ms = f64::INFINITY;
        for _ in 0..5 {
            count(0..changed);
            spent_ms = spent_ms.min(ms(1, || assert!(look(NOW_US) <= 2 * TENANTS)));
        }
        println!("  {:6} have changed     {spent_ms:8.2} ms", 2 * changed);
    }
    let hour_us = NOW_US + 3_600_000_000;
    println!("  half of them roll over {:8.2} ms", ms(1, || assert!(look(hour_us) <= 2 * TENANTS)));

    let mut capacity = CapacityWatch::new(&BTreeMap::new());
    capacity.look(&policy.load(), Nanos(1));
    let spent_ms = ms(20, || capacity.look(&policy.load(), Nanos(2)));
    println!("{TENANTS} rate limits\n  a look                 {spent_ms:8.2} ms");
}
