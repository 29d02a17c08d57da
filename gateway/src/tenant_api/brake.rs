//! How often one key may ask: a bucket for each, so that nobody wears out the usage database
//! through the gateway.
//!
//! Guarantees that only keys that asked within the last seconds take memory, and that a refusal
//! costs one look-up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use orbit_policy::Nanos;
use orbit_policy::bucket::{Bucket, Take, Terms};

/// Ten a second, twenty at once: a dashboard that shows everything, but no loop.
pub(super) const TERMS: Terms = Terms { interval_ns: 100_000_000, burst: 20 };
/// So many keys are kept before full buckets are looked for.
const FEW: usize = 1_024;

/// The buckets of all keys that asked lately.
pub(super) struct Brake {
    held: Mutex<Held>,
}

struct Held {
    buckets: HashMap<Box<str>, Bucket>,
    /// Full buckets are let go when there are more than so many.
    sweep_at: usize,
}

impl Default for Brake {
    fn default() -> Brake {
        Brake { held: Mutex::new(Held { buckets: HashMap::new(), sweep_at: FEW }) }
    }
}

impl Brake {
    /// Lets a key ask once, or says in how many seconds it may.
    pub(super) fn take(&self, key_id: &str, now: Nanos) -> Result<(), u64> {
        // A bucket is one atomic word, whole whatever panics beside it.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = held.buckets.get(key_id) {
            return take(bucket, now);
        }
        if held.buckets.len() >= held.sweep_at {
            held.buckets.retain(|_, bucket| bucket.remaining(TERMS, now) < TERMS.burst);
            held.sweep_at = FEW.max(2 * held.buckets.len());
        }
        take(held.buckets.entry(key_id.into()).or_default(), now)
    }
}

fn take(bucket: &Bucket, now: Nanos) -> Result<(), u64> {
    match bucket.take(TERMS, 1, now) {
        Take::Refused { ready_at: Some(ready_at), .. } => {
            Err(ready_at.since(now).div_ceil(Nanos::SECOND.0).max(1))
        }
        // Of one token a bucket is never out for good, and these are never handed over.
        Take::Granted { .. } | Take::Refused { ready_at: None, .. } | Take::Sealed => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_each_key_has_a_bucket_of_its_own() {
        let brake = Brake::default();
        for _ in 0..TERMS.burst {
            assert_eq!(brake.take("a", Nanos(0)), Ok(()));
        }
        assert_eq!(brake.take("a", Nanos(0)), Err(1));
        assert_eq!(brake.take("b", Nanos(0)), Ok(()));
        assert_eq!(brake.take("a", Nanos(TERMS.interval_ns - 1)), Err(1));
        assert_eq!(brake.take("a", Nanos(TERMS.interval_ns)), Ok(()));
        assert_eq!(brake.take("a", Nanos(TERMS.interval_ns)), Err(1));
    }

    #[test]
    fn keys_that_rest_are_let_go_and_others_are_not_forgiven() {
        let brake = Brake::default();
        for _ in 0..TERMS.burst {
            assert_eq!(brake.take("busy", Nanos(0)), Ok(()));
        }
        for key in 0..20_000_u64 {
            // A new key every millisecond: each is full again a tenth of a second later.
            assert_eq!(brake.take(&key.to_string(), Nanos(key * 1_000_000 / 20)), Ok(()));
        }
        assert!(brake.held.lock().unwrap().buckets.len() <= 5_000);
        let later = Nanos(1_000_000_000);
        let again = (0..TERMS.burst).filter(|_| brake.take("busy", later).is_ok()).count();
        assert_eq!(again, 10, "ten came back in a second");
    }
}
