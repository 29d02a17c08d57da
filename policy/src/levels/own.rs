//! One tenant's own level of one gauge.
//!
//! An event says how high it is at its time, and counts if none that is known is later. A change by a
//! request counts if it is dated after that event. So a level depends on what is known of it and not
//! on the order in which it became known, as that of the rows does; of an event and a change of the
//! same microsecond the event is later. A level is kept to the ninth digit, and counts where it is
//! summed in whole units, rounded up. Figures may be so large that they reach the ends of what is
//! kept; there they stay.
//!
//! What is known here is what this process saw and what was in the rows when they were last read
//! ([`Own::read`]). Of its own changes the last ones are remembered one by one, so that an event that
//! is dated a little back adds those after it. If more than those came after it, too many are added
//! rather than too few, and the rows are to be read.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Sum;
use crate::quota::Words;

/// Changes that are remembered one by one.
const RECENT: usize = 64;
/// The largest level, and the lowest, as it is summed: sums of them stay far from their ends.
const MAX_UNITS: i64 = 1 << 56;
const UNIT_NANO: i128 = 1_000_000_000;

/// The words of a level, among those of a count. The first two are not used, so that
/// [`begin_process`](crate::quota::begin_process) leaves it alone.
const LEVEL: usize = 2;
const TOLD: usize = 3;

/// A level as read from rows: those of all nodes, as far as they were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelRead {
    /// How high it is, in units of 1e-9.
    pub level_nano: i128,
    /// The time of the latest event, unix microseconds; `None`: there was none.
    pub told_us: Option<i64>,
    /// What this process's own changes among those rows add up to, whatever they are dated.
    pub own_nano: i128,
}

/// A level, and where it is summed.
#[derive(Debug)]
pub(crate) struct Own {
    pub(super) tenant: Box<str>,
    pub(super) meter: Box<str>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    level_nano: i128,
    /// The time of the event it counts from.
    told_us: i64,
    /// What this process changed, whatever it is dated.
    changed_nano: i128,
    /// The changes since the event, the latest of this process.
    recent: VecDeque<(i64, i128)>,
    /// The latest date among changes that are not remembered any more, and their sum.
    forgotten: Option<(i64, i128)>,
    sums: Vec<Arc<Sum>>,
    words: Option<&'static Words>,
}

impl Own {
    /// A level at 0, or as `words` have kept it.
    pub(super) fn new(tenant: &str, meter: &str, words: Option<&'static Words>) -> Own {
        let kept = |word: usize| words.map(|words| words[word].load(Ordering::Acquire));
        let told = kept(TOLD).unwrap_or(0).cast_signed();
        let state = State {
            level_nano: i128::from(kept(LEVEL).unwrap_or(0).cast_signed()) * UNIT_NANO,
            // No event is dated so early.
            told_us: if told == 0 { i64::MIN } else { told },
            changed_nano: 0,
            recent: VecDeque::new(),
            forgotten: None,
            sums: Vec::new(),
            words,
        };
        Own { tenant: tenant.into(), meter: meter.into(), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request changed it. So much of what it had reserved at these sums is given back in the same
    /// step.
    pub(super) fn change<'s>(
        &self,
        by_nano: i128,
        at_us: i64,
        reserved: impl Iterator<Item = &'s Arc<Sum>> + Clone,
        amount: u64,
    ) {
        let mut state = self.lock();
        state.changed_nano = state.changed_nano.saturating_add(by_nano);
        let mut next = state.level_nano;
        if at_us > state.told_us {
            next = next.saturating_add(by_nano);
            state.remember(at_us, by_nano);
        }
        let by = state.set(next);
        let amount = amount.cast_signed();
        for sum in &state.sums {
            let is_reserved = reserved.clone().any(|at| Arc::ptr_eq(at, sum));
            sum.change(if is_reserved { by - amount } else { by });
        }
        // Where it does not count any more.
        reserved.filter(|at| !state.is_at(at)).for_each(|at| at.change(-amount));
    }

    /// An event says how high it is. Returns whether the rows are to be read, because more may have
    /// happened after the event than is known here; `since_us` is when this process began.
    pub(super) fn tell(&self, level_nano: i128, at_us: i64, since_us: i64) -> bool {
        let mut state = self.lock();
        if at_us < state.told_us {
            return false;
        }
        state.told_us = at_us;
        state.recent.retain(|(change_us, _)| *change_us > at_us);
        let is_unsure = at_us < since_us || state.forgotten.is_some_and(|(last, _)| last > at_us);
        state.forgotten = state.forgotten.filter(|(last_us, _)| *last_us > at_us);
        let changes = state.recent.iter().map(|(_, by)| *by);
        let level_nano = changes.fold(level_nano, i128::saturating_add);
        let forgotten = state.forgotten.map_or(0, |(_, by)| by.max(0));
        state.move_to(level_nano.saturating_add(forgotten));
        is_unsure
    }

    /// What rows say, and what this process changed that is not among them.
    pub(super) fn read(&self, read: &LevelRead) {
        let mut state = self.lock();
        let told_us = read.told_us.unwrap_or(i64::MIN);
        if told_us < state.told_us {
            // A later event is on its way.
            return;
        }
        state.told_us = told_us;
        state.recent.retain(|(change_us, _)| *change_us > told_us);
        state.forgotten = state.forgotten.filter(|(last_us, _)| *last_us > told_us);
        let on_its_way = state.changed_nano.saturating_sub(read.own_nano);
        state.move_to(read.level_nano.saturating_add(on_its_way));
    }

    /// Counts at these sums too, from now on.
    pub(super) fn enter(&self, sums: Vec<Arc<Sum>>) {
        let mut state = self.lock();
        for sum in sums {
            if !state.is_at(&sum) {
                sum.change(units(state.level_nano));
                state.sums.push(sum);
            }
        }
    }

    /// Counts at no sums but these.
    pub(super) fn leave_all_but(&self, sums: &[Arc<Sum>]) {
        let mut state = self.lock();
        let level = units(state.level_nano);
        state.sums.retain(|sum| {
            let stays = sums.iter().any(|other| Arc::ptr_eq(other, sum));
            if !stays {
                sum.change(-level);
            }
            stays
        });
    }

    /// Whether it outlives the process.
    pub(super) fn is_kept(&self) -> bool {
        self.lock().words.is_some()
    }
}

impl State {
    fn is_at(&self, sum: &Arc<Sum>) -> bool {
        self.sums.iter().any(|at| Arc::ptr_eq(at, sum))
    }

    fn remember(&mut self, at_us: i64, by_nano: i128) {
        if self.recent.len() == RECENT
            && let Some((oldest_us, oldest_nano)) = self.recent.pop_front()
        {
            let (last_us, sum) = self.forgotten.unwrap_or((i64::MIN, 0));
            self.forgotten = Some((last_us.max(oldest_us), sum.saturating_add(oldest_nano)));
        }
        self.recent.push_back((at_us, by_nano));
    }

    /// Sets the level, and returns by how many units that changes it.
    fn set(&mut self, level_nano: i128) -> i64 {
        let before = units(self.level_nano);
        self.level_nano = level_nano;
        self.store();
        units(level_nano) - before
    }

    fn move_to(&mut self, level_nano: i128) {
        let by = self.set(level_nano);
        self.sums.iter().for_each(|sum| sum.change(by));
    }

    fn store(&self) {
        let Some(words) = self.words else { return };
        let told_us = if self.told_us == i64::MIN { 0 } else { self.told_us };
        words[TOLD].store(told_us.cast_unsigned(), Ordering::Release);
        words[LEVEL].store(units(self.level_nano).cast_unsigned(), Ordering::Release);
    }
}

/// In whole units, rounded up, within bounds.
fn units(nano: i128) -> i64 {
    let whole = nano.div_euclid(UNIT_NANO) + i128::from(nano.rem_euclid(UNIT_NANO) > 0);
    i64::try_from(whole)
        .unwrap_or(if whole < 0 { -MAX_UNITS } else { MAX_UNITS })
        .clamp(-MAX_UNITS, MAX_UNITS)
}
