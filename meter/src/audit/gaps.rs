//! What follows what: gaps and overlaps between ranges of sequences. No queries here.

use std::collections::BTreeMap;

/// More gaps or overlaps than this are counted and not kept.
const MOST_KEPT: usize = 1000;

/// One writer's chain of sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    pub(super) node: u32,
    pub(super) epoch: u32,
    pub(super) lane: u16,
}

/// What a plan took of a lane: every sequence from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) lane: Lane,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) plan: u64,
    /// The plan's earliest event.
    pub(super) min_us: i64,
}

impl Range {
    /// From a line of `audit_ranges.sql`.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let mut next = || fields.next();
        let lane = Lane {
            node: next()?.parse().ok()?,
            epoch: next()?.parse().ok()?,
            lane: next()?.parse().ok()?,
        };
        let (first, last) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let (plan, min_us) = (next()?.parse().ok()?, next()?.parse().ok()?);
        (first <= last).then_some(Self { lane, first, last, plan, min_us })
    }
}

/// Sequences that no plan took, before one that did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) lane: Lane,
    pub(super) first: u64,
    pub(super) last: u64,
    /// Earliest event of the plan that follows.
    pub(super) before_us: i64,
}

impl Gap {
    pub(super) fn events(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Sequences that two plans took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overlap {
    pub(super) lane: Lane,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) plans: (u64, u64),
}

/// Walks the ranges of all lanes in order and notes where they do not follow.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Whether a lane must begin at 0: false in a window of time.
    from_start: bool,
    /// Before this, retention may have taken plans; 0 when it has not.
    settled_us: i64,
    last: Option<Range>,
    /// Latest beginning of a plan, of earlier epochs of this node and of the present one.
    earlier_us: i64,
    epoch_us: i64,
    pub(super) ranges: u64,
    pub(super) gaps: Vec<Gap>,
    /// Gaps that are not kept.
    pub(super) more_gaps: u64,
    pub(super) overlaps: Vec<Overlap>,
    pub(super) more_overlaps: u64,
}

impl Walk {
    pub(super) fn new(from_start: bool, settled_us: i64) -> Self {
        Self { from_start, settled_us, ..Self::default() }
    }

    /// Takes the next range, in the order of lanes and sequences.
    pub(super) fn push(&mut self, range: Range) {
        self.ranges += 1;
        let before = self.last.filter(|last| last.lane == range.lane);
        self.follow_epochs(&range);
        let expected = match before {
            Some(last) => last.last.saturating_add(1),
            None if self.from_start && !self.may_have_lost_its_start(&range) => 0,
            None => range.first,
        };
        if range.first > expected && range.min_us >= self.settled_us {
            let Range { lane, first, min_us, .. } = range;
            let gap = Gap { lane, first: expected, last: first - 1, before_us: min_us };
            keep(&mut self.gaps, &mut self.more_gaps, gap);
        }
        let mut reached = range;
        if let Some(last) = before {
            if range.first <= last.last {
                let overlap = Overlap {
                    lane: range.lane,
                    first: range.first,
                    last: range.last.min(last.last),
                    plans: (last.plan, range.plan),
                };
                keep(&mut self.overlaps, &mut self.more_overlaps, overlap);
            }
            if last.last > range.last {
                reached = last;
            }
        }
        self.last = Some(reached);
    }

    fn follow_epochs(&mut self, range: &Range) {
        match self.last.map(|last| last.lane) {
            Some(lane) if lane.node == range.lane.node && lane.epoch == range.lane.epoch => {}
            Some(lane) if lane.node == range.lane.node => {
                self.earlier_us = self.earlier_us.max(self.epoch_us);
                self.epoch_us = 0;
            }
            _ => (self.earlier_us, self.epoch_us) = (0, 0),
        }
        self.epoch_us = self.epoch_us.max(range.min_us);
    }

    /// Whether retention may have taken the lane's first plans: not when an earlier run of the node
    /// ended after all that it has taken.
    fn may_have_lost_its_start(&self, range: &Range) -> bool {
        self.settled_us > 0 && (range.min_us < self.settled_us || self.earlier_us < self.settled_us)
    }
}

fn keep<T>(kept: &mut Vec<T>, more: &mut u64, new: T) {
    if kept.len() < MOST_KEPT {
        kept.push(new);
    } else {
        *more += 1;
    }
}

/// What of `first..=last` is in none of `covers`, which are inclusive and in any order.
pub(super) fn uncovered(first: u64, last: u64, covers: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut covers = covers.to_vec();
    covers.sort_unstable();
    let mut rest = Vec::new();
    let mut from = first;
    for (start, end) in covers {
        if end < from {
            continue;
        }
        if start > last {
            break;
        }
        if start > from {
            rest.push((from, start - 1));
        }
        match end.checked_add(1) {
            Some(after) => from = after,
            None => return rest,
        }
    }
    if from <= last {
        rest.push((from, last));
    }
    rest
}

/// What is left of gaps when these ranges, by lane, are known of.
pub(super) fn subtract(gaps: &[Gap], covers: &BTreeMap<Lane, Vec<(u64, u64)>>) -> Vec<Gap> {
    let left = |gap: &Gap| {
        let covers = covers.get(&gap.lane).map_or(&[][..], Vec::as_slice);
        let gap = *gap;
        let rest = uncovered(gap.first, gap.last, covers);
        rest.into_iter().map(move |(first, last)| Gap { first, last, ..gap })
    };
    gaps.iter().flat_map(left).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(epoch: u32, lane: u16) -> Lane {
        Lane { node: 1, epoch, lane }
    }

    fn range(lane: Lane, first: u64, last: u64, min_us: i64) -> Range {
        Range { lane, first, last, plan: first, min_us }
    }

    fn walk(walk: Walk, ranges: &[Range]) -> Walk {
        let mut walk = walk;
        for range in ranges {
            walk.push(*range);
        }
        walk
    }

    fn gaps(walk: &Walk) -> Vec<(u64, u64)> {
        walk.gaps.iter().map(|gap| (gap.first, gap.last)).collect()
    }

    #[test]
    fn what_follows_is_silent() {
        let (a, b) = (lane(1, 0), lane(1, 1));
        let ranges = [range(a, 0, 9, 1), range(a, 10, 10, 2), range(b, 0, 4, 1), range(b, 5, 7, 9)];
        let walked = walk(Walk::new(true, 0), &ranges);
        assert!(walked.gaps.is_empty() && walked.overlaps.is_empty(), "{walked:?}");
        assert_eq!(walked.ranges, 4);
    }

    #[test]
    fn gaps_are_between_ranges_and_before_the_first() {
        let (a, b) = (lane(1, 0), lane(1, 1));
        let ranges = [range(a, 3, 9, 1), range(a, 12, 15, 2), range(b, 0, 1, 3)];
        assert_eq!(gaps(&walk(Walk::new(true, 0), &ranges)), [(0, 2), (10, 11)]);
        assert_eq!(gaps(&walk(Walk::new(false, 0), &ranges)), [(10, 11)], "a window cuts lanes");
    }

    #[test]
    fn overlaps_are_found_behind_a_range_that_holds_others() {
        let a = lane(1, 0);
        let ranges = [range(a, 0, 99, 1), range(a, 10, 19, 2), range(a, 50, 149, 3)];
        let walked = walk(Walk::new(true, 0), &ranges);
        let found: Vec<_> = walked.overlaps.iter().map(|o| (o.first, o.last, o.plans)).collect();
        assert_eq!(found, [(10, 19, (0, 10)), (50, 99, (0, 50))]);
        assert!(walked.gaps.is_empty());
    }

    #[test]
    fn what_retention_may_have_taken_is_no_gap() {
        let (old, new) = (lane(1, 0), lane(2, 0));
        let settled = 100;
        // Before the first month that is wholly kept.
        let early = [range(old, 50, 59, 99), range(old, 70, 79, 99)];
        assert!(walk(Walk::new(true, settled), &early).gaps.is_empty());
        // Its start may be as old as that.
        let idle = [range(old, 50, 59, 150), range(old, 70, 79, 160)];
        assert_eq!(gaps(&walk(Walk::new(true, settled), &idle)), [(60, 69)]);
        // The run before it went on until later, so nothing of this one can have been taken.
        let after = [range(old, 0, 9, 120), range(new, 5, 9, 150)];
        assert_eq!(gaps(&walk(Walk::new(true, settled), &after)), [(0, 4)]);
        let after_old = [range(old, 0, 9, 80), range(new, 5, 9, 150)];
        assert!(walk(Walk::new(true, settled), &after_old).gaps.is_empty());
    }

    #[test]
    fn what_is_known_of_is_taken_out_of_a_gap() {
        assert_eq!(uncovered(5, 9, &[]), [(5, 9)]);
        assert_eq!(uncovered(5, 9, &[(0, 4), (10, 20)]), [(5, 9)]);
        assert_eq!(uncovered(5, 9, &[(7, 7)]), [(5, 6), (8, 9)]);
        assert_eq!(uncovered(5, 9, &[(8, 12), (0, 5)]), [(6, 7)]);
        assert!(uncovered(5, 9, &[(7, 9), (5, 6)]).is_empty());
        assert!(uncovered(5, u64::MAX, &[(0, u64::MAX)]).is_empty());
    }

    #[test]
    fn lines_are_read_and_nonsense_is_not() {
        let read = Range::parse("1\t3\t2\t62500\t124999\t9\t1793501200000000");
        let expected = Range {
            lane: Lane { node: 1, epoch: 3, lane: 2 },
            first: 62_500,
            last: 124_999,
            plan: 9,
            min_us: 1_793_501_200_000_000,
        };
        assert_eq!(read, Some(expected));
        for line in ["", "1\t3\t2\t5", "1\t3\t2\t9\t8\t9\t0", "a\t3\t2\t5\t6\t9\t0"] {
            assert_eq!(Range::parse(line), None, "{line}");
        }
    }
}
