//! Shares of a limit: what documents may say, what is admitted, and who gets how much.
#![allow(clippy::print_stdout, reason = "random tests print their seed")]

mod admission;
mod ahead;
mod concurrent;
mod deep;
mod documents;
mod doubts;
mod fairness;
mod model;
mod state;

use std::net::{IpAddr, Ipv4Addr};

use orbit_policy::quota::InMemory;
use orbit_policy::{ApiKey, Body, Call, Decision, Nanos, Policy, PolicySettings, Source};

const SECOND: u64 = Nanos::SECOND.0;

/// What every document here needs: a route that costs 1, one that costs 3, and an app.
const EDGE: &str = r#"
[[app]]
id = "crm"
[[upstream]]
id = "u"
peers = [{ address = "127.0.0.1:1" }]
[[route]]
id = "r"
app = "crm"
upstream = "u"
[[route]]
id = "dear"
app = "crm"
upstream = "u"
path = "/dear"
cost = 3
"#;

fn sources(text: String) -> Vec<Source> {
    vec![Source { file: "t.toml".into(), text }]
}

fn settings() -> PolicySettings {
    PolicySettings { max_dynamic_keys: 10, hash_key: [0; 16], memory: InMemory::shared() }
}

/// A policy of this text and the edge.
fn policy(text: &str) -> Policy {
    Policy::new(&sources(format!("{text}{EDGE}")), &settings(), 0).unwrap_or_else(|d| panic!("{d}"))
}

fn key(tenant: &str) -> (ApiKey, String) {
    let key = ApiKey::generate("test").expect("a key");
    let table =
        format!("[[key]]\nid = \"{}\"\ntenant = \"{tenant}\"\nhash = \"{}\"\n", key.id, key.hash);
    (key, table)
}

fn decide(policy: &Policy, key: &ApiKey, cost: u32, now: u64) -> Decision {
    policy.decide(&Call {
        key: Some(key.reveal().as_bytes()),
        host: "api.example.com",
        path: if cost == 3 { "/dear" } else { "/" },
        method: "GET",
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        body: Body::None,
        header: &|_| None,
        now: Nanos(now),
        unix_us: now.cast_signed() / 1_000,
    })
}

fn granted(policy: &Policy, key: &ApiKey, cost: u32, now: u64) -> bool {
    matches!(decide(policy, key, cost, now), Decision::Admit(_))
}

/// SplitMix64.
struct Random(u64);

impl Random {
    /// From the seed in `ORBIT_SEED`, or a new one; printed, so that a failure can be repeated.
    fn printed() -> Random {
        use std::hash::{BuildHasher, RandomState};
        let given = std::env::var("ORBIT_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0));
        println!("ORBIT_SEED={seed}");
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }
}
