//! The journal: where an event is safe before the client can have seen the end of its answer.
//!
//! # Layout
//! A directory holds `lock`, `identity.0` and `.1` (node number, epoch, losses: `record`), `synced`
//! (`mark`) and segment files. Each thread that appends has a *lane*, and each lane a chain of
//! segments; a segment is preallocated, mapped into memory and written front to back:
//!
//! ```text
//! | header page: magic, layouts, node, epoch, lane, index, first sequence, checksum |
//! |              committed offset, next sequence, settled                           |
//! | frame | frame | frame | ...                              zeros to the end       |
//!   frame = length u32, CRC-32 u32, row          (row: see `event`; all little-endian)
//! ```
//!
//! Appending copies the row behind the last frame, then makes it readable with one release store
//! of the committed offset. That takes no system call and no allocation: the pages belong to the
//! kernel at once, so a process that dies by SIGKILL leaves every committed frame behind.
//!
//! # Invariants
//! - **M1** An event whose `append` returned is read back after `kill -9`. A power failure can take
//!   what was appended in the last `sync_interval` and the round of syncing under way; that it
//!   happened, and since when, is told as a [`Loss`] until somebody has noted it.
//! - **M2** (with `ship`) The position below which segments are removed moves only when
//!   everything before it is acknowledged. Event ids never repeat: the epoch is raised durably
//!   before the first segment of an opening is made.
//! - **M3** Sequences of a (node, epoch, lane) are dense from 0: a frame's checksum starts from its
//!   identity, so it counts in its own place only, and a lane passes from thread to thread whole.
//! - **M4** A full disk is an error when a segment is made, ahead of need, and never a signal while
//!   a row is written; [`Journal::is_full`] says so while every active lane still has room. A
//!   directory that was opened once can be opened without a free block, and shipped to make room:
//!   identity, mark and shipping state are written over blocks they have.
//! - A tear is found by checksum and cut; nothing behind it in the same segment is believed.
//! - One process at a time: the directory is locked while a journal is open.
//!
//! # Power failure
//! What is on the disk at any moment follows from the order of syncs:
//! 1. A segment's blocks and name are durable (file, then directory) before it can be a spare.
//! 2. A lane's first header page is synced before its first event returns; later ones before the
//!    segment below is removed, because shipping syncs what it plans. So each lane that has an
//!    acknowledged answer has a readable header on the disk, and is known to have been.
//! 3. A round of syncing notes the time, then writes rows, then header pages, then the time into
//!    `synced`. So `synced` never promises a row that is not there. (Header words may: the kernel
//!    can write that page when it likes. They only say how much should be there.)
//! 4. A clean `close` syncs, and only when that succeeded notes the end in the record.
//! 5. Shipping syncs rows before it stores a plan, and stores the cursor before segments below it
//!    are removed; a removal that is undone by the failure is repeated.
//!
//! The record names the machine's run ([`Boot`]) of an opening. The next opening finds no clean end
//! and another run: then every lane of that opening gets a [`Loss`] of cause power, since `synced`.
//! Under the same run the kernel still had everything. (One case is not seen: a disk that fails while
//! the machine runs on, and is mounted again. Its failing syncs are logged and counted.)
//!
//! # Threads
//! `append` works on the calling thread's own lane. One housekeeping thread makes and pre-faults
//! spare segments and syncs every `sync_interval`. The shipper reads files below the committed
//! offset, never the mapping.

mod claim;
mod error;
mod frame;
mod header;
mod housekeeping;
mod inspect;
mod lane;
pub(crate) mod loss;
mod mapping;
mod mark;
mod pool;
mod reader;
mod record;
mod recover;
mod segment;
mod shared;
mod status;
mod survey;
mod verify;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use error::{AppendError, JournalError, SegmentError};
pub use inspect::{Inspection, LaneInspection, inspect};
pub use loss::{Loss, LossCause};
pub use reader::{Frame, LaneReader, ReadError};
use shared::Shared;
pub use status::JournalStatus;
pub use verify::{Damage, Fault, Verification, verify};

use crate::boot::Boot;
use crate::event::{Event, EventId};
use header::{HEADER_BYTES, PAGE_BYTES};

/// Where the journal lives and how large it may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalSettings {
    /// The directory, made when absent. It belongs to the journal alone.
    pub directory: PathBuf,
    /// Bytes of one segment file: a multiple of 4096, at least 16 KiB.
    pub segment_bytes: u64,
    /// Bytes all segment files may take: at least two segments.
    pub max_bytes: u64,
    /// How often written events are brought to the disk: what a power failure can take.
    pub sync_interval: Duration,
    /// Lanes at most; threads beyond share.
    pub max_lanes: u16,
}

impl JournalSettings {
    /// 64 MiB segments, 8 GiB in all, synced every 100 ms, 64 lanes.
    pub fn new(directory: impl Into<PathBuf>) -> JournalSettings {
        JournalSettings {
            directory: directory.into(),
            segment_bytes: 64 << 20,
            max_bytes: 8 << 30,
            sync_interval: Duration::from_millis(100),
            max_lanes: 64,
        }
    }
}

/// One writer of one opening of one directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LaneKey {
    /// The directory's random number.
    pub node: u32,
    /// The opening.
    pub epoch: u32,
    /// The writer.
    pub lane: u16,
}

/// A place between two frames of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Index of the segment within the lane.
    pub segment: u32,
    /// Byte offset in the segment's file.
    pub offset: u64,
    /// Sequence of the frame that starts here.
    pub sequence: u64,
}

impl Position {
    /// Where every lane begins.
    pub const START: Position = Position { segment: 0, offset: HEADER_BYTES as u64, sequence: 0 };
}

/// An open journal. Dropping it closes it.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    lock: Mutex<Option<File>>,
    housekeeper: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Journal {
    /// Locks the directory, recovers what earlier openings left, raises the epoch durably and
    /// starts the housekeeping thread. A journal without room opens, and says
    /// [`Journal::is_full`]; everything else that is wrong is an error.
    pub fn open(settings: JournalSettings) -> Result<Arc<Journal>, JournalError> {
        Journal::open_under(settings, &Boot::current())
    }

    /// As [`Journal::open`], in another run of the machine than this one: what a power failure
    /// leaves, without one.
    pub fn open_under(
        settings: JournalSettings,
        boot: &Boot,
    ) -> Result<Arc<Journal>, JournalError> {
        check(&settings)?;
        let path = settings.directory.clone();
        let failed = |source| JournalError::Io { path: path.clone(), source };
        std::fs::create_dir_all(&path).map_err(failed)?;
        let lock = lock(&settings)?;
        let shared = Arc::new(Shared::open(settings, boot)?);
        shared.replenish(true);
        shared.publish();
        let keeper = Arc::clone(&shared);
        let housekeeper = std::thread::Builder::new()
            .name("orbit-journal".to_owned())
            .spawn(move || housekeeping::run(&keeper))
            .map_err(failed)?;
        shared.set_housekeeper(housekeeper.thread().clone());
        Ok(Arc::new(Journal {
            shared,
            lock: Mutex::new(Some(lock)),
            housekeeper: Mutex::new(Some(housekeeper)),
        }))
    }

    /// Writes the event to the calling thread's lane. When this returns, the event survives
    /// `kill -9`. No allocation, no system call and no waiting, except at a thread's first event
    /// and at the change of a segment for which no spare is ready.
    #[inline]
    pub fn append(&self, event: &Event<'_>) -> Result<EventId, AppendError> {
        self.append_noting(event, |_| {})
    }

    /// As [`Journal::append`], with `note` called once, under the lane's lock, when the event's
    /// identity is certain and before any of it is written: when `note` writes the identity where
    /// it survives `kill -9`, a later start can tell whether the event was written
    /// ([`Journal::holds`]). Not called when the event is not written.
    #[inline]
    pub fn append_noting(
        &self,
        event: &Event<'_>,
        mut note: impl FnMut(EventId),
    ) -> Result<EventId, AppendError> {
        let row_bytes = event.encoded_len()?;
        claim::with_lane(&self.shared, |lane| {
            lane.append(&self.shared.pool, event, row_bytes, &mut note)
        })
    }

    /// Whether the event with this identity, noted by [`Journal::append_noting`] in an earlier
    /// opening, was written. Certain only until shipping starts: from then on, lanes go.
    ///
    /// A lane keeps its last segment with an event in it, whatever was shipped; so one that is not
    /// here any more had nothing in its last segment, and an identity that was noted there and
    /// nowhere before was not written.
    pub fn holds(&self, id: EventId) -> bool {
        let EventId { node, epoch, lane, sequence } = id;
        let next = self.next_sequence(LaneKey { node, epoch, lane });
        next.is_some_and(|next| sequence < next)
    }

    /// No room is guaranteed for further events: the caller applies its named policy. Events of
    /// requests already on their way still fit: every active lane has a segment in reserve, or on
    /// a full disk the rest of its own.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.shared.pool.is_full()
    }

    /// What there is, for metrics and readiness. Reads one frame per lane from the disk.
    pub fn status(&self) -> JournalStatus {
        let mut status = self.shared.status();
        status.oldest_pending_ts_us = self.shared.oldest_pending_ts_us();
        status
    }

    /// The run of the machine it was opened in.
    pub fn boot(&self) -> Boot {
        self.shared.boot
    }

    /// The directory's random number, kept for its life.
    pub fn node(&self) -> u32 {
        self.shared.identity.node
    }

    /// How often the directory has been opened, this time included.
    pub fn epoch(&self) -> u32 {
        self.shared.identity.epoch
    }

    /// The directory.
    pub fn directory(&self) -> &std::path::Path {
        &self.shared.settings.directory
    }

    /// Every lane that has events or may get some: those of earlier epochs first.
    pub fn lanes(&self) -> Vec<LaneKey> {
        self.shared.lanes().iter().map(|lane| lane.key()).collect()
    }

    /// Whether the lane can still get events.
    pub fn is_live(&self, key: LaneKey) -> bool {
        (key.node, key.epoch) == (self.node(), self.epoch())
    }

    /// Reads a lane from a position on; from the oldest event kept when there is none given.
    /// `None` when there is no such lane.
    pub fn reader(&self, key: LaneKey, from: Option<Position>) -> Option<LaneReader> {
        let lane = self.shared.lane(key)?;
        let from = from.or_else(|| Some(lane::start_of(lane.segment_from(0)?.as_ref())))?;
        Some(LaneReader::new(lane, from))
    }

    /// Sequence after the last event committed to the lane.
    pub fn next_sequence(&self, key: LaneKey) -> Option<u64> {
        self.shared.lane(key).map(|lane| lane.next_sequence())
    }

    /// The place before which everything of the lane is acknowledged; `None` when there is no such
    /// lane, because it is retired.
    pub fn acknowledged(&self, key: LaneKey) -> Option<Position> {
        self.shared.lane(key).map(|lane| lane.acknowledged())
    }

    /// Events that are not acknowledged, and their bytes.
    pub fn pending(&self) -> (u64, u64) {
        let status = self.shared.status();
        (status.pending_events, status.pending_bytes)
    }

    /// Brings a lane's events before `position` to the disk.
    pub fn sync_lane(&self, key: LaneKey, position: Position) -> io::Result<()> {
        let Some(lane) = self.shared.lane(key) else { return Ok(()) };
        lane.sync(position.segment).map(|bytes| self.shared.note_synced(bytes))
    }

    /// Everything of the lane before `position` is in ClickHouse, durably noted by the caller:
    /// segments that hold nothing else are removed.
    pub fn acknowledge(&self, key: LaneKey, position: Position) -> io::Result<()> {
        let Some(lane) = self.shared.lane(key) else { return Ok(()) };
        let freed = lane.acknowledge(position)?;
        if freed > 0 {
            self.shared.pool.release(freed);
        }
        Ok(())
    }

    /// A lane of an earlier epoch of which everything is acknowledged: removed, durably.
    pub fn retire(&self, key: LaneKey) -> io::Result<()> {
        if self.is_live(key) {
            return Ok(());
        }
        self.shared.retire(key)
    }

    /// What is known to be lost: found by this opening or since, or by earlier ones and not noted
    /// yet. What the numbers mean is said at the top of `loss.rs`.
    pub fn losses(&self) -> Vec<Loss> {
        self.shared.losses()
    }

    /// Takes in a loss that the journal cannot know of, or how much more one has become; later ones of
    /// the same place replace it. It is told from now on, also when an error says that this process
    /// may be the last to know.
    pub fn tell_loss(&self, loss: Loss) -> io::Result<()> {
        self.shared.tell_loss(loss)
    }

    /// These losses are durable elsewhere: later openings do not tell them again. (This one still
    /// does.) To be called before the position behind a loss is acknowledged, and after the caller
    /// has made them durable.
    pub fn losses_noted(&self, losses: &[Loss]) -> io::Result<()> {
        self.shared.losses_noted(losses)
    }

    /// Refuses further events, brings everything to the disk, ends the thread and unlocks the
    /// directory. What it holds stays. Idempotent.
    pub fn close(&self) {
        self.shared.close();
        if let Some(housekeeper) = locked(&self.housekeeper).take() {
            housekeeper.thread().unpark();
            if housekeeper.join().is_err() {
                tracing::error!("the journal's housekeeping thread had panicked");
            }
        }
        let Some(lock) = locked(&self.lock).take() else { return };
        if self.shared.sync() {
            self.shared.seal();
        }
        self.shared.pool.drain();
        // Not just closed: a child process that is being started holds the file for a moment too.
        if let Err(error) = lock.unlock() {
            tracing::error!(%error, "the journal's directory cannot be unlocked");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

fn check(settings: &JournalSettings) -> Result<(), JournalError> {
    let JournalSettings { segment_bytes, max_bytes, sync_interval, max_lanes, .. } = settings;
    let refuse = |field, value, must| Err(JournalError::Setting { field, value, must });
    if !segment_bytes.is_multiple_of(PAGE_BYTES as u64) || *segment_bytes < 16 * 1024 {
        return refuse("segment_bytes", *segment_bytes, "a multiple of 4096, at least 16384");
    }
    if *segment_bytes > 1 << 32 {
        return refuse("segment_bytes", *segment_bytes, "at most 4 GiB");
    }
    if *max_bytes < 2 * segment_bytes {
        return refuse("max_bytes", *max_bytes, "at least two segments");
    }
    if sync_interval.is_zero() {
        return refuse("sync_interval", 0, "longer than nothing");
    }
    if *max_lanes == 0 {
        return refuse("max_lanes", 0, "at least 1");
    }
    Ok(())
}

fn lock(settings: &JournalSettings) -> Result<File, JournalError> {
    let path = settings.directory.join("lock");
    let failed = |source| JournalError::Io { path: path.clone(), source };
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(JournalError::Locked { path: settings.directory.clone() })
        }
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// A panic elsewhere leaves these locks' data whole: every change under them is a single step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
