//! What was told of one quota, as it is kept: enough to tell each crossing once.
//!
//! A crossing of a window is known by its threshold and the allowance it is a share of. Once told
//! it is not told again in that window, however often a process starts or documents are loaded. If
//! the allowance is raised so far that use is below the threshold again, and use then grows over
//! it, that is another crossing, of another allowance. A window that is over is kept beside the one
//! after it, as what is counted late may still cross in it.
//!
//! A level (of storage, say) has no windows and goes up and down. Its crossings are episodes with
//! numbers: one begins when it rises over a threshold, and the next can only begin after it fell
//! below by [`LEVEL_SLACK_PERCENT`] of what is allowed, so that one that trembles is told once. Where
//! nothing is allowed, none is over before something is.

use serde::{Deserialize, Serialize};

/// How far a level must fall below a threshold before it can cross it again, in percent of what is
/// allowed.
pub const LEVEL_SLACK_PERCENT: u16 = 2;

/// What can be told of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// This share of what is allowed was used, in percent.
    Percent(u16),
    /// All that is allowed was used.
    Exhausted,
    /// All that is allowed will be used before the window ends.
    Forecast,
}

/// A window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Its first instant, unix microseconds.
    pub start_us: i64,
    /// The first instant after it, unix microseconds.
    pub end_us: i64,
}

/// What was told of a quota in its latest window, or of its level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The window; `None`: it is of a level.
    pub window: Option<Span>,
    /// What was allowed when it was last looked at: a window that is over is judged by its own.
    pub allowance: u64,
    /// Since when no document has such a level, unix microseconds.
    pub gone_us: Option<i64>,
    /// What comes before the number of a level's first episode.
    before_first: u64,
    /// Once the window is over: what it was judged by.
    judged: Option<Judged>,
    /// The window before this one.
    last: Option<Box<Told>>,
    marks: Vec<Mark>,
}

/// What a window that is over was judged by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Judged {
    /// As they were: later documents are of later windows.
    thresholds: Vec<u16>,
    /// What was used in it at the latest look; what is counted late comes on top.
    used: u64,
}

/// What was told of one threshold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    at: At,
    /// Whether use has been above it since.
    above: bool,
    /// The allowances it was told for; of a level, the number of the latest episode.
    told_for: Vec<u64>,
}

/// How a quota stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What was used at the last look in this process and window; `None`: this is the first.
    pub seen: Option<u64>,
    /// What is used now.
    pub used: u64,
    /// What is allowed now.
    pub allowance: u64,
}

/// A crossing that is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// Of what.
    pub at: At,
    /// What tells it from others of the same threshold: the allowance, or the episode's number.
    pub occasion: u64,
}

impl Told {
    /// Nothing yet.
    pub fn nothing(window: Option<Span>, allowance: u64) -> Told {
        Told {
            window,
            allowance,
            gone_us: None,
            before_first: 0,
            judged: None,
            last: None,
            marks: Vec::new(),
        }
    }

    /// Nothing yet of a level that is first seen now (unix microseconds). Its episodes are numbered
    /// from there, so that they are others than those of one that was forgotten.
    pub fn nothing_of_level(allowance: u64, now_us: i64) -> Told {
        Told { before_first: now_us.cast_unsigned(), ..Told::nothing(None, allowance) }
    }

    /// Goes on to another window, and keeps the one that was.
    pub fn go_on(&mut self, window: Option<Span>, allowance: u64) {
        let mut last = std::mem::replace(self, Told::nothing(window, allowance));
        last.last = None;
        self.last = Some(Box::new(last));
    }

    /// What was told of a window that is over, which is this one or one before. Where nothing is
    /// known of it, nothing yet, of this allowance. `None`: what is known is of later windows, or of
    /// one that overlaps it, and so is the same one in another time zone.
    pub fn of_past(&mut self, past: Span, allowance: u64) -> Option<&mut Told> {
        let nothing = || Told::nothing(Some(past), allowance);
        match self.window {
            Some(window) if window == past => return Some(self),
            Some(window) if window.start_us >= past.end_us => {}
            Some(window) if window.start_us > past.start_us => return None,
            _ => {
                self.go_on(Some(past), allowance);
                return Some(self);
            }
        }
        let last = self.last.get_or_insert_with(|| nothing().into());
        if last.window != Some(past) {
            if last.window.is_some_and(|window| window.end_us > past.start_us) {
                return None;
            }
            **last = nothing();
        }
        Some(last)
    }

    /// Takes what was used in a window that is over, whose allowance and thresholds stay as they
    /// were when it was first judged, and returns what was crossed; `None`: it is as it was.
    pub fn judge(&mut self, thresholds: &[u16], used: u64) -> Option<Vec<Crossing>> {
        let thresholds = match self.judged.take() {
            Some(judged) if judged.used == used => {
                self.judged = Some(judged);
                return None;
            }
            Some(judged) => judged.thresholds,
            None => thresholds.to_vec(),
        };
        let usage = Usage { seen: None, used, allowance: self.allowance };
        let crossings = self.cross(&thresholds, usage);
        self.judged = Some(Judged { thresholds, used });
        Some(crossings)
    }

    /// Reads what [`text`](Self::text) wrote.
    pub fn parse(text: &[u8]) -> Result<Told, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// As it is kept.
    pub fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and names are always JSON")
    }

    /// Takes what is used now and returns what was crossed.
    pub fn cross(&mut self, thresholds: &[u16], usage: Usage) -> Vec<Crossing> {
        let Usage { seen, used, allowance } = usage;
        let is_raised = allowance > self.allowance;
        self.allowance = allowance;
        let percents = thresholds.iter().map(|percent| (At::Percent(*percent), *percent));
        let mut crossings = Vec::new();
        for (at, percent) in percents.chain([(At::Exhausted, 100)]) {
            // Use may have fallen below and risen above again since the last look.
            if let Some(seen) = seen.filter(|_| is_raised) {
                self.rearm(at, seen, allowance, percent);
            }
            // Where nothing is allowed, everything is used up only once something was asked for.
            if used > 0 && reaches(used, allowance, percent) {
                crossings.extend(self.tell(at, allowance));
            } else {
                self.rearm(at, used, allowance, percent);
            }
        }
        crossings
    }

    /// Says that use is above a threshold. Returns the crossing unless it was told before.
    pub fn tell(&mut self, at: At, allowance: u64) -> Option<Crossing> {
        let (is_level, before_first) = (self.window.is_none(), self.before_first);
        let mark = self.mark(at);
        if mark.above {
            return None;
        }
        mark.above = true;
        if is_level {
            let number = mark.told_for.pop().unwrap_or(before_first) + 1;
            mark.told_for.push(number);
            return Some(Crossing { at, occasion: number });
        }
        if mark.told_for.contains(&allowance) {
            return None;
        }
        mark.told_for.push(allowance);
        Some(Crossing { at, occasion: allowance })
    }

    /// Says that all that is allowed will be used before the window ends: once for each allowance.
    pub fn foretell(&mut self, allowance: u64) -> Option<Crossing> {
        let mark = self.mark(At::Forecast);
        if mark.told_for.contains(&allowance) {
            return None;
        }
        mark.told_for.push(allowance);
        Some(Crossing { at: At::Forecast, occasion: allowance })
    }

    /// From here on it can be crossed again, if use is far enough below.
    fn rearm(&mut self, at: At, used: u64, allowance: u64, percent: u16) {
        // Where nothing is allowed, it stays used up.
        if allowance == 0 {
            return;
        }
        let slack = if self.window.is_none() { LEVEL_SLACK_PERCENT } else { 0 };
        let Some(mark) = self.marks.iter_mut().find(|mark| mark.at == at) else { return };
        if used == 0 || !reaches(used, allowance, percent.saturating_sub(slack)) {
            mark.above = false;
        }
    }

    fn mark(&mut self, at: At) -> &mut Mark {
        let known = self.marks.iter().position(|mark| mark.at == at);
        let place = known.unwrap_or(self.marks.len());
        if known.is_none() {
            self.marks.push(Mark { at, above: false, told_for: Vec::new() });
        }
        &mut self.marks[place]
    }
}

fn reaches(used: u64, allowance: u64, percent: u16) -> bool {
    u128::from(used) * 100 >= u128::from(allowance) * u128::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Option<Span> = Some(Span { start_us: 0, end_us: 10 });

    fn at(crossings: &[Crossing]) -> Vec<At> {
        crossings.iter().map(|crossing| crossing.at).collect()
    }

    #[test]
    fn each_threshold_is_told_once_and_again_only_for_what_a_higher_allowance_brings() {
        let mut told = Told::nothing(WINDOW, 0);
        let mut seen = None;
        let mut cross = |used, allowance| {
            let crossings = told.cross(&[50, 80], Usage { seen, used, allowance });
            seen = Some(used);
            at(&crossings)
        };
        assert_eq!(cross(49, 100), []);
        assert_eq!(cross(50, 100), [At::Percent(50)]);
        assert_eq!(cross(60, 100), []);
        // Raised, and still above: nothing was crossed.
        assert_eq!(cross(60, 110), []);
        // Raised so far that it is below, and crossed again.
        assert_eq!(cross(60, 200), []);
        assert_eq!(cross(99, 200), []);
        assert_eq!(cross(100, 200), [At::Percent(50)]);
        // Lowered: it was told for that allowance already, the other thresholds were not.
        assert_eq!(cross(100, 100), [At::Percent(80), At::Exhausted]);
        // Up and down again: both were told for.
        assert_eq!(cross(100, 300), []);
        assert_eq!(cross(100, 100), []);
        assert_eq!(cross(160, 200), [At::Percent(80)]);
    }

    #[test]
    fn what_was_told_is_the_same_after_it_was_kept() {
        let mut told = Told::nothing(WINDOW, 0);
        let usage = |used| Usage { seen: None, used, allowance: 100 };
        let first = told.cross(&[50, 80], usage(85));
        assert_eq!(at(&first), [At::Percent(50), At::Percent(80)]);
        assert!(told.foretell(100).is_some());
        let mut again = Told::parse(&told.text()).expect("as it was written");
        assert_eq!(again, told);
        assert_eq!(again.cross(&[50, 80], usage(85)), []);
        assert_eq!(again.foretell(100), None);
        assert_eq!(again.foretell(101).map(|crossing| crossing.occasion), Some(101));
        // Another list of thresholds: what is new of it is told, also what lies beyond the limit.
        assert_eq!(at(&again.cross(&[60, 70, 85], usage(85))), [60, 70, 85].map(At::Percent));
        // Raised by as much as was used meanwhile: after a restart nobody knows what came first.
        let raised = Usage { seen: None, used: 100, allowance: 110 };
        assert_eq!(again.clone().cross(&[85], raised), []);
        assert_eq!(at(&again.cross(&[120], usage(120))), [At::Percent(120), At::Exhausted]);
        assert!(Told::parse(b"{\"window\":7}").is_err());
    }

    #[test]
    fn of_the_past_only_the_window_before_is_known_and_none_twice() {
        let span = |start_us, end_us| Span { start_us, end_us };
        let mut told = Told::nothing(Some(span(20, 30)), 7);
        told.go_on(Some(span(30, 40)), 8);
        let past = |start_us, end_us| {
            let past = told.clone().of_past(span(start_us, end_us), 9).cloned();
            past.map(|past| (past.window, past.allowance))
        };
        let window = |start_us, end_us| Some(span(start_us, end_us));
        assert_eq!(past(30, 40), Some((window(30, 40), 8)));
        assert_eq!(past(20, 30), Some((window(20, 30), 7)));
        assert_eq!(past(40, 50), Some((window(40, 50), 9)), "nobody looked at it");
        // Older, and the same windows in other time zones.
        for (start_us, end_us) in [(10, 20), (19, 29), (21, 31), (29, 39)] {
            assert_eq!(past(start_us, end_us), None, "{start_us}");
        }
        let mut told = Told::nothing(window(50, 60), 7);
        assert_eq!(told.of_past(span(20, 30), 9).map(|past| past.allowance), Some(9));
        assert_eq!(told.of_past(span(30, 40), 10).map(|past| past.allowance), Some(10));
    }

    #[test]
    fn of_nothing_nothing_is_used_up_unless_something_was_asked_for() {
        let mut told = Told::nothing(WINDOW, 0);
        let usage = |used| Usage { seen: None, used, allowance: 0 };
        assert_eq!(told.cross(&[80], usage(0)), []);
        assert_eq!(at(&told.cross(&[80], usage(1))), [At::Percent(80), At::Exhausted]);
    }

    #[test]
    fn a_level_is_told_when_it_rises_and_again_only_after_it_fell_well_below() {
        let mut told = Told::nothing(None, 0);
        let mut cross = |used| told.cross(&[80], Usage { seen: None, used, allowance: 1_000 });
        assert_eq!(cross(799), []);
        assert_eq!(cross(800), [Crossing { at: At::Percent(80), occasion: 1 }]);
        for trembling in [799, 801, 780, 805] {
            assert_eq!(cross(trembling), [], "{trembling}");
        }
        assert_eq!(cross(779), []);
        assert_eq!(cross(1_000).len(), 2, "the second episode, and the first of being full");
        assert_eq!(cross(985), []);
        assert_eq!(cross(1_001), []);
        assert_eq!(cross(970), []);
        assert_eq!(cross(1_000), [Crossing { at: At::Exhausted, occasion: 2 }]);
        assert_eq!(cross(0), []);
        assert_eq!(cross(800), [Crossing { at: At::Percent(80), occasion: 3 }]);
    }
}
