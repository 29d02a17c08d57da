//! Which ingested events are counted already: durable, and in step with the journal.
//!
//! # Layout
//! Below the journal's directory, and under its lock, `ingest/` holds one or more tables
//! ([`Generation`]), each with a serial. The newest is written; when it is three fifths full another
//! is made, with room for as many entries as there are. A table is removed when its newest entry
//! is older than [`IndexSettings::keep`].
//!
//! # Writing an entry
//! Under one lock: the key is looked up in every table; if it is nowhere, the event is appended to
//! the journal with [`Journal::append_noting`], whose callback writes the entry before any byte of
//! the event. `kill -9` keeps every store that had happened, so the next start finds one of these:
//!
//! | killed after | in flight | the slot | the journal | the next start |
//! |---|---|---|---|---|
//! | looking up | 0 | empty | no event | nothing to do |
//! | announcing the slot | slot | empty | no event | empties it |
//! | its epoch, lane, sequence | slot | no key | no event | empties it |
//! | half of its key | slot | half a key | no event | empties it |
//! | its key | slot | whole | no event | asks the journal: empties it |
//! | part of the event's bytes | slot | whole | no event | asks the journal: empties it |
//! | all of them | slot | whole | the event | asks the journal: keeps it |
//! | settling the slot | 0 | whole | the event | nothing to do |
//!
//! So the two agree whenever a start has looked, which is before anything is shipped: an answer of
//! the journal ([`Journal::holds`]), and of the shipping cursor for what the journal has forgotten,
//! is certain only then. The slot in flight was the last to be
//! taken, so emptying it breaks no chain of probes.
//!
//! # After a power failure
//! Another start of the machine than the table says, and a table that is not at rest: its pages and
//! those of the journal show different moments. Then (`recovery`) each such table is repaired where
//! it lies, so that a full disk does not stop it: entries of events that are neither in the journal
//! nor below the shipping cursor die, and every ingested event that the journal still has is
//! entered. Events the journal has forgotten are in the table, because [`IngestIndex::sync`] comes
//! before the cursor moves
//! ([`ShipSettings::before_forget`](crate::ship::ShipSettings::before_forget)). Nothing else needs
//! the table on the disk, so nothing else syncs it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::generation::{Generation, Key, MAX_SLOTS, Place, Stamp, Step};
use super::recovery;
use crate::event::{Event, EventId};
use crate::journal::{AppendError, Journal, Position};
use crate::ship::{self, ShipError};

/// Name of the directory within the journal's.
const DIRECTORY: &str = "ingest";
/// Slots of the smallest table: 2 MiB.
const MIN_SLOTS: usize = 1 << 16;

/// How long and in what the index remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSettings {
    /// An event is remembered at least so long after it was recorded.
    pub keep: Duration,
    /// Slots of the first table: a power of two.
    pub min_slots: usize,
}

impl IndexSettings {
    /// Tables of 64 Ki slots and more.
    pub fn new(keep: Duration) -> IndexSettings {
        IndexSettings { keep, min_slots: MIN_SLOTS }
    }

    fn keep_us(&self) -> i64 {
        i64::try_from(self.keep.as_micros()).unwrap_or(i64::MAX)
    }
}

/// The index could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A file or the directory could not be used.
    #[error("the index of ingested events in {}", directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What was shipped is not known, and a power failure made it matter.
    #[error("the index of ingested events needs the shipping state")]
    Shipping(#[source] ShipError),
}

/// The event was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The journal did not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The index is full and cannot grow.
    #[error("the index of ingested events cannot grow")]
    Index(#[source] io::Error),
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is in the journal now.
    New(EventId),
    /// It was counted before.
    Duplicate,
}

/// The index, open beside its journal.
#[derive(Debug)]
pub struct IngestIndex {
    journal: Arc<Journal>,
    tables: Mutex<Tables>,
    entries: AtomicU64,
}

impl IngestIndex {
    /// Opens the index in the journal's directory and brings it into step with the journal. Before
    /// shipping starts, and even when nothing is to be ingested: what is in doubt now cannot be
    /// settled later.
    pub fn open(
        journal: &Arc<Journal>,
        settings: &IndexSettings,
        now_us: i64,
    ) -> Result<IngestIndex, IndexError> {
        let shipped = || ship::shipped(journal).map_err(IndexError::Shipping);
        let tables = recovery::open(journal, settings, now_us, shipped)?;
        Ok(IngestIndex::with(Arc::clone(journal), tables))
    }

    pub(super) fn with(journal: Arc<Journal>, tables: Tables) -> IngestIndex {
        let entries = AtomicU64::new(tables.entries());
        IngestIndex { journal, tables: Mutex::new(tables), entries }
    }

    /// Whether the event with this request id is counted already.
    pub fn contains(&self, request_id: [u8; 16]) -> bool {
        locked(&self.tables).contains(Key::of(request_id))
    }

    /// Counts the event, unless it was counted before. When this returns, the event survives
    /// `kill -9`, and so does the knowledge that it was counted.
    pub fn record(&self, event: &Event<'_>, now_us: i64) -> Result<Recorded, RecordError> {
        self.record_in_steps(event, now_us, &mut |_| {})
    }

    /// `step` is called between the steps, for tests that die there.
    pub(super) fn record_in_steps(
        &self,
        event: &Event<'_>,
        now_us: i64,
        step: &mut impl FnMut(Step),
    ) -> Result<Recorded, RecordError> {
        let key = Key::of(event.request_id);
        let mut tables = locked(&self.tables);
        if tables.contains(key) {
            return Ok(Recorded::Duplicate);
        }
        let (table, slot) = tables.vacant(key, now_us).map_err(RecordError::Index)?;
        let note = |id| table.note(slot, key, id, now_us, step);
        let id = self.journal.append_noting(event, note)?;
        step(Step::Appended);
        table.settle();
        step(Step::Settled);
        self.entries.store(tables.entries(), Ordering::Relaxed);
        Ok(Recorded::New(id))
    }

    /// Whether there is a table to write; if not, every event is refused until the disk has room.
    pub fn is_there(&self) -> bool {
        locked(&self.tables).current().is_some()
    }

    /// How many events are remembered.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Brings everything to the disk. Before the journal may forget an event, that event's entry
    /// must be there: see the module.
    pub fn sync(&self) -> io::Result<()> {
        let live = locked(&self.tables).live.clone();
        live.iter().filter(|table| !table.is_at_rest()).try_for_each(|table| table.sync())
    }

    /// Refuses further events and leaves the tables at rest, so that the next start need not look
    /// through them whatever happened to the machine. While the journal is still open. Idempotent.
    pub fn close(&self) -> io::Result<()> {
        let mut tables = locked(&self.tables);
        if std::mem::replace(&mut tables.closed, true) {
            return Ok(());
        }
        let everything = Position { segment: u32::MAX, ..Position::START };
        for lane in self.journal.lanes() {
            self.journal.sync_lane(lane, everything)?;
        }
        for table in tables.live.iter().filter(|table| !table.is_at_rest()) {
            table.sync()?;
            table.rest()?;
        }
        Ok(())
    }
}

/// The tables, the last of which is written.
#[derive(Debug)]
pub(super) struct Tables {
    directory: PathBuf,
    pub(super) live: Vec<Arc<Generation>>,
    pub(super) next_serial: u64,
    /// Of tables to be made.
    pub(super) stamp: Stamp,
    min_slots: usize,
    keep_us: i64,
    closed: bool,
}

impl Tables {
    /// No table yet; [`Tables::grow`] makes one.
    pub(super) fn new(journal: &Journal, settings: &IndexSettings, stamp: Stamp) -> Tables {
        Tables {
            directory: journal.directory().join(DIRECTORY),
            live: Vec::new(),
            next_serial: 0,
            stamp,
            min_slots: settings.min_slots,
            keep_us: settings.keep_us(),
            closed: false,
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn entries(&self) -> u64 {
        self.live.iter().map(|table| table.entries()).sum()
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        // Whatever is sent twice is mostly sent twice soon.
        self.live.iter().rev().any(|table| table.find(key) == Place::Here)
    }

    /// A slot for a key that is nowhere.
    pub(super) fn vacant(&mut self, key: Key, now_us: i64) -> io::Result<(&Generation, usize)> {
        if self.closed {
            return Err(io::Error::other("the index is closed"));
        }
        self.grow_if_needed(now_us)?;
        let table = self.current().ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?;
        match table.find(key) {
            Place::Vacant(slot) => Ok((table, slot)),
            Place::Here | Place::Nowhere => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    /// Makes another table in time. While the disk has no room for one, the last is used to nine
    /// tenths.
    pub(super) fn grow_if_needed(&mut self, now_us: i64) -> io::Result<()> {
        let Some(table) = self.current() else { return self.grow(now_us) };
        let (slots, entries) = (table.slots() as u64, table.entries());
        if entries < slots * 3 / 5 {
            return Ok(());
        }
        let is_urgent = entries >= slots * 9 / 10;
        // Asking for room takes time, and there was none at the last entry.
        if !is_urgent && entries > slots * 3 / 5 && !entries.is_multiple_of(64) {
            return Ok(());
        }
        match self.grow(now_us) {
            Err(error) if !is_urgent => {
                tracing::warn!(%error, entries, slots, "no room for a larger index");
                Ok(())
            }
            grown => grown,
        }
    }

    /// The table that is written: the last one, if it is of this node. A table's entries are of one
    /// node, for their ids do not say which.
    pub(super) fn current(&self) -> Option<&Arc<Generation>> {
        self.live.last().filter(|table| table.stamped().node == self.stamp.node)
    }

    /// Makes a table for as many entries as there are, once those too old are gone.
    pub(super) fn grow(&mut self, now_us: i64) -> io::Result<()> {
        self.expire(now_us)?;
        let wanted = usize::try_from(self.entries()).unwrap_or(MAX_SLOTS);
        let slots = wanted.clamp(self.min_slots, MAX_SLOTS).next_power_of_two().min(MAX_SLOTS);
        let serial = self.next_serial;
        let table = Generation::draft(&self.directory, serial, slots, self.stamp)?;
        table.set_newest(now_us);
        let table = table.publish()?;
        self.next_serial = serial + 1;
        self.live.push(Arc::new(table));
        tracing::debug!(serial, slots, "another table of ingested events");
        Ok(())
    }

    /// Removes tables in which every entry is too old; the last one stays.
    pub(super) fn expire(&mut self, now_us: i64) -> io::Result<()> {
        let Some((_, former)) = self.live.split_last() else { return Ok(()) };
        let is_old =
            |table: &&Arc<Generation>| table.newest_us().saturating_add(self.keep_us) < now_us;
        let old: Vec<u64> = former.iter().filter(is_old).map(|table| table.serial()).collect();
        for table in self.live.iter().filter(|table| old.contains(&table.serial())) {
            tracing::info!(
                serial = table.serial(),
                entries = table.entries(),
                "old events forgotten"
            );
            table.remove()?;
        }
        self.live.retain(|table| !old.contains(&table.serial()));
        Ok(())
    }
}

/// A panic elsewhere leaves the tables as a kill would, for the next start to look at; until then
/// an entry may be there whose event is not.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
