//! Levels of gauges: how high each tenant's own is, and quotas of them.
//!
//! A tenant's own level is what the latest event on the gauge said of it, and what requests changed
//! since (`own`): the same as `meter/src/clickhouse/queries/consumption_levels.sql` makes of the
//! rows. It goes where the tenant goes. At a quota, the level is the sum of the own levels of all
//! tenants it holds: those at and below where it stands; of a plan, those who have the plan from
//! there.
//!
//! A `LevelQuota` has no window: a level lasts until something is deleted. It looks only at requests
//! that raise its gauge, and by how much they may:
//!
//! * a body of a known length, or what a header of the request says, is reserved as the request is
//!   admitted, like any limit of the chain: all or nothing (**P2**);
//! * a body of unknown length is admitted while anything is left, and reserved piece by piece as it
//!   comes ([`Permit::reserve`](crate::Permit::reserve));
//! * what only the answer says cannot be reserved: a request with a body is admitted while anything is
//!   left, any other always.
//!
//! An answer of 2xx turns what was reserved into a change of the tenant's own level
//! ([`Policy::change_level`](crate::Policy::change_level)); any other gives it back. Sum and
//! reservations are one word, so no two requests are admitted to the same room (**P1**).
//!
//! Own levels are kept in the [`Memory`](crate::quota::Memory) (**P3**); sums are made of them.

mod own;
mod registry;

use std::sync::{Arc, OnceLock};

pub use own::LevelRead;
pub(crate) use registry::Levels;

use crate::meters::MeterId;
use crate::sync::{AtomicU64, Ordering};

/// Most gauges that requests of one route change: as many reservations a request keeps room for.
pub const MAX_LEVELS: usize = 2;

/// What is asked for by a request whose change is not known beforehand.
pub(crate) const UNKNOWN: u64 = u64::MAX;

/// The most a request whose change is known asks for: more than any level has room for.
pub(crate) const MOST_KNOWN: u64 = UNKNOWN - 1;

/// The levels below a place and what is reserved there, as one number. Signed: changes by requests
/// may take a level below 0.
#[derive(Debug)]
pub(crate) struct Sum(AtomicU64);

/// A quota of a gauge, in a snapshot.
#[derive(Debug)]
pub(crate) struct LevelQuota {
    pub(crate) key: u128,
    pub(crate) meter: MeterId,
    pub(crate) limit: u64,
    pub(crate) grace: u64,
    /// Percent of the limit, in order.
    pub(crate) thresholds: Box<[u16]>,
    /// Whether what lies beyond is billed and not refused.
    pub(crate) bills: bool,
    /// The quota of the snapshot before that it goes on from.
    pub(crate) heritage: Option<u128>,
    /// Set before the snapshot comes into force.
    sum: OnceLock<Arc<Sum>>,
}

impl Default for Sum {
    fn default() -> Sum {
        Sum(AtomicU64::new(0))
    }
}

impl Sum {
    /// Reserves `amount` if then no more than `most` is in use; else says what is.
    pub(crate) fn reserve(&self, amount: u64, most: u64) -> Result<(), u64> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let used = i128::from(word.cast_signed());
            if used + i128::from(amount) > i128::from(most) {
                return Err(shown(word));
            }
            let next = word.wrapping_add(amount);
            match self.0.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(seen) => word = seen,
            }
        }
    }

    /// What [`reserve`](Self::reserve) would answer; reserves nothing.
    pub(crate) fn look(&self, amount: u64, most: u64) -> Result<(), u64> {
        let word = self.0.load(Ordering::Relaxed);
        let after = i128::from(word.cast_signed()) + i128::from(amount);
        if after > i128::from(most) { Err(shown(word)) } else { Ok(()) }
    }

    /// Raises or lowers it, whatever the limit.
    pub(crate) fn change(&self, by: i64) {
        self.0.fetch_add(by.cast_unsigned(), Ordering::AcqRel);
    }

    /// In use, with what is reserved.
    pub(crate) fn used(&self) -> u64 {
        shown(self.0.load(Ordering::Acquire))
    }
}

/// A level that requests took below 0 is empty to whoever looks at it.
fn shown(word: u64) -> u64 {
    word.cast_signed().max(0).cast_unsigned()
}

impl LevelQuota {
    pub(crate) fn new(
        (key, heritage): (u128, Option<u128>),
        meter: MeterId,
        (limit, grace): (u64, u64),
        thresholds: &[u16],
        bills: bool,
    ) -> LevelQuota {
        let sum = OnceLock::new();
        LevelQuota { key, meter, limit, grace, thresholds: thresholds.into(), bills, heritage, sum }
    }

    /// Where its levels are summed; only the first call counts.
    pub(crate) fn put_at(&self, sum: Arc<Sum>) {
        self.sum.get_or_init(|| sum);
    }

    /// Where its levels are summed; `None`: the snapshot was only made to be judged.
    pub(crate) fn sum_if_put(&self) -> Option<&Arc<Sum>> {
        self.sum.get()
    }

    pub(crate) fn sum(&self) -> &Arc<Sum> {
        self.sum_if_put().expect("a snapshot in force has given its level quotas their sums")
    }

    /// What may be in use.
    fn most(&self) -> u64 {
        self.limit.saturating_add(self.grace)
    }

    /// Asks for `amount`, and with `look` reserves nothing. Else says what is in use.
    pub(crate) fn ask(&self, amount: u64, look: bool) -> Result<(), u64> {
        match amount {
            _ if self.bills => Ok(()),
            UNKNOWN => self.sum().look(1, self.most()),
            _ if look => self.sum().look(amount, self.most()),
            _ => self.sum().reserve(amount, self.most()),
        }
    }

    /// Whether [`ask`](Self::ask) reserves such an amount.
    pub(crate) fn reserves(&self, amount: u64) -> bool {
        !self.bills && amount != UNKNOWN
    }

    /// Gives back what was reserved.
    pub(crate) fn give_back(&self, amount: u64) {
        self.sum().change(-amount.cast_signed());
    }

    /// Whether so much never fits.
    pub(crate) fn is_too_much(&self, amount: u64) -> bool {
        amount != UNKNOWN && amount > self.most()
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
