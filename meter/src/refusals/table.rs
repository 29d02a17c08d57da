//! The files the totals live in: each a page of header, then slots.
//!
//! | word of the header | |
//! |---|---|
//! | 0 | magic, stored last when the file is made |
//! | 1 | layout and number of slots |
//! | 2 | the run of the machine in which the slots were last used; 0: unknown |
//!
//! There is one file from the beginning, `refusals`, and others when it is not enough and the disk
//! has room (`refusals.1` and on); those are removed at a start that finds them empty.
//!
//! Guarantees: a file's blocks are allocated, and its name is durable, before a slot of it is used; a
//! file that holds totals is never replaced: one that cannot be read is an error, one that is not
//! ours is set aside.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use super::slot::{SLOT_WORDS, Slot};
use crate::durable::{set_aside, sync_directory};
use crate::words::Words;

/// The first file's name in the journal's directory.
pub(super) const NAME: &str = "refusals";

const MAGIC: u64 = u64::from_le_bytes(*b"ORBITRFS");
const LAYOUT: u64 = 2;
const HEADER_WORDS: usize = 512;

const MAGIC_AT: usize = 0;
const LAYOUT_AT: usize = 1;
const BOOT_AT: usize = 2;

/// How many groups there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Slots of one file.
    pub(super) slots: u32,
    /// Files at most.
    pub(super) files: u32,
    /// Slots that are kept for wider groups and members.
    pub(super) reserve: usize,
}

/// The open files.
#[derive(Debug)]
pub(super) struct Table {
    directory: PathBuf,
    capacity: Capacity,
    boot: u64,
    files: Box<[OnceLock<Words>]>,
}

/// What came of opening the table.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) table: Table,
    /// Files whose slots were used in this run of the machine, or never.
    pub(super) same_run: Vec<u32>,
    /// Why there is no file: none was there, and none can be made.
    pub(super) refused: Option<io::Error>,
}

impl Table {
    /// Opens the files there are, and makes the first if it is not there. Their slots may hold
    /// totals until they are settled; then [`Table::begin`].
    pub(super) fn open(directory: &Path, capacity: Capacity, boot: u64) -> io::Result<Opened> {
        let files = (0..capacity.files).map(|_| OnceLock::new()).collect();
        let table = Table { directory: directory.to_owned(), capacity, boot, files };
        let mut same_run = Vec::new();
        for number in 0..capacity.files {
            let Some(words) = table.open_file(number)? else { continue };
            if boot != 0 && words.all()[BOOT_AT].load(Ordering::Acquire) == boot {
                same_run.push(number);
            }
            table.files[number as usize].get_or_init(|| words);
        }
        let refused = if table.files[0].get().is_none() { table.make(0).err() } else { None };
        Ok(Opened { table, same_run, refused })
    }

    /// A file that is there and ours.
    fn open_file(&self, number: u32) -> io::Result<Option<Words>> {
        let path = self.path(number);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // One that is too short was never finished, so nothing was ever counted in it.
            Ok(metadata) if metadata.len() < self.words() as u64 * 8 => {
                drop(fs::remove_file(&path));
                return Ok(None);
            }
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        let words = Words::open(&path, self.words())?;
        let [magic, layout] =
            [MAGIC_AT, LAYOUT_AT].map(|at| words.all()[at].load(Ordering::Acquire));
        if magic == 0 || (magic == MAGIC && layout == self.layout()) {
            return Ok(Some(words));
        }
        drop(words);
        set_aside(&path)?;
        Ok(None)
    }

    fn make(&self, number: u32) -> io::Result<()> {
        let words = Words::open(&self.path(number), self.words())?;
        words.all()[LAYOUT_AT].store(self.layout(), Ordering::Release);
        words.all()[BOOT_AT].store(self.boot, Ordering::Release);
        words.all()[MAGIC_AT].store(MAGIC, Ordering::Release);
        words.sync(0..HEADER_WORDS)?;
        sync_directory(&self.directory)?;
        self.files[number as usize].get_or_init(|| words);
        Ok(())
    }

    /// Makes another file; its slots, `None` when there are as many as there may be. One at a time.
    pub(super) fn grow(&self) -> io::Result<Option<Range<u32>>> {
        let absent = (0..self.capacity.files).find(|&number| self.file(number).is_none());
        let Some(number) = absent else { return Ok(None) };
        self.make(number)?;
        Ok(Some(self.slots_of(number)))
    }

    /// Every slot is settled: from here on the totals are of this run. What the slots say is on the
    /// disk when this returns, so nothing settled comes back after a power failure.
    pub(super) fn begin(&self) -> io::Result<()> {
        for words in self.files.iter().filter_map(OnceLock::get) {
            for (at, word) in [(LAYOUT_AT, self.layout()), (BOOT_AT, self.boot), (MAGIC_AT, MAGIC)]
            {
                words.all()[at].store(word, Ordering::Release);
            }
        }
        self.sync()
    }

    /// Removes the files but the first that are not in use. Before anything is counted.
    pub(super) fn trim(&mut self, in_use: &BTreeSet<u32>) {
        for number in 1..self.capacity.files {
            if self.file(number).is_some() && !in_use.contains(&number) {
                self.files[number as usize].take();
                if let Err(error) = fs::remove_file(self.path(number)) {
                    tracing::warn!(%error, number, "a table of refusals that is empty stays");
                }
            }
        }
    }

    /// The files there are.
    pub(super) fn files(&self) -> impl DoubleEndedIterator<Item = u32> {
        (0..self.capacity.files).filter(|&number| self.file(number).is_some())
    }

    /// How many slots there are.
    pub(super) fn slots(&self) -> usize {
        self.files().count() * self.capacity.slots as usize
    }

    /// The file of a slot.
    pub(super) fn file_of(&self, slot: u32) -> u32 {
        slot / self.capacity.slots
    }

    /// Whether there is such a slot.
    pub(super) fn has(&self, slot: u32) -> bool {
        self.file(self.file_of(slot)).is_some()
    }

    /// The slots of a file.
    pub(super) fn slots_of(&self, number: u32) -> Range<u32> {
        number * self.capacity.slots..(number + 1) * self.capacity.slots
    }

    /// One of them.
    #[inline]
    pub(super) fn slot(&self, index: u32) -> Slot<'_> {
        let file = self.file(self.file_of(index)).expect("a slot of a file that is there");
        let start = HEADER_WORDS + (index % self.capacity.slots) as usize * SLOT_WORDS;
        Slot::new(file.all()[start..].first_chunk().expect("a slot of this file"))
    }

    /// Brings what changed to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        for words in self.files.iter().filter_map(OnceLock::get) {
            words.sync(0..self.words())?;
        }
        #[cfg(test)]
        super::tests::death::synced();
        Ok(())
    }

    fn file(&self, number: u32) -> Option<&Words> {
        self.files[number as usize].get()
    }

    fn path(&self, number: u32) -> PathBuf {
        match number {
            0 => self.directory.join(NAME),
            number => self.directory.join(format!("{NAME}.{number}")),
        }
    }

    fn words(&self) -> usize {
        HEADER_WORDS + self.capacity.slots as usize * SLOT_WORDS
    }

    fn layout(&self) -> u64 {
        LAYOUT << 32 | u64::from(self.capacity.slots)
    }
}
