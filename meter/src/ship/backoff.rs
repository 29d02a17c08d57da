//! How long to wait before trying again: doubling, capped, and never in step with others.

use std::time::Duration;

/// Waits for one thing that keeps failing.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    next: Duration,
    cap: Duration,
}

const FIRST: Duration = Duration::from_millis(100);

impl Backoff {
    pub(super) fn new(cap: Duration) -> Backoff {
        Backoff { next: FIRST.min(cap), cap }
    }

    /// The next wait: between half of the current step and all of it.
    pub(super) fn next(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.cap);
        step.mul_f64(0.5 + random_share() / 2.0)
    }
}

/// Uniform in [0, 1]; the middle when the system has no randomness to give.
fn random_share() -> f64 {
    getrandom::u32().map_or(0.5, |bits| f64::from(bits) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_differ() {
        let cap = Duration::from_secs(10);
        let mut backoff = Backoff::new(cap);
        let mut step = FIRST;
        for _ in 0..12 {
            let wait = backoff.next();
            assert!(wait >= step / 2 && wait <= step, "{wait:?} of {step:?}");
            step = (step * 2).min(cap);
        }
        assert_eq!(step, cap);
    }
}
