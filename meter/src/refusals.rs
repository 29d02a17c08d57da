//! Answers that are summed instead of written one by one: refusals, and what was served unmetered.
//!
//! A flood of refusals must not become a flood of rows: refusals of one second that agree in
//! tenant, path, plan, app, route, reason and status are one [`Kind::Refused`] event on the meter
//! `refusals`. Its time is the start of the second, its `requests` and quantity the count. Requests
//! served while the journal had no room ([`Refusals::count_unmetered`]) become one
//! [`Kind::Request`] event for each group and day, flagged [`Flags::UNMETERED`], when there is room
//! again; its time is the start of the earliest second counted.
//!
//! # Guarantees
//! - **M1** A count survives `kill -9`: it is in a mapped file before its call returns. What a
//!   process left is journalled by the next.
//! - **M2** Every count is in exactly one event. A power failure takes what was counted in the last
//!   second or so; of counts that wait for room, what came since the last flush. It doubles none.
//! - A group that was counted before costs no allocation and no system call. Memory and file are
//!   bounded by [`MAX_GROUPS`]; a request of yet another group, or of one whose labels are longer
//!   than a slot, becomes an event of its own at once, as long as the journal has room.
//! - A count that the journal has no room for is kept and added to the group's next, under the
//!   earlier second.
//!
//! # How a count becomes an event
//! A group lives in a slot of the file `refusals` in the journal's directory, which the journal's
//! lock keeps to one process. Whatever a process was doing when it died, its slot says what holds:
//!
//! | done last | count | note | the next process |
//! |---|---|---|---|
//! | labels and second placed | 0 | none | finds a free slot |
//! | counted | n | none | journals n |
//! | identity of the event noted (`append_noting`) | n | row | the journal does not hold it: n |
//! | event written | n | row | the journal holds it: nothing, count := 0 |
//! | count := 0 | 0 | row | finds a free slot, note := none |
//! | note := none | 0 | none | finds a free slot |
//!
//! So: a slot is placed and rolls to another second only at count 0; the note precedes every byte
//! of the event, count := 0 follows the last one, and note := none follows that. The next process
//! settles every slot before it ships anything (a shipped lane is removed, and then the journal
//! could not tell) and before it counts anything (so no note meets a count it was not made for).
//! It keeps a slot until its event is written by the steps above, so it may die as well.
//!
//! After a power failure slots and journal disagree: see `recover`. Counts that wait for room may
//! be of many hours, so they are marked as *waiting* and synced with every flush; when there is room,
//! they are *announced*, the table is synced again, and only then the steps above begin. So a count
//! that waits on the disk has no event anywhere.

use std::hash::BuildHasher;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

use crate::boot::BootId;
use crate::event::Event;
#[cfg(doc)]
use crate::event::{Flags, Kind};
use crate::journal::{AppendError, Journal};

mod flusher;
mod group;
mod key;
mod recover;
mod slot;
mod table;
#[cfg(test)]
mod tests;

pub use flusher::Flusher;
use group::Group;
use key::{Key, OwnedKey, Sum, UNIT_NANO, US_PER_SECOND, day_of, second_of};
use table::{Opened, Table};

/// Groups remembered at most; a request of yet another group becomes an event of its own.
pub const MAX_GROUPS: usize = 1 << 15;

const SHARDS: usize = 16;
/// A group without requests is forgotten after so many seconds.
const IDLE_SECONDS: i64 = 10;

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
    /// `None` when no file could be made: counts are in memory only.
    table: Option<Table>,
    hasher: foldhash::fast::RandomState,
    shards: [Mutex<HashTable<Group>>; SHARDS],
    /// Slots that no group has; the next one is the last.
    free: Mutex<Vec<u32>>,
    /// Slots in all.
    capacity: usize,
    uncounted: AtomicU64,
}

impl Refusals {
    /// Settles what an earlier process left, which must come before anything of this journal is
    /// shipped. Without a thread: the caller calls [`Refusals::flush`], or [`Refusals::start`].
    ///
    /// A disk without room for the table is no error: counts are then in memory only
    /// ([`Refusals::is_volatile`]). A table that is there and cannot be read is.
    pub fn open(journal: Arc<Journal>) -> Result<Refusals, RefusalsError> {
        Refusals::with_groups(journal, MAX_GROUPS, BootId::current().map_or(0, BootId::folded))
    }

    fn with_groups(
        journal: Arc<Journal>,
        groups: usize,
        boot: u64,
    ) -> Result<Refusals, RefusalsError> {
        let path = journal.directory().join(table::NAME);
        let failed = |source| RefusalsError { path: path.clone(), source };
        let mut refusals = Refusals {
            journal,
            table: None,
            hasher: foldhash::fast::RandomState::default(),
            shards: std::array::from_fn(|_| Mutex::new(HashTable::new())),
            free: Mutex::new((0..groups as u32).rev().collect()),
            capacity: groups,
            uncounted: AtomicU64::new(0),
        };
        let opened = Table::open(refusals.journal.directory(), groups, boot).map_err(failed)?;
        match opened {
            Opened::Table { table, same_run } => {
                let holds = |id| refusals.journal.holds(id);
                let recovered = recover::recover(&table, same_run, holds);
                table.begin(boot).map_err(failed)?;
                refusals.free = Mutex::new(recovered.free);
                for group in recovered.groups {
                    refusals.insert(group);
                }
                refusals.table = Some(table);
            }
            Opened::Impossible(error) => tracing::error!(
                ?path,
                %error,
                "no table of refusals can be made: kill -9 will lose refusals of up to a second"
            ),
        }
        refusals.describe();
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
        let key = Key {
            sum: Sum::Refused,
            status,
            day: day_of(second),
            quantity_nano: UNIT_NANO,
            texts: [tenant, path, plan, app, route, reason],
        };
        self.add(&key, second);
    }

    /// Counts a request that was served, and whose event the journal had no room for. When this
    /// returns, it survives `kill -9`. Its tenant, path, plan, app, route, meter, status, quantity
    /// and second are kept. An event that stands for no request is not counted.
    pub fn count_unmetered(&self, event: &Event<'_>) {
        if event.requests == 0 {
            return;
        }
        let second = second_of(event.ts_us);
        let &Event { tenant, path, plan, app, route, meter, .. } = event;
        let key = Key {
            sum: Sum::Unmetered,
            status: event.status,
            day: day_of(second),
            quantity_nano: event.quantity_nano,
            texts: [tenant, path, plan, app, route, meter],
        };
        self.add(&key, second);
    }

    fn add(&self, key: &Key<'_>, second: i64) {
        let hash = self.hasher.hash_one(key);
        let table = self.table.as_ref();
        let mut shard = locked(&self.shards[hash as usize % SHARDS]);
        if let Some(group) = shard.find_mut(hash, |group| group.key.key() == *key) {
            if group.add(second, &self.journal, table) {
                return;
            }
        } else if let Some(owned) = OwnedKey::new(key, slot::TEXT_BYTES)
            && let Some(slot) = locked(&self.free).pop()
        {
            let mut group = Group::new(owned, slot, second, table);
            group.add(second, &self.journal, table);
            shard.insert_unique(hash, group, |group| self.hasher.hash_one(group.key.key()));
            return;
        }
        drop(shard);
        self.write_alone(key, second);
    }

    #[cold]
    fn write_alone(&self, key: &Key<'_>, second: i64) {
        let Err(error) = self.journal.append(&key.event(second, 1)) else { return };
        metrics::counter!("orbit_refusals_uncounted_total").increment(1);
        if self.uncounted.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!(%error, "a request could not be counted; further ones are not logged");
        }
    }

    fn insert(&self, group: Group) {
        let hash = self.hasher.hash_one(group.key.key());
        let mut shard = locked(&self.shards[hash as usize % SHARDS]);
        shard.insert_unique(hash, group, |group| self.hasher.hash_one(group.key.key()));
    }

    /// Journals every count of a second that is over at `now_us`. What the journal has no room for
    /// stays, and is an error; the first refusal of the journal ends the flush.
    pub fn flush(&self, now_us: i64) -> Result<(), AppendError> {
        let current = now_us.div_euclid(US_PER_SECOND);
        let is_full = self.journal.is_full();
        let (waiting, is_synced) = self.prepare(current, is_full);
        let table = self.table.as_ref();
        for shard in &self.shards {
            let mut shard = locked(shard);
            for group in shard.iter_mut().filter(|group| group.is_due(current, is_synced)) {
                group.write(&self.journal, table)?;
            }
            self.forget(&mut shard, current);
        }
        if is_full && waiting > 0 { Err(AppendError::Full) } else { Ok(()) }
    }

    /// The groups that wait or are announced now, and whether the disk says so.
    fn prepare(&self, current: i64, is_full: bool) -> (usize, bool) {
        let table = self.table.as_ref();
        let mut waiting = 0;
        for shard in &self.shards {
            let mut shard = locked(shard);
            let prepared = shard.iter_mut().map(|group| group.prepare(current, is_full, table));
            waiting += prepared.filter(|&must_sync| must_sync).count();
        }
        if waiting == 0 {
            return (0, true);
        }
        let synced = table.map_or(Ok(()), Table::sync);
        if let Err(error) = &synced {
            tracing::warn!(%error, waiting, "counts that wait cannot be brought to the disk");
        }
        (waiting, synced.is_ok())
    }

    /// Frees the slots of groups that rest; sooner, when there are few left.
    fn forget(&self, shard: &mut HashTable<Group>, current: i64) {
        let mut free = locked(&self.free);
        let is_crowded = free.len() < self.capacity / 4;
        shard.retain(|group| {
            let rests = is_crowded || current.saturating_sub(group.second) >= IDLE_SECONDS;
            let is_kept = group.count > 0 || !rests;
            if !is_kept {
                free.push(group.slot);
            }
            is_kept
        });
    }

    /// Start of the earliest second that is counted but not journalled, unix microseconds: nothing
    /// up to it may be taken for complete.
    pub fn oldest_us(&self) -> Option<i64> {
        let oldest = |shard: &Mutex<HashTable<Group>>| {
            let shard = locked(shard);
            shard.iter().filter(|group| group.count > 0).map(|group| group.second).min()
        };
        let second = self.shards.iter().filter_map(oldest).min()?;
        Some(second.saturating_mul(US_PER_SECOND))
    }

    /// Whether counts are in memory only, because no table could be made.
    pub fn is_volatile(&self) -> bool {
        self.table.is_none()
    }

    /// Starts the thread that flushes; dropping the result ends it after a last flush of
    /// everything.
    pub fn start(self: &Arc<Refusals>) -> io::Result<Flusher> {
        Flusher::start(Arc::clone(self))
    }

    fn describe(&self) {
        metrics::describe_gauge!(
            "orbit_refusals_volatile",
            "1 while refusals are counted in memory only"
        );
        metrics::describe_counter!(
            "orbit_refusals_uncounted_total",
            "Requests that neither the table of refusals nor the journal had room for"
        );
        let volatile = if self.is_volatile() { 1.0 } else { 0.0 };
        metrics::gauge!("orbit_refusals_volatile").set(volatile);
    }
}

/// A count is changed in a single step, so a panic elsewhere leaves it whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
