//! The requests that have no row yet, by the second in which they arrived: what the watermark
//! must wait for (**M1**).
//!
//! Guarantees that nothing slips past whoever asks for the oldest: the clock is read under the
//! lock under which the arrival is noted, so an arrival that [`OpenRequests::oldest_us`] does not
//! see is later than the call. Seconds without an open request are forgotten at once, so what is
//! held grows with the number of distinct seconds in which open requests arrived, and a request
//! that stays open for hours holds one of them. Allocates nothing up to 64 of those.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orbit_meter::refusals::Refusals;
use orbit_meter::ship::{AskOpen, Open};

use super::metrics::Metrics;
use crate::clock::{Clock, Reading};

/// Seconds for which there is room from the start.
const SECONDS: usize = 64;
const US_PER_SECOND: i64 = 1_000_000;

/// What the shipper's watermark waits for: requests, refusals and sums without a row. The time is that
/// of the clock which dates events, and is read first: whatever arrives later is dated later, however
/// the machine's own clock is set meanwhile.
pub fn ask(counts: Arc<Metrics>, refusals: Arc<Refusals>, clock: Arc<Clock>) -> AskOpen {
    Arc::new(move || {
        let now_us = clock.unix_us();
        // In this order: a refused request is open until it is counted among the refusals.
        let open_us = counts.oldest_open_us();
        let refused_us = refusals.oldest_us();
        Open { now_us, oldest_us: open_us.into_iter().chain(refused_us).min() }
    })
}

/// Open requests of one thread.
#[derive(Debug)]
pub struct OpenRequests {
    /// Seconds and how many open requests arrived in each, at least one; in order of the seconds.
    arrivals: Mutex<VecDeque<(i64, u32)>>,
}

/// The place of one request among the open ones; given back with [`OpenRequests::leave`].
#[derive(Debug)]
#[must_use = "a request that never leaves holds the watermark for ever"]
pub struct Place(i64);

impl OpenRequests {
    /// Notes a request that arrives now, as `read` says.
    pub fn enter(&self, read: impl FnOnce() -> Reading) -> (Place, Reading) {
        let mut arrivals = self.locked();
        let now = read();
        let second = now.unix_us.div_euclid(US_PER_SECOND);
        match arrivals.back_mut() {
            Some((last, count)) if *last == second => *count += 1,
            Some((last, _)) if *last > second => {
                // The clock was set back.
                match arrivals.binary_search_by_key(&second, |(second, _)| *second) {
                    Ok(index) => arrivals[index].1 += 1,
                    Err(index) => arrivals.insert(index, (second, 1)),
                }
            }
            _ => arrivals.push_back((second, 1)),
        }
        (Place(second), now)
    }

    /// The request has its row, or will never have one.
    #[expect(clippy::needless_pass_by_value, reason = "a place is given back once")]
    pub fn leave(&self, place: Place) {
        let mut arrivals = self.locked();
        let found = arrivals.binary_search_by_key(&place.0, |(second, _)| *second);
        let Ok(index) = found else {
            debug_assert!(false, "a place is given back once, where it was taken");
            return;
        };
        arrivals[index].1 -= 1;
        if arrivals[index].1 == 0 {
            arrivals.remove(index);
        }
    }

    /// Start of the second in which the oldest open request arrived, unix microseconds.
    pub fn oldest_us(&self) -> Option<i64> {
        let (second, _) = self.locked().front().copied()?;
        Some(second.saturating_mul(US_PER_SECOND))
    }

    /// A change under the lock is a single step, so a panic elsewhere leaves the counts whole.
    fn locked(&self) -> MutexGuard<'_, VecDeque<(i64, u32)>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for OpenRequests {
    fn default() -> OpenRequests {
        OpenRequests { arrivals: Mutex::new(VecDeque::with_capacity(SECONDS)) }
    }
}

#[cfg(test)]
mod tests {
    use orbit_policy::Nanos;

    use super::*;

    fn enter(open: &OpenRequests, unix_us: i64) -> Place {
        open.enter(|| Reading { mono: Nanos(0), unix_us }).0
    }

    #[test]
    fn m1_the_oldest_is_the_first_second_with_an_open_request() {
        let open = OpenRequests::default();
        assert_eq!(open.oldest_us(), None);
        let first = enter(&open, 5_999_999);
        let second = enter(&open, 6_000_000);
        let again = enter(&open, 6_999_999);
        assert_eq!(open.oldest_us(), Some(5_000_000));
        open.leave(first);
        assert_eq!(open.oldest_us(), Some(6_000_000));
        open.leave(second);
        assert_eq!(open.oldest_us(), Some(6_000_000), "one of two is still open");
        open.leave(again);
        assert_eq!(open.oldest_us(), None);
    }

    #[test]
    fn a_clock_that_was_set_back_is_followed() {
        let open = OpenRequests::default();
        let late = enter(&open, 9_000_000);
        let early = enter(&open, 3_000_000);
        let between = enter(&open, 4_000_000);
        let same = enter(&open, 3_500_000);
        assert_eq!(open.oldest_us(), Some(3_000_000));
        open.leave(early);
        open.leave(same);
        assert_eq!(open.oldest_us(), Some(4_000_000));
        open.leave(late);
        open.leave(between);
        assert_eq!(open.oldest_us(), None);
    }

    #[test]
    fn a_request_that_stays_open_does_not_make_others_be_remembered() {
        let open = OpenRequests::default();
        let long = enter(&open, 0);
        for second in 1..100_000 {
            let place = enter(&open, second * US_PER_SECOND);
            open.leave(place);
        }
        let held = open.locked();
        assert_eq!((held.len(), held.capacity()), (1, SECONDS));
        drop(held);
        assert_eq!(open.oldest_us(), Some(0));
        open.leave(long);
    }
}
