//! The instants that the documents in force name themselves: upgrades, downgrades, ends of trials.
//!
//! Keeps those documents in memory while they name any instant, since what is on disk by then may be
//! a draft nobody applied. Waits for the wall clock: at least once a minute it is read again, so that
//! a clock that is set, or a machine that slept, delays a change by a minute at most.

use std::time::Duration;

use jiff::Timestamp;
use orbit_policy::Source;
use orbit_policy::snapshot::{Change, Snapshot};

use crate::clock::Clock;

/// The clock is read this often while an instant is awaited.
const RECHECK: Duration = Duration::from_mins(1);
/// How far the clock must have been set back for what took effect to be undone: less is what time
/// servers correct.
const SET_BACK_US: i64 = 60_000_000;
/// Most changes of the past that are logged at a start, the latest ones.
const LOGGED_HISTORY: usize = 20;

/// The documents in force and what they wait for.
pub(super) struct Schedule {
    /// Empty while the documents name no instant.
    sources: Vec<Source>,
    /// What the documents in force were resolved for, unix microseconds.
    at_us: i64,
    next_change_us: Option<i64>,
    /// A refused attempt is not repeated at once.
    tried: bool,
}

impl Schedule {
    /// Of the documents that a snapshot was made of.
    pub(super) fn of(snapshot: &Snapshot, sources: Vec<Source>) -> Schedule {
        let mut schedule =
            Schedule { sources: Vec::new(), at_us: 0, next_change_us: None, tried: false };
        schedule.follow(snapshot, sources);
        schedule
    }

    /// Waits for what these documents name from now on.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, sources: Vec<Source>) {
        let none = snapshot.changes().is_empty();
        self.sources = if none { Vec::new() } else { sources };
        self.at_us = snapshot.at_us();
        self.next_change_us = snapshot.next_change_us();
        self.tried = false;
    }

    /// The documents in force.
    pub(super) fn sources(&mut self) -> Vec<Source> {
        self.tried = true;
        self.sources.clone()
    }

    /// Returns when the documents in force say something else than they said; never, where they
    /// name no instant. May be dropped and called again.
    pub(super) async fn due(&self, clock: &Clock) {
        if self.sources.is_empty() {
            return std::future::pending().await;
        }
        if self.tried {
            tokio::time::sleep(RECHECK).await;
        }
        loop {
            let now_us = clock.unix_us();
            let left_us = self.next_change_us.map_or(i64::MAX, |next_us| next_us - now_us);
            if left_us <= 0 || now_us < self.at_us - SET_BACK_US {
                return;
            }
            let left = Duration::from_micros(left_us.cast_unsigned());
            tokio::time::sleep(left.min(RECHECK)).await;
        }
    }
}

/// Logs what took effect between two snapshots, in order.
pub(super) fn log_effect(before: &Snapshot, after: &Snapshot) {
    let (from_us, to_us) = (before.at_us(), after.at_us());
    let new = |change: &&Change| from_us < change.at_us && change.at_us <= to_us;
    for change in after.changes().iter().filter(new) {
        log(change, "took effect");
    }
}

/// Logs the latest changes that are in force at a start: some of them while nothing ran, perhaps.
pub(super) fn log_history(snapshot: &Snapshot) {
    let in_force = snapshot.changes().len() - snapshot.upcoming().len();
    let first = in_force.saturating_sub(LOGGED_HISTORY);
    for change in &snapshot.changes()[first..in_force] {
        log(change, "is in force");
    }
    if let Some(change) = snapshot.upcoming().first() {
        log(change, "comes next");
    }
}

fn log(change: &Change, event: &'static str) {
    let at = Timestamp::from_microsecond(change.at_us).unwrap_or_default();
    let tenant = change.tenant.as_deref();
    tracing::info!(%at, tenant, change = &*change.what, "a scheduled change {event}");
}
