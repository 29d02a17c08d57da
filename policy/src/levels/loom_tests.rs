//! Every interleaving of reservations, what is given back and what changes a level, by loom.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p orbit-policy --lib loom --release`

use loom::thread;

use super::*;

const MOST: u64 = 3;

/// Reserves, and then stores it or gives it back.
fn upload(sum: &Sum, amount: u64, stores: bool) -> u64 {
    if sum.reserve(amount, MOST).is_err() {
        return 0;
    }
    assert!(sum.used() <= MOST, "P1");
    // What it stores was reserved: nothing changes.
    sum.change(if stores { 0 } else { -amount.cast_signed() });
    if stores { amount } else { 0 }
}

#[test]
fn p1_two_uploads_never_pass_the_level_and_what_fits_is_admitted() {
    loom::model(|| {
        let sum = Arc::new(Sum::default());
        let other = {
            let sum = Arc::clone(&sum);
            thread::spawn(move || upload(&sum, 2, true))
        };
        let mine = upload(&sum, 2, true);
        let stored = mine + other.join().expect("the other thread ends well");
        assert_eq!((stored, sum.used()), (2, 2), "one of them");
    });
}

#[test]
fn p2_what_fails_leaves_no_trace() {
    loom::model(|| {
        let sum = Arc::new(Sum::default());
        let other = {
            let sum = Arc::clone(&sum);
            thread::spawn(move || upload(&sum, 2, false))
        };
        let stored = upload(&sum, 1, true) + upload(&sum, 1, true);
        other.join().expect("the other thread ends well");
        assert_eq!(sum.used(), stored);
    });
}

#[test]
fn p1_an_event_beside_an_upload_is_not_lost() {
    loom::model(|| {
        let sum = Arc::new(Sum::default());
        sum.change(3);
        let other = {
            let sum = Arc::clone(&sum);
            thread::spawn(move || sum.change(-2))
        };
        let stored = match sum.reserve(2, MOST) {
            Ok(()) => 2,
            Err(used) => {
                assert_eq!(used, 3);
                0
            }
        };
        other.join().expect("the other thread ends well");
        assert_eq!(sum.used(), 1 + stored);
    });
}
