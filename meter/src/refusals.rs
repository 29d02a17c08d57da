//! Answers that are summed instead of written one by one: refusals, and what was served unmetered.
//!
//! A flood of refusals must not become a flood of rows: refusals of one second that agree in
//! tenant, path, plan, app, route, reason and status are one [`Kind::Refused`] event on the meter
//! `refusals`. Its time is the start of the second, its `requests` and quantity the count. Whatever the
//! journal had no room for ([`Refusals::count_unmetered`], [`Refusals::count_figure`]) becomes one event
//! for each group and day, flagged [`Flags::UNMETERED`], when there is room again: requests, quantity
//! and body bytes are those of all that it stands for, its time is the start of the earliest second
//! counted. Figures of further meters are in events of their own, as is each member.
//!
//! # Guarantees
//! - **M1** A count survives `kill -9`: it is in a mapped file before its call returns. What a
//!   process left is journalled by the next.
//! - **M2** Every count is in exactly one event. A power failure takes what was counted in the last
//!   second or so; of counts that wait for room, what came since the last flush. It doubles none.
//! - A group that was counted before costs no allocation and no system call. There is room for
//!   [`FIRST_GROUPS`] groups from the first start on, and up to [`MAX_GROUPS`] as long as the disk has
//!   room. What finds no place in a group of its own becomes an event of its own, if the journal has
//!   room; else it joins a wider group, of the same tenant, plan, meter and day, for which
//!   [`RESERVED_GROUPS`] are kept. What finds none either (more different tenants, plans and meters
//!   than that wait for room at once) is a *loss*, told at once and durably: `orbit audit` fails on it.
//! - A count that the journal has no room for is kept and added to the group's next, under the
//!   earlier second.
//!
//! # How a total becomes an event
//! A group lives in a slot of a file `refusals` in the journal's directory, which the journal's
//! lock keeps to one process. Whatever a process was doing when it died, its slot says what holds:
//!
//! | done last | total | note | the next process |
//! |---|---|---|---|
//! | labels placed | nothing | none | finds a free slot |
//! | counted | n | none | journals n |
//! | identity of the event noted (`append_noting`) | n | row | the journal does not hold it: n |
//! | event written | n | row | the journal holds it: nothing, total := nothing |
//! | total := nothing | nothing | row | finds a free slot, note := none |
//! | note := none | nothing | none | finds a free slot |
//!
//! A total changes in one store, whatever it consists of (`slot`). So: a slot is placed only while
//! nothing is counted; the note precedes every byte of the event, total := nothing follows the last
//! one, and note := none follows that. The next process settles every slot before it ships anything (a
//! shipped lane is removed, and then the journal could not tell) and before it counts anything (so no
//! note meets a total it was not made for). It keeps a slot until its event is written by the steps
//! above, so it may die as well.
//!
//! After a power failure slots and journal disagree: see `recover`. Totals that wait for room may
//! be of many hours, so they are marked as *waiting* and synced with every flush; when there is room,
//! they are *announced*, the table is synced again, and only then the steps above begin. So a total
//! that waits on the disk has no event anywhere.

use std::hash::BuildHasher;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

use crate::boot::BootId;
#[cfg(doc)]
use crate::event::Kind;
use crate::event::{Event, Flags};
use crate::journal::{AppendError, Journal};

mod flusher;
mod group;
mod key;
mod recover;
mod slot;
mod table;
#[cfg(test)]
mod tests;
mod uncounted;

pub use flusher::Flusher;
use group::Group;
pub use key::Combine;
use key::{Amount, Key, OwnedKey, Sum, US_PER_SECOND, day_of, second_of};
use table::{Capacity, Table};
use uncounted::Uncounted;

/// Groups there is room for from the first start on: 16 MiB.
pub const FIRST_GROUPS: usize = 1 << 14;
/// Of these, kept for wider groups and for members.
pub const RESERVED_GROUPS: usize = 1 << 12;
/// Groups at most: 128 MiB.
pub const MAX_GROUPS: usize = 1 << 17;

const CAPACITY: Capacity = Capacity {
    slots: FIRST_GROUPS as u32,
    files: (MAX_GROUPS / FIRST_GROUPS) as u32,
    reserve: RESERVED_GROUPS,
};
const SHARDS: usize = 16;
/// A group without requests is forgotten after so many seconds.
const IDLE_SECONDS: i64 = 10;
/// Flushes after which a disk that had no room is asked again.
const RETRY_FLUSHES: u32 = 20;

/// Counts that an earlier process left cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the table of refusals {}", path.display())]
pub struct RefusalsError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Counts refusals, and what was served unmetered, and journals them.
#[derive(Debug)]
pub struct Refusals {
    journal: Arc<Journal>,
    table: Table,
    capacity: Capacity,
    hasher: foldhash::fast::RandomState,
    shards: [Mutex<HashTable<Group>>; SHARDS],
    /// Slots that no group has; the next one is the last.
    free: Mutex<Vec<u32>>,
    /// Groups in memory only, for want of a table.
    homeless: AtomicUsize,
    /// Flushes until the disk is asked for more slots again.
    rest: AtomicU32,
    uncounted: Uncounted,
}

impl Refusals {
    /// Settles what an earlier process left, which must come before anything of this journal is
    /// shipped. Without a thread: the caller calls [`Refusals::flush`], or [`Refusals::start`].
    ///
    /// A disk without room for the table is no error: counts are then in memory only
    /// ([`Refusals::is_volatile`]) until there is some. A table that is there and cannot be read is.
    pub fn open(journal: Arc<Journal>) -> Result<Refusals, RefusalsError> {
        Refusals::with_capacity(journal, CAPACITY)
    }

    fn with_capacity(journal: Arc<Journal>, capacity: Capacity) -> Result<Refusals, RefusalsError> {
        let path = journal.directory().join(table::NAME);
        let failed = |source| RefusalsError { path: path.clone(), source };
        let boot = journal.boot().id.map_or(0, BootId::folded);
        let opened = Table::open(journal.directory(), capacity, boot).map_err(failed)?;
        let mut table = opened.table;
        let mut recovered = recover::recover(&table, &opened.same_run, |id| journal.holds(id));
        table.begin().map_err(failed)?;
        let rest = if opened.refused.is_some() { RETRY_FLUSHES } else { 0 };
        if let Some(error) = opened.refused {
            tracing::error!(
                ?path,
                %error,
                "no table of refusals can be made yet: kill -9 will lose refusals of up to a second"
            );
        }
        let in_use = recovered.groups.iter().filter_map(|group| group.slot);
        table.trim(&in_use.map(|slot| table.file_of(slot)).collect());
        recovered.free.retain(|slot| table.has(*slot));
        let refusals = Refusals {
            uncounted: Uncounted::new(Arc::clone(&journal)),
            journal,
            table,
            capacity,
            hasher: foldhash::fast::RandomState::default(),
            shards: std::array::from_fn(|_| Mutex::new(HashTable::new())),
            free: Mutex::new(recovered.free),
            homeless: AtomicUsize::new(0),
            rest: AtomicU32::new(rest),
        };
        for group in recovered.groups {
            refusals.insert(group);
        }
        describe();
        refusals.publish();
        refusals.uncounted.note_damaged(recovered.tally.damaged);
        Ok(refusals)
    }

    /// Counts one refusal at `now_us` (unix microseconds). When this returns, it survives
    /// `kill -9`.
    #[allow(clippy::too_many_arguments, reason = "the columns of a row, in their order")]
    pub fn count(
        &self,
        now_us: i64,
        tenant: &str,
        path: &str,
        plan: &str,
        app: &str,
        route: &str,
        reason: &str,
        status: u16,
    ) {
        let second = second_of(now_us);
        let texts = [tenant, path, plan, app, route, reason];
        let key = Key { sum: Sum::Refused, status, day: day_of(second), id: [0; 16], texts };
        self.add(&key, &Amount::REFUSAL, second);
    }

    /// Counts the row of a request that was served, which the journal had no room for: the one that
    /// counts it, a part of it, or its member. When this returns, it survives `kill -9`. Its tenant,
    /// path, plan, app, route, meter, status, requests, quantity, bytes and second are kept; of a
    /// member, its id.
    pub fn count_unmetered(&self, event: &Event<'_>) {
        let amount = Amount::of(event);
        if event.flags.contains(Flags::MEMBER) {
            return self.serve(Sum::Member, event, event.request_id, &amount);
        }
        let Amount { requests, quantity_nano, request_bytes, response_bytes } = amount;
        let is_any = requests > 0 || quantity_nano != 0 || request_bytes > 0 || response_bytes > 0;
        if is_any {
            self.serve(Sum::Unmetered, event, [0; 16], &amount);
        }
    }

    /// The same of a row that is a figure of a further meter.
    pub fn count_figure(&self, event: &Event<'_>, combine: Combine) {
        let quantity_nano = event.quantity_nano;
        let amount = Amount { requests: 0, quantity_nano, request_bytes: 0, response_bytes: 0 };
        self.serve(Sum::of_figures(combine), event, [0; 16], &amount);
    }

    fn serve(&self, sum: Sum, event: &Event<'_>, id: [u8; 16], amount: &Amount) {
        let second = second_of(event.ts_us);
        let &Event { tenant, path, plan, app, route, meter, status, .. } = event;
        let texts = [tenant, path, plan, app, route, meter];
        self.add(&Key { sum, status, day: day_of(second), id, texts }, amount, second);
    }

    fn add(&self, key: &Key<'_>, amount: &Amount, second: i64) {
        let is_counted = self.add_to(key, amount, second, key.sum == Sum::Member)
            || self.write_alone(key, amount, second)
            || key.wider().is_some_and(|wider| self.add_to(&wider, amount, second, true));
        if !is_counted {
            self.uncounted.note(amount, second);
        }
    }

    /// Adds to a group; false when there is no room for it. `is_needed`: what is kept may be taken.
    fn add_to(&self, key: &Key<'_>, amount: &Amount, second: i64, is_needed: bool) -> bool {
        let hash = self.hasher.hash_one(key);
        let mut shard = locked(&self.shards[hash as usize % SHARDS]);
        if let Some(group) = shard.find_mut(hash, |group| group.key.key() == *key) {
            return group.add(amount, second, &self.journal, &self.table);
        }
        let Some(owned) = OwnedKey::new(key, slot::TEXT_BYTES) else { return false };
        let Some(slot) = self.take_slot(is_needed) else { return false };
        let mut group = Group::new(owned, slot, &self.table);
        let is_counted = group.add(amount, second, &self.journal, &self.table);
        shard.insert_unique(hash, group, |group| self.hasher.hash_one(group.key.key()));
        is_counted
    }

    /// A slot for a group, or the leave to be without one: while there is no table.
    #[cold]
    #[expect(clippy::option_option, reason = "a group without a slot is not the lack of a group")]
    fn take_slot(&self, is_needed: bool) -> Option<Option<u32>> {
        let mut free = locked(&self.free);
        let kept = if is_needed { 0 } else { self.capacity.reserve };
        if free.len() > kept {
            return free.pop().map(Some);
        }
        let most = self.capacity.slots as usize - kept;
        let may = self.is_volatile() && self.homeless.load(Ordering::Relaxed) < most;
        may.then(|| {
            self.homeless.fetch_add(1, Ordering::Relaxed);
            None
        })
    }

    #[cold]
    fn write_alone(&self, key: &Key<'_>, amount: &Amount, second: i64) -> bool {
        self.journal.append(&key.event(&key::Total::first(amount, second))).is_ok()
    }

    fn insert(&self, group: Group) {
        let hash = self.hasher.hash_one(group.key.key());
        let mut shard = locked(&self.shards[hash as usize % SHARDS]);
        shard.insert_unique(hash, group, |group| self.hasher.hash_one(group.key.key()));
    }

    /// Journals every total of a second that is over at `now_us`, and sees to it that there are slots
    /// for groups to come. What the journal has no room for stays, and is an error; the first refusal
    /// of the journal ends the flush.
    pub fn flush(&self, now_us: i64) -> Result<(), AppendError> {
        self.uncounted.tell();
        let current = now_us.div_euclid(US_PER_SECOND);
        let is_full = self.journal.is_full();
        let (waiting, is_synced) = self.prepare(current, is_full);
        let written = self.write(current, is_synced);
        self.grow();
        written?;
        if is_full && waiting > 0 { Err(AppendError::Full) } else { Ok(()) }
    }

    fn write(&self, current: i64, is_synced: bool) -> Result<(), AppendError> {
        for shard in &self.shards {
            let mut shard = locked(shard);
            for group in shard.iter_mut().filter(|group| group.is_due(current, is_synced)) {
                group.write(&self.journal, &self.table)?;
            }
            self.forget(&mut shard, current);
        }
        Ok(())
    }

    /// The groups that wait or are announced now, and whether the disk says so.
    fn prepare(&self, current: i64, is_full: bool) -> (usize, bool) {
        let mut waiting = 0;
        for shard in &self.shards {
            let mut shard = locked(shard);
            let prepared =
                shard.iter_mut().map(|group| group.prepare(current, is_full, &self.table));
            waiting += prepared.filter(|&must_sync| must_sync).count();
        }
        if waiting == 0 {
            return (0, true);
        }
        let synced = self.table.sync();
        if let Err(error) = &synced {
            tracing::warn!(%error, waiting, "counts that wait cannot be brought to the disk");
        }
        (waiting, synced.is_ok())
    }

    /// Frees the slots of groups that rest; sooner, when there are few left.
    fn forget(&self, shard: &mut HashTable<Group>, current: i64) {
        let mut free = locked(&self.free);
        let is_crowded = self.is_crowded(free.len());
        shard.retain(|group| {
            let rests = is_crowded || current.saturating_sub(group.total.second) >= IDLE_SECONDS;
            let is_kept = group.total.is_any || !rests;
            match group.slot {
                _ if is_kept => {}
                Some(slot) => free.push(slot),
                None => {
                    self.homeless.fetch_sub(1, Ordering::Relaxed);
                }
            }
            is_kept
        });
    }

    fn is_crowded(&self, free: usize) -> bool {
        free < self.table.slots() / 2
    }

    /// Makes more slots before they are needed; not again at once after the disk had no room.
    fn grow(&self) {
        let rest = self.rest.load(Ordering::Relaxed);
        if rest > 0 {
            return self.rest.store(rest - 1, Ordering::Relaxed);
        }
        if !self.is_volatile() && !self.is_crowded(locked(&self.free).len()) {
            return;
        }
        match self.table.grow() {
            Ok(Some(slots)) => {
                let (from, count) = (slots.start, slots.len());
                locked(&self.free).splice(0..0, slots.rev());
                tracing::info!(from, count, "more groups of refusals can be counted");
                self.settle_in();
                self.publish();
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "no room for more groups of refusals");
                self.rest.store(RETRY_FLUSHES, Ordering::Relaxed);
            }
        }
    }

    /// Gives slots to the groups that have none.
    fn settle_in(&self) {
        for shard in &self.shards {
            let mut shard = locked(shard);
            for group in shard.iter_mut().filter(|group| group.slot.is_none()) {
                let Some(slot) = locked(&self.free).pop() else { return };
                group.settle_in(slot, &self.table);
                self.homeless.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Start of the earliest second that is counted but not journalled, unix microseconds: nothing
    /// up to it may be taken for complete.
    pub fn oldest_us(&self) -> Option<i64> {
        let oldest = |shard: &Mutex<HashTable<Group>>| {
            let shard = locked(shard);
            let counted = shard.iter().filter(|group| group.total.is_any);
            counted.map(|group| group.total.second).min()
        };
        let second = self.shards.iter().filter_map(oldest).min()?;
        Some(second.saturating_mul(US_PER_SECOND))
    }

    /// Whether counts are in memory only, because no table could be made.
    pub fn is_volatile(&self) -> bool {
        self.table.slots() == 0
    }

    /// Rows that found no place to be counted in since the start, and are lost.
    pub fn uncounted(&self) -> u64 {
        self.uncounted.rows()
    }

    /// Starts the thread that flushes; dropping the result ends it after a last flush of
    /// everything.
    pub fn start(self: &Arc<Refusals>) -> io::Result<Flusher> {
        Flusher::start(Arc::clone(self))
    }

    fn publish(&self) {
        let volatile = if self.is_volatile() { 1.0 } else { 0.0 };
        metrics::gauge!("orbit_refusals_volatile").set(volatile);
        metrics::gauge!("orbit_refusals_slots").set(self.table.slots() as f64);
    }
}

fn describe() {
    metrics::describe_gauge!(
        "orbit_refusals_volatile",
        "1 while refusals are counted in memory only"
    );
    metrics::describe_gauge!("orbit_refusals_slots", "Groups that can be counted at a time");
    metrics::describe_counter!(
        "orbit_refusals_uncounted_total",
        "Rows of answers that found no place to be counted in, and are lost"
    );
}

/// A total is changed in a single step, so a panic elsewhere leaves it whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
