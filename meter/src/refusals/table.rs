//! The file the counts live in: a page of header, then slots.
//!
//! | word of the header | |
//! |---|---|
//! | 0 | magic, stored last when the file is made |
//! | 1 | layout and number of slots |
//! | 2 | the run of the machine in which the slots were last used; 0: unknown |
//!
//! Guarantees: its blocks are allocated before a slot is used; a file that holds counts is never
//! replaced: one that cannot be read is an error, one that is not ours is set aside.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::slot::{SLOT_WORDS, Slot};
use crate::words::Words;

/// The file's name in the journal's directory.
pub(super) const NAME: &str = "refusals";

const MAGIC: u64 = u64::from_le_bytes(*b"ORBITRFS");
const LAYOUT: u64 = 1;
const HEADER_WORDS: usize = 512;

const MAGIC_AT: usize = 0;
const LAYOUT_AT: usize = 1;
const BOOT_AT: usize = 2;

/// An open table.
#[derive(Debug)]
pub(super) struct Table {
    words: Words,
    slots: usize,
}

/// What came of opening the file.
#[derive(Debug)]
pub(super) enum Opened {
    /// The table; whatever its slots hold was counted in this run of the machine, or was not.
    Table { table: Table, same_run: bool },
    /// There is none, so no counts either, and none can be made: no room, as a rule.
    Impossible(io::Error),
}

impl Table {
    /// Opens the table of this many slots, made when there is none. Its slots may hold counts until
    /// they are settled; then [`Table::begin`].
    pub(super) fn open(directory: &Path, slots: usize, boot: u64) -> io::Result<Opened> {
        let path = directory.join(NAME);
        let count = HEADER_WORDS + slots * SLOT_WORDS;
        let bytes = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        // A file that is too short was never finished.
        let is_whole = bytes >= count as u64 * 8;
        let words = match Words::open(&path, count) {
            Ok(words) => words,
            Err(error) if is_whole => return Err(error),
            Err(error) => {
                drop(fs::remove_file(&path));
                return Ok(Opened::Impossible(error));
            }
        };
        let table = Table { words, slots };
        let layout = LAYOUT << 32 | slots as u64;
        match table.load(MAGIC_AT) {
            0 => {
                table.store(LAYOUT_AT, layout);
                table.store(MAGIC_AT, MAGIC);
            }
            MAGIC if table.load(LAYOUT_AT) == layout => {}
            _ => {
                drop(table);
                set_aside(&path)?;
                return Table::open(directory, slots, boot);
            }
        }
        let same_run = boot != 0 && table.load(BOOT_AT) == boot;
        Ok(Opened::Table { table, same_run })
    }

    /// Every slot is settled: from here on the counts are of this run. What the slots say is on the
    /// disk when this returns, so nothing settled comes back after a power failure.
    pub(super) fn begin(&self, boot: u64) -> io::Result<()> {
        self.store(BOOT_AT, boot);
        self.sync()
    }

    /// How many slots there are.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// One of them.
    #[inline]
    pub(super) fn slot(&self, index: u32) -> Slot<'_> {
        let start = HEADER_WORDS + index as usize * SLOT_WORDS;
        let words = self.words.all()[start..].first_chunk().expect("a slot of this table");
        Slot::new(words)
    }

    /// Brings what changed to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.words.sync(0..HEADER_WORDS + self.slots * SLOT_WORDS)?;
        #[cfg(test)]
        super::tests::death::synced();
        Ok(())
    }

    fn load(&self, at: usize) -> u64 {
        self.header(at).load(Ordering::Acquire)
    }

    fn store(&self, at: usize, word: u64) {
        self.header(at).store(word, Ordering::Release);
    }

    fn header(&self, at: usize) -> &AtomicU64 {
        &self.words.all()[at]
    }
}

fn set_aside(path: &Path) -> io::Result<()> {
    let aside: PathBuf = path.with_extension("damaged");
    fs::rename(path, &aside)?;
    tracing::error!(path = ?aside, "a table of refusals that is not of this version is set aside");
    Ok(())
}
