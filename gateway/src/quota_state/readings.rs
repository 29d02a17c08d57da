//! What of the usage database quotas are set right by: which readings there are, and what each does.
//!
//! | reading | of | sets |
//! |---|---|---|
//! | counts | a window | the base of each quota of it: what this process did not count itself |
//! | members | a window | the sets of quotas of distinct meters, to which whoever is missing is added |
//! | levels | a gauge | how high each tenant's own level is |
//!
//! What counts is defined in `policy/src/quota/counted.rs` and `policy/src/levels.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use orbit_meter::clickhouse::Store;
use orbit_meter::clickhouse::consumption::{self, ConsumptionError, Process, Span};
use orbit_policy::members::EXACT_MAX;
use orbit_policy::quota::{Counting, QuotaView, Reported};
use orbit_policy::{Policy, Snapshot};

/// Longest time for one query.
const TIMEOUT: Duration = Duration::from_mins(5);

/// What is read at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reading {
    Counts(Window),
    Members(Window),
    Levels(String),
}

/// A window, and since when this process counts by itself in it, unix microseconds: its own rows
/// dated before are read, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Window {
    pub(super) span: Span,
    pub(super) since_us: i64,
}

/// The quotas that readings are for, at some moment.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) readings: BTreeMap<Reading, Quotas>,
}

/// The quotas of one reading.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    /// Key, and what the base was.
    bases: HashMap<u128, u64>,
    /// Meters of distinct members, and how many members one quota of them lets in at most.
    meters: BTreeSet<String>,
    most: u64,
}

impl Window {
    fn of(view: &QuotaView<'_>) -> Option<Window> {
        let window = view.window?;
        let span = Span { from_us: window.start_us, to_us: window.end_us };
        // Of a window that began later, all own rows are this process's to count.
        let since_us = if window.since_us <= window.start_us { 0 } else { window.since_us };
        Some(Window { span, since_us })
    }
}

impl Reading {
    /// How long the time is that it looks through, for who has to choose.
    pub(super) fn length_us(&self) -> i64 {
        match self {
            Reading::Counts(Window { span, .. }) | Reading::Members(Window { span, .. }) => {
                span.to_us - span.from_us
            }
            Reading::Levels(_) => i64::MAX,
        }
    }

    /// Whether rows of this process count in it.
    pub(super) fn is_of_own_rows(&self) -> bool {
        match self {
            Reading::Counts(window) | Reading::Members(window) => window.since_us > 0,
            Reading::Levels(_) => true,
        }
    }

    /// The event time before which every own row must be in the database, unix microseconds.
    pub(super) fn needs_us(&self) -> i64 {
        match self {
            Reading::Counts(window) | Reading::Members(window) => window.since_us,
            Reading::Levels(_) => 0,
        }
    }
}

impl Wanted {
    /// All of it at `unix_us`.
    pub(super) fn now(policy: &Policy, unix_us: i64) -> Wanted {
        let snapshot = policy.load();
        let mut wanted = Wanted::default();
        policy.each_quota(unix_us, &mut |view| wanted.add(&snapshot, view));
        wanted
    }

    fn add(&mut self, snapshot: &Snapshot, view: &QuotaView<'_>) {
        let Some((window, of_view)) = Window::of(view).zip(view.window) else {
            self.readings.entry(Reading::Levels(view.meter.to_owned())).or_default();
            return;
        };
        let meter = snapshot.meter_id(view.meter).map(|id| snapshot.meter(id));
        if meter.and_then(Counting::of) == Some(Counting::Members) {
            let quotas = self.readings.entry(Reading::Members(window)).or_default();
            quotas.meters.insert(view.meter.to_owned());
            quotas.most = quotas.most.max(view.allowance().saturating_add(view.grace));
        } else {
            let quotas = self.readings.entry(Reading::Counts(window)).or_default();
            quotas.bases.insert(view.key, of_view.base);
        }
    }
}

/// Reads, and sets the quotas right.
pub(super) async fn read(
    policy: &Policy,
    store: &Store,
    process: Process,
    reading: &Reading,
    quotas: &Quotas,
) -> Result<(), ConsumptionError> {
    match reading {
        Reading::Counts(window) => counts(policy, store, process, window, quotas).await,
        Reading::Members(window) => members(policy, store, window, quotas).await,
        Reading::Levels(meter) => {
            let levels = consumption::levels(store, meter, process, TIMEOUT).await?;
            policy.set_levels(meter, &levels);
            Ok(())
        }
    }
}

async fn counts(
    policy: &Policy,
    store: &Store,
    process: Process,
    window: &Window,
    quotas: &Quotas,
) -> Result<(), ConsumptionError> {
    let mut amounts: HashMap<u128, u64> = HashMap::new();
    let snapshot = policy.load();
    let Window { span, since_us } = *window;
    consumption::read(store, span, process, since_us, TIMEOUT, |used| {
        let place = (&*used.path, &*used.plan, &*used.meter);
        snapshot.each_count(place, &used.sums, &mut |key, amount| {
            let sum = amounts.entry(key).or_default();
            *sum = sum.saturating_add(amount);
        });
    })
    .await?;
    for (key, base) in &quotas.bases {
        let amount = amounts.get(key).copied().unwrap_or(0);
        // Where the window is over by now, there is nothing to set.
        policy.set_base(*key, span.from_us, amount, *base);
    }
    Ok(())
}

async fn members(
    policy: &Policy,
    store: &Store,
    window: &Window,
    quotas: &Quotas,
) -> Result<(), ConsumptionError> {
    let meters: Vec<String> = quotas.meters.iter().cloned().collect();
    // Beyond that a set is a sketch; and what other nodes let in at the same time may be more than
    // a quota has.
    let most = quotas.most.max(EXACT_MAX).saturating_mul(2);
    let Span { from_us, to_us } = window.span;
    let see = |seen: consumption::SeenMember| {
        let event =
            Reported { path: &seen.path, plan: &seen.plan, meter: &seen.meter, at_us: from_us };
        policy.see_member(&event, to_us, &seen.id, seen.is_sketched);
    };
    consumption::members(store, window.span, &meters, most, TIMEOUT, see).await
}
