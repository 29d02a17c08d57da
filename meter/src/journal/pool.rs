//! The disk the journal may use: a budget, segments made in advance, and the word "full".
//!
//! Guarantees: files never exceed the budget; "full" is said while every active lane still has a
//! whole segment to go to, in hand or in reserve, and unsaid when there is room again.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
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
    full: AtomicBool,
    /// Making a segment failed and nothing was freed since.
    stuck: AtomicBool,
    /// Segments made by a writer because no spare was ready.
    made_inline: AtomicUsize,
    housekeeper: OnceLock<Thread>,
}

/// Why there is no new segment.
#[derive(Debug)]
enum Refusal {
    Budget,
    Disk(io::Error),
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
            full: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
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

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// A segment for a writer: a spare, the ready ones first; made on the spot when there is none.
    pub(super) fn take(&self) -> Result<Spare, AppendError> {
        let spare = {
            let mut spares = locked(&self.spares);
            let ready = spares.iter().rposition(|spare| spare.faulted);
            ready.map(|index| spares.swap_remove(index)).or_else(|| spares.pop())
        };
        self.wake();
        if let Some(spare) = spare {
            return Ok(spare);
        }
        if self.is_full() {
            return Err(AppendError::Full);
        }
        self.made_inline.fetch_add(1, Ordering::Relaxed);
        self.create().map_err(|refusal| {
            self.note(&refusal);
            self.set_full(true);
            AppendError::Full
        })
    }

    /// Keeps `reserve` spares, `ready` of them in memory, as far as budget and disk allow.
    pub(super) fn replenish(&self, reserve: usize, ready: usize, retry: bool) {
        let mut refused = false;
        while self.spares() < reserve {
            refused = self.stuck.load(Ordering::Relaxed) && !retry;
            if refused {
                break;
            }
            match self.create() {
                Ok(spare) => {
                    self.stuck.store(false, Ordering::Relaxed);
                    locked(&self.spares).push(spare);
                }
                Err(refusal) => {
                    self.note(&refusal);
                    refused = true;
                    break;
                }
            }
        }
        self.prefault(ready);
        self.trim(reserve);
        // Not by counting spares: a writer may have taken one since, and there is room for more.
        self.set_full(refused);
    }

    /// `bytes` of files are gone.
    pub(super) fn release(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.stuck.store(false, Ordering::Relaxed);
        self.wake();
    }

    /// Removes every spare.
    pub(super) fn drain(&self) {
        self.trim(0);
    }

    fn create(&self) -> Result<Spare, Refusal> {
        let before = self.bytes.fetch_add(self.segment_bytes, Ordering::Relaxed);
        let made = if before + self.segment_bytes > self.max_bytes {
            Err(Refusal::Budget)
        } else {
            let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
            Spare::create(&self.directory, serial, self.segment_bytes).map_err(Refusal::Disk)
        };
        if made.is_err() {
            self.bytes.fetch_sub(self.segment_bytes, Ordering::Relaxed);
        }
        made
    }

    fn prefault(&self, ready: usize) {
        loop {
            let cold = {
                let mut spares = locked(&self.spares);
                let warm = spares.iter().filter(|spare| spare.faulted).count();
                let cold = spares.iter().position(|spare| !spare.faulted);
                cold.filter(|_| warm < ready).map(|index| spares.swap_remove(index))
            };
            let Some(mut spare) = cold else { return };
            let done = spare.prefault();
            locked(&self.spares).push(spare);
            if let Err(error) = done {
                // Its blocks are there all the same; the writer will meet the faults instead.
                tracing::warn!(%error, "a spare segment could not be brought into memory");
                return;
            }
        }
    }

    fn trim(&self, reserve: usize) {
        loop {
            let extra = {
                let mut spares = locked(&self.spares);
                if spares.len() > reserve { spares.pop() } else { None }
            };
            match extra.map(Spare::remove) {
                None => return,
                Some(Ok(bytes)) => {
                    self.bytes.fetch_sub(bytes, Ordering::Relaxed);
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "a spare segment could not be removed");
                }
            }
        }
    }

    fn note(&self, refusal: &Refusal) {
        if self.stuck.swap(true, Ordering::Relaxed) {
            return;
        }
        let (bytes, max_bytes) = (self.bytes(), self.max_bytes);
        match refusal {
            Refusal::Budget => tracing::warn!(bytes, max_bytes, "the journal reached its bound"),
            Refusal::Disk(error) => {
                tracing::error!(%error, bytes, max_bytes, "no new journal segment can be made");
            }
        }
    }

    fn set_full(&self, full: bool) {
        if self.full.swap(full, Ordering::Relaxed) != full {
            let bytes = self.bytes();
            if full {
                tracing::warn!(bytes, "the journal is full");
            } else {
                tracing::info!(bytes, "the journal has room again");
            }
        }
    }

    fn wake(&self) {
        if let Some(thread) = self.housekeeper.get() {
            thread.unpark();
        }
    }
}
