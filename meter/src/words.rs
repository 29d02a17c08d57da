//! A file of 64-bit words in memory: what is stored in it survives `kill -9` at once.
//!
//! Guarantees: its blocks are allocated before it is mapped, so a full disk is an error when it is
//! made and never a signal later; a file that could not be made whole is not left behind; words are
//! atomics, so any thread may use any of them; a process that dies leaves every store that had
//! happened, in the order of its release stores. After a power failure a page holds some state it
//! had since the last [`Words::sync`], and pages agree in nothing. A sync that fails is made good by
//! the next one that succeeds, whatever that one is asked for.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use memmap2::MmapRaw;
use rustix::fs::{FallocateFlags, fallocate};

const WORD_BYTES: usize = 8;
const PAGE_BYTES: usize = 4096;

/// A mapped file of words.
#[derive(Debug)]
pub(crate) struct Words {
    raw: MmapRaw,
    /// Bytes that a failed sync left: the system takes their pages for clean. Held while syncing, so
    /// that nobody is told of success whose failure went to somebody else.
    unsynced: Mutex<Range<usize>>,
}

impl Words {
    /// Opens the file with `count` words, made and filled with zeros when it is absent or shorter.
    /// One process at a time: the caller holds a lock on the directory.
    pub(crate) fn open(path: &Path, count: usize) -> io::Result<Words> {
        let bytes = (count * WORD_BYTES).next_multiple_of(PAGE_BYTES) as u64;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let have = file.metadata()?.len();
        if have < bytes {
            let reserved = reserve(&file, have, bytes).and_then(|()| file.sync_all());
            reserved.inspect_err(|_| {
                // What there is of it may be what fills the disk.
                if have == 0 {
                    drop(fs::remove_file(path));
                } else {
                    drop(file.set_len(have));
                }
            })?;
        }
        let raw = MmapRaw::map_raw(&file)?;
        Ok(Words { raw, unsynced: Mutex::new(0..0) })
    }

    /// How many there are: at least as many as were asked for.
    pub(crate) fn len(&self) -> usize {
        self.raw.len() / WORD_BYTES
    }

    /// All of them.
    #[allow(unsafe_code, clippy::cast_ptr_alignment, reason = "a mapping starts at a page")]
    pub(crate) fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping starts at a page, so words are aligned; its length is a multiple of
        // a word and lives as long as `self`; every block of it is allocated; nothing accesses it
        // but through these atomics, and the directory's lock keeps other processes away.
        unsafe { std::slice::from_raw_parts(self.raw.as_ptr().cast::<AtomicU64>(), self.len()) }
    }

    /// Brings these words to the disk and waits.
    pub(crate) fn sync(&self, words: Range<usize>) -> io::Result<()> {
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        let mut start = words.start * WORD_BYTES / PAGE_BYTES * PAGE_BYTES;
        let mut end = (words.end * WORD_BYTES).min(self.raw.len());
        if !unsynced.is_empty() {
            self.make_dirty(&unsynced);
            (start, end) = (start.min(unsynced.start), end.max(unsynced.end));
        }
        if start >= end {
            return Ok(());
        }
        let synced = self.raw.flush_range(start, end - start);
        *unsynced = if synced.is_ok() { 0..0 } else { start..end };
        synced
    }

    /// Has the system write these pages again.
    fn make_dirty(&self, bytes: &Range<usize>) {
        let words = bytes.start / WORD_BYTES..bytes.end / WORD_BYTES;
        for word in self.all()[words].iter().step_by(PAGE_BYTES / WORD_BYTES) {
            let value = word.load(Ordering::Relaxed);
            // Another value by now is another store, which has the same effect.
            let _either = word.compare_exchange(value, value, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Allocates and zeroes the bytes between.
fn reserve(file: &File, from: u64, to: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, to) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            file.write_all_at(&vec![0; (to - from) as usize], from)
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn words_are_found_again_and_a_longer_file_begins_with_them() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("words");
        let words = Words::open(&path, 10).expect("writable");
        assert!(words.all().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        words.all()[9].store(7, Ordering::Release);
        words.sync(9..10).expect("syncable");
        drop(words);
        let words = Words::open(&path, 100_000).expect("writable");
        assert!(words.len() >= 100_000);
        assert_eq!(words.all()[9].load(Ordering::Acquire), 7);
        assert_eq!(words.all()[99_999].load(Ordering::Acquire), 0);
    }
}
