//! The watermark: the event time below which everything is in ClickHouse.
//!
//! Event times are arrival times and a lane is in order of completion, so the oldest event that is
//! not acknowledged says nothing of those behind it. Instead, a *mark* is set about every second: a
//! time before which no request is open any more, together with how far the lane had got. When
//! everything up to a mark is acknowledged, so is every event before its time.
//!
//! Guarantees: it never goes back, and within what the marks' times promise it is never too high. A
//! lane of an earlier epoch holds it where it was until the lane is shipped whole.

use std::collections::{BTreeMap, VecDeque};

use crate::journal::LaneKey;

/// Marks kept per lane; when ClickHouse is away for longer, they get sparser.
const MAX_MARKS: usize = 128;

/// The watermark of every lane and of all.
#[derive(Debug)]
pub(super) struct Watermarks {
    lanes: BTreeMap<LaneKey, Lane>,
    /// What was reached before this process started: all that former lanes allow.
    restored_us: Option<i64>,
    /// Time of the latest mark.
    latest_us: Option<i64>,
    overall_us: Option<i64>,
}

#[derive(Debug)]
struct Lane {
    marks: VecDeque<Mark>,
    reached_us: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    time_us: i64,
    sequence: u64,
}

impl Watermarks {
    /// Starts from what an earlier process reached.
    pub(super) fn new(restored_us: Option<i64>) -> Watermarks {
        Watermarks {
            lanes: BTreeMap::new(),
            restored_us,
            latest_us: restored_us,
            overall_us: restored_us,
        }
    }

    /// Every event before `time_us` lies, in its live lane, before the sequence given here. The time
    /// was taken before the sequences.
    pub(super) fn mark(&mut self, time_us: i64, lanes: &[(LaneKey, u64)]) {
        // A clock that was set back promises nothing new.
        let time_us = self.latest_us.map_or(time_us, |latest| latest.max(time_us));
        for &(key, sequence) in lanes {
            // A lane that is new since the last mark has no event from before it.
            let reached_us = self.latest_us;
            let lane = self.lanes.entry(key);
            let lane = lane.or_insert_with(|| Lane { marks: VecDeque::new(), reached_us });
            lane.mark(Mark { time_us, sequence });
        }
        self.latest_us = Some(time_us);
    }

    /// Takes note of how far each live lane is acknowledged, and whether former lanes remain.
    pub(super) fn advance(&mut self, acknowledged: &[(LaneKey, u64)], former_remain: bool) {
        for (key, sequence) in acknowledged {
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.advance(*sequence);
            }
        }
        let reached = if former_remain {
            self.restored_us
        } else if self.lanes.is_empty() {
            self.latest_us
        } else {
            // None, the lane that reached nothing yet, is the lowest.
            self.lanes.values().map(|lane| lane.reached_us).min().flatten()
        };
        self.overall_us = self.overall_us.max(reached);
    }

    /// Everything before this event time is acknowledged; `None` while nothing can be said.
    pub(super) fn overall_us(&self) -> Option<i64> {
        self.overall_us
    }

    /// The same, lane by lane, of the lanes of this epoch.
    pub(super) fn lanes(&self) -> impl Iterator<Item = (LaneKey, Option<i64>)> {
        self.lanes.iter().map(|(key, lane)| (*key, lane.reached_us))
    }
}

impl Lane {
    fn mark(&mut self, mark: Mark) {
        match self.marks.back_mut() {
            // Nothing was written since: the lane had got as far at the later time.
            Some(last) if last.sequence == mark.sequence => last.time_us = mark.time_us,
            _ => self.marks.push_back(mark),
        }
        if self.marks.len() > MAX_MARKS {
            let mut index = 0;
            self.marks.retain(|_| {
                index += 1;
                index % 2 == 1 || index > MAX_MARKS
            });
        }
    }

    fn advance(&mut self, acknowledged: u64) {
        while let Some(mark) = self.marks.front().copied() {
            if mark.sequence > acknowledged {
                return;
            }
            self.reached_us = self.reached_us.max(Some(mark.time_us));
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(lane: u16) -> LaneKey {
        LaneKey { node: 1, epoch: 2, lane }
    }

    #[test]
    fn it_follows_acknowledgements_and_not_appends() {
        let mut marks = Watermarks::new(None);
        marks.mark(100, &[(lane(0), 10), (lane(1), 5)]);
        marks.advance(&[(lane(0), 10), (lane(1), 4)], false);
        assert_eq!(marks.overall_us(), None);
        marks.advance(&[(lane(0), 10), (lane(1), 5)], false);
        assert_eq!(marks.overall_us(), Some(100));
        marks.mark(200, &[(lane(0), 30), (lane(1), 5)]);
        marks.advance(&[(lane(0), 29), (lane(1), 5)], false);
        assert_eq!(marks.overall_us(), Some(100));
        let lanes: Vec<_> = marks.lanes().collect();
        assert_eq!(lanes, [(lane(0), Some(100)), (lane(1), Some(200))]);
        marks.advance(&[(lane(0), 30), (lane(1), 5)], false);
        assert_eq!(marks.overall_us(), Some(200));
    }

    #[test]
    fn a_new_lane_does_not_pull_it_back() {
        let mut marks = Watermarks::new(None);
        marks.mark(100, &[(lane(0), 10)]);
        marks.advance(&[(lane(0), 10)], false);
        marks.mark(200, &[(lane(0), 10), (lane(1), 3)]);
        marks.advance(&[(lane(0), 10), (lane(1), 0)], false);
        assert_eq!(marks.overall_us(), Some(100), "held, not lost");
        marks.advance(&[(lane(0), 10), (lane(1), 3)], false);
        assert_eq!(marks.overall_us(), Some(200));
    }

    #[test]
    fn former_lanes_hold_it_where_it_was() {
        let mut marks = Watermarks::new(Some(50));
        marks.mark(100, &[(lane(0), 0)]);
        marks.advance(&[(lane(0), 0)], true);
        assert_eq!(marks.overall_us(), Some(50));
        marks.advance(&[(lane(0), 0)], false);
        assert_eq!(marks.overall_us(), Some(100));
    }

    #[test]
    fn an_idle_journal_follows_the_clock_and_a_clock_set_back_does_not() {
        let mut marks = Watermarks::new(None);
        marks.mark(100, &[]);
        marks.advance(&[], false);
        assert_eq!(marks.overall_us(), Some(100));
        marks.mark(70, &[(lane(0), 1)]);
        marks.advance(&[(lane(0), 1)], false);
        assert_eq!(marks.overall_us(), Some(100));
    }

    #[test]
    fn marks_are_bounded_and_still_right() {
        let mut marks = Watermarks::new(None);
        for step in 0..10_000 {
            marks.mark(step, &[(lane(0), step.cast_unsigned() * 10)]);
        }
        let kept = &marks.lanes[&lane(0)].marks;
        assert!(kept.len() <= MAX_MARKS);
        assert!(kept.iter().all(|mark| mark.sequence == mark.time_us.cast_unsigned() * 10));
        marks.advance(&[(lane(0), 99_990)], false);
        assert_eq!(marks.overall_us(), Some(9_999));
    }
}
