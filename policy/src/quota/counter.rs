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
//! has less to give than it will, never more (**P1**). A counter never goes back: a request that
//! comes late, with an instant of a window that is over, takes in the newer one, and what is only
//! counted is added to what was used in the window before.
//!
//! A counter that another one takes over from is *sealed*: `live` then is a word of no window, and
//! whoever meets it asks the other one. So no unit is counted at neither of them or at both.
//!
//! Counts stop at 2^52 - 1 and never run into the tag.

use crate::calendar::Tag;
use crate::sync::{AtomicU64, Ordering};

/// The words of one counter: `live`, `base`, `extra` and `previous`. All 0: never used.
pub type Words = [AtomicU64; 4];

/// The largest count.
pub const MAX_COUNT: u64 = (1 << 52) - 1;

/// `live` of a counter that another one took over from. No window has the tag 0.
const SEALED: u64 = 1;

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
    /// Another counter took over.
    Sealed,
}

/// What is only counted, whatever the limit: what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is counted, or its window is long over.
    Done,
    /// Another counter took over.
    Sealed,
}

/// A counter as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) tag: Tag,
    pub(crate) live: u64,
    pub(crate) base: u64,
    pub(crate) extra: u64,
}

/// What a sealed counter leaves to the one that takes over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heritage {
    pub(crate) reading: Reading,
    /// The word.
    previous: u64,
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
    /// `live` then; `None`: it is sealed.
    fn enter(self, entry: &Entry<'_>) -> Option<u64> {
        let mut live = self.load(LIVE);
        loop {
            if live == SEALED {
                return None;
            }
            if live != 0 && !entry.tag.is_after(tag_of(live)) {
                return Some(live);
            }
            let closed = self.reading(live);
            let next = pack(entry.tag, 0);
            match self.0[LIVE].compare_exchange(live, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) if live == 0 => return Some(next),
                Ok(_) => {
                    let closed =
                        Closed { tag: closed.tag, used: closed.used(), extra: closed.extra };
                    self.write_newer(EXTRA, pack(entry.tag, (entry.left_over)(&closed)));
                    self.add_previous(closed.tag, closed.used);
                    live = self.load(LIVE);
                }
                Err(seen) => live = seen,
            }
        }
    }

    /// Who is late with an older window leaves what a newer one has written.
    fn write_newer(self, word: usize, value: u64) {
        let newer = |old: u64| (old == 0 || tag_of(value).is_after(tag_of(old))).then_some(value);
        let _stays = self.0[word].fetch_update(Ordering::AcqRel, Ordering::Acquire, newer);
    }

    /// The counter in the window of `entry`, or in a newer one. A sealed one has counted nothing.
    pub(crate) fn read(self, entry: &Entry<'_>) -> Reading {
        let live = self.enter(entry);
        live.map_or_else(|| self.reading(pack(entry.tag, 0)), |live| self.reading(live))
    }

    /// What [`take`](Self::take) would answer; takes nothing.
    pub(crate) fn look(self, entry: &Entry<'_>, cost: u64) -> Take {
        match self.enter(entry) {
            Some(live) => entry.judge(self.reading(live), cost),
            None => Take::Sealed,
        }
    }

    /// Takes `cost`, all or nothing.
    pub(crate) fn take(self, entry: &Entry<'_>, cost: u64) -> Take {
        loop {
            let Some(live) = self.enter(entry) else { return Take::Sealed };
            let take = entry.judge(self.reading(live), cost);
            if matches!(take, Take::Refused(_)) || self.replace(LIVE, live, plus(live, cost)) {
                return take;
            }
        }
    }

    /// Counts `amount` in the window of `entry`, whatever the limit.
    pub(crate) fn add(self, entry: &Entry<'_>, amount: u64) -> Added {
        loop {
            let Some(live) = self.enter(entry) else { return Added::Sealed };
            if tag_of(live) != entry.tag {
                self.add_previous(entry.tag, amount);
                return Added::Done;
            }
            if self.replace(LIVE, live, plus(live, amount)) {
                return Added::Done;
            }
        }
    }

    /// Counts `amount` as [`add`](Self::add), but among what was not counted here: the next
    /// [`set_base`](Self::set_base) knows better.
    pub(crate) fn add_base(self, entry: &Entry<'_>, amount: u64) -> Added {
        let Some(live) = self.enter(entry) else { return Added::Sealed };
        if tag_of(live) != entry.tag {
            self.add_previous(entry.tag, amount);
            return Added::Done;
        }
        self.change_base(entry.tag, |count| count.saturating_add(amount));
        Added::Done
    }

    /// Of a window that the base is not of yet it is 0.
    fn change_base(self, tag: Tag, change: impl Fn(u64) -> u64) {
        let changed = |old: u64| {
            let count = if tag_of(old) == tag { count_of(old) } else { 0 };
            Some(pack(tag, change(count)))
        };
        let _always = self.0[BASE].fetch_update(Ordering::AcqRel, Ordering::Acquire, changed);
    }

    /// Notes what was used in a window before the current one, unless a later one is noted.
    fn add_previous(self, tag: Tag, amount: u64) {
        let more = |old: u64| match tag_of(old) {
            same if same == tag => Some(plus(old, amount)),
            older if old == 0 || tag.is_after(older) => Some(pack(tag, amount)),
            _ => None,
        };
        let _long_over = self.0[PREVIOUS].fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// Undoes a take that counted in the window `tag` (**P2**), also when that window is over. What
    /// another counter took over stays taken.
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

    /// Says what everything but this process used in the window the counter is in, as of a moment at
    /// which the base was `before`: what was [added](Self::add_base) to it since comes on top. False:
    /// the counter is in another window than `tag`'s.
    pub(crate) fn set_base(self, tag: Tag, amount: u64, before: u64) -> bool {
        let is_in = tag_of(self.load(LIVE)) == tag;
        if is_in {
            let since = |count: u64| count.saturating_sub(before);
            self.change_base(tag, |count| amount.saturating_add(since(count)));
        }
        is_in
    }

    /// Makes what was counted here part of the base: the sum stays the same, and nothing is counted
    /// here yet. While it does, a unit may count twice, never not at all.
    pub(crate) fn fold(self) {
        let live = self.load(LIVE);
        let (tag, count) = (tag_of(live), count_of(live));
        if live == SEALED {
            // Taken over by a counter that is not there any more.
            self.0[LIVE].store(0, Ordering::Release);
        } else if count > 0 {
            self.change_base(tag, |base| base.saturating_add(count));
            self.put_back(tag, count);
        }
    }

    /// Ends counting here, in the window of `entry`. What it counted stays known here, should it ever
    /// count again.
    pub(crate) fn seal(self, entry: &Entry<'_>) -> Heritage {
        loop {
            let Some(live) = self.enter(entry) else {
                return Heritage { reading: self.read(entry), previous: self.load(PREVIOUS) };
            };
            if self.replace(LIVE, live, SEALED) {
                let reading = self.reading(live);
                self.change_base(reading.tag, |base| base.saturating_add(reading.live));
                return Heritage { reading, previous: self.load(PREVIOUS) };
            }
        }
    }

    /// Counts at least what another counter has counted in its window (**P3**), and nothing of its own
    /// yet. Both are in the window of the same instant, which are one if `is_same_window`: then what
    /// was rolled over and the window before are those of the other one.
    pub(crate) fn take_over(self, from: &Heritage, entry: &Entry<'_>, is_same_window: bool) {
        if self.load(LIVE) == SEALED {
            self.0[LIVE].store(0, Ordering::Release);
        }
        let tag = self.read(entry).tag;
        self.fold();
        self.change_base(tag, |base| base.max(from.reading.used()));
        if is_same_window {
            self.0[EXTRA].store(pack(tag, from.reading.extra), Ordering::Release);
            self.0[PREVIOUS].store(from.previous, Ordering::Release);
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
    Counter(words).fold();
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
