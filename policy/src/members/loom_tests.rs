//! Every interleaving of a look without a lock and an insertion, by loom.

use std::sync::Arc;

use loom::thread;

use super::table::Exact;
use super::{Member, Seen};

#[test]
fn p1_nobody_who_is_let_in_is_refused_by_the_place_he_took_himself() {
    loom::model(|| {
        let exact = Arc::new(Exact::new(4));
        let member = Member::from_number(5);
        let inserting = {
            let exact = Arc::clone(&exact);
            thread::spawn(move || exact.add(0, member))
        };
        assert_ne!(exact.look(0, member, Some(1)), Seen::Full);
        inserting.join().expect("the other thread ends well");
        assert_eq!(exact.look(0, member, Some(1)), Seen::Known);
        assert_eq!(exact.look(0, Member::from_number(6), Some(1)), Seen::Full);
    });
}
