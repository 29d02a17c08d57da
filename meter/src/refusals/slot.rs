//! One group in the table: what it counts, how much, and the identity of the row being written.
//!
//! | word | |
//! |---|---|
//! | 0 | checksum of the key (words 6 and on), with a bit above it |
//! | 1 | second, sealed |
//! | 2 | count, sealed; 0: nothing is counted here, whatever the other words say |
//! | 3 | note: 0, `WAITING`, `ANNOUNCED`, or a row's sequence + 1 |
//! | 4, 5 | the row's node and epoch, its lane |
//! | 6 | sum, status, day |
//! | 7, 8 | quantity of one request, 1e-9 units |
//! | 9, 10 | where each string ends |
//! | 11 .. 64 | the strings |
//!
//! A sealed word holds 40 bits and 24 bits that depend on them and on the key's checksum, so that
//! one store changes a number and its proof together. Words 0 to 7 are one cache line and the slot
//! is a sector: what the disk has of it is what it was at some one moment.
//!
//! Guarantees: a slot reads as what was stored or as [`Damaged`], never as something else, and any
//! bytes can be read.

use std::sync::atomic::{AtomicU64, Ordering};

use super::key::{OwnedKey, Sum, TEXTS};
use crate::event::{EventId, LATEST_TS_US};

/// Words of a slot.
pub(super) const SLOT_WORDS: usize = 64;
/// Bytes of a key's strings at most.
pub(super) const TEXT_BYTES: usize = (SLOT_WORDS - TEXT) * 8;

const CHECKSUM: usize = 0;
const SECOND: usize = 1;
const COUNT: usize = 2;
const NOTE: usize = 3;
const NOTE_EPOCH: usize = 4;
const NOTE_LANE: usize = 5;
const IDENTITY: usize = 6;
const QUANTITY: usize = 7;
const ENDS: usize = 9;
const TEXT: usize = 11;

const IS_PLACED: u64 = 1 << 32;
const ANNOUNCED: u64 = u64::MAX;
const WAITING: u64 = u64::MAX - 1;
const SEALED_BITS: u32 = 40;

/// A slot's words. Every store is a release, so that the compiler keeps their order; a process that
/// is killed leaves every store before some instruction and none behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot<'a> {
    words: &'a [AtomicU64; SLOT_WORDS],
}

/// What is said of the row that the count will be.
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

/// A count that was left in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) key: OwnedKey,
    pub(super) checksum: u32,
    pub(super) second: i64,
    pub(super) count: u32,
    pub(super) note: Note,
}

/// Words that nobody stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged;

impl<'a> Slot<'a> {
    pub(super) fn new(words: &'a [AtomicU64; SLOT_WORDS]) -> Slot<'a> {
        Slot { words }
    }

    /// Makes the slot that of a key; its count is 0 and stays so. Returns the key's checksum, from
    /// which the slot's numbers are sealed.
    pub(super) fn place(self, key: &OwnedKey) -> u32 {
        self.store(NOTE, 0);
        let identity =
            u64::from(key.day) << 32 | u64::from(key.status) << 8 | u64::from(key.sum as u8);
        self.store(IDENTITY, identity);
        self.store(QUANTITY, key.quantity_nano as u64);
        self.store(QUANTITY + 1, (key.quantity_nano >> 64) as u64);
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

    pub(super) fn set_second(self, second: i64, checksum: u32) {
        self.store(SECOND, seal(second as u64, SECOND, checksum));
    }

    pub(super) fn set_count(self, count: u32, checksum: u32) {
        let word = if count == 0 { 0 } else { seal(u64::from(count), COUNT, checksum) };
        self.store(COUNT, word);
    }

    /// Nothing is counted here, whatever it was.
    pub(super) fn clear_count(self) {
        if self.load(COUNT) != 0 {
            self.store(COUNT, 0);
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

    /// No row of it has been begun, or the count says already that it was written.
    pub(super) fn forget_note(self) {
        // At a start most slots are untouched, and their pages should stay so.
        if self.load(NOTE) != 0 {
            self.store(NOTE, 0);
        }
    }

    /// The count in the slot, if there is one.
    pub(super) fn read(self) -> Result<Option<Left>, Damaged> {
        let count = self.load(COUNT);
        if count == 0 {
            return Ok(None);
        }
        let (key, checksum) = self.read_key().ok_or(Damaged)?;
        let second = unseal(self.load(SECOND), SECOND, checksum).ok_or(Damaged)?;
        let second = second.cast_signed();
        let count = unseal(count, COUNT, checksum).ok_or(Damaged)?;
        let count = u32::try_from(count).map_err(|_| Damaged)?;
        if count == 0 || second > LATEST_TS_US / 1_000_000 - 1 {
            return Err(Damaged);
        }
        let note = match self.load(NOTE) {
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
        };
        Ok(Some(Left { key, checksum, second, count, note }))
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
        let high = u128::from(self.load(QUANTITY + 1)) << 64;
        let key = OwnedKey {
            sum: Sum::from_number(identity as u8)?,
            status: (identity >> 8) as u16,
            day: (identity >> 32) as u32,
            quantity_nano: (high | u128::from(self.load(QUANTITY))).cast_signed(),
            text: String::from_utf8(text).ok()?.into_boxed_str(),
            ends,
        };
        key.is_sound().then_some((key, checksum))
    }

    /// Of everything that makes the key.
    fn checksum(self, text_bytes: usize) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for at in IDENTITY..TEXT + text_bytes.div_ceil(8) {
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

/// `value` and the proof that it belongs to word `at` of the key with this checksum.
fn seal(value: u64, at: usize, checksum: u32) -> u64 {
    debug_assert!(value >> SEALED_BITS == 0, "{value} has more than {SEALED_BITS} bits");
    let salted = value ^ u64::from(checksum) << 32 ^ (at as u64) << 60;
    let proof = (salted ^ salted >> 29).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> SEALED_BITS;
    value << (64 - SEALED_BITS) | proof
}

fn unseal(word: u64, at: usize, checksum: u32) -> Option<u64> {
    let value = word >> (64 - SEALED_BITS);
    (seal(value, at, checksum) == word).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::super::key::Key;
    use super::*;

    const KEY: Key<'_> = Key {
        sum: Sum::Unmetered,
        status: 204,
        day: 20_775,
        quantity_nano: -(1 << 90) + 5,
        texts: ["acme", "holding/acme", "growth", "", "contacts", "api_calls\u{e9}"],
    };

    fn words() -> [AtomicU64; SLOT_WORDS] {
        std::array::from_fn(|_| AtomicU64::new(0))
    }

    fn filled(words: &[AtomicU64; SLOT_WORDS]) -> Left {
        let slot = Slot::new(words);
        let key = OwnedKey::new(&KEY, TEXT_BYTES).expect("short");
        let checksum = slot.place(&key);
        assert_eq!(slot.read(), Ok(None), "a key is not a count");
        slot.set_second(1_795_000_000, checksum);
        slot.set_count(u32::MAX, checksum);
        let row = EventId { node: u32::MAX, epoch: 3, lane: 65_535, sequence: 0 };
        slot.note(row);
        let (second, count, note) = (1_795_000_000, u32::MAX, Note::Row(row));
        Left { key, checksum, second, count, note }
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
        slot.set_count(0, left.checksum);
        assert_eq!(slot.read(), Ok(None));
    }

    #[test]
    fn a_changed_bit_is_damage_and_never_another_count() {
        let words = words();
        let left = filled(&words);
        let is_note = |word| (NOTE..=NOTE_LANE).contains(&word);
        let used = TEXT + left.key.text.len().div_ceil(8);
        for word in (0..used).filter(|&word| !is_note(word)) {
            for bit in 0..64 {
                let good = words[word].load(Ordering::Relaxed);
                words[word].store(good ^ 1 << bit, Ordering::Relaxed);
                assert_eq!(Slot::new(&words).read(), Err(Damaged), "bit {bit} of word {word}");
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
        slot.set_second(0, checksum);
        slot.set_count(1, checksum);
        assert_eq!(slot.read().expect("sound").expect("counted").key.key(), key);
        let key = Key { texts: ["", "", &long, "", "", "y"], ..KEY };
        assert_eq!(OwnedKey::new(&key, TEXT_BYTES), None);
    }

    proptest::proptest! {
        #[test]
        fn any_words_can_be_read(random: Vec<u64>, ends: [u16; 6]) {
            let words = words();
            for (word, value) in words.iter().zip(&random) {
                word.store(*value, Ordering::Relaxed);
            }
            drop(Slot::new(&words).read());
            // As far as the checksum: a key whose ends are any.
            let mut key = OwnedKey::new(&KEY, TEXT_BYTES).expect("short");
            key.ends = ends.map(|end| end % 80);
            let checksum = Slot::new(&words).place(&key);
            Slot::new(&words).set_count(1, checksum);
            Slot::new(&words).set_second(1, checksum);
            if let Ok(Some(left)) = Slot::new(&words).read() {
                left.key.key();
            }
        }
    }
}
