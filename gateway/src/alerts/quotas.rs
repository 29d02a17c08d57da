//! Crossings of quotas, found by looking at all of them again and again, so that requests do
//! nothing for it.
//!
//! A look costs a few words for each quota whose count is as it was ([`Pulse`]); only the others,
//! and those whose window ended, are read. What was told of a quota is kept ([`Told`]), so nothing
//! is told twice; what was counted is kept by the counters, so what a killed process did not get
//! round to is found by the next one. A window that is over is judged once more, by what was
//! allowed in it, and again whenever something is counted in it late: a counter remembers the last
//! window it counted in, however long ago.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use orbit_policy::quota::{Pulse, QuotaView, WindowView};
use orbit_policy::{Aggregate, Snapshot};
use serde_json::{Value, json};

use super::forecast::{self, Forecast, Trend};
use super::outbox::Findings;
use super::signal::{self, Kind, Signal};
use super::told::{At, Crossing, Span, Told, Usage};
use super::watch::KEPT_US;
use crate::api::words::rfc3339;

/// What is known of all quotas of the policy in force.
pub struct QuotaWatch {
    snapshot: Option<Arc<Snapshot>>,
    /// In the order of the snapshot.
    entries: Vec<Entry>,
    watched: HashMap<u128, Watched>,
    /// Of quotas of distinct meters.
    trends: HashMap<u128, Trend>,
}

/// A quota as it was when it was last read.
struct Entry {
    pulse: Pulse,
    beat: u64,
    /// When it is to be read although nothing is counted, unix microseconds.
    due_us: i64,
    is_distinct: bool,
}

/// What was told of a quota, and what was used of it at the last look of this process.
#[derive(Clone, Debug)]
struct Watched {
    told: Told,
    seen: Option<u64>,
}

/// A quota as it stands; a level has no window.
#[derive(Clone, Copy)]
struct Standing<'v> {
    view: &'v QuotaView<'v>,
    window: Option<Span>,
}

impl<'v> Standing<'v> {
    fn of(view: &'v QuotaView<'v>) -> Standing<'v> {
        let span =
            |window: WindowView<'_>| Span { start_us: window.start_us, end_us: window.end_us };
        Standing { view, window: view.window.map(span) }
    }
}

/// Where what is found goes.
pub struct Found<'f> {
    /// To be told.
    pub signals: &'f mut Vec<Signal>,
    /// To be kept with it.
    pub findings: &'f mut Findings,
}

impl QuotaWatch {
    /// Goes on from what earlier processes told.
    pub fn new(told: HashMap<u128, Told>) -> QuotaWatch {
        let watched = told.into_iter().map(|(key, told)| (key, Watched { told, seen: None }));
        QuotaWatch {
            snapshot: None,
            entries: Vec::new(),
            watched: watched.collect(),
            trends: HashMap::new(),
        }
    }

    /// Looks at every quota of which there may be something new.
    pub fn look(&mut self, snapshot: &Arc<Snapshot>, now_us: i64, found: &mut Found<'_>) {
        let is_new = self.snapshot.as_ref().is_none_or(|known| !Arc::ptr_eq(known, snapshot));
        if is_new {
            self.take_up(snapshot, now_us, found);
        }
        for place in 0..self.entries.len() {
            let entry = &mut self.entries[place];
            // Before the quota is read: what is counted meanwhile shows at the next look.
            let beat = entry.pulse.beat();
            if beat == entry.beat && now_us < entry.due_us {
                continue;
            }
            entry.beat = beat;
            let is_distinct = entry.is_distinct;
            let Some(view) = snapshot.quota_at(place, now_us) else { continue };
            let due_us = self.read(Standing::of(&view), is_distinct, now_us, found);
            self.entries[place].due_us = due_us;
        }
    }

    /// Says that something was asked of a quota of which nothing is allowed.
    pub fn asked(
        &mut self,
        snapshot: &Snapshot,
        (tenant, name): (&str, &str),
        now_us: i64,
        found: &mut Found<'_>,
    ) {
        let quotas = snapshot.quotas_of(tenant, now_us).unwrap_or_default();
        for view in quotas.iter().filter(|view| view.full_name == name && view.allowance() == 0) {
            let standing = Standing::of(view);
            let watched = self.current(standing, now_us);
            if let Some(crossing) = watched.told.tell(At::Exhausted, 0) {
                let told = watched.told.clone();
                found.signals.push(tell(crossing, standing, standing.window, view.used, 0, now_us));
                found.findings.told.insert(view.key, told);
            }
        }
    }

    /// Keeps all that was told once more.
    pub fn keep_all(&self, findings: &mut Findings) {
        let all = self.watched.iter().map(|(key, watched)| (*key, watched.told.clone()));
        findings.told.extend(all);
    }

    /// From now on watches the quotas of this snapshot, each of which is read once.
    fn take_up(&mut self, snapshot: &Arc<Snapshot>, now_us: i64, found: &mut Found<'_>) {
        let mut there = HashSet::new();
        let pulses = snapshot.quota_pulses().enumerate();
        self.entries = pulses
            .map(|(place, pulse)| {
                let view = snapshot.quota_at(place, now_us);
                let meter = view.and_then(|view| {
                    there.insert(view.key);
                    snapshot.meter_id(view.meter)
                });
                let is_distinct = meter
                    .is_some_and(|meter| snapshot.meter(meter).aggregate == Aggregate::Distinct);
                Entry { pulse, beat: 0, due_us: i64::MIN, is_distinct }
            })
            .collect();
        self.trends.retain(|key, _| there.contains(key));
        // One that is put back before its window is over, or soon, must not be told again.
        self.watched.retain(|key, Watched { told, .. }| {
            let is_there = there.contains(key);
            let gone_us = match told.window {
                None if !is_there => Some(told.gone_us.unwrap_or(now_us)),
                _ => None,
            };
            if gone_us != told.gone_us {
                told.gone_us = gone_us;
                found.findings.told.insert(*key, told.clone());
            }
            let until_us = match told.window {
                Some(span) => span.end_us + (span.end_us - span.start_us),
                None => gone_us.unwrap_or(now_us) + KEPT_US,
            };
            let keep = is_there || now_us < until_us;
            if !keep {
                found.findings.told.remove(key);
                found.findings.forgotten.push(*key);
            }
            keep
        });
        self.snapshot = Some(Arc::clone(snapshot));
    }

    /// Reads one quota. Returns when it is to be read again at the latest, unix microseconds.
    fn read(
        &mut self,
        standing: Standing<'_>,
        is_distinct: bool,
        now_us: i64,
        found: &mut Found<'_>,
    ) -> i64 {
        let Standing { view, window } = standing;
        self.judge_the_last(view, now_us, found);
        let known = self.watched.get(&view.key);
        if view.used == 0 && known.is_none_or(|known| known.told.window != window) {
            return window.map_or(i64::MAX, |window| window.end_us);
        }
        let before = known.map(|known| known.told.clone());
        let usage = |seen| Usage { seen, used: view.used, allowance: view.allowance() };
        let watched = self.current(standing, now_us);
        let crossings = watched.told.cross(view.thresholds, usage(watched.seen));
        watched.seen = Some(view.used);
        for crossing in crossings {
            let told = tell(crossing, standing, window, view.used, view.allowance(), now_us);
            found.signals.push(told);
        }
        let due_us = match window {
            Some(window) => self.foretell(standing, window, is_distinct, now_us, found),
            None => i64::MAX,
        };
        let told = &self.watched[&view.key].told;
        if before.as_ref() != Some(told) {
            found.findings.told.insert(view.key, told.clone());
        }
        due_us
    }

    /// What is told of the quota in its current window.
    fn current(&mut self, standing: Standing<'_>, now_us: i64) -> &mut Watched {
        let Standing { view, window } = standing;
        let nothing = || match window {
            Some(_) => Told::nothing(window, view.allowance()),
            None => Told::nothing_of_level(view.allowance(), now_us),
        };
        let new = || Watched { told: nothing(), seen: None };
        let watched = self.watched.entry(view.key).or_insert_with(new);
        if watched.told.window != window {
            watched.told.go_on(window, view.allowance());
            watched.seen = None;
        }
        watched
    }

    /// Judges the window that is over, where something was counted in it since it last was.
    fn judge_the_last(&mut self, view: &QuotaView<'_>, now_us: i64, found: &mut Found<'_>) {
        let Some(last) = view.window.and_then(|window| window.previous) else { return };
        let window = Span { start_us: last.start_us, end_us: last.end_us };
        let known = self.watched.get(&view.key).and_then(|watched| watched.told.window);
        if last.used == 0 && known != Some(window) {
            return;
        }
        // If nobody looked at it, what the documents say now is the best there is.
        let new = || Watched { told: Told::nothing(Some(window), last.limit), seen: None };
        let watched = self.watched.entry(view.key).or_insert_with(new);
        let Some(told) = watched.told.of_past(window, last.limit) else { return };
        let allowance = told.allowance;
        let Some(crossings) = told.judge(view.thresholds, last.used) else { return };
        for crossing in crossings {
            let (standing, window) = (Standing::of(view), Some(window));
            found.signals.push(tell(crossing, standing, window, last.used, allowance, now_us));
        }
        found.findings.told.insert(view.key, watched.told.clone());
    }

    /// Foretells, where it can be, that the quota is used up before its window ends. Returns when
    /// it is worth another look, or the window's end.
    fn foretell(
        &mut self,
        standing: Standing<'_>,
        window: Span,
        is_distinct: bool,
        now_us: i64,
        found: &mut Found<'_>,
    ) -> i64 {
        let view = standing.view;
        if view.used == 0 || view.used >= view.allowance() || now_us >= window.end_us {
            self.trends.remove(&view.key);
            return window.end_us;
        }
        let (forecast, due_us): (Option<Forecast>, i64) = if is_distinct {
            let trend = self.trends.entry(view.key).or_default();
            trend.look(window, view.used, view.allowance(), now_us)
        } else {
            forecast::linear(window, view.used, view.allowance(), now_us)
        };
        if let Some(forecast) = forecast
            && let Some(watched) = self.watched.get_mut(&view.key)
            && let Some(crossing) = watched.told.foretell(view.allowance())
        {
            let (used, allowance) = (view.used, view.allowance());
            let mut told = tell(crossing, standing, Some(window), used, allowance, now_us);
            told.data.insert("forecast".to_owned(), json!(forecast.expected));
            let at = rfc3339(forecast.exhausted_us);
            told.data.insert("exhausted_at".to_owned(), json!(at));
            found.signals.push(told);
        }
        due_us
    }
}

fn tell(
    Crossing { at, occasion }: Crossing,
    standing: Standing<'_>,
    window: Option<Span>,
    used: u64,
    allowance: u64,
    now_us: i64,
) -> Signal {
    let view = standing.view;
    let (kind, part) = match at {
        At::Percent(percent) => (Kind::ThresholdCrossed, percent),
        At::Exhausted => (Kind::Exhausted, 0),
        At::Forecast => (Kind::ForecastExceeded, 0),
    };
    let mut facts = vec![
        ("quota", json!(view.name)),
        ("level", json!(view.level.as_str())),
        ("meter", json!(view.meter)),
        ("used", json!(used)),
        ("limit", json!(allowance)),
    ];
    if let (Some(window), Some(current)) = (window, view.window) {
        facts.push(("period", json!(current.period.as_str())));
        facts.push(("window_start", json!(rfc3339(window.start_us))));
        facts.push(("window_end", json!(rfc3339(window.end_us))));
    }
    match at {
        At::Percent(percent) => facts.push(("threshold_percent", json!(percent))),
        At::Exhausted => facts.push(("at_limit", json!(view.at_limit.as_str()))),
        At::Forecast => {}
    }
    let facts = facts.into_iter().map(|(name, value): (_, Value)| (name.to_owned(), value));
    // No window starts there: of a level.
    let start_us = window.map_or(i64::MIN, |window| window.start_us);
    let (key, start) = (view.key.to_le_bytes(), start_us.to_le_bytes());
    let (part, occasion) = (part.to_le_bytes(), occasion.to_le_bytes());
    Signal {
        id: signal::id(&[kind.as_str().as_bytes(), &key, &start, &part, &occasion]),
        kind,
        tenant: view.tenant.to_owned(),
        path: view.path.to_owned(),
        at_us: now_us,
        data: facts.collect(),
    }
}

#[cfg(test)]
mod tests;
