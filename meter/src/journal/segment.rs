//! Segment files: made in advance, written by one lane, read by the shipper, removed when shipped.
//!
//! Guarantees: a segment's blocks are allocated before its first row, so a full disk is an error
//! here and never a SIGBUS later; its name is durable before it is used.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{FallocateFlags, fallocate};

use super::header::{HEADER_BYTES, Header, Hint, PAGE_BYTES};
use super::locked;
use super::mapping::{Mapping, Tail};
use crate::durable::sync_directory;

/// How segment files are told from others in the directory.
pub(super) const EXTENSION: &str = "segment";

/// The file name of the segment made as number `serial`.
pub(super) fn file_name(serial: u64) -> String {
    format!("{serial:016x}.{EXTENSION}")
}

/// A segment without an owner.
#[derive(Debug)]
pub(super) struct Spare {
    path: PathBuf,
    mapping: Arc<Mapping>,
    tail: Tail,
    bytes: u64,
    /// Its pages are in memory, as far as the system can be asked to.
    pub(super) faulted: bool,
}

impl Spare {
    /// Creates the file with all of its blocks, durably.
    pub(super) fn create(directory: &Path, serial: u64, bytes: u64) -> io::Result<Spare> {
        let path = directory.join(file_name(serial));
        let made = Self::create_at(&path, bytes).and_then(|made| {
            sync_directory(directory)?;
            Ok(made)
        });
        let (mapping, tail) = made.inspect_err(|_| {
            // The file may not even exist; what remains is removed at the next start.
            drop(fs::remove_file(&path));
        })?;
        Ok(Spare { path, mapping, tail, bytes, faulted: false })
    }

    fn create_at(path: &Path, bytes: u64) -> io::Result<(Arc<Mapping>, Tail)> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        allocate(&file, bytes)?;
        file.sync_all()?;
        Mapping::new(&file, bytes as usize)
    }

    pub(super) fn mapping(&self) -> Arc<Mapping> {
        Arc::clone(&self.mapping)
    }

    pub(super) fn is_of(&self, mapping: &Arc<Mapping>) -> bool {
        Arc::ptr_eq(&self.mapping, mapping)
    }

    /// Gives the segment its identity; no system call.
    pub(super) fn stamp(mut self, header: Header) -> (Arc<Segment>, Tail) {
        self.tail.stamp(&header.stamp(), header.first_sequence);
        let segment = Segment {
            path: self.path,
            header,
            bytes: self.bytes,
            body: Body::Live { mapping: self.mapping, sealed: AtomicBool::new(false) },
            synced: Mutex::new(Synced { end: 0, failed_end: 0 }),
        };
        (Arc::new(segment), self.tail)
    }

    /// Removes the file; `bytes` are free again.
    pub(super) fn remove(self) -> io::Result<u64> {
        fs::remove_file(&self.path)?;
        Ok(self.bytes)
    }
}

/// Real blocks for all of the file; written zeros where the file system cannot allocate.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let zeros = [0; 8 * 1024];
            let mut at = 0;
            while at < bytes {
                let chunk = zeros.len().min((bytes - at) as usize);
                file.write_all_at(&zeros[..chunk], at)?;
                at += chunk as u64;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

/// A segment with an owner.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    header: Header,
    bytes: u64,
    body: Body,
    /// Held while syncing: the system tells of a failure once, and whoever syncs beside it must not
    /// take that for success.
    synced: Mutex<Synced>,
}

/// What the disk has of a segment.
#[derive(Debug)]
struct Synced {
    /// Offset below which it has it all.
    end: u64,
    /// Offset up to which a failed sync left pages that the system takes for clean; 0: none.
    failed_end: u64,
}

#[derive(Debug)]
enum Body {
    /// Written by this process.
    Live { mapping: Arc<Mapping>, sealed: AtomicBool },
    /// Left by an earlier epoch. Frames end at `end` or at the first that is none.
    Former { end: u64, hint: Hint },
}

/// How far a segment can be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Offset that ends the readable part.
    pub(super) end: u64,
    /// Nothing will ever follow in this segment.
    pub(super) is_final: bool,
}

impl Segment {
    /// A segment of an earlier epoch, readable up to `end`.
    pub(super) fn former(
        path: PathBuf,
        header: Header,
        bytes: u64,
        end: u64,
        hint: Hint,
    ) -> Segment {
        let synced = Mutex::new(Synced { end: u64::MAX, failed_end: 0 });
        Segment { path, header, bytes, body: Body::Former { end, hint }, synced }
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn extent(&self) -> Extent {
        match &self.body {
            Body::Live { mapping, sealed } => {
                // Sealed first: a seal is set after the last commit, so its offset is then seen.
                let is_final = sealed.load(Ordering::Acquire);
                Extent { end: mapping.committed().min(self.bytes), is_final }
            }
            Body::Former { end, .. } => Extent { end: *end, is_final: true },
        }
    }

    /// Sequence after the last event the writer committed here, as far as it could still say.
    pub(super) fn next_sequence(&self) -> u64 {
        match &self.body {
            Body::Live { mapping, .. } => mapping.next_sequence(),
            Body::Former { hint, .. } => hint.next_sequence.max(self.header.first_sequence),
        }
    }

    /// Offset up to which the writer said it had committed.
    pub(super) fn claimed_end(&self) -> u64 {
        match &self.body {
            Body::Live { mapping, .. } => mapping.committed(),
            Body::Former { hint, .. } => hint.committed,
        }
    }

    /// The writer has left for the next segment.
    pub(super) fn seal(&self) {
        if let Body::Live { sealed, .. } = &self.body {
            sealed.store(true, Ordering::Release);
        }
    }

    /// Share of the segment that is written, in percent.
    pub(super) fn filled_percent(&self) -> u64 {
        self.extent().end * 100 / self.bytes.max(1)
    }

    /// Brings everything committed so far to the disk. Returns the bytes that had been missing.
    pub(super) fn sync(&self) -> io::Result<u64> {
        let Body::Live { mapping, .. } = &self.body else { return Ok(0) };
        let mut synced = locked(&self.synced);
        let end = mapping.committed();
        if synced.end >= end {
            return Ok(0);
        }
        let start = synced.end / PAGE_BYTES as u64 * PAGE_BYTES as u64;
        if synced.failed_end > 0 {
            // The header as well: without it the rows belong to nobody.
            mapping.mark_dirty(0..HEADER_BYTES as u64);
            mapping.mark_dirty(start..synced.failed_end);
        }
        synced.failed_end = end;
        // Rows first: the header's committed offset should not promise rows that are not there.
        mapping.sync(start.max(HEADER_BYTES as u64)..end)?;
        mapping.sync(0..HEADER_BYTES as u64)?;
        let bytes = end - synced.end;
        *synced = Synced { end, failed_end: 0 };
        Ok(bytes)
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}
