//! Every interleaving of the compare-and-swap loops, by loom.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p orbit-policy --lib loom --release`

use std::sync::Arc;

use loom::thread;

use super::{Bucket, Take, Terms};
use crate::gauge::Gauge;
use crate::time::Nanos;

const NOW: Nanos = Nanos(1_000);

fn granted(take: Take) -> u64 {
    u64::from(matches!(take, Take::Granted { .. }))
}

#[test]
fn p1_two_threads_never_take_more_than_the_burst() {
    loom::model(|| {
        let terms = Terms { interval_ns: 10, burst: 3 };
        let bucket = Arc::new(Bucket::default());
        let other = {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || (0..2).map(|_| granted(bucket.take(terms, 1, NOW))).sum::<u64>())
        };
        let mine: u64 = (0..2).map(|_| granted(bucket.take(terms, 1, NOW))).sum();
        let all = mine + other.join().expect("the other thread ends well");
        assert_eq!(all, 3, "four asked, exactly the burst was there");
        assert_eq!(bucket.remaining(terms, NOW), 0);
    });
}

#[test]
fn p1_and_p2_a_chain_admits_what_its_tightest_level_has_and_forgives_nothing() {
    loom::model(|| {
        let narrow_terms = Terms { interval_ns: 10, burst: 5 };
        let wide_terms = Terms { interval_ns: 10, burst: 1 };
        let narrow = Arc::new(Bucket::default());
        let wide = Arc::new(Bucket::default());
        let chain = move |narrow: &Bucket, wide: &Bucket, now: Nanos| {
            let Take::Granted { before, .. } = narrow.take(narrow_terms, 1, now) else { return 0 };
            if granted(wide.take(wide_terms, 1, now)) == 1 {
                return 1;
            }
            narrow.put_back(narrow_terms, 1, now, before);
            0
        };
        let other = {
            let (narrow, wide) = (Arc::clone(&narrow), Arc::clone(&wide));
            // A later clock: giving back blind would here forgive time that passed anyway.
            thread::spawn(move || chain(&narrow, &wide, Nanos(NOW.0 + 5)))
        };
        let mine = chain(&narrow, &wide, NOW);
        let admitted: u64 = mine + other.join().expect("the other thread ends well");
        assert_eq!(admitted, 1);
        let left = narrow.remaining(narrow_terms, Nanos(NOW.0 + 5));
        // One token is spent; two if both took before either put back. Never none.
        assert!((3..=4).contains(&left), "left {left}");
    });
}

#[test]
fn p3_no_take_slips_through_a_change_of_terms() {
    loom::model(|| {
        let old_terms = Terms { interval_ns: 10, burst: 2 };
        let new_terms = Terms { interval_ns: 20, burst: 2 };
        let old = Arc::new(Bucket::default());
        let new = Arc::new(Bucket::inherit(Arc::clone(&old), old_terms, new_terms));
        let other = {
            let (old, new) = (Arc::clone(&old), Arc::clone(&new));
            thread::spawn(move || match old.take(old_terms, 1, NOW) {
                Take::Sealed => granted(new.take(new_terms, 1, NOW)),
                take => granted(take),
            })
        };
        let mine: u64 = (0..2).map(|_| granted(new.take(new_terms, 1, NOW))).sum();
        let all = mine + other.join().expect("the other thread ends well");
        assert_eq!(all, 2, "three asked across the change, the burst is two");
    });
}

#[test]
fn a_gauge_never_holds_more_than_its_maximum() {
    loom::model(|| {
        let gauge = Arc::new(Gauge::default());
        let other = {
            let gauge = Arc::clone(&gauge);
            thread::spawn(move || {
                let entered = gauge.enter(1);
                if entered {
                    assert_eq!(gauge.count(), 1);
                    gauge.leave();
                }
            })
        };
        if gauge.enter(1) {
            assert_eq!(gauge.count(), 1);
            gauge.leave();
        }
        other.join().expect("the other thread ends well");
        assert_eq!(gauge.count(), 0);
    });
}
