//! A segment file in memory: the only unsafe code of the journal.
//!
//! A [`Mapping`] is shared and offers nothing but atomics and syncing; its one [`Tail`] may write,
//! and only where nothing has been committed. Nobody reads rows through the mapping: readers read
//! the file, which Linux keeps coherent with the mapping, so a bad sector under a reader is an
//! error and not a SIGBUS.
//!
//! Every access relies on the file being at least as long as its mapping and on every block of it
//! being allocated; segments guarantee both (`segment.rs`), and the directory lock keeps other
//! processes of ours away.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};

use super::header::{APPENDED_AT, COMMITTED_AT, HEADER_BYTES, PAGE_BYTES, STAMP_BYTES};

/// A whole segment file, shared and writable.
#[derive(Debug)]
pub(super) struct Mapping {
    raw: MmapRaw,
}

impl Mapping {
    /// Maps the first `bytes` of `file`, all of them allocated and zero, and hands out the one tail.
    pub(super) fn new(file: &File, bytes: usize) -> io::Result<(Arc<Mapping>, Tail)> {
        assert!(bytes > HEADER_BYTES, "a segment has room for rows");
        let raw = MmapOptions::new().len(bytes).map_raw(file)?;
        let mapping = Arc::new(Mapping { raw });
        let tail = Tail { mapping: Arc::clone(&mapping), offset: HEADER_BYTES };
        Ok((mapping, tail))
    }

    /// Offset below which the file holds whole frames; what was written before the store that this
    /// load sees is visible after it.
    pub(super) fn committed(&self) -> u64 {
        self.word(COMMITTED_AT).load(Ordering::Acquire)
    }

    /// The sequence the next frame will get. Never ahead of what `committed` will say.
    pub(super) fn next_sequence(&self) -> u64 {
        self.word(APPENDED_AT).load(Ordering::Relaxed)
    }

    /// Writes the pages of `range` to the disk and waits.
    pub(super) fn sync(&self, range: Range<u64>) -> io::Result<()> {
        self.raw.flush_range(range.start as usize, (range.end - range.start) as usize)
    }

    /// Brings every page into memory, writable, so that the first row on it costs no fault. An error
    /// before Linux 5.14, which cannot be asked to.
    pub(super) fn prefault(&self) -> io::Result<()> {
        self.raw.advise_range(Advice::PopulateWrite, 0, self.raw.len())
    }

    /// Marks the pages of `range`, all of it committed, to be written again: after a failed sync the
    /// kernel may call them clean although the disk never got them.
    #[allow(unsafe_code, reason = "committed bytes are written with what they are")]
    pub(super) fn mark_dirty(&self, range: Range<u64>) {
        assert!(range.end <= self.committed(), "only what is committed stands still");
        let first = range.start as usize / PAGE_BYTES * PAGE_BYTES;
        for at in (first..range.end as usize).step_by(PAGE_BYTES) {
            // SAFETY: the byte lies inside the mapping, which lives as long as `self`, and below the
            // committed offset, where the tail does not write any more; nobody reads rows or the
            // identity through memory. It gets the value it has.
            let byte = unsafe { AtomicU8::from_ptr(self.raw.as_mut_ptr().add(at)) };
            let value = byte.load(Ordering::Relaxed);
            let _as_it_was =
                byte.compare_exchange(value, value, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    #[allow(unsafe_code, reason = "two words of the header page are shared atomics")]
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= HEADER_BYTES, "an aligned word of the header");
        // SAFETY: mappings start at a page, so the word is aligned; it lies inside the mapping,
        // which is longer than the header and lives as long as `self`. After construction these
        // two words are only ever accessed as atomics (`Tail::stamp` ends before them).
        unsafe { AtomicU64::from_ptr(self.raw.as_mut_ptr().add(at).cast()) }
    }
}

/// The right to write a mapping above its committed offset. There is one per mapping.
#[derive(Debug)]
pub(super) struct Tail {
    mapping: Arc<Mapping>,
    offset: usize,
}

impl Tail {
    /// Writes the segment's identity and opens it for rows. Only before the first commit.
    #[allow(unsafe_code, reason = "the identity is written through the mapping")]
    pub(super) fn stamp(&mut self, stamp: &[u8; STAMP_BYTES], first_sequence: u64) {
        assert_eq!(self.offset, HEADER_BYTES, "a segment is stamped before its first row");
        // SAFETY: `stamp` ends before the first shared word, and below that only the owner of the
        // tail writes; nobody reads it through memory.
        unsafe {
            std::ptr::copy_nonoverlapping(
                stamp.as_ptr(),
                self.mapping.raw.as_mut_ptr(),
                STAMP_BYTES,
            );
        }
        self.mapping.word(APPENDED_AT).store(first_sequence, Ordering::Relaxed);
        self.mapping.word(COMMITTED_AT).store(HEADER_BYTES as u64, Ordering::Release);
    }

    /// Bytes left for frames.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.mapping.raw.len() - self.offset
    }

    /// Everything that is not committed.
    #[inline]
    #[allow(unsafe_code, reason = "rows are written through the mapping")]
    pub(super) fn vacant(&mut self) -> &mut [u8] {
        let room = self.room();
        // SAFETY: offset + room is the length of the mapping. Bytes from `offset` on are
        // referred to by this tail alone (one per mapping, borrowed mutably here): the shared
        // side of the mapping touches the header page only. All of it is initialised: fallocate
        // made it zero.
        unsafe {
            std::slice::from_raw_parts_mut(self.mapping.raw.as_mut_ptr().add(self.offset), room)
        }
    }

    /// Makes the next `bytes` readable, in one release store.
    #[inline]
    pub(super) fn commit(&mut self, bytes: usize, next_sequence: u64) {
        assert!(bytes <= self.room(), "only what was written is committed");
        self.offset += bytes;
        self.mapping.word(APPENDED_AT).store(next_sequence, Ordering::Relaxed);
        self.mapping.word(COMMITTED_AT).store(self.offset as u64, Ordering::Release);
    }
}
