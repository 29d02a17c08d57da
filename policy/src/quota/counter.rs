//! One quota's count, in four words that outlive snapshots and may outlive the process.
//!
//! Each word holds the tag of a window in its top 12 bits and a count in the other 52:
//!
//! | word | counts |
//! |---|---|
//! | `live` | what this process counted in the window, and the window the counter is in |
//! | `base` | everything else in the window: earlier processes, other nodes |
//! | `extra` | what is rolled over into the window from the one before |
//! | `previous` | what was used in the window before |
//!
//! A word whose tag is not that of `live` counts as 0, so a window passes by one compare-and-swap
//! of `live`, by whoever comes first; that one then writes the rest. Until it has, the new window
//! has less to give than it will, never more (**P1**). A counter never goes back: what comes late,
//! with an instant of a window that is over, counts in the newer one.
//!
//! Counts stop at 2^52 - 1 and never run into the tag.

use crate::calendar::Tag;
use crate::sync::{AtomicU64, Ordering};

/// The words of one counter: `live`, `base`, `extra` and `previous`. All 0: never used.
pub type Words = [AtomicU64; 4];

/// The largest count.
pub const MAX_COUNT: u64 = (1 << 52) - 1;

const LIVE: usize = 0;
const BASE: usize = 1;
const EXTRA: usize = 2;
const PREVIOUS: usize = 3;

/// A counter on its words.
#[derive(Clone, Copy)]
pub(crate) struct Counter<'w>(pub(crate) &'w Words);

/// What a request brings along: its window, and what is allowed in it beside what is rolled over.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'r> {
    pub(crate) tag: Tag,
    /// In every window.
    pub(crate) limit: u64,
    /// In this window only.
    pub(crate) granted: u64,
    /// Beyond all of that.
    pub(crate) grace: u64,
    /// What a window that is over leaves to this one.
    pub(crate) left_over: &'r dyn Fn(&Closed) -> u64,
}

/// A window that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) tag: Tag,
    pub(crate) used: u64,
    /// What had been rolled over into it.
    pub(crate) extra: u64,
}

/// The answer of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    Granted {
        /// The window it counts in: with it the take can be undone.
        tag: Tag,
        /// Left after the take, grace not included.
        remaining: u64,
    },
    Refused(Reading),
}

/// A counter as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) tag: Tag,
    pub(crate) live: u64,
    pub(crate) base: u64,
    pub(crate) extra: u64,
}

impl Reading {
    pub(crate) fn used(&self) -> u64 {
        self.live.saturating_add(self.base)
    }
}

fn pack(tag: Tag, count: u64) -> u64 {
    u64::from(tag.0) << 52 | count.min(MAX_COUNT)
}

fn tag_of(word: u64) -> Tag {
    Tag((word >> 52) as u16)
}

fn count_of(word: u64) -> u64 {
    word & MAX_COUNT
}

impl Entry<'_> {
    /// What may be used in all, and how much of it is grace.
    fn allowance(&self, reading: &Reading) -> (u64, u64) {
        // A grant of a window that is over is not for the newer one.
        let granted = if reading.tag == self.tag { self.granted } else { 0 };
        let limit = self.limit.saturating_add(granted).saturating_add(reading.extra);
        (limit.saturating_add(self.grace), limit)
    }

    fn judge(&self, reading: Reading, cost: u64) -> Take {
        let (allowance, limit) = self.allowance(&reading);
        let after = reading.used().saturating_add(cost);
        if after > allowance {
            return Take::Refused(reading);
        }
        Take::Granted { tag: reading.tag, remaining: limit.saturating_sub(after) }
    }
}

impl Counter<'_> {
    fn load(self, word: usize) -> u64 {
        self.0[word].load(Ordering::Acquire)
    }

    fn count_in(self, word: usize, tag: Tag) -> u64 {
        let word = self.load(word);
        if tag_of(word) == tag { count_of(word) } else { 0 }
    }

    fn reading(self, live: u64) -> Reading {
        let tag = tag_of(live);
        let (base, extra) = (self.count_in(BASE, tag), self.count_in(EXTRA, tag));
        Reading { tag, live: count_of(live), base, extra }
    }

    /// Moves on to the window of `entry` unless the counter is there, or further, already. The word
    /// `live` then.
    fn enter(self, entry: &Entry<'_>) -> u64 {
        let mut live = self.load(LIVE);
        while live == 0 || entry.tag.is_after(tag_of(live)) {
            let closed = self.reading(live);
            let next = pack(entry.tag, 0);
            match self.0[LIVE].compare_exchange(live, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) if live == 0 => return next,
                Ok(_) => {
                    let closed =
                        Closed { tag: closed.tag, used: closed.used(), extra: closed.extra };
                    self.write_newer(EXTRA, pack(entry.tag, (entry.left_over)(&closed)));
                    self.write_newer(PREVIOUS, pack(closed.tag, closed.used));
                    return self.load(LIVE);
                }
                Err(seen) => live = seen,
            }
        }
        live
    }

    /// Who is late with an older window leaves what a newer one has written.
    fn write_newer(self, word: usize, value: u64) {
        let newer = |old: u64| (old == 0 || tag_of(value).is_after(tag_of(old))).then_some(value);
        let _stays = self.0[word].fetch_update(Ordering::AcqRel, Ordering::Acquire, newer);
    }

    /// The counter in the window of `entry`, or in a newer one.
    pub(crate) fn read(self, entry: &Entry<'_>) -> Reading {
        let live = self.enter(entry);
        self.reading(live)
    }

    /// What [`take`](Self::take) would answer; takes nothing.
    pub(crate) fn look(self, entry: &Entry<'_>, cost: u64) -> Take {
        entry.judge(self.read(entry), cost)
    }

    /// Takes `cost`, all or nothing.
    pub(crate) fn take(self, entry: &Entry<'_>, cost: u64) -> Take {
        loop {
            let live = self.enter(entry);
            let take = entry.judge(self.reading(live), cost);
            if matches!(take, Take::Refused(_)) || self.replace(LIVE, live, plus(live, cost)) {
                return take;
            }
        }
    }

    /// Counts `amount`, whatever the limit.
    pub(crate) fn add(self, entry: &Entry<'_>, amount: u64) {
        loop {
            let live = self.enter(entry);
            if self.replace(LIVE, live, plus(live, amount)) {
                return;
            }
        }
    }

    /// Undoes a take that counted in the window `tag` (**P2**), also when that window is over.
    pub(crate) fn put_back(self, tag: Tag, cost: u64) {
        for word in [LIVE, PREVIOUS] {
            let less = |old: u64| {
                (tag_of(old) == tag).then(|| pack(tag, count_of(old).saturating_sub(cost)))
            };
            if self.0[word].fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok() {
                return;
            }
        }
    }

    /// Says what everything but this process used in the window the counter is in. False: it is in
    /// another one than `tag`'s.
    pub(crate) fn set_base(self, tag: Tag, amount: u64) -> bool {
        let is_in = tag_of(self.load(LIVE)) == tag;
        if is_in {
            self.0[BASE].store(pack(tag, amount), Ordering::Release);
        }
        is_in
    }

    /// Counts at least what another counter has counted in its window (**P3**). Both have been read
    /// for the same instant.
    pub(crate) fn take_over(self, from: &Reading) {
        let tag = tag_of(self.load(LIVE));
        for (word, count) in [(LIVE, from.live), (BASE, from.base)] {
            let more = |old: u64| match tag_of(old) == tag {
                true => (count > count_of(old)).then(|| pack(tag, count)),
                false => (word == BASE).then(|| pack(tag, count)),
            };
            let _stays = self.0[word].fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        }
    }

    /// The window before the current one: its tag and what was used in it.
    pub(crate) fn previous(self) -> (Tag, u64) {
        let previous = self.load(PREVIOUS);
        (tag_of(previous), count_of(previous))
    }

    fn replace(self, word: usize, old: u64, new: u64) -> bool {
        self.0[word].compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

fn plus(word: u64, amount: u64) -> u64 {
    pack(tag_of(word), count_of(word).saturating_add(amount))
}

/// Makes words that an earlier process left behind those of a new one: what it counted becomes part
/// of `base`, since this process has counted nothing yet. The sum stays the same.
///
/// Only for words nobody uses yet. Dying in between counts twice what that process counted, until
/// `base` is set again; it never forgets.
pub fn begin_process(words: &Words) {
    let counter = Counter(words);
    let live = counter.load(LIVE);
    let (tag, count) = (tag_of(live), count_of(live));
    if count > 0 {
        let base = counter.count_in(BASE, tag).saturating_add(count);
        words[BASE].store(pack(tag, base), Ordering::Release);
        words[LIVE].store(pack(tag, 0), Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
