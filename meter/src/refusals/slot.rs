//! One group in the table: what it counts, how much, and the identity of the row being written.
//!
//! | word | |
//! |---|---|
//! | 0 | checksum of the key (words 4 to 8, and the strings), with a bit above it |
//! | 1 | note: 0, `WAITING`, `ANNOUNCED`, or a row's sequence + 1 |
//! | 2, 3 | the row's node and epoch, its lane |
//! | 4 | sum, status, day |
//! | 5, 6 | a member's id |
//! | 7, 8 | where each string ends |
//! | 9 .. 16 | a total, and |
//! | 16 .. 23 | another; the newer one counts |
//! | 23 .. 128 | the strings |
//!
//! A total is a stamp, the second with a bit above it when anything is counted, requests, quantity
//! (two words), request bytes, response bytes. The stamp is a version and 32 bits that depend on it,
//! on the other words and on the key's checksum, and is stored last, over the older of the two: so one
//! store changes all of a total together with its proof, and until then the other one counts. Words 0 to 63
//! are a sector: what the disk has of them is what they were at some one moment, and the strings do not
//! change while anything is counted.
//!
//! Guarantees: a slot reads as what was stored, or says that the last store is damaged and reads as
//! what was stored before it, or is [`Damaged`]; never as something else. Any bytes can be read.

use std::sync::atomic::{AtomicU64, Ordering};

use super::key::{OwnedKey, Sum, TEXTS, Total};
use crate::event::{EventId, LATEST_TS_US};

/// Words of a slot.
pub(super) const SLOT_WORDS: usize = 128;
/// Bytes of a key's strings at most: a path of eight ids of 64 bytes (519) and five further ids.
pub(super) const TEXT_BYTES: usize = (SLOT_WORDS - TEXT) * 8;
const _: () = assert!(TEXT_BYTES >= 519 + 5 * 64);

const CHECKSUM: usize = 0;
const NOTE: usize = 1;
const NOTE_EPOCH: usize = 2;
const NOTE_LANE: usize = 3;
const IDENTITY: usize = 4;
const ID: usize = 5;
const ENDS: usize = 7;
const TOTALS: [usize; 2] = [9, 16];
const TEXT: usize = 23;

/// Words of a total behind its stamp.
const TOTAL_WORDS: usize = 6;

const IS_PLACED: u64 = 1 << 32;
const IS_ANY: u64 = 1 << 63;
const ANNOUNCED: u64 = u64::MAX;
const WAITING: u64 = u64::MAX - 1;

/// A slot's words. Every store is a release, so that the compiler keeps their order; a process that
/// is killed leaves every store before some instruction and none behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot<'a> {
    words: &'a [AtomicU64; SLOT_WORDS],
}

/// What is said of the row that the total will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// Nothing. It has not been begun, as far as this run of the machine goes.
    None,
    /// It waits for room, and is not begun without being announced on the disk.
    Waiting,
    /// It will be begun as soon as the disk says so.
    Announced,
    /// Its row has this identity, if it was written.
    Row(EventId),
}

/// What was left in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) key: OwnedKey,
    pub(super) checksum: u32,
    pub(super) version: u32,
    pub(super) total: Total,
    pub(super) note: Note,
    /// A newer total is damaged: this one lacks the last that was counted.
    pub(super) is_behind: bool,
}

/// Words that nobody stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged;

impl<'a> Slot<'a> {
    pub(super) fn new(words: &'a [AtomicU64; SLOT_WORDS]) -> Slot<'a> {
        Slot { words }
    }

    /// Makes the slot that of a key, with nothing counted. Returns the key's checksum, on which the
    /// proofs of its totals depend. Nothing is counted in it before.
    pub(super) fn place(self, key: &OwnedKey) -> u32 {
        self.wipe();
        self.store(NOTE, 0);
        let identity =
            u64::from(key.day) << 32 | u64::from(key.status) << 8 | u64::from(key.sum as u8);
        self.store(IDENTITY, identity);
        let id = u128::from_le_bytes(key.id);
        self.store(ID, id as u64);
        self.store(ID + 1, (id >> 64) as u64);
        for (index, ends) in key.ends.chunks(4).enumerate() {
            let word = ends.iter().rev().fold(0, |word, &end| word << 16 | u64::from(end));
            self.store(ENDS + index, word);
        }
        for (index, bytes) in key.text.as_bytes().chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            self.store(TEXT + index, u64::from_le_bytes(word));
        }
        let checksum = self.checksum(key.text.len());
        self.store(CHECKSUM, IS_PLACED | u64::from(checksum));
        checksum
    }

    /// Replaces the total by that of the next version.
    pub(super) fn set(self, version: u32, total: &Total, checksum: u32) {
        let words = words_of(total);
        let at = TOTALS[version as usize % 2];
        for (index, word) in words.into_iter().enumerate() {
            self.store(at + 1 + index, word);
        }
        self.store(at, stamp(version, &words, checksum));
    }

    /// Forgets both totals. Only in a slot in which nothing is counted, or nothing can be read. The
    /// older goes first: without the newer one, which says that nothing is counted, it would count.
    pub(super) fn wipe(self) {
        let [one, other] = TOTALS.map(|at| version_of(self.load(at)));
        let places = if is_newer(one, other) { [TOTALS[1], TOTALS[0]] } else { TOTALS };
        for at in places {
            if self.load(at) != 0 {
                self.store(at, 0);
            }
        }
    }

    /// Its row waits for room.
    pub(super) fn wait(self) {
        self.store(NOTE, WAITING);
    }

    /// Its row will be begun once this is on the disk.
    pub(super) fn announce(self) {
        self.store(NOTE, ANNOUNCED);
    }

    /// Its row is about to be written under this identity.
    pub(super) fn note(self, id: EventId) {
        self.store(NOTE_EPOCH, u64::from(id.node) << 32 | u64::from(id.epoch));
        self.store(NOTE_LANE, u64::from(id.lane));
        self.store(NOTE, id.sequence + 1);
    }

    /// No row of it has been begun, or the total says already that it was written.
    pub(super) fn forget_note(self) {
        // At a start most slots are untouched, and their pages should stay so.
        if self.load(NOTE) != 0 {
            self.store(NOTE, 0);
        }
    }

    /// What is counted in the slot, if anything is.
    pub(super) fn read(self) -> Result<Option<Left>, Damaged> {
        if TOTALS.map(|at| self.load(at)) == [0, 0] {
            return Ok(None);
        }
        let (key, checksum) = self.read_key().ok_or(Damaged)?;
        let [one, other] = TOTALS.map(|at| self.read_total(at, checksum));
        let (version, total, beside) = match (one.total, other.total) {
            (Some(_), Some(total)) if is_newer(other.version, one.version) => {
                (other.version, total, None)
            }
            (Some(total), Some(_)) => (one.version, total, None),
            (Some(total), None) => (one.version, total, Some(other.version)),
            (None, Some(total)) => (other.version, total, Some(one.version)),
            (None, None) => return Err(Damaged),
        };
        // A total that was being written has its former stamp, which is the older one.
        let is_behind = beside.is_some_and(|damaged| damaged != 0 && is_newer(damaged, version));
        if !total.is_any && !is_behind {
            return Ok(None);
        }
        let note = self.read_note();
        Ok(Some(Left { key, checksum, version, total, note, is_behind }))
    }

    fn read_note(self) -> Note {
        match self.load(NOTE) {
            0 => Note::None,
            WAITING => Note::Waiting,
            ANNOUNCED => Note::Announced,
            next => {
                let epoch = self.load(NOTE_EPOCH);
                Note::Row(EventId {
                    node: (epoch >> 32) as u32,
                    epoch: epoch as u32,
                    lane: self.load(NOTE_LANE) as u16,
                    sequence: next - 1,
                })
            }
        }
    }

    fn read_total(self, at: usize, checksum: u32) -> Stored {
        let words: [u64; TOTAL_WORDS] = std::array::from_fn(|index| self.load(at + 1 + index));
        let found = self.load(at);
        let version = version_of(found);
        let is_whole = found != 0 && found == stamp(version, &words, checksum);
        Stored { version, total: if is_whole { total_of(words) } else { None } }
    }

    fn read_key(self) -> Option<(OwnedKey, u32)> {
        let mut ends = [0; TEXTS];
        for (index, end) in ends.iter_mut().enumerate() {
            *end = (self.load(ENDS + index / 4) >> (index % 4 * 16)) as u16;
        }
        let length = usize::from(ends[TEXTS - 1]);
        if length > TEXT_BYTES {
            return None;
        }
        let checksum = self.checksum(length);
        if self.load(CHECKSUM) != IS_PLACED | u64::from(checksum) {
            return None;
        }
        let mut text: Vec<u8> =
            (TEXT..SLOT_WORDS).flat_map(|at| self.load(at).to_le_bytes()).collect();
        text.truncate(length);
        let identity = self.load(IDENTITY);
        let id = u128::from(self.load(ID + 1)) << 64 | u128::from(self.load(ID));
        let key = OwnedKey {
            sum: Sum::from_number(identity as u8)?,
            status: (identity >> 8) as u16,
            day: (identity >> 32) as u32,
            id: id.to_le_bytes(),
            text: String::from_utf8(text).ok()?.into_boxed_str(),
            ends,
        };
        key.is_sound().then_some((key, checksum))
    }

    /// Of everything that makes the key.
    fn checksum(self, text_bytes: usize) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for at in (IDENTITY..TOTALS[0]).chain(TEXT..TEXT + text_bytes.div_ceil(8)) {
            hasher.update(&self.load(at).to_le_bytes());
        }
        hasher.finalize()
    }

    fn load(self, at: usize) -> u64 {
        self.words[at].load(Ordering::Acquire)
    }

    fn store(self, at: usize, word: u64) {
        #[cfg(test)]
        super::tests::death::moment();
        self.words[at].store(word, Ordering::Release);
    }
}

/// A total as it lies, `None` when its stamp does not vouch for it.
struct Stored {
    version: u32,
    total: Option<Total>,
}

/// The version after this one; 0 is none.
pub(super) fn next_version(version: u32) -> u32 {
    // Even after odd, so that the older total is overwritten.
    version.checked_add(1).unwrap_or(2)
}

fn version_of(stamp: u64) -> u32 {
    (stamp >> 32) as u32
}

fn is_newer(version: u32, than: u32) -> bool {
    version.wrapping_sub(than).cast_signed() > 0
}

fn words_of(total: &Total) -> [u64; TOTAL_WORDS] {
    let &Total { is_any, second, requests, quantity_nano, request_bytes, response_bytes } = total;
    let any = if is_any { IS_ANY } else { 0 };
    [
        any | second.cast_unsigned(),
        u64::from(requests),
        quantity_nano as u64,
        (quantity_nano >> 64) as u64,
        request_bytes,
        response_bytes,
    ]
}

fn total_of(words: [u64; TOTAL_WORDS]) -> Option<Total> {
    let [second, requests, low, high, request_bytes, response_bytes] = words;
    let is_any = second & IS_ANY != 0;
    let second = (second & !IS_ANY).cast_signed();
    (second < LATEST_TS_US / 1_000_000).then_some(Total {
        is_any,
        second,
        requests: u32::try_from(requests).ok()?,
        quantity_nano: (u128::from(high) << 64 | u128::from(low)).cast_signed(),
        request_bytes,
        response_bytes,
    })
}

/// The version, and the proof that these words are of it and of the key with this checksum. Every step
/// is one to one in what it is given, so a change of one word always changes what the next are given.
fn stamp(version: u32, words: &[u64; TOTAL_WORDS], checksum: u32) -> u64 {
    let seed = u64::from(version) << 32 | u64::from(checksum);
    let mix = |state: u64, word: &u64| {
        let mixed = (state ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ mixed >> 32
    };
    let proof = words.iter().fold(mix(0, &seed), mix);
    u64::from(version) << 32 | proof & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::key::Key;
    use super::*;

    const KEY: Key<'_> = Key {
        sum: Sum::Unmetered,
        status: 204,
        day: 20_775,
        id: [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6],
        texts: ["acme", "holding/acme", "growth", "", "contacts", "api_calls\u{e9}"],
    };

    const BEFORE: Total = Total {
        is_any: true,
        second: 1_795_000_000,
        requests: 6,
        quantity_nano: -(1 << 90) + 5,
        request_bytes: u64::MAX,
        response_bytes: 1,
    };
    const NOW: Total = Total { requests: 7, response_bytes: 2, ..BEFORE };

    fn words() -> [AtomicU64; SLOT_WORDS] {
        std::array::from_fn(|_| AtomicU64::new(0))
    }

    fn filled(words: &[AtomicU64; SLOT_WORDS]) -> Left {
        let slot = Slot::new(words);
        let key = OwnedKey::new(&KEY, TEXT_BYTES).expect("short");
        let checksum = slot.place(&key);
        assert_eq!(slot.read(), Ok(None), "a key is not a count");
        slot.set(1, &BEFORE, checksum);
        slot.set(2, &NOW, checksum);
        let row = EventId { node: u32::MAX, epoch: 3, lane: 65_535, sequence: 0 };
        slot.note(row);
        let (version, note, is_behind) = (2, Note::Row(row), false);
        Left { key, checksum, version, total: NOW, note, is_behind }
    }

    #[test]
    fn what_was_stored_is_read() {
        let words = words();
        let mut left = filled(&words);
        let slot = Slot::new(&words);
        assert_eq!(left.key.key(), KEY);
        assert_eq!(slot.read(), Ok(Some(left.clone())));
        slot.announce();
        left.note = Note::Announced;
        assert_eq!(slot.read(), Ok(Some(left.clone())));
        slot.wait();
        left.note = Note::Waiting;
        assert_eq!(slot.read(), Ok(Some(left.clone())));
        slot.forget_note();
        left.note = Note::None;
        assert_eq!(slot.read(), Ok(Some(left.clone())));
        slot.set(3, &Total::NOTHING, left.checksum);
        assert_eq!(slot.read(), Ok(None));
    }

    #[test]
    fn versions_go_round_and_the_newer_total_counts() {
        let words = words();
        let slot = Slot::new(&words);
        let checksum = slot.place(&OwnedKey::new(&KEY, TEXT_BYTES).expect("short"));
        let mut version = u32::MAX - 5;
        for requests in 0..20 {
            version = next_version(version);
            slot.set(version, &Total { requests, ..NOW }, checksum);
            let left = slot.read().expect("sound").expect("counted");
            assert_eq!((left.total.requests, left.version), (requests, version));
        }
        assert!(version < 20);
    }

    #[test]
    fn a_changed_bit_is_damage_and_never_another_total() {
        let words = words();
        let left = filled(&words);
        let is_note = |word| (NOTE..=NOTE_LANE).contains(&word);
        let used = TEXT + left.key.text.len().div_ceil(8);
        for word in (0..used).filter(|&word| !is_note(word)) {
            for bit in 0..64 {
                let good = words[word].load(Ordering::Relaxed);
                words[word].store(good ^ 1 << bit, Ordering::Relaxed);
                let read = Slot::new(&words).read();
                let place = format!("bit {bit} of word {word}");
                if word < TOTALS[0] || word >= TEXT {
                    assert_eq!(read, Err(Damaged), "{place}");
                } else {
                    let read = read.expect("one is whole").expect("counted");
                    let of_newer = (TOTALS[0]..TOTALS[1]).contains(&word);
                    // Version 2 is the first of the two.
                    let expected = if of_newer { BEFORE } else { NOW };
                    assert_eq!(read.total, expected, "{place}");
                    assert!(read.is_behind || !of_newer || word == TOTALS[0], "{place}");
                }
                words[word].store(good, Ordering::Relaxed);
            }
        }
        assert_eq!(Slot::new(&words).read(), Ok(Some(left)));
    }

    #[test]
    fn the_longest_text_fits_and_a_longer_one_is_no_key() {
        let long = "x".repeat(TEXT_BYTES);
        let key = Key { texts: ["", "", &long, "", "", ""], ..KEY };
        let words = words();
        let slot = Slot::new(&words);
        let owned = OwnedKey::new(&key, TEXT_BYTES).expect("just fits");
        let checksum = slot.place(&owned);
        slot.set(1, &NOW, checksum);
        assert_eq!(slot.read().expect("sound").expect("counted").key.key(), key);
        let key = Key { texts: ["", "", &long, "", "", "y"], ..KEY };
        assert_eq!(OwnedKey::new(&key, TEXT_BYTES), None);
    }

    proptest::proptest! {
        #[test]
        fn any_words_can_be_read(random: Vec<u64>, ends: [u16; 6], totals: [u64; 14]) {
            let words = words();
            for (word, value) in words.iter().zip(&random) {
                word.store(*value, Ordering::Relaxed);
            }
            drop(Slot::new(&words).read());
            // As far as the checksum: a key whose ends are any.
            let mut key = OwnedKey::new(&KEY, TEXT_BYTES).expect("short");
            key.ends = ends.map(|end| end % 80);
            let slot = Slot::new(&words);
            let checksum = slot.place(&key);
            slot.set(1, &NOW, checksum);
            if let Ok(Some(left)) = slot.read() {
                left.key.key();
            }
            // As far as the stamp: totals of any words.
            for (at, totals) in TOTALS.into_iter().zip(totals.chunks(7)) {
                let total: [u64; TOTAL_WORDS] = *totals.first_chunk().expect("seven");
                for (index, word) in total.iter().enumerate() {
                    words[at + 1 + index].store(*word, Ordering::Relaxed);
                }
                let stamp = stamp(totals[6] as u32, &total, checksum);
                words[at].store(stamp, Ordering::Relaxed);
            }
            drop(slot.read());
        }
    }
}
