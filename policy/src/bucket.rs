//! A token bucket as one atomic word: the generic cell rate algorithm (ITU-T I.371, annex A).
//!
//! The word is the *theoretical arrival time* (TAT) in nanoseconds: the instant at which the
//! bucket is full again. Taking `cost` tokens moves it `cost x interval` ahead of the later of
//! itself and now; a take is refused when that would put it more than `burst x interval` ahead
//! of now. So over any span a bucket admits at most `burst + span / interval` tokens, whatever
//! the interleaving: each admission is one successful compare-and-swap (**P1**).
//!
//! Tokens that are guaranteed to somebody are taken without being asked for
//! ([`force`](Bucket::force)), and so may put the word further ahead than the burst. Whoever
//! guarantees them sees to it that their rates add up to no more than the bucket's. Then over any
//! span a bucket admits at most `burst + span / interval` and the bursts of what it guarantees:
//! since the last instant at which the word was no more than the burst ahead, only guaranteed
//! tokens were taken, at most `span / interval` and their bursts, while `span / interval` came
//! back; so the word is never further ahead than the burst and theirs. What is admitted in a span
//! is what came back in it and at most what the word is ahead at its end.
//!
//! A take that was not forced leaves the word at most the burst ahead, so tokens that a refusal could
//! not put back ([`put_back`](Bucket::put_back)) are never more than the burst. To keep the bound for
//! forced ones, they are taken when nothing of their request can be refused any more. Only a reload
//! that seals a bucket of the chain at that very moment undoes them: each reload leaves behind at
//! most what is in flight then.
//!
//! When a reload changes a limit's rate or burst, the new bucket takes over what the old one
//! had spent, in tokens (**P3**). The old word is sealed in the same step, so no take can slip
//! in between; whoever meets a sealed bucket holds an old snapshot and asks the new one. What was
//! spent before a restart is put into a new process's buckets the same way: as a [`Debt`].
//!
//! A bucket that owes more tokens than it holds under its new terms is empty, and fills in its new
//! time: a limit that is tightened keeps nobody waiting longer than that. What it owes beyond is its
//! *arrears*, kept beside the word where no take looks. They shrink only by the time for which
//! the bucket would have been full, and they count again when the terms change again: tightening a
//! limit and widening it forgives nothing.

use std::sync::Arc;

use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::time::Nanos;

/// No more takes here: a newer bucket took over.
const SEALED: u64 = u64::MAX;
/// Nothing taken yet: what the predecessor had spent has to be taken over first.
const UNSETTLED: u64 = u64::MAX - 1;

/// What a bucket is held to. Both are at least 1, and their product fits a `u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Nanoseconds in which one token comes back.
    pub interval_ns: u64,
    /// Tokens the bucket holds when full.
    pub burst: u64,
}

/// What of a bucket is spent, under which terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debt {
    /// What the bucket was held to.
    pub terms: Terms,
    /// Nanoseconds until the bucket is full. Past its burst only by tokens that were guaranteed.
    pub ahead_ns: u64,
    /// Nanoseconds in which what it owes beyond that comes back, from then on.
    pub arrears_ns: u64,
}

impl Debt {
    /// Of a bucket with this word and, from then on, these arrears.
    pub(crate) fn at(terms: Terms, word: u64, arrears_ns: u64, now: Nanos) -> Debt {
        let idle_ns = now.0.saturating_sub(word);
        let arrears_ns = arrears_ns.saturating_sub(idle_ns);
        Debt { terms, ahead_ns: word.saturating_sub(now.0), arrears_ns }
    }

    /// Whether nothing is owed.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.ahead_ns == 0 && self.arrears_ns == 0
    }

    /// The debt `elapsed_ns` later, if nothing is taken.
    #[must_use]
    pub(crate) fn after(self, elapsed_ns: u64) -> Debt {
        let idle_ns = elapsed_ns.saturating_sub(self.ahead_ns);
        Debt {
            ahead_ns: self.ahead_ns.saturating_sub(elapsed_ns),
            arrears_ns: self.arrears_ns.saturating_sub(idle_ns),
            ..self
        }
    }

    /// As many tokens owed under other terms: an empty bucket's worth of them now, and what was
    /// past the burst by guarantee; the rest as arrears. Rounded up: a change of terms must not
    /// forgive a fraction either (**P3**).
    #[must_use]
    pub(crate) fn under(self, terms: Terms) -> Debt {
        if self.terms == terms {
            return self;
        }
        let Terms { interval_ns, burst } = self.terms;
        let converted = |ns: u128| {
            let product = ns * u128::from(terms.interval_ns);
            u64::try_from(product.div_ceil(interval_ns.max(1).into())).unwrap_or(u64::MAX)
        };
        let past_ns = self.ahead_ns.saturating_sub(interval_ns.saturating_mul(burst));
        let owed_ns = converted(u128::from(self.ahead_ns) + u128::from(self.arrears_ns));
        let most_ns = terms.tolerance_ns().saturating_add(converted(past_ns.into()));
        let ahead_ns = owed_ns.min(most_ns);
        Debt { terms, ahead_ns, arrears_ns: owed_ns - ahead_ns }
    }
}

impl Terms {
    /// Nanoseconds in which an empty bucket fills.
    pub(crate) fn tolerance_ns(self) -> u64 {
        self.interval_ns * self.burst
    }

    /// Whole seconds, rounded up, in which an empty bucket fills.
    pub fn refill_s(self) -> u64 {
        self.tolerance_ns().div_ceil(Nanos::SECOND.0)
    }

    /// Where `cost` tokens would put a TAT of `word`; `None` if that is past the burst.
    pub(crate) fn advance(self, word: u64, cost: u32, now: Nanos) -> Option<u64> {
        let after = self.forced(word, cost, now);
        (after.saturating_sub(now.0) <= self.tolerance_ns()).then_some(after)
    }

    /// Where `cost` tokens put a TAT of `word` that is not held to the burst.
    fn forced(self, word: u64, cost: u32, now: Nanos) -> u64 {
        let spent = self.interval_ns.saturating_mul(u64::from(cost));
        word.max(now.0).saturating_add(spent).min(UNSETTLED - 1)
    }

    /// Tokens left at a TAT of `word`.
    pub(crate) fn remaining(self, word: u64, now: Nanos) -> u64 {
        self.remaining_ns(word, now) / self.interval_ns
    }

    /// Whether no fewer tokens than `least` are left at a TAT of `word`: without a division.
    pub(crate) fn leaves(self, least: u64, word: u64, now: Nanos) -> bool {
        self.remaining_ns(word, now) >= self.interval_ns.saturating_mul(least)
    }

    fn remaining_ns(self, word: u64, now: Nanos) -> u64 {
        self.tolerance_ns().saturating_sub(word.saturating_sub(now.0))
    }

    /// The earliest instant at which `cost` tokens are there; `None` if never.
    pub(crate) fn ready_at(self, word: u64, cost: u32) -> Option<Nanos> {
        if u64::from(cost) > self.burst {
            return None;
        }
        let missing = self.tolerance_ns() - self.interval_ns * u64::from(cost);
        Some(Nanos(word.saturating_sub(missing)))
    }
}

/// The answer of one bucket to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// The tokens are there, or have been taken.
    Granted {
        /// The word as it was: with it the take can be undone.
        before: u64,
        /// Tokens left after the take.
        remaining: u64,
    },
    /// The tokens are not there; nothing changed.
    Refused {
        /// Tokens left, fewer than asked for.
        remaining: u64,
        /// When the same take would be granted if nothing else is taken; `None`: never, the
        /// cost is above the burst.
        ready_at: Option<Nanos>,
    },
    /// A newer bucket took over: ask the newer snapshot.
    Sealed,
}

/// One token bucket. Full when made.
#[derive(Debug)]
pub struct Bucket {
    word: AtomicU64,
    /// What is owed beyond the word, in nanoseconds of the bucket's own terms; once the word has
    /// passed, the time since then is to be taken off. No take reads it.
    arrears_ns: AtomicU64,
    heritage: Mutex<Option<Box<Heritage>>>,
}

/// The bucket before a change of terms, and both terms.
#[derive(Debug)]
struct Heritage {
    from: Arc<Bucket>,
    old: Terms,
    new: Terms,
}

impl Default for Bucket {
    fn default() -> Self {
        Bucket {
            word: AtomicU64::new(0),
            arrears_ns: AtomicU64::new(0),
            heritage: Mutex::new(None),
        }
    }
}

impl Bucket {
    /// A bucket that continues `from` under new terms, as spent in tokens as that one is.
    ///
    /// `from` stays in use until the first take on the new one, or [`settle`](Self::settle).
    pub fn inherit(from: Arc<Bucket>, old: Terms, new: Terms) -> Bucket {
        Bucket {
            word: AtomicU64::new(UNSETTLED),
            arrears_ns: AtomicU64::new(0),
            heritage: Mutex::new(Some(Box::new(Heritage { from, old, new }))),
        }
    }

    /// Takes over what the predecessor had spent, and seals it. Does nothing the second time.
    pub fn settle(&self, now: Nanos) {
        let mut heritage = self.heritage.lock().expect("no code panics holding this lock");
        let Some(Heritage { from, old, new }) = heritage.take().map(|boxed| *boxed) else { return };
        from.settle(now);
        let word = from.word.swap(SEALED, Ordering::AcqRel);
        let debt = from.debt_at(word, old, now).under(new);
        // Whoever sees the word sees the arrears that go with it.
        self.arrears_ns.store(debt.arrears_ns, Ordering::Relaxed);
        let word = now.0.saturating_add(debt.ahead_ns).min(UNSETTLED - 1);
        self.word.store(word, Ordering::Release);
    }

    /// What is owed when the word is `word`.
    fn debt_at(&self, word: u64, terms: Terms, now: Nanos) -> Debt {
        Debt::at(terms, word, self.arrears_ns.load(Ordering::Relaxed), now)
    }

    fn load(&self, now: Nanos) -> u64 {
        loop {
            let word = self.word.load(Ordering::Acquire);
            if word != UNSETTLED {
                return word;
            }
            self.settle(now);
        }
    }

    /// Whether a take would be granted, without saying what it leaves: that costs a division. False
    /// also where the bucket is sealed or has to take over first: [`look`](Self::look) tells.
    #[inline]
    pub(crate) fn has(&self, terms: Terms, cost: u32, now: Nanos) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word < UNSETTLED && terms.advance(word, cost, now).is_some()
    }

    /// What [`take`](Self::take) would answer; changes nothing.
    #[inline]
    pub fn look(&self, terms: Terms, cost: u32, now: Nanos) -> Take {
        let word = self.load(now);
        if word == SEALED {
            return Take::Sealed;
        }
        match terms.advance(word, cost, now) {
            Some(after) => Take::Granted { before: word, remaining: terms.remaining(after, now) },
            None => Take::Refused {
                remaining: terms.remaining(word, now),
                ready_at: terms.ready_at(word, cost),
            },
        }
    }

    /// Takes `cost` tokens, all or none. Returns the word before and after; `None`: nothing was
    /// taken, and [`look`](Self::look) tells why.
    #[inline]
    pub(crate) fn debit(&self, terms: Terms, cost: u32, now: Nanos) -> Option<(u64, u64)> {
        let mut word = self.word.load(Ordering::Acquire);
        while word < UNSETTLED {
            let after = terms.advance(word, cost, now)?;
            match self.word.compare_exchange_weak(word, after, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some((word, after)),
                Err(seen) => word = seen,
            }
        }
        None
    }

    /// Takes `cost` tokens, all or none.
    #[inline]
    pub fn take(&self, terms: Terms, cost: u32, now: Nanos) -> Take {
        loop {
            if let Some((before, after)) = self.debit(terms, cost, now) {
                return Take::Granted { before, remaining: terms.remaining(after, now) };
            }
            match self.look(terms, cost, now) {
                // It has taken over from its predecessor just now, or somebody put tokens back.
                Take::Granted { .. } => {}
                refused => return refused,
            }
        }
    }

    /// Takes `cost` tokens that are guaranteed to whoever asks, past the burst if need be.
    ///
    /// Never [`Take::Refused`]; none is left where the burst is passed.
    #[inline]
    pub fn force(&self, terms: Terms, cost: u32, now: Nanos) -> Take {
        let mut word = self.load(now);
        loop {
            if word == SEALED {
                return Take::Sealed;
            }
            let after = terms.forced(word, cost, now);
            match self.word.compare_exchange_weak(word, after, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => {
                    let remaining = terms.remaining(after, now);
                    return Take::Granted { before: word, remaining };
                }
                Err(seen) => word = seen,
            }
        }
    }

    /// Undoes a take, forced or not, that found the word at `before`, to the exact word (**P2**).
    ///
    /// False when somebody took in between: then the tokens stay spent. Giving them back blind
    /// could forgive time in which the bucket would have been full anyway, and admit too many
    /// (**P1** is the stronger promise).
    pub fn put_back(&self, terms: Terms, cost: u32, now: Nanos, before: u64) -> bool {
        let after = terms.forced(before, cost, now);
        self.word.compare_exchange(after, before, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// What is owed; nothing by a sealed bucket, whose successor tells.
    pub(crate) fn debt(&self, terms: Terms, now: Nanos) -> Debt {
        match self.load(now) {
            SEALED => Debt { terms, ahead_ns: 0, arrears_ns: 0 },
            word => self.debt_at(word, terms, now),
        }
    }

    /// Makes the bucket, which is held to `terms`, owe `debt` at the least. Never forgives anything.
    pub(crate) fn raise(&self, terms: Terms, debt: Debt, now: Nanos) {
        self.load(now);
        let debt = debt.under(terms);
        self.arrears_ns.fetch_max(debt.arrears_ns, Ordering::Relaxed);
        let least = now.0.saturating_add(debt.ahead_ns).min(UNSETTLED - 1);
        // A sealed word is above all others, so it stays.
        self.word.fetch_max(least, Ordering::AcqRel);
    }

    /// Tokens left now.
    pub fn remaining(&self, terms: Terms, now: Nanos) -> u64 {
        match self.load(now) {
            SEALED => 0,
            word => terms.remaining(word, now),
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
