//! The disk the journal may use: a budget, segments made in advance, and the word "full".
//!
//! Guarantees: files never exceed the budget; "full" is said while every active lane still has a
//! whole segment to go to, in hand or in reserve, and unsaid when there is room again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread::Thread;

use super::segment::Spare;
use super::{AppendError, locked};

/// Budget, spares, and who makes them.
#[derive(Debug)]
pub(super) struct Pool {
    directory: PathBuf,
    segment_bytes: u64,
    max_bytes: u64,
    /// Bytes of all segment files there are.
    bytes: AtomicU64,
    next_serial: AtomicU64,
    spares: Mutex<Vec<Spare>>,
    /// Held by whoever makes or removes a spare.
    making: Mutex<()>,
    /// 1 while a segment is made or removed: its bytes are counted, and it is no spare.
    in_making: AtomicUsize,
    /// Lanes that some thread appends to.
    active: AtomicUsize,
    full: AtomicBool,
    /// The disk refused a segment, and it is not time to try again.
    disk_refuses: AtomicBool,
    /// It refused the last one that was tried.
    is_making_failing: AtomicBool,
    /// Segments made by a writer because no spare was ready.
    made_inline: AtomicUsize,
    housekeeper: OnceLock<Thread>,
}

/// How many spares there should be, beyond one for every active lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// For lanes that are still to come, while there is plenty of room.
    pub(super) welcome: usize,
    /// Of all, in memory.
    pub(super) ready: usize,
}

impl Pool {
    pub(super) fn new(
        directory: PathBuf,
        segment_bytes: u64,
        max_bytes: u64,
        used: u64,
        next_serial: u64,
    ) -> Pool {
        Pool {
            directory,
            segment_bytes,
            max_bytes,
            bytes: AtomicU64::new(used),
            next_serial: AtomicU64::new(next_serial),
            spares: Mutex::new(Vec::new()),
            making: Mutex::new(()),
            in_making: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            disk_refuses: AtomicBool::new(false),
            is_making_failing: AtomicBool::new(false),
            made_inline: AtomicUsize::new(0),
            housekeeper: OnceLock::new(),
        }
    }

    /// Who is woken when a spare is taken or room is made.
    pub(super) fn set_housekeeper(&self, thread: Thread) {
        self.housekeeper.get_or_init(|| thread);
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn spares(&self) -> usize {
        locked(&self.spares).len()
    }

    pub(super) fn made_inline(&self) -> usize {
        self.made_inline.load(Ordering::Relaxed)
    }

    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// A lane got its first thread, or lost its last.
    pub(super) fn set_active(&self, is_active: bool) {
        if is_active {
            self.active.fetch_add(1, Ordering::Relaxed);
        } else {
            self.active.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// A segment for a writer: a spare, the ready ones first; made on the spot when there is none.
    pub(super) fn take(&self) -> Result<Spare, AppendError> {
        let taken = self.pop();
        self.wake();
        if let Some(spare) = taken {
            return Ok(spare);
        }
        let making = locked(&self.making);
        loop {
            if let Some(spare) = self.pop() {
                return Ok(spare);
            }
            if !self.make(&making) {
                return Err(AppendError::Full);
            }
            self.made_inline.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn pop(&self) -> Option<Spare> {
        let mut spares = locked(&self.spares);
        let ready = spares.iter().rposition(|spare| spare.faulted);
        let spare = ready.map(|index| spares.swap_remove(index)).or_else(|| spares.pop());
        self.judge(&spares);
        spare
    }

    /// Keeps spares as far as budget and disk allow, and says whether they do.
    pub(super) fn replenish(&self, wanted: Wanted, retry: bool) {
        let reserve = self.active().max(1);
        let welcome = reserve + wanted.welcome;
        if retry {
            self.disk_refuses.store(false, Ordering::Relaxed);
        }
        loop {
            let spares = self.spares();
            let is_cheap = self.bytes() + self.segment_bytes <= self.max_bytes / 2;
            let is_wanted = spares < reserve || (spares < welcome && is_cheap);
            if !is_wanted || !self.make(&locked(&self.making)) {
                break;
            }
        }
        self.prefault(wanted.ready);
        self.trim(welcome);
        self.judge(&locked(&self.spares));
    }

    /// `bytes` of files are gone.
    pub(super) fn release(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.disk_refuses.store(false, Ordering::Relaxed);
        self.wake();
    }

    /// Removes every spare.
    pub(super) fn drain(&self) {
        self.trim(0);
    }

    /// Segments the budget still allows.
    fn room(&self) -> usize {
        (self.max_bytes.saturating_sub(self.bytes()) / self.segment_bytes) as usize
    }

    /// Full, when not every active lane has a segment to go to. Called with the spares locked, so
    /// that the last word is the latest.
    fn judge(&self, spares: &[Spare]) {
        let can_make = if self.disk_refuses.load(Ordering::Relaxed) { 0 } else { self.room() };
        let in_making = self.in_making.load(Ordering::Relaxed);
        let full = spares.len() + in_making + can_make < self.active().max(1);
        if self.full.swap(full, Ordering::Relaxed) == full {
            return;
        }
        let (bytes, max_bytes) = (self.bytes(), self.max_bytes);
        if full {
            tracing::warn!(bytes, max_bytes, "the journal is full");
        } else {
            tracing::info!(bytes, max_bytes, "the journal has room again");
        }
    }

    /// Makes one spare, one at a time; false when the budget or the disk is exhausted.
    fn make(&self, _making: &MutexGuard<'_, ()>) -> bool {
        if self.room() == 0 || self.disk_refuses.load(Ordering::Relaxed) {
            return false;
        }
        self.in_making.store(1, Ordering::Relaxed);
        self.bytes.fetch_add(self.segment_bytes, Ordering::Relaxed);
        let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
        let made = Spare::create(&self.directory, serial, self.segment_bytes);
        let mut spares = locked(&self.spares);
        let is_made = match made {
            Ok(spare) => {
                spares.push(spare);
                if self.is_making_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("journal segments can be made again");
                }
                true
            }
            Err(error) => {
                let bytes = self.bytes.fetch_sub(self.segment_bytes, Ordering::Relaxed);
                self.disk_refuses.store(true, Ordering::Relaxed);
                if !self.is_making_failing.swap(true, Ordering::Relaxed) {
                    let directory = &self.directory;
                    tracing::error!(%error, ?directory, bytes, "no journal segment can be made");
                }
                false
            }
        };
        self.in_making.store(0, Ordering::Relaxed);
        self.judge(&spares);
        is_made
    }

    /// Brings spares into memory where they are: a writer may take one meanwhile.
    fn prefault(&self, ready: usize) {
        loop {
            let cold = {
                let spares = locked(&self.spares);
                let warm = spares.iter().filter(|spare| spare.faulted).count();
                let cold = spares.iter().find(|spare| !spare.faulted);
                cold.filter(|_| warm < ready).map(Spare::mapping)
            };
            let Some(mapping) = cold else { return };
            if let Err(error) = mapping.prefault() {
                // Its blocks are there all the same; the writer will meet the faults instead.
                tracing::debug!(%error, "a spare segment could not be brought into memory");
            }
            let mut spares = locked(&self.spares);
            for spare in spares.iter_mut().filter(|spare| spare.is_of(&mapping)) {
                spare.faulted = true;
            }
        }
    }

    fn trim(&self, reserve: usize) {
        loop {
            let _making = locked(&self.making);
            let extra = {
                let mut spares = locked(&self.spares);
                let extra = if spares.len() > reserve { spares.pop() } else { None };
                // Not a spare any more and not yet room.
                self.in_making.store(usize::from(extra.is_some()), Ordering::Relaxed);
                extra
            };
            let Some(extra) = extra else { return };
            match extra.remove() {
                Ok(bytes) => {
                    self.bytes.fetch_sub(bytes, Ordering::Relaxed);
                }
                Err(error) => tracing::warn!(%error, "a spare segment could not be removed"),
            }
            self.in_making.store(0, Ordering::Relaxed);
        }
    }

    fn wake(&self) {
        if let Some(thread) = self.housekeeper.get() {
            thread.unpark();
        }
    }
}
