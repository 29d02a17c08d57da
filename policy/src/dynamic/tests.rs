//! Buckets of clients and users: eviction forgives nobody, a flood meets one limit.

use proptest::prelude::*;

use super::{DynamicBuckets, DynamicTake};
use crate::bucket::Terms;
use crate::time::Nanos;

const TERMS: Terms = Terms { interval_ns: 100, burst: 2 };

fn take(buckets: &DynamicBuckets, user: u32, now: u64) -> bool {
    let subject = buckets.user(7, &user.to_le_bytes());
    matches!(buckets.take((7, subject), TERMS, 1, Nanos(now), false), DynamicTake::Granted { .. })
}

#[test]
fn each_has_its_own_bucket() {
    let buckets = DynamicBuckets::new(10, [1; 16]);
    assert!(take(&buckets, 1, 0) && take(&buckets, 1, 0));
    assert!(!take(&buckets, 1, 0));
    assert!(take(&buckets, 2, 0));
}

#[test]
fn at_the_cap_newcomers_share_one_bucket_and_nobody_is_forgiven() {
    let buckets = DynamicBuckets::new(2, [1; 16]);
    assert!(take(&buckets, 1, 0) && take(&buckets, 1, 0) && take(&buckets, 2, 0));
    let admitted = (100..200).filter(|user| take(&buckets, *user, 0)).count();
    assert_eq!(admitted, 2, "a hundred newcomers share one burst");
    assert!(!take(&buckets, 1, 0), "the flood did not push the exhausted one out");
    assert_eq!(buckets.sweep(Nanos(50)), 2, "neither bucket is full again");
    assert_eq!(buckets.sweep(Nanos(1_000)), 0);
    assert!(take(&buckets, 300, 1_000));
}

#[test]
fn an_ipv6_client_is_its_network() {
    let buckets = DynamicBuckets::new(2, [1; 16]);
    let client = |text: &str| buckets.client(7, text.parse().expect("an address"));
    assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
    assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
    assert_ne!(client("1.2.3.4"), client("1.2.3.5"));
    assert_eq!(client("1.2.3.4"), client("::ffff:1.2.3.4"));
    assert_ne!(client("::ffff:1.2.3.4"), client("::ffff:1.2.3.5"));
}

#[test]
fn p2_a_take_is_put_back_where_it_was_taken_from() {
    let buckets = DynamicBuckets::new(1, [1; 16]);
    assert!(take(&buckets, 1, 0));
    let key = |user: u32| (7, buckets.user(7, &user.to_le_bytes()));
    let take_at = |user, now| match buckets.take(key(user), TERMS, 1, Nanos(now), false) {
        DynamicTake::Granted { before, remaining } => (before, remaining),
        DynamicTake::Refused { .. } => panic!("there is one"),
    };
    let left = |user| match buckets.take(key(user), TERMS, 1, Nanos(0), true) {
        DynamicTake::Granted { remaining, .. } => remaining + 1,
        DynamicTake::Refused { remaining, .. } => remaining,
    };
    // At the cap: from what newcomers share.
    let (before, remaining) = take_at(2, 0);
    assert_eq!((remaining, left(2), left(3)), (1, 1, 1));
    buckets.put_back(key(2), TERMS, 1, Nanos(0), before);
    assert_eq!((left(2), left(3)), (2, 2));
    // Meanwhile the first one was full and went, and this one has a bucket of its own.
    let (before, _) = take_at(2, 200);
    assert_eq!(buckets.sweep(Nanos(200)), 0);
    let (own, _) = take_at(2, 200);
    buckets.put_back(key(2), TERMS, 1, Nanos(200), before);
    assert_eq!(take_at(2, 200).1, 0, "its own is not given what the others' had");
    assert_eq!(buckets.len(), 1);
    // Under other terms the word means something else.
    buckets.put_back(key(2), Terms { burst: 3, ..TERMS }, 1, Nanos(200), own);
    assert!(!take(&buckets, 2, 200));
}

#[test]
fn p3_a_limit_that_is_tightened_locks_nobody_out_and_forgives_nothing_when_it_is_widened() {
    let (wide, narrow) =
        (Terms { interval_ns: 100, burst: 50 }, Terms { interval_ns: 300, burst: 2 });
    let buckets = DynamicBuckets::new(10, [1; 16]);
    let subject = buckets.user(7, b"x");
    let ask = |terms, cost, now| match buckets.take((7, subject), terms, cost, Nanos(now), false) {
        DynamicTake::Granted { remaining, .. } => Ok(remaining),
        DynamicTake::Refused { ready_at, .. } => Err(ready_at.expect("a small cost").0),
    };
    assert_eq!(ask(wide, 40, 0), Ok(10));
    assert_eq!(ask(narrow, 1, 0), Err(300), "empty, and refills at the new rate");
    assert_eq!(ask(narrow, 2, 600), Ok(0));
    // Full again at 1200, and 38 tokens in arrears: not forgotten by a sweep, nor by a restart.
    assert_eq!(buckets.sweep(Nanos(1_200)), 1);
    let restarted = DynamicBuckets::new(10, [1; 16]);
    buckets.export(Nanos(1_200), |subject, debt| restarted.raise(subject, debt, Nanos(1_200)));
    for buckets in [&buckets, &restarted] {
        let DynamicTake::Granted { remaining, .. } =
            buckets.take((7, subject), wide, 1, Nanos(1_200), true)
        else {
            panic!("12 are left")
        };
        assert_eq!(remaining, 11);
    }
    // Paid by the time for which it is full.
    assert_eq!(buckets.sweep(Nanos(1_200 + 38 * 300)), 0);
}

proptest! {
    #[test]
    fn p1_with_sweeps_at_any_time(
        steps in prop::collection::vec((0_u64..300, 0_u32..6, any::<bool>()), 1..200),
    ) {
        let swept = DynamicBuckets::new(100, [1; 16]);
        let kept = DynamicBuckets::new(100, [1; 16]);
        let mut now = 0;
        for (step, user, sweep) in steps {
            now += step;
            if sweep {
                swept.sweep(Nanos(now));
            }
            prop_assert_eq!(take(&swept, user, now), take(&kept, user, now));
        }
    }

    #[test]
    fn p3_new_terms_forgive_nothing(spent in 1_u32..10, interval in 1_u64..1_000) {
        let old = Terms { interval_ns: 100, burst: 10 };
        let new = Terms { interval_ns: interval, burst: 10 };
        let buckets = DynamicBuckets::new(100, [1; 16]);
        let subject = buckets.user(7, b"x");
        for _ in 0..spent {
            buckets.take((7, subject), old, 1, Nanos(0), false);
        }
        match buckets.take((7, subject), new, 1, Nanos(0), false) {
            DynamicTake::Granted { remaining, .. } => {
                prop_assert_eq!(remaining, u64::from(10 - spent - 1));
            }
            DynamicTake::Refused { .. } => prop_assert_eq!(spent, 10),
        }
    }
}
