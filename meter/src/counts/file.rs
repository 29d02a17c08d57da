//! One file of counts: its header and its slots.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::CountWords;
use crate::words::Words;

const SLOT_WORDS: usize = 8;
const MAGIC: u64 = u64::from_le_bytes(*b"ORBITCNT");
const LAYOUT: u64 = 1;

const MAGIC_AT: usize = 0;
const LAYOUT_AT: usize = 1;
const BOOT_AT: usize = 2;

/// A slot in use: the mark, and below it the day.
const USED: u64 = 1 << 63;

const MARK_AT: usize = 0;
const LOW_AT: usize = 1;
const HIGH_AT: usize = 2;
const WORDS_AT: usize = 4;

#[derive(Debug)]
pub(super) struct CountsFile {
    words: Words,
    slots: usize,
}

pub(super) enum Opened {
    Ours(CountsFile),
    /// Something else is there under this name.
    Strange,
}

impl CountsFile {
    /// Opens the file, made when absent; one whose making was cut short is finished.
    pub(super) fn open(path: &Path, slots: usize) -> io::Result<Opened> {
        let words = Words::open(path, (slots + 1) * SLOT_WORDS)?;
        let file = CountsFile { words, slots };
        let layout = LAYOUT << 32 | slots as u64;
        match file.header(MAGIC_AT).load(Ordering::Acquire) {
            0 => {
                file.header(LAYOUT_AT).store(layout, Ordering::Relaxed);
                file.header(MAGIC_AT).store(MAGIC, Ordering::Release);
            }
            MAGIC if file.header(LAYOUT_AT).load(Ordering::Acquire) == layout => {}
            _ => return Ok(Opened::Strange),
        }
        Ok(Opened::Ours(file))
    }

    /// The run of the machine in which it was last used; 0: unknown.
    pub(super) fn last_boot(&self) -> u64 {
        self.header(BOOT_AT).load(Ordering::Acquire)
    }

    pub(super) fn used_in(&self, boot: u64) {
        self.header(BOOT_AT).store(boot, Ordering::Release);
    }

    /// Day and key of a slot in use.
    pub(super) fn key(&self, slot: usize) -> Option<(u64, u128)> {
        let words = self.slot(slot);
        let mark = words[MARK_AT].load(Ordering::Acquire);
        let [low, high] = [LOW_AT, HIGH_AT].map(|at| words[at].load(Ordering::Relaxed));
        let key = u128::from(high) << 64 | u128::from(low);
        (mark & USED != 0).then_some((mark & !USED, key))
    }

    pub(super) fn words(&self, slot: usize) -> &CountWords {
        let words = &self.slot(slot)[WORDS_AT..];
        words.first_chunk().expect("a slot has eight words")
    }

    /// Gives a free slot to a key, with zeros for words.
    pub(super) fn take(&self, slot: usize, key: u128, day: u64) {
        let words = self.slot(slot);
        self.words(slot).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        words[LOW_AT].store(key as u64, Ordering::Relaxed);
        words[HIGH_AT].store((key >> 64) as u64, Ordering::Relaxed);
        words[MARK_AT].store(USED | day, Ordering::Release);
    }

    /// Notes that a slot in use was in use on that day, or a later one: a clock that is wrong for a
    /// while must not make it look old.
    pub(super) fn touch(&self, slot: usize, day: u64) {
        self.slot(slot)[MARK_AT].fetch_max(USED | day, Ordering::AcqRel);
    }

    pub(super) fn release(&self, slot: usize) {
        self.slot(slot)[MARK_AT].store(0, Ordering::Release);
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.words.sync(0..self.words.len())
    }

    fn header(&self, at: usize) -> &AtomicU64 {
        &self.words.all()[at]
    }

    fn slot(&self, slot: usize) -> &[AtomicU64] {
        assert!(slot < self.slots, "slots are numbered by this file");
        let at = (slot + 1) * SLOT_WORDS;
        &self.words.all()[at..at + SLOT_WORDS]
    }
}
