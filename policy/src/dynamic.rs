//! Buckets for keys nobody configured: client addresses and end users.
//!
//! A sharded map with a hard cap. An entry whose bucket is full again says nothing that its
//! absence would not say, so only such entries are ever removed: eviction forgives nobody
//! early. While the map is at its cap, keys that are not in it share one bucket per limit, so a
//! flood of new addresses meets one limit together instead of none.
//!
//! The map is swept and exported while requests use it: it has many shards, each locked for tens of
//! microseconds at a time.

use std::hash::BuildHasherDefault;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use dashmap::{DashMap, Entry};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::bucket::{Debt, Terms};
use crate::members::Members;
use crate::time::Nanos;

/// A million entries are four thousand a shard.
const SHARDS: usize = 256;

/// A limit and whom it holds, as a keyed 128-bit hash: addresses and user names are not kept.
///
/// A value below 2^64 is the bucket of a limit that keys without an entry share.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Subject(pub(crate) u128);

impl Subject {
    fn shared(limit: u64) -> Subject {
        Subject(u128::from(limit))
    }

    fn is_shared(self) -> bool {
        self.0 >> 64 == 0
    }
}

/// As in [`Bucket`](crate::bucket::Bucket), with the terms it was last held to.
#[derive(Clone, Copy)]
struct Tat {
    word: u64,
    terms: Terms,
    arrears_ns: u64,
}

/// Marks the word that a take found in the bucket of a limit's newcomers. No instant has this bit: it
/// stands for 292 years.
const SHARED: u64 = 1 << 63;

/// The map. One for the life of the process; it outlives snapshots.
pub(crate) struct DynamicBuckets {
    map: DashMap<Subject, Tat, BuildHasherDefault<Prehashed>>,
    count: AtomicUsize,
    cap: usize,
    hash_key: [u8; 16],
    /// As old as the map, and under the same key.
    members: Arc<Members>,
    /// When every bucket was empty, in [`Nanos`] that may lie before their base: nobody without an
    /// entry has more than what came back since.
    emptied_at: AtomicI64,
}

/// What a limit with one bucket for each client or user is known by: the same in every process.
pub(crate) fn limit_id(owner: &str, name: &str) -> u64 {
    use std::hash::Hasher;
    let mut hasher = SipHasher13::new();
    hasher.write(owner.as_bytes());
    hasher.write_u8(0xff);
    hasher.write(name.as_bytes());
    hasher.finish128().as_u128() as u64
}

/// The answer of a dynamic bucket; times and counts as in [`Take`](crate::bucket::Take).
pub(crate) enum DynamicTake {
    Granted { before: u64, remaining: u64 },
    Refused { remaining: u64, ready_at: Option<Nanos> },
}

impl DynamicBuckets {
    pub(crate) fn new(cap: usize, hash_key: [u8; 16]) -> Self {
        let (capacity, hasher) = (cap.min(1 << 16), BuildHasherDefault::default());
        let map = DashMap::with_capacity_and_hasher_and_shard_amount(capacity, hasher, SHARDS);
        let emptied_at = AtomicI64::new(i64::MIN);
        let (count, members) = (AtomicUsize::new(0), Arc::new(Members::new(&hash_key)));
        DynamicBuckets { map, count, cap, hash_key, members, emptied_at }
    }

    /// The members of distinct meters, for the life of the process.
    pub(crate) fn members(&self) -> Arc<Members> {
        Arc::clone(&self.members)
    }

    pub(crate) fn client(&self, limit: u64, address: IpAddr) -> Subject {
        // An IPv4 address in the clothes of IPv6 (`::ffff:a.b.c.d`) is the same client, and shares no
        // /64 with all others.
        match address.to_canonical() {
            IpAddr::V4(address) => self.subject(limit, 4, &address.octets()),
            // A subscriber commonly holds a whole /64 (RFC 6177): one bucket for it.
            IpAddr::V6(address) => self.subject(limit, 6, &address.octets()[..8]),
        }
    }

    pub(crate) fn user(&self, limit: u64, user: &[u8]) -> Subject {
        self.subject(limit, 0, user)
    }

    fn subject(&self, limit: u64, kind: u8, value: &[u8]) -> Subject {
        use std::hash::Hasher;
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        hasher.write_u64(limit);
        hasher.write_u8(kind);
        hasher.write(value);
        Subject(hasher.finish128().as_u128())
    }

    /// Takes (or with `look` only asks for) `cost` tokens.
    pub(crate) fn take(
        &self,
        (limit, subject): (u64, Subject),
        terms: Terms,
        cost: u32,
        now: Nanos,
        look: bool,
    ) -> DynamicTake {
        if look {
            let found = self.map.get(&subject);
            let found = match found {
                None if self.is_full() => self.map.get(&Subject::shared(limit)),
                found => found,
            };
            let word = found.map_or(0, |tat| tat.under(terms, now).word);
            return answer(word.max(self.floor(terms)), terms, cost, now).0;
        }
        let full = self.is_full();
        let fresh = Tat { word: 0, terms, arrears_ns: 0 };
        let (mut entry, mark) = match self.map.entry(subject) {
            Entry::Occupied(entry) => (entry.into_ref(), 0),
            Entry::Vacant(entry) if !full => {
                self.count.fetch_add(1, Ordering::Relaxed);
                (entry.insert(fresh), 0)
            }
            Entry::Vacant(entry) => {
                // The shard's lock must go before another key of this map is locked.
                drop(entry);
                (self.map.entry(Subject::shared(limit)).or_insert(fresh), SHARED)
            }
        };
        let held = entry.under(terms, now);
        let (taken, after) = answer(held.word.max(self.floor(terms)), terms, cost, now);
        *entry = Tat { word: after, ..held };
        match taken {
            DynamicTake::Granted { before, remaining } => {
                DynamicTake::Granted { before: before | mark, remaining }
            }
            refused @ DynamicTake::Refused { .. } => refused,
        }
    }

    /// Undoes a take as [`Bucket::put_back`](crate::bucket::Bucket::put_back) does, in the bucket it
    /// was taken from.
    pub(crate) fn put_back(
        &self,
        (limit, subject): (u64, Subject),
        terms: Terms,
        cost: u32,
        now: Nanos,
        before: u64,
    ) {
        let (before, shared) = (before & !SHARED, before & SHARED != 0);
        let subject = if shared { Subject::shared(limit) } else { subject };
        if let Some(mut tat) = self.map.get_mut(&subject) {
            let (_, after) = answer(before, terms, cost, now);
            if tat.word == after && tat.terms == terms {
                tat.word = before;
            }
        }
    }

    /// The least word of any bucket: what came back since all were empty is all there is.
    fn floor(&self, terms: Terms) -> u64 {
        let emptied_at = self.emptied_at.load(Ordering::Relaxed);
        emptied_at.saturating_add_unsigned(terms.tolerance_ns()).max(0).cast_unsigned()
    }

    /// From now on nobody has more than what came back since `at`, which may lie before the base of
    /// [`Nanos`].
    pub(crate) fn empty_at(&self, at: i64) {
        self.emptied_at.fetch_max(at, Ordering::Relaxed);
    }

    /// The latest instant of [`empty_at`](Self::empty_at).
    pub(crate) fn emptied_at(&self) -> Option<i64> {
        Some(self.emptied_at.load(Ordering::Relaxed)).filter(|at| *at != i64::MIN)
    }

    /// Shows every bucket that owes something.
    pub(crate) fn export(&self, now: Nanos, mut visit: impl FnMut(Subject, Debt)) {
        for entry in &self.map {
            let debt = entry.debt(now);
            if !debt.is_none() {
                visit(*entry.key(), debt);
            }
        }
    }

    /// Makes a bucket owe at least `debt`. What was held before a restart is held after it, even
    /// under a lower cap.
    pub(crate) fn raise(&self, subject: Subject, debt: Debt, now: Nanos) {
        let mut tat = self.map.entry(subject).or_insert_with(|| {
            self.count.fetch_add(usize::from(!subject.is_shared()), Ordering::Relaxed);
            Tat { word: 0, terms: debt.terms, arrears_ns: 0 }
        });
        let debt = debt.under(tat.terms);
        tat.arrears_ns = tat.arrears_ns.max(debt.arrears_ns);
        tat.word = tat.word.max(now.0.saturating_add(debt.ahead_ns));
    }

    fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= self.cap
    }

    /// Removes the entries that owe nothing any more. Returns how many are left.
    pub(crate) fn sweep(&self, now: Nanos) -> usize {
        let mut removed = 0;
        self.map.retain(|subject, tat| {
            let keep = !tat.debt(now).is_none() || subject.is_shared();
            removed += usize::from(!keep);
            keep
        });
        self.count.fetch_sub(removed, Ordering::Relaxed) - removed
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Tat {
    fn debt(&self, now: Nanos) -> Debt {
        Debt::at(self.terms, self.word, self.arrears_ns, now)
    }

    /// The same under possibly new terms: what was spent stays spent, in tokens (**P3**).
    fn under(&self, terms: Terms, now: Nanos) -> Tat {
        if self.terms == terms {
            return *self;
        }
        let Debt { ahead_ns, arrears_ns, .. } = self.debt(now).under(terms);
        Tat { word: now.0.saturating_add(ahead_ns), terms, arrears_ns }
    }
}

/// The answer at a TAT of `word`, and the word after it.
fn answer(word: u64, terms: Terms, cost: u32, now: Nanos) -> (DynamicTake, u64) {
    if let Some(after) = terms.advance(word, cost, now) {
        let remaining = terms.remaining(after, now);
        (DynamicTake::Granted { before: word, remaining }, after)
    } else {
        let remaining = terms.remaining(word, now);
        let ready_at = terms.ready_at(word, cost);
        (DynamicTake::Refused { remaining, ready_at }, word)
    }
}

/// A [`Subject`] is a keyed hash already.
#[derive(Default)]
struct Prehashed(u64);

impl std::hash::Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = (value ^ (value >> 64)) as u64;
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
