//! Borrowing under every interleaving of two requests, by loom: the walk itself, on a real snapshot.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p orbit-policy --lib loom --release`

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use loom::thread;

use super::{Body, Call, Decision};
use crate::snapshot::LimitState;
use crate::{ApiKey, Nanos, Policy, PolicySettings, Snapshot, Source};

/// A holding whose limit has `burst` tokens, a child that one is guaranteed to, and one that borrows.
fn family(burst: u64, keys: &[ApiKey; 2]) -> Arc<Snapshot> {
    let [a, b] = keys;
    let text = format!(
        r#"
[[plan]]
id = "p"
apps = ["crm"]
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
id = "h"
plan = "p"
limits = [{{ name = "requests", rate = 10, per = "day", burst = {burst} }}]
[[tenant]]
id = "guaranteed"
parent = "h"
limits = [{{ name = "requests", guarantee = "50%", burst = 9, guarantee_burst = 1 }}]
[[tenant]]
id = "borrower"
parent = "h"
[[key]]
id = "{}"
tenant = "guaranteed"
hash = "{}"
[[key]]
id = "{}"
tenant = "borrower"
hash = "{}"
"#,
        a.id, a.hash, b.id, b.hash
    );
    let settings = PolicySettings {
        max_dynamic_keys: 10,
        hash_key: [0; 16],
        memory: crate::quota::InMemory::shared(),
    };
    let sources = [Source { file: "t.toml".into(), text }];
    Policy::new(&sources, &settings, 0).unwrap_or_else(|found| panic!("{found}")).load()
}

fn granted(snapshot: &Arc<Snapshot>, key: &ApiKey) -> u64 {
    let call = Call {
        key: Some(key.reveal().as_bytes()),
        host: "api.example.com",
        path: "/",
        method: "GET",
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        body: Body::None,
        header: &|_| None,
        now: Nanos(0),
        unix_us: 0,
    };
    match snapshot.decide(&call) {
        Some(Decision::Admit(_)) => 1,
        Some(Decision::Deny(_)) => 0,
        None => panic!("no other snapshot is in force"),
    }
}

/// Tokens taken from the guarantee, the ceiling and the holding's limit, past its burst included.
fn spent(snapshot: &Snapshot) -> [u64; 3] {
    let tenant = snapshot.tenant("guaranteed").expect("a tenant");
    let mut spent = tenant.chain.iter().map(|slot| {
        let (bucket, terms) = slot.bucket().expect("a rate limit");
        bucket.ahead_ns(Nanos(0)) / terms.interval_ns
    });
    [(); 3].map(|()| spent.next().expect("three slots"))
}

fn keys() -> [ApiKey; 2] {
    [(); 2].map(|()| ApiKey::generate("test").expect("a key"))
}

#[test]
fn p1_p2_a_guarantee_and_a_borrower_never_pass_the_bound_and_lose_nothing() {
    let keys = Arc::new(keys());
    loom::model(move || {
        let snapshot = family(1, &keys);
        let other = {
            let (snapshot, keys) = (Arc::clone(&snapshot), Arc::clone(&keys));
            thread::spawn(move || granted(&snapshot, &keys[1]))
        };
        let guaranteed = granted(&snapshot, &keys[0]);
        let borrowed = other.join().expect("the other thread ends well");
        assert_eq!(guaranteed, 1, "whatever the sibling does");
        // The limit's one token goes to whoever is first, the guaranteed one comes on top.
        assert!(borrowed <= 1);
        assert_eq!(spent(&snapshot), [1, 1, 1 + borrowed]);
    });
}

#[test]
fn p1_p2_two_requests_of_one_guarantee_never_pass_the_bound_and_lose_nothing() {
    let keys = Arc::new(keys());
    loom::model(move || {
        let snapshot = family(1, &keys);
        let other = {
            let (snapshot, keys) = (Arc::clone(&snapshot), Arc::clone(&keys));
            thread::spawn(move || granted(&snapshot, &keys[0]))
        };
        let mine = granted(&snapshot, &keys[0]);
        let all = mine + other.join().expect("the other thread ends well");
        // One is guaranteed; the other finds the limit's only token taken by it, or takes it first.
        assert!((1..=2).contains(&all), "{all}");
        let [guarantee, ceiling, holding] = spent(&snapshot);
        assert_eq!((guarantee, holding), (1, all));
        // What was taken for a refusal is put back unless the other took in between: never more.
        assert!((all..=2).contains(&ceiling), "{ceiling} for {all}");
        let usage = snapshot.usage("h", Nanos(0)).expect("a tenant");
        assert!(matches!(usage[0].state, LimitState::Rate { remaining: 0, .. }));
    });
}
