//! From one quota to the next: who takes over from whom, and from when on it counts by itself.
//!
//! Taking over seals the counter of the quota before, so that every unit is counted at exactly one of
//! the two (**P1**), and makes what it had the base of the new one (**P3**). The new one counts what
//! is dated from an instant on that is read once all that was counted before is in that base: so what
//! is in it is dated before, is in the rows, and is not lost when they replace it. A request that was
//! on its way at that instant may count twice, in the rows and by itself; none counts at neither.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError};

use super::counter::{Heritage, Reading, Words};
use super::{Place, Quota};
use crate::calendar::Window;
use crate::snapshot::Snapshot;

impl Quota {
    /// Gives it its words; only the first call counts. `begins`: it counts from the moment on at which
    /// its snapshot comes into force, which is `from_us` (unix microseconds) or later.
    pub(crate) fn put_at(&self, place: Place, begins: bool, from_us: i64) {
        self.from_us.store(from_us, Ordering::Relaxed);
        self.begins.store(begins, Ordering::Relaxed);
        self.place.get_or_init(|| place);
        let is_fresh = self.since_us() == i64::MAX;
        if begins && is_fresh && self.is_settled.load(Ordering::Acquire) {
            // One that was taken over from earlier counts again.
            self.counter().fold();
        }
    }

    /// `None`: the snapshot was only made to be judged.
    pub(crate) fn place(&self) -> Option<&Place> {
        self.place.get()
    }

    /// What is dated before is in the base; unix microseconds.
    pub(super) fn since_us(&self) -> i64 {
        self.place().map_or(i64::MAX, |place| place.since_us.load(Ordering::Acquire))
    }

    /// The quota that counts now: this one, or the one that took over.
    pub(crate) fn current(self: &Arc<Self>) -> &Arc<Quota> {
        let mut quota = self;
        while let Some(successor) = quota.successor.get() {
            quota = successor;
        }
        quota
    }

    /// Takes over from the quota before; does nothing the second time. The first call may be for
    /// something dated in a window that is over: what is used is that of the window of now.
    pub(super) fn settle(self: &Arc<Self>, unix_us: i64) {
        if self.is_settled.load(Ordering::Acquire) {
            return;
        }
        let unix_us = unix_us.max(self.from_us.load(Ordering::Relaxed));
        let mut heritage = self.heritage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(from) = heritage.take() {
            from.settle(unix_us);
            // Whoever finds the counter sealed asks the newer snapshot.
            from.successor.get_or_init(|| Arc::clone(self));
            let left = from.sealed(unix_us);
            let [before, now] = [&*from, &**self].map(|quota| quota.rules.calendar.window(unix_us));
            self.rules.entry(&now, |entry| {
                self.counter().take_over(&left, entry, before == now);
            });
            self.take_members_over(&from, unix_us);
        }
        self.is_settled.store(true, Ordering::Release);
    }

    fn sealed(&self, unix_us: i64) -> Heritage {
        let window = self.rules.calendar.window(unix_us);
        self.rules.entry(&window, |entry| self.counter().seal(entry))
    }

    /// Its snapshot is in force; `now` reads the clock, unix microseconds.
    fn begin(self: &Arc<Self>, now: &impl Fn() -> i64) {
        if !self.is_settled.load(Ordering::Acquire) {
            self.settle(now());
        }
        let begins = self.begins.swap(false, Ordering::Relaxed);
        if let Some(place) = self.place().filter(|_| begins) {
            // Whoever reads rows in between finds that all of them are the base's: what is folded by
            // then may count twice until they are read again, never not at all.
            place.since_us.store(i64::MAX, Ordering::Release);
            self.counter().fold();
            place.count_from(now);
        }
    }

    fn rules_read(&self, unix_us: i64) -> (Window, Reading) {
        let window = self.rules.calendar.window(unix_us);
        (window, self.rules.entry(&window, |entry| self.counter().read(entry)))
    }

    /// The window of an instant, the counter there, and what is allowed in it, grace not included.
    pub(super) fn read(self: &Arc<Self>, unix_us: i64) -> (Window, Reading, u64) {
        self.settle(unix_us);
        let (window, reading) = self.rules_read(unix_us);
        let allowance = self.allowance(&window, &reading);
        (window, reading, allowance)
    }

    /// See [`Policy::set_base`](crate::Policy::set_base).
    pub(super) fn set_base(&self, start_us: i64, amount: u64, before: u64) -> bool {
        let window = self.rules.calendar.window(start_us);
        window.start_us == start_us && self.counter().set_base(window.tag, amount, before)
    }
}

impl Place {
    /// A place that counts what is dated from an instant on.
    pub(crate) fn new(words: &'static Words, is_kept: bool, since_us: i64) -> Place {
        Place { words, is_kept, since_us: Arc::new(AtomicI64::new(since_us)) }
    }

    /// Counts what is dated from now on. All that was counted before, here or in the base, is dated
    /// before that instant: of the clock's microsecond, too, and while the instant is written.
    fn count_from(&self, now: &impl Fn() -> i64) {
        let mut ahead_us = 1_i64;
        loop {
            let since_us = now().saturating_add(ahead_us);
            self.since_us.store(since_us, Ordering::Release);
            if now() < since_us {
                return;
            }
            ahead_us = ahead_us.saturating_mul(2);
        }
    }
}

impl Snapshot {
    /// It is in force; `now` reads the clock, unix microseconds.
    pub(crate) fn begin_quotas(&self, now: &impl Fn() -> i64) {
        self.quota_slots().for_each(|(_, quota)| quota.begin(now));
    }
}
