//! Crossings of quotas: found by looking at all of them again and again, so that requests do nothing
//! for it.
//!
//! What is found is a function of the counts alone, and counts outlive the process: a crossing that
//! a killed process did not get round to is found by the next one, under the same id. So is one of
//! the last moments of a window, because a count remembers the window before.
//!
//! A threshold is told once in a window, even if a grant lifts the quota and it is crossed again.

use std::collections::HashMap;

use orbit_policy::quota::QuotaView;
use serde_json::{Map, Value, json};

use super::signal::{self, Kind, Signal};

/// Of a window, this part must be over before anything is foretold.
const FORECAST_AFTER: f64 = 0.1;

/// What was found of each quota already.
#[derive(Debug, Default)]
pub struct QuotaWatch {
    seen: HashMap<u128, Seen>,
}

/// What was found of a quota in its window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    start_us: i64,
    /// Thresholds crossed.
    crossed: usize,
    exhausted: bool,
    foretold: bool,
}

/// A window of a quota, current or over.
#[derive(Clone, Copy)]
struct Look {
    start_us: i64,
    end_us: i64,
    used: u64,
}

impl QuotaWatch {
    /// Adds what is new of a quota to `found`.
    pub fn look(&mut self, view: &QuotaView<'_>, now_us: i64, found: &mut Vec<Signal>) {
        // A level has one window that never ends.
        let bounds = view.window.map_or((0, i64::MAX), |window| (window.start_us, window.end_us));
        let now = Look { start_us: bounds.0, end_us: bounds.1, used: view.used };
        let seen = self.seen.get(&view.key).copied();
        let mut state = seen.unwrap_or_default();
        if state.start_us != now.start_us || seen.is_none() {
            // Of a window that nobody has looked at here, nothing is known to be told.
            if let Some(before) = view.window.and_then(|window| window.previous) {
                let same = state.start_us == before.start_us && seen.is_some();
                let mut last = if same { state } else { Seen::default() };
                let (start_us, end_us, used) = (before.start_us, before.end_us, before.used);
                Seen::cross(&mut last, view, Look { start_us, end_us, used }, now_us, found);
            }
            state = Seen { start_us: now.start_us, ..Seen::default() };
        }
        state.cross(view, now, now_us, found);
        let may_tell = view.window.is_some() && !state.exhausted && !state.foretold;
        if may_tell && now_us < now.end_us {
            state.foretold = foretell(view, now, now_us, found);
        }
        if seen != Some(state) {
            self.seen.insert(view.key, state);
        }
    }

    /// Forgets quotas that are gone.
    pub fn retain(&mut self, is_there: impl Fn(u128) -> bool) {
        self.seen.retain(|key, _| is_there(*key));
    }
}

impl Seen {
    fn cross(&mut self, view: &QuotaView<'_>, look: Look, now_us: i64, found: &mut Vec<Signal>) {
        let allowance = u128::from(view.allowance());
        let used = u128::from(look.used) * 100;
        while let Some(percent) = view.thresholds.get(self.crossed) {
            if used < allowance * u128::from(*percent) || look.used == 0 {
                break;
            }
            self.crossed += 1;
            let more = [("threshold_percent", json!(percent))];
            let part = percent.to_le_bytes();
            found.push(told(Kind::ThresholdCrossed, &part, view, look, now_us, more));
        }
        if !self.exhausted && look.used >= view.allowance() {
            self.exhausted = true;
            let more = [("at_limit", json!(view.at_limit.as_str()))];
            found.push(told(Kind::Exhausted, &[], view, look, now_us, more));
        }
    }
}

/// Whether a quota is used up before its window ends if it goes on like this.
fn foretell(view: &QuotaView<'_>, look: Look, now_us: i64, found: &mut Vec<Signal>) -> bool {
    let length = (look.end_us - look.start_us) as f64;
    let passed = (now_us - look.start_us) as f64 / length.max(1.0);
    if passed < FORECAST_AFTER || view.used == 0 {
        return false;
    }
    let expected = view.used as f64 / passed;
    if expected <= view.allowance() as f64 {
        return false;
    }
    let share = view.allowance() as f64 / expected;
    let exhausted_us = look.start_us + (length * share) as i64;
    let more = [
        ("forecast", json!(expected.round() as u64)),
        ("exhausted_at", json!(signal::time(exhausted_us))),
    ];
    found.push(told(Kind::ForecastExceeded, &[], view, look, now_us, more));
    true
}

fn told<const N: usize>(
    kind: Kind,
    part: &[u8],
    view: &QuotaView<'_>,
    look: Look,
    now_us: i64,
    more: [(&str, Value); N],
) -> Signal {
    let key = view.key.to_le_bytes();
    let start = look.start_us.to_le_bytes();
    let facts = [
        ("quota", json!(view.name)),
        ("level", json!(view.level.as_str())),
        ("meter", json!(view.meter)),
        ("used", json!(look.used)),
        ("limit", json!(view.allowance())),
    ];
    let of_window = view.window.map(|window| {
        [
            ("period", json!(window.period.as_str())),
            ("window_start", json!(signal::time(look.start_us))),
            ("window_end", json!(signal::time(look.end_us))),
        ]
    });
    let facts = facts.into_iter().chain(of_window.into_iter().flatten()).chain(more);
    let facts = facts.map(|(name, value)| (name.to_owned(), value));
    Signal {
        id: signal::id(&[kind.as_str().as_bytes(), &key, &start, part]),
        kind,
        tenant: view.tenant.to_owned(),
        path: view.path.to_owned(),
        at_us: now_us,
        data: Map::from_iter(facts),
    }
}

#[cfg(test)]
mod tests {
    use orbit_policy::calendar::Period;
    use orbit_policy::quota::{AtLimit, Previous, WindowView};
    use orbit_policy::snapshot::Level;

    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    fn view(used: u64, hour: i64) -> QuotaView<'static> {
        QuotaView {
            key: 7,
            tenant: "web",
            path: "acme/web",
            level: Level::Team,
            name: "calls",
            full_name: "team/calls",
            meter: "api_calls",
            window: Some(WindowView {
                period: Period::Hour,
                zone: "UTC",
                start_us: hour * HOUR_US,
                end_us: (hour + 1) * HOUR_US,
                granted: 0,
                rolled_over: 0,
                base: 0,
                since_us: 0,
                previous: None,
            }),
            used,
            estimated: false,
            limit: 10,
            grace: 0,
            thresholds: &[50, 80],
            at_limit: AtLimit::Block,
        }
    }

    fn kinds(found: &[Signal]) -> Vec<(Kind, Option<u64>)> {
        let percent = |one: &Signal| one.data.get("threshold_percent").and_then(Value::as_u64);
        found.iter().map(|one| (one.kind, percent(one))).collect()
    }

    #[test]
    fn each_crossing_is_found_once_and_again_after_a_restart_under_its_id() {
        let mut watch = QuotaWatch::default();
        let mut found = Vec::new();
        for used in [0, 4, 5, 5, 9, 10, 12] {
            watch.look(&view(used, 0), 1, &mut found);
        }
        let all = [
            (Kind::ThresholdCrossed, Some(50)),
            (Kind::ThresholdCrossed, Some(80)),
            (Kind::Exhausted, None),
        ];
        assert_eq!(kinds(&found), all);
        let mut again = Vec::new();
        QuotaWatch::default().look(&view(12, 0), 1, &mut again);
        let ids = |found: &[Signal]| found.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&found), ids(&again));
        let mut next = Vec::new();
        watch.look(&view(10, 1), HOUR_US + 1, &mut next);
        assert_eq!(kinds(&next), all);
        assert!(ids(&next).iter().all(|id| !ids(&found).contains(id)));
    }

    #[test]
    fn what_was_crossed_at_the_end_of_a_window_is_found_in_the_next() {
        let mut watch = QuotaWatch::default();
        let mut found = Vec::new();
        watch.look(&view(6, 0), 1, &mut found);
        found.clear();
        let before = Previous { start_us: 0, end_us: HOUR_US, used: 10 };
        let mut later = view(0, 1);
        later.window.as_mut().expect("a window").previous = Some(before);
        watch.look(&later, HOUR_US + 1, &mut found);
        watch.look(&later, HOUR_US + 2, &mut found);
        assert_eq!(kinds(&found), [(Kind::ThresholdCrossed, Some(80)), (Kind::Exhausted, None)]);
    }

    #[test]
    fn a_pace_that_is_too_fast_is_foretold_once() {
        let mut watch = QuotaWatch::default();
        let mut found = Vec::new();
        // Too early to tell, then fast enough to be used up at half past.
        watch.look(&view(1, 0), HOUR_US / 20, &mut found);
        assert_eq!(kinds(&found), []);
        watch.look(&view(4, 0), HOUR_US / 5, &mut found);
        watch.look(&view(4, 0), HOUR_US / 5 + 1, &mut found);
        assert_eq!(kinds(&found), [(Kind::ForecastExceeded, None)]);
        assert_eq!(found[0].data["forecast"], json!(20));
        assert_eq!(found[0].data["exhausted_at"], json!("1970-01-01T00:30:00.000Z"));
    }
}
