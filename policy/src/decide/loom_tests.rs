//! Borrowing under every interleaving of two requests, by loom: the walk itself, on a real snapshot.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p orbit-policy --lib loom --release`

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use loom::thread;

use super::{Body, Call, Decision};
use crate::snapshot::LimitState;
use crate::{ApiKey, Nanos, Policy, PolicySettings, Snapshot, Source};

/// What every document here needs.
const EDGE: &str = r#"
[[plan]]
id = "p"
apps = ["crm"]
[[app]]
id = "crm"
[[upstream]]
id = "u"
peers = [{ address = "127.0.0.1:1" }]
[[route]]
id = "r"
app = "crm"
upstream = "u"
"#;

/// A limit of the holding of ten a day.
fn holding(burst: u64) -> String {
    format!("{{ name = \"requests\", rate = 10, per = \"day\", burst = {burst} }}")
}

const HALF: &str = r#"{ name = "requests", guarantee = "50%", burst = 9, guarantee_burst = 1 }"#;

/// Tenants in order, each with its parent (the first is a root) and limits; keys of the last ones.
fn tree(tenants: &[(&str, &str, &str)], keys: &[(&str, &ApiKey)]) -> Vec<Source> {
    let mut text = EDGE.to_owned();
    for (id, parent, limits) in tenants {
        let above = match *parent {
            "" => "plan = \"p\"".to_owned(),
            parent => format!("parent = \"{parent}\""),
        };
        text += &format!("[[tenant]]\nid = \"{id}\"\n{above}\nlimits = [{limits}]\n");
    }
    for (tenant, key) in keys {
        let (id, hash) = (&key.id, &key.hash);
        text += &format!("[[key]]\nid = \"{id}\"\ntenant = \"{tenant}\"\nhash = \"{hash}\"\n");
    }
    vec![Source { file: "t.toml".into(), text }]
}

fn snapshot(sources: &[Source]) -> Arc<Snapshot> {
    let settings = PolicySettings {
        max_dynamic_keys: 10,
        hash_key: [0; 16],
        memory: crate::quota::InMemory::shared(),
    };
    Policy::new(sources, &settings, 0).unwrap_or_else(|found| panic!("{found}")).load()
}

/// A holding whose limit has `burst` tokens, a child that one is guaranteed to, and one that borrows.
fn family(holding: &str, [a, b]: &[ApiKey; 2]) -> Vec<Source> {
    let tenants = [("h", "", holding), ("guaranteed", "h", HALF), ("borrower", "h", "")];
    tree(&tenants, &[("guaranteed", a), ("borrower", b)])
}

/// Whether one request is admitted. `None`: the snapshot is no longer in force.
fn try_granted(snapshot: &Arc<Snapshot>, key: &ApiKey) -> Option<u64> {
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
        Some(Decision::Admit(_)) => Some(1),
        Some(Decision::Deny(_)) => Some(0),
        None => None,
    }
}

fn granted(snapshot: &Arc<Snapshot>, key: &ApiKey) -> u64 {
    try_granted(snapshot, key).expect("no other snapshot is in force")
}

/// Tokens taken from each limit of a tenant, past its burst included, narrowest first.
fn spent_by<const N: usize>(snapshot: &Snapshot, tenant: &str) -> [u64; N] {
    let tenant = snapshot.tenant(tenant).expect("a tenant");
    let mut spent = tenant.chain.iter().map(|slot| {
        let (bucket, terms) = slot.bucket().expect("a rate limit");
        bucket.debt(terms, Nanos(0)).ahead_ns / terms.interval_ns
    });
    [(); N].map(|()| spent.next().expect("as many slots"))
}

/// From the guarantee, the ceiling and the holding's limit.
fn spent(snapshot: &Snapshot) -> [u64; 3] {
    spent_by(snapshot, "guaranteed")
}

fn keys() -> [ApiKey; 2] {
    [(); 2].map(|()| ApiKey::generate("test").expect("a key"))
}

#[test]
fn p1_p2_a_guarantee_and_a_borrower_never_pass_the_bound_and_lose_nothing() {
    let keys = Arc::new(keys());
    loom::model(move || {
        let snapshot = snapshot(&family(&holding(1), &keys));
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
        let snapshot = snapshot(&family(&holding(1), &keys));
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

#[test]
fn p2_a_refusal_behind_a_guaranteed_limit_leaves_it_as_what_was_admitted() {
    let keys = Arc::new(keys());
    let gate = r#"{ name = "gate", rate = 10, per = "day", burst = 1 }"#;
    let limits = format!("{}, {gate}", holding(1));
    let share = HALF.replace("guarantee_burst = 1", "guarantee_burst = 2");
    let sources = tree(
        &[("h", "", &limits), ("guaranteed", "h", &share)],
        &[("guaranteed", &keys[0]), ("guaranteed", &keys[1])],
    );
    loom::model(move || {
        let snapshot = snapshot(&sources);
        let other = {
            let (snapshot, keys) = (Arc::clone(&snapshot), Arc::clone(&keys));
            thread::spawn(move || granted(&snapshot, &keys[1]))
        };
        let mine = granted(&snapshot, &keys[0]);
        assert_eq!(mine + other.join().expect("the other thread ends well"), 1);
        let [guarantee, ceiling, requests, gate] = spent_by(&snapshot, "guaranteed");
        assert_eq!((requests, gate), (1, 1), "nothing is lost where no burst bounds it");
        assert!((1..=2).contains(&guarantee) && (1..=2).contains(&ceiling));
    });
}

#[test]
fn p1_p2_nested_shares_never_pass_the_bound_and_lose_nothing() {
    let keys = Arc::new(keys());
    let sources = tree(
        &[("h", "", &holding(1)), ("a", "h", HALF), ("b", "a", HALF), ("c", "a", "")],
        &[("b", &keys[0]), ("c", &keys[1])],
    );
    loom::model(move || {
        let snapshot = snapshot(&sources);
        let other = {
            let (snapshot, keys) = (Arc::clone(&snapshot), Arc::clone(&keys));
            thread::spawn(move || granted(&snapshot, &keys[1]))
        };
        let guaranteed = granted(&snapshot, &keys[0]);
        let borrowed = other.join().expect("the other thread ends well");
        assert_eq!(guaranteed, 1, "whatever the sibling does");
        assert!(borrowed <= 1);
        let all = 1 + borrowed;
        let [inner, below, outer, above, requests] = spent_by(&snapshot, "b");
        assert_eq!((inner, below, requests), (1, 1, all));
        // What the sibling took of the ceiling, and was refused above, is put back unless it cannot.
        assert!((all..=2).contains(&above), "{above} of {all}");
        // The sibling's is guaranteed to both, by the outer share, where it came first.
        assert!((1..=all).contains(&outer), "{outer} of {all}");
    });
}

#[test]
fn p1_p3_a_reload_amid_borrowing_loses_and_forgives_nothing() {
    let keys = Arc::new(keys());
    // The holding's limit is tightened; shares of it change with it.
    let (before, after) = (family(&holding(2), &keys), family(&holding(1), &keys));
    let after: Vec<Source> = after
        .into_iter()
        .map(|source| Source { text: source.text.replace("rate = 10", "rate = 5"), ..source })
        .collect();
    loom::model(move || {
        let old = snapshot(&before);
        let levels = crate::levels::Levels::new(crate::quota::InMemory::shared(), 0);
        let new = crate::catalogue::build(&after, 0, Some(&old), &old.dynamic, Some(&levels));
        let new = Arc::new(new.unwrap_or_else(|found| panic!("{found}")));
        let in_flight = {
            let (old, new, keys) = (Arc::clone(&old), Arc::clone(&new), Arc::clone(&keys));
            thread::spawn(move || {
                let [a, b] = [0, 1].map(|key: usize| {
                    try_granted(&old, &keys[key]).unwrap_or_else(|| granted(&new, &keys[key]))
                });
                (a, b)
            })
        };
        for bucket in &new.inherited {
            bucket.settle(Nanos(0));
        }
        let (guaranteed, borrowed) = in_flight.join().expect("the other thread ends well");
        // All that was admitted is spent, whichever bucket it was taken from. What was taken for a
        // request that met a sealed bucket cannot be put back where it was taken over already: the
        // reload costs at most the two requests that are in flight.
        let all = guaranteed + borrowed;
        let [guarantee, ceiling, _] = spent(&new);
        assert!(guaranteed <= ceiling && ceiling <= 2 && guarantee <= 1);
        let tenant = new.tenant("guaranteed").expect("a tenant");
        let (bucket, terms) = tenant.chain[2].bucket().expect("a rate limit");
        let debt = bucket.debt(terms, Nanos(0));
        let spent = (debt.ahead_ns + debt.arrears_ns).div_ceil(terms.interval_ns);
        assert!((all..=all + 2).contains(&spent), "{spent} of {all}");
        // Of the two that the limit held, no more than it holds now and what was guaranteed is in the
        // way of whoever asks next.
        assert!(debt.ahead_ns <= 2 * terms.interval_ns);
    });
}
