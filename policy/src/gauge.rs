//! How many requests are in flight under a concurrency limit.

use crate::sync::{AtomicU32, Ordering};

/// Requests in flight; each [`enter`](Self::enter) that succeeds owes one [`leave`](Self::leave).
#[derive(Debug)]
pub struct Gauge(AtomicU32);

impl Default for Gauge {
    fn default() -> Self {
        Gauge(AtomicU32::new(0))
    }
}

impl Gauge {
    /// Counts one more in flight unless there are `max` already.
    pub fn enter(&self, max: u32) -> bool {
        let mut count = self.0.load(Ordering::Relaxed);
        while count < max {
            match self.0.compare_exchange_weak(
                count,
                count + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(seen) => count = seen,
            }
        }
        false
    }

    /// One of those that entered is done.
    pub fn leave(&self) {
        let before = self.0.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "every leave follows an enter");
    }

    /// Requests in flight now.
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}
