//! Whether a quota will be used up before its window ends.
//!
//! What adds up is taken to go on at the pace of the window so far. Distinct members do not add up
//! like that: most are seen early and then again and again, so a pace from the beginning foretells
//! far too many. For those only the newcomers of the last two slices of the window count, each of a
//! week or more, since days and nights and weekends differ; and newcomers are taken to become fewer
//! as they did, by the ratio of the two. Where there are too few to tell, or the window is no
//! longer than two weeks, nothing is foretold.

use super::told::Span;

/// Of a window, this part must be over before anything is foretold.
const AFTER: f64 = 0.1;
const WEEK_US: i64 = 7 * 24 * 3_600_000_000;
/// Slices of a window at most.
const MAX_SLICES: i64 = 24;
/// Newcomers in two slices, with less than which nothing can be told.
const FEW: u64 = 5;

/// What is foretold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// What will be used when the window ends.
    pub expected: u64,
    /// When all that is allowed is used, unix microseconds.
    pub exhausted_us: i64,
}

/// By the pace of the window so far, for what adds up. `used` is not 0. Also says when it is worth
/// another look although nothing is counted: an unchanged count foretells less and less.
pub fn linear(window: Span, used: u64, allowance: u64, now_us: i64) -> (Option<Forecast>, i64) {
    let length = (window.end_us - window.start_us).max(1) as f64;
    let begin_us = window.start_us + (length * AFTER) as i64;
    if now_us < begin_us {
        return (None, begin_us);
    }
    let expected = used as f64 / ((now_us - window.start_us).max(1) as f64 / length);
    let forecast = (expected > allowance as f64).then(|| Forecast {
        expected: expected.round() as u64,
        exhausted_us: window.start_us + (length * (allowance as f64 / expected)) as i64,
    });
    (forecast, window.end_us)
}

/// Members at the beginnings of the last slices of a window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trend {
    window: Option<Span>,
    /// The slice it was last looked at in, from 0.
    slice: i64,
    /// Members at the beginning of that slice and of the two before, as far as they were seen; the
    /// latest last.
    members: Vec<u64>,
}

impl Trend {
    /// Takes how many members there are. Foretells at the beginning of a slice, and says when the
    /// next one begins.
    pub fn look(
        &mut self,
        window: Span,
        used: u64,
        allowance: u64,
        now_us: i64,
    ) -> (Option<Forecast>, i64) {
        let slices = ((window.end_us - window.start_us) / WEEK_US).min(MAX_SLICES);
        if slices < 3 {
            return (None, window.end_us);
        }
        let length_us = (window.end_us - window.start_us) / slices;
        let slice = ((now_us - window.start_us) / length_us).clamp(0, slices - 1);
        let begun_us = window.start_us + slice * length_us;
        let next_us = if slice + 1 == slices { window.end_us } else { begun_us + length_us };
        let is_known = self.window == Some(window);
        if is_known && slice == self.slice {
            return (None, next_us);
        }
        let is_next = is_known && slice == self.slice + 1;
        (self.window, self.slice) = (Some(window), slice);
        if !is_next {
            // In the middle of a slice: how many there were at its beginning is known of the first.
            self.members = if slice == 0 { vec![0] } else { Vec::new() };
            return (None, next_us);
        }
        if self.members.len() == 3 {
            self.members.remove(0);
        }
        self.members.push(used);
        (self.foretell(allowance, slices - slice, begun_us, length_us), next_us)
    }

    fn foretell(
        &self,
        allowance: u64,
        slices_left: i64,
        now_us: i64,
        length_us: i64,
    ) -> Option<Forecast> {
        let [first, second, used] = self.members[..] else { return None };
        let (before, latest) = (second.saturating_sub(first), used.saturating_sub(second));
        if before + latest < FEW || before == 0 {
            return None;
        }
        let ratio = (latest as f64 / before as f64).min(1.0);
        // More than before may be chance: what came in both slices is what is sure.
        let mut newcomers = latest.min(before) as f64;
        let (mut expected, mut exhausted_us) = (used as f64, None);
        for slice in 1..=slices_left {
            newcomers *= ratio;
            expected += newcomers;
            if exhausted_us.is_none() && expected >= allowance as f64 {
                exhausted_us = Some(now_us + slice * length_us);
            }
        }
        let exhausted_us = exhausted_us.filter(|_| expected > allowance as f64)?;
        Some(Forecast { expected: expected.round() as u64, exhausted_us })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;
    const DAY_US: i64 = 24 * HOUR_US;
    const DAY: Span = Span { start_us: 0, end_us: DAY_US };
    const MONTH: Span = Span { start_us: 0, end_us: 28 * DAY_US };
    const YEAR: Span = Span { start_us: 0, end_us: 24 * 15 * DAY_US };

    #[test]
    fn what_adds_up_goes_on_as_it_did() {
        assert_eq!(linear(DAY, 4, 10, HOUR_US), (None, DAY.end_us / 10), "too early to tell");
        assert_eq!(linear(DAY, 4, 10, 12 * HOUR_US), (None, DAY.end_us));
        let at_noon = Forecast { expected: 12, exhausted_us: 20 * HOUR_US };
        assert_eq!(linear(DAY, 6, 10, 12 * HOUR_US), (Some(at_noon), DAY.end_us));
    }

    /// What was foretold at the beginnings of slices with so many members.
    fn foretold(window: Span, slice_us: i64, members: &[u64], allowance: u64) -> Vec<Option<u64>> {
        let mut trend = Trend::default();
        let look = |(slice, used): (i64, &u64)| {
            let now_us = slice * slice_us + 1;
            let (forecast, next_us) = trend.look(window, *used, allowance, now_us);
            assert_eq!(next_us, (slice + 1) * slice_us);
            assert_eq!(trend.look(window, *used + 1, allowance, now_us + 1).0, None, "told once");
            forecast.map(|forecast| forecast.expected)
        };
        (0..).zip(members).map(look).collect()
    }

    #[test]
    fn users_who_come_early_and_come_again_are_no_alarm() {
        // Of 46 who have access most log in in the first week: at that pace it would be 152.
        assert_eq!(foretold(MONTH, 7 * DAY_US, &[1, 38, 44, 46], 50), [None; 4]);
        assert_eq!(foretold(MONTH, 7 * DAY_US, &[0, 1, 4, 4], 5), [None; 4], "too few to tell");
    }

    #[test]
    fn newcomers_who_do_not_become_fewer_are_told() {
        let growing = foretold(MONTH, 7 * DAY_US, &[0, 15, 30, 45], 50);
        assert_eq!(growing, [None, None, Some(60), Some(60)]);
        assert_eq!(foretold(MONTH, 7 * DAY_US, &[0, 15, 30], 60)[2], None, "just enough");
        // Fewer, but not enough so; more, of which only what came twice is sure.
        assert_eq!(foretold(MONTH, 7 * DAY_US, &[0, 20, 36], 50)[2], Some(59));
        assert_eq!(foretold(MONTH, 7 * DAY_US, &[0, 10, 30], 48)[2], Some(50));
        assert_eq!(foretold(YEAR, 15 * DAY_US, &[0, 10, 20], 200)[2], Some(20 + 22 * 10));
    }

    #[test]
    fn after_a_pause_nothing_is_told_until_two_slices_were_seen() {
        let mut trend = Trend::default();
        let mut look = |slice: i64, used| {
            let at_us = slice * 15 * DAY_US + DAY_US;
            trend.look(YEAR, used, 50, at_us).0.is_some()
        };
        assert!(!look(0, 3) && !look(1, 5) && look(2, 10));
        assert!(!look(5, 25) && !look(6, 30) && !look(7, 35) && look(8, 40));
        let next = Span { start_us: YEAR.end_us, end_us: 2 * YEAR.end_us };
        assert_eq!(trend.look(next, 45, 50, YEAR.end_us + DAY_US).0, None);
        let of_a_day = trend.look(DAY, 45, 50, HOUR_US);
        assert_eq!(of_a_day, (None, DAY.end_us), "days and nights differ");
    }
}
