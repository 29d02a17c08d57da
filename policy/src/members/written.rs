//! Which members have their row already: once a day at a tenant is enough.
//!
//! Rows of the same member count once however many there are, so this may forget, and then a row is
//! written again; it never takes one for written that is not. It is one table of a fixed size for
//! all tenants, of buckets of eight words, one cache line each. A bucket without room for a newcomer
//! gives up one of another day, or else any. No locks: two threads that write the same word at once
//! lose one of the two, which is then written again.

use std::sync::atomic::{AtomicU64, Ordering};

use super::table::mixed;

/// Words of a bucket.
const WAYS: usize = 8;
/// Bits of a word that tell one day from those around it.
const DAY_BITS: u32 = 8;

/// The table.
pub struct Written {
    buckets: Box<[Bucket]>,
}

#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

/// A member at a tenant on a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    bucket: u64,
    word: u64,
}

impl Entry {
    /// `id` is the [`member_id`](super::member_id), `tenant` a hash of the tenant's id, and `day`
    /// another number for every day.
    pub fn new(id: &[u8; 16], tenant: u64, day: u32) -> Entry {
        let id = u128::from_le_bytes(*id);
        // Told apart by the whole day: what is left of one long ago must not pass for today's.
        let at = mixed(tenant ^ u64::from(day) << 32);
        let word = mixed(id as u64 ^ at) << DAY_BITS | u64::from(day % 255 + 1);
        // The bucket is chosen by the other half, so both together tell members apart.
        Entry { bucket: mixed((id >> 64) as u64 ^ at.rotate_left(32)), word }
    }
}

impl Written {
    /// Room for at least `words` entries, rounded up to a power of two: 8 bytes each.
    pub fn new(words: usize) -> Written {
        let buckets = words.div_ceil(WAYS).next_power_of_two();
        let free = || Bucket([const { AtomicU64::new(0) }; WAYS]);
        Written { buckets: (0..buckets).map(|_| free()).collect() }
    }

    /// Whether the row was written, as far as is remembered.
    pub fn has(&self, entry: Entry) -> bool {
        let words = &self.bucket(entry).0;
        words.iter().any(|word| word.load(Ordering::Relaxed) == entry.word)
    }

    /// The row is written.
    pub fn note(&self, entry: Entry) {
        if self.has(entry) {
            return;
        }
        let day = |word: u64| word % (1 << DAY_BITS);
        let words = &self.bucket(entry).0;
        let held = |way: &usize| words[*way].load(Ordering::Relaxed);
        let free = (0..WAYS).find(|way| held(way) == 0);
        let old = || (0..WAYS).find(|way| day(held(way)) != day(entry.word));
        let any = (entry.word >> DAY_BITS) as usize % WAYS;
        words[free.or_else(old).unwrap_or(any)].store(entry.word, Ordering::Relaxed);
    }

    fn bucket(&self, entry: Entry) -> &Bucket {
        &self.buckets[entry.bucket as usize % self.buckets.len()]
    }
}
