//! One table of the index: a mapped file of open-addressed slots that are only ever added.
//!
//! The file is a page of header words and the slots, four words each, all native 64-bit words:
//!
//! | header word | |
//! |---|---|
//! | 0 | magic and layout |
//! | 1 | number of slots, a power of two |
//! | 2 | slots in use; each kill may leave it one too high |
//! | 3 | time of the newest entry, unix microseconds |
//! | 4 | 1 + the slot being written, or 0 |
//! | 5 | node and epoch of the opening that writes it |
//! | 6, 7 | the start of the machine in which it does |
//! | 8 | 1 when it is at rest: synced, as is the journal it speaks of |
//!
//! A slot is the key (two words, neither zero), epoch and lane, sequence. The key is written last:
//! a slot without both of its words is none. One that is *dead* has a bit set above its lane: its event
//! is gone, and its key is somewhere else or nowhere; it stays where it is, for others were placed
//! behind it.
//!
//! Guarantees: a file with this name is whole, because it is written under another name first; what
//! is not ours is [`Opened::Damaged`] and never a panic.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::boot::BootId;
use crate::durable::sync_directory;
use crate::event::EventId;
use crate::journal::LaneKey;
use crate::words::Words;

/// In the word with epoch and lane.
const DEAD: u64 = 1 << 16;

/// "ORBITIX" and the layout's number.
const MAGIC: u64 = u64::from_be_bytes(*b"ORBITIX\x01");
/// A page, so that slots do not cross one.
const HEADER_WORDS: usize = 512;
const SLOT_WORDS: usize = 4;
/// Most slots of a table: 32 GiB.
pub(super) const MAX_SLOTS: usize = 1 << 30;
/// How table files are told from others in the directory.
const EXTENSION: &str = "index";
/// The same before they are whole.
const DRAFT_EXTENSION: &str = "new";

const SLOTS: usize = 1;
const ENTRIES: usize = 2;
const NEWEST: usize = 3;
const IN_FLIGHT: usize = 4;
const OPENING: usize = 5;
const BOOT: usize = 6;
const AT_REST: usize = 8;

/// What is looked up: the event's request id, as two words that are not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u64; 2]);

impl Key {
    pub(super) fn of(request_id: [u8; 16]) -> Key {
        let whole = u128::from_le_bytes(request_id);
        Key([whole as u64, (whole >> 64) as u64].map(|word| word.max(1)))
    }
}

/// Who writes a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) node: u32,
    pub(super) epoch: u32,
    /// `None` agrees with no start: the table is looked through at the next.
    pub(super) boot: Option<BootId>,
}

/// Where a key is, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Here,
    Vacant(usize),
    /// The table is full.
    Nowhere,
}

/// The steps in which an entry comes to be, for tests that die between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Announced,
    Identified,
    HalfNoted,
    Noted,
    Appended,
    Settled,
}

/// What a repair did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Repaired {
    /// Entries without an event.
    pub(super) lost: u64,
    /// Entries that a search would not have found.
    pub(super) moved: u64,
}

/// A table file as it was found.
#[derive(Debug)]
pub(super) enum Opened {
    Whole(Generation),
    Damaged(PathBuf),
}

#[derive(Debug)]
pub(super) struct Generation {
    path: PathBuf,
    words: Words,
    serial: u64,
    slots: usize,
}

impl Generation {
    /// Makes an empty table under a name that is not its own; see [`Generation::publish`].
    pub(super) fn draft(
        directory: &Path,
        serial: u64,
        slots: usize,
        stamp: Stamp,
    ) -> io::Result<Generation> {
        assert!(slots.is_power_of_two() && slots <= MAX_SLOTS, "slots are a power of two");
        let path = directory.join(file_name(serial));
        let draft = path.with_extension(DRAFT_EXTENSION);
        remove(&draft)?;
        let words = Words::open(&draft, HEADER_WORDS + slots * SLOT_WORDS)?;
        let generation = Generation { path, words, serial, slots };
        generation.header(0).store(MAGIC, Ordering::Relaxed);
        generation.header(SLOTS).store(slots as u64, Ordering::Relaxed);
        generation.stamp(stamp);
        Ok(generation)
    }

    /// Gives a draft its name, durably, in place of what has it now.
    pub(super) fn publish(self) -> io::Result<Generation> {
        self.sync()?;
        fs::rename(self.path.with_extension(DRAFT_EXTENSION), &self.path)?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        sync_directory(directory)?;
        Ok(self)
    }

    /// Opens what `path` names.
    pub(super) fn open(path: PathBuf, serial: u64) -> io::Result<Opened> {
        let file = File::open(&path)?;
        let mut head = [0; 16];
        let is_read = match file.read_exact_at(&mut head, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
            other => other.map(|()| true)?,
        };
        let whole = u128::from_ne_bytes(head);
        let (magic, slots) = (whole as u64, (whole >> 64) as u64);
        let is_ours = is_read
            && magic == MAGIC
            && slots.is_power_of_two()
            && slots <= MAX_SLOTS as u64
            && file.metadata()?.len() == bytes(slots as usize);
        if !is_ours {
            return Ok(Opened::Damaged(path));
        }
        let slots = slots as usize;
        let words = Words::open(&path, HEADER_WORDS + slots * SLOT_WORDS)?;
        Ok(Opened::Whole(Generation { path, words, serial, slots }))
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Slots in use.
    pub(super) fn entries(&self) -> u64 {
        self.header(ENTRIES).load(Ordering::Relaxed)
    }

    /// When the last entry was added.
    pub(super) fn newest_us(&self) -> i64 {
        self.header(NEWEST).load(Ordering::Relaxed).cast_signed()
    }

    pub(super) fn set_newest(&self, now_us: i64) {
        let newest_us = self.newest_us().max(now_us);
        self.header(NEWEST).store(newest_us.cast_unsigned(), Ordering::Relaxed);
    }

    pub(super) fn stamped(&self) -> Stamp {
        let opening = self.header(OPENING).load(Ordering::Relaxed);
        let [low, high] = [BOOT, BOOT + 1].map(|at| self.header(at).load(Ordering::Relaxed));
        let boot = u128::from(high) << 64 | u128::from(low);
        Stamp {
            node: (opening >> 32) as u32,
            epoch: opening as u32,
            boot: (boot != 0).then_some(BootId(boot)),
        }
    }

    /// Says who writes the table from now on.
    pub(super) fn stamp(&self, Stamp { node, epoch, boot }: Stamp) {
        let boot = boot.map_or(0, |BootId(id)| id);
        self.header(AT_REST).store(0, Ordering::Release);
        self.header(OPENING).store(u64::from(node) << 32 | u64::from(epoch), Ordering::Release);
        self.header(BOOT).store(boot as u64, Ordering::Release);
        self.header(BOOT + 1).store((boot >> 64) as u64, Ordering::Release);
    }

    /// Nothing in the table can be in doubt.
    pub(super) fn is_at_rest(&self) -> bool {
        self.header(AT_REST).load(Ordering::Relaxed) == 1
    }

    /// Says so, durably. Everything else must have been synced, the journal included.
    pub(super) fn rest(&self) -> io::Result<()> {
        self.header(AT_REST).store(1, Ordering::Release);
        self.sync()
    }

    pub(super) fn find(&self, key: Key) -> Place {
        let mask = self.slots - 1;
        let home = key.0[0] as usize & mask;
        for slot in (0..self.slots).map(|step| (home + step) & mask) {
            match self.key(slot) {
                [0, 0] => return Place::Vacant(slot),
                words if words == key.0 && !self.is_dead(slot) => return Place::Here,
                _ => {}
            }
        }
        Place::Nowhere
    }

    /// Makes a table whose pages are of different moments one that can be searched, where it lies: of
    /// events that are gone the entries die, and where a page has lost entries over which a search would
    /// have gone on, what lies behind is entered again. Repeating it after a death does no harm.
    pub(super) fn repair(
        &self,
        is_gone: impl Fn(EventId) -> bool,
        now_us: i64,
    ) -> io::Result<Repaired> {
        let mut repaired = Repaired::default();
        for (slot, _, id) in self.all() {
            if is_gone(id) {
                self.slot(slot)[2].fetch_or(DEAD, Ordering::AcqRel);
                repaired.lost += 1;
            }
        }
        for (_, key, id) in self.all() {
            match self.find(key) {
                Place::Here => {}
                Place::Vacant(slot) => {
                    self.write(slot, key, id, &mut |_| {});
                    repaired.moved += 1;
                }
                Place::Nowhere => return Err(io::ErrorKind::StorageFull.into()),
            }
        }
        // The header's page is of some moment as well.
        let in_use = (0..self.slots).filter(|slot| self.key(*slot) != [0, 0]).count();
        self.header(ENTRIES).store(in_use as u64, Ordering::Release);
        self.set_newest(now_us);
        self.settle();
        Ok(repaired)
    }

    /// Writes an entry into a vacant slot and leaves it announced as in flight: until
    /// [`Generation::settle`] the next start asks the journal whether its event was written.
    pub(super) fn note(
        &self,
        slot: usize,
        key: Key,
        id: EventId,
        now_us: i64,
        step: &mut impl FnMut(Step),
    ) {
        self.header(ENTRIES).store(self.entries() + 1, Ordering::Release);
        self.set_newest(now_us);
        self.header(IN_FLIGHT).store(slot as u64 + 1, Ordering::Release);
        step(Step::Announced);
        self.write(slot, key, id, step);
        // The event's bytes, which are no atomics, come after.
        fence(Ordering::AcqRel);
    }

    fn write(&self, slot: usize, key: Key, id: EventId, step: &mut impl FnMut(Step)) {
        let EventId { epoch, lane, sequence, .. } = id;
        let words = self.slot(slot);
        words[2].store(u64::from(epoch) << 32 | u64::from(lane), Ordering::Release);
        words[3].store(sequence, Ordering::Release);
        step(Step::Identified);
        words[0].store(key.0[0], Ordering::Release);
        step(Step::HalfNoted);
        words[1].store(key.0[1], Ordering::Release);
        step(Step::Noted);
    }

    /// The entry in flight has its event.
    pub(super) fn settle(&self) {
        self.header(IN_FLIGHT).store(0, Ordering::Release);
    }

    /// Adds an entry whose event is known to be there; false when the key is.
    pub(super) fn place(&self, key: Key, id: EventId, now_us: i64) -> bool {
        let Place::Vacant(slot) = self.find(key) else { return false };
        self.note(slot, key, id, now_us, &mut |_| {});
        self.settle();
        true
    }

    /// The slot that was being written.
    pub(super) fn in_flight(&self) -> Option<usize> {
        let slot = self.header(IN_FLIGHT).load(Ordering::Acquire).checked_sub(1)? as usize;
        // A number beyond the table is damage: no slot of ours is in flight then.
        (slot < self.slots).then_some(slot)
    }

    /// Empties the slot that was being written. It was the last to be taken, so no other was
    /// placed behind it.
    pub(super) fn revoke(&self) {
        for word in self.in_flight().map_or(&[][..], |slot| self.slot(slot)) {
            word.store(0, Ordering::Release);
        }
        self.settle();
    }

    /// Every whole entry, with its slot.
    fn all(&self) -> impl Iterator<Item = (usize, Key, EventId)> {
        (0..self.slots).filter_map(|slot| {
            let (key, id) = self.entry(slot)?;
            Some((slot, key, id))
        })
    }

    /// The lane an entry's event is in.
    pub(super) fn lane(id: EventId) -> LaneKey {
        let EventId { node, epoch, lane, .. } = id;
        LaneKey { node, epoch, lane }
    }

    /// Brings everything to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.words.sync(0..self.words.len())
    }

    /// Removes the file.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }

    fn is_dead(&self, slot: usize) -> bool {
        self.slot(slot)[2].load(Ordering::Acquire) & DEAD != 0
    }

    /// The entry in a slot, if it is whole and alive.
    pub(super) fn entry(&self, slot: usize) -> Option<(Key, EventId)> {
        let key = self.key(slot);
        let words = self.slot(slot);
        let [place, sequence] = [2, 3].map(|at| words[at].load(Ordering::Relaxed));
        let (epoch, lane) = ((place >> 32) as u32, place as u16);
        let id = EventId { node: self.stamped().node, epoch, lane, sequence };
        (key[0] != 0 && key[1] != 0 && !self.is_dead(slot)).then_some((Key(key), id))
    }

    fn key(&self, slot: usize) -> [u64; 2] {
        let words = self.slot(slot);
        [words[0].load(Ordering::Acquire), words[1].load(Ordering::Acquire)]
    }

    fn slot(&self, slot: usize) -> &[AtomicU64] {
        let start = HEADER_WORDS + slot * SLOT_WORDS;
        &self.words.all()[start..start + SLOT_WORDS]
    }

    fn header(&self, word: usize) -> &AtomicU64 {
        &self.words.all()[word]
    }
}

/// Table files of the directory with their serials, oldest first. What was never finished goes.
pub(super) fn files(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let serial = stem.and_then(|stem| u64::from_str_radix(stem, 16).ok());
        match (extension, serial) {
            (Some(DRAFT_EXTENSION), _) => remove(&path)?,
            (Some(EXTENSION), Some(serial)) => found.push((serial, path)),
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}

fn file_name(serial: u64) -> String {
    format!("{serial:08x}.{EXTENSION}")
}

/// Bytes of a table's file.
fn bytes(slots: usize) -> u64 {
    // Words are kept in whole pages.
    (((HEADER_WORDS + slots * SLOT_WORDS) * 8) as u64).next_multiple_of(4096)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
