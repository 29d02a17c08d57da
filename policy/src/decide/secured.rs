//! What one walk along a chain keeps track of while every level grants.

use crate::bucket::Terms;
use crate::snapshot::{Control, Slot};
use crate::time::Nanos;

/// The slot with the least left, the narrowest of several.
#[derive(Default)]
pub(super) struct Nearest(pub(super) Option<(u8, u64)>);

impl Nearest {
    pub(super) fn note(&mut self, index: u8, left: u64) {
        if self.0.is_none_or(|(at, least)| (left, index) < (least, at)) {
            self.0 = Some((index, left));
        }
    }

    /// As [`note`](Self::note), of a bucket with this word now, that is wider than all noted so
    /// far: what it has left is worked out only where it is less.
    pub(super) fn note_wider(&mut self, index: u8, terms: Terms, word: u64, now: Nanos) {
        if self.0.is_none_or(|(_, least)| !terms.leaves(least, word, now)) {
            self.0 = Some((index, terms.remaining(word, now)));
        }
    }
}

/// What guarantees have secured so far on one walk.
#[derive(Default)]
pub(super) struct Secured {
    slots: u64,
    /// What is left at the guarantee nearest to its end; of no meaning while nothing is secured.
    left: u64,
}

impl Secured {
    pub(super) fn has(&self, index: u8) -> bool {
        self.slots >> index & 1 == 1
    }

    /// Notes what a slot that granted secures. What is left there for the client to know of:
    /// nothing of a guarantee, and of a limit that is secured at least what is guaranteed.
    pub(super) fn granted(&mut self, index: u8, slot: &Slot, remaining: u64) -> Option<u64> {
        let Control::Guarantee(guarantee) = &slot.control else {
            return Some(if self.has(index) { remaining.max(self.left) } else { remaining });
        };
        // One that is secured itself may have less left than the one that secures it.
        if !self.has(index) {
            self.left = if self.slots == 0 { remaining } else { remaining.min(self.left) };
        }
        self.slots |= guarantee.secures << index;
        None
    }
}
