//! Quotas: how much of a meter may be used in a calendar window, and what happens when it is.
//!
//! A quota stands at a tenant, for everything below it, and is a slot of the chain like a limit. On
//! a route that counts on the quota's own meter a request is debited its cost when it is admitted;
//! any other meter is charged later ([`Permit::charge`](crate::Permit::charge)), and the quota
//! refuses the next request once it is used up.
//!
//! Its count is known by owner, name and calendar, and outlives snapshots: neither a reload, nor
//! another plan or limit, nor (with a [`Memory`] that lasts) a restart forgives any of it (**P3**).
//! A quota that appears where another one disappears, or whose calendar changes, takes over what
//! was used in the other one's window, with the first call for it. A request that is being decided
//! at that very moment may still count at the old one.

mod counter;
mod distinct;
mod memory;
mod pulse;
mod view;

use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::bucket::{Bucket, Terms};
use crate::calendar::{Calendar, Period, Tag, Window};
use crate::meters::MeterId;
use counter::{Closed, Counter, Entry, Reading, Take};
pub use counter::{MAX_COUNT, Words, begin_process};
use distinct::Distinct;
pub(crate) use distinct::Entrance;
pub(crate) use memory::leaked;
pub use memory::{InMemory, Memory};
pub use pulse::Pulse;
pub use view::{AtLimit, Previous, QuotaView};

/// A one-off addition to a quota, in the window that contains its instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) at_us: i64,
    pub(crate) amount: u64,
}

/// What happens once a quota and its grace are used up.
#[derive(Clone, Debug)]
pub(crate) enum Beyond {
    Block,
    Bill,
    Throttle { bucket: Arc<Bucket>, terms: Terms },
}

/// What a quota is held to.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) calendar: Arc<Calendar>,
    pub(crate) meter: MeterId,
    pub(crate) limit: u64,
    pub(crate) grace: u64,
    pub(crate) roll_over: u64,
    pub(crate) grants: Box<[Grant]>,
    /// Percent of the limit, in order.
    pub(crate) thresholds: Box<[u16]>,
    pub(crate) beyond: Beyond,
}

/// Where a quota counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) words: &'static Words,
    /// Whether the words are the [`Memory`]'s, and not those of this process alone.
    pub(crate) is_kept: bool,
}

/// A quota of a snapshot.
#[derive(Debug)]
pub(crate) struct Quota {
    pub(crate) key: u128,
    pub(crate) rules: Rules,
    /// Set before the snapshot comes into force.
    place: OnceLock<Place>,
    /// Set with the place, where the meter is a distinct one.
    distinct: OnceLock<Distinct>,
    /// What is to be taken over from another quota, with the first call.
    heritage: Mutex<Option<Arc<Quota>>>,
    is_settled: AtomicBool,
    /// The quota that took over from this one.
    successor: OnceLock<Arc<Quota>>,
}

/// The answer of a quota to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Debited.
    Granted { tag: Tag, remaining: u64 },
    /// Not debited, and not used up.
    Open,
    /// Beyond the limit or not: to be counted once the request is admitted.
    Billed,
    /// Used up: the throttle decides.
    Throttled,
    /// Used up.
    Refused(Exhausted),
    /// Another quota took over: ask the newer snapshot.
    Stale,
}

/// A quota that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted {
    pub(crate) used: u64,
    /// With grants and what was rolled over, without grace.
    pub(crate) limit: u64,
    pub(crate) ends_us: i64,
    /// Whether the request costs more than any window has.
    pub(crate) never: bool,
}

/// What a count is known by. `kind` tells a tenant's own quotas from those of its plan.
pub(crate) fn key(kind: u8, owner: &str, name: &str, calendar: &Calendar) -> u128 {
    let mut hasher = SipHasher13::new();
    hasher.write_u8(kind);
    for text in [owner, name, calendar.zone_name()] {
        hasher.write(text.as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.write(calendar.period().as_str().as_bytes());
    hasher.write_u8(calendar.billing_day());
    hasher.finish128().as_u128()
}

impl Rules {
    fn granted(&self, window: &Window) -> u64 {
        let within = self.grants.iter().filter(|grant| window.contains(grant.at_us));
        within.fold(0, |sum, grant| sum.saturating_add(grant.amount))
    }

    /// What the window before `window` leaves to it.
    fn left_over(&self, closed: &Closed, window: &Window) -> u64 {
        if self.roll_over == 0 {
            return 0;
        }
        let before = self.calendar.before(window);
        let is_next = before.tag == closed.tag;
        // Else nothing was used in the window before.
        let (used, extra) = if is_next { (closed.used, closed.extra) } else { (0, 0) };
        let limit = self.limit.saturating_add(self.granted(&before)).saturating_add(extra);
        limit.saturating_sub(used).min(self.roll_over)
    }

    fn entry<R>(&self, window: &Window, with: impl FnOnce(&Entry<'_>) -> R) -> R {
        with(&Entry {
            tag: window.tag,
            limit: self.limit,
            granted: self.granted(window),
            grace: self.grace,
            left_over: &|closed| self.left_over(closed, window),
        })
    }
}

impl Quota {
    pub(crate) fn new(key: u128, rules: Rules, heritage: Option<Arc<Quota>>) -> Quota {
        Quota {
            key,
            rules,
            place: OnceLock::new(),
            distinct: OnceLock::new(),
            is_settled: AtomicBool::new(heritage.is_none()),
            heritage: Mutex::new(heritage),
            successor: OnceLock::new(),
        }
    }

    /// Gives it its words; only the first call counts.
    pub(crate) fn put_at(&self, place: Place) {
        self.place.get_or_init(|| place);
    }

    /// `None`: the snapshot was only made to be judged.
    pub(crate) fn place(&self) -> Option<Place> {
        self.place.get().copied()
    }

    fn counter(&self) -> Counter<'static> {
        Counter(self.place().expect("a snapshot in force has given its quotas their words").words)
    }

    /// The quota that counts now: this one, or the one that took over.
    pub(crate) fn current(self: &Arc<Self>) -> &Arc<Quota> {
        let mut quota = self;
        while let Some(successor) = quota.successor.get() {
            quota = successor;
        }
        quota
    }

    /// Takes over from the quota before; does nothing the second time.
    fn settle(self: &Arc<Self>, unix_us: i64) {
        if self.is_settled.load(Ordering::Acquire) {
            return;
        }
        let mut heritage = self.heritage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(from) = heritage.take() {
            from.settle(unix_us);
            // From here on requests with an older snapshot ask for the newer one.
            from.successor.get_or_init(|| Arc::clone(self));
            let reading = from.rules_read(unix_us).1;
            self.rules_read(unix_us);
            self.counter().take_over(&reading);
            self.take_members_over(&from, unix_us);
        }
        self.is_settled.store(true, Ordering::Release);
    }

    fn rules_read(&self, unix_us: i64) -> (Window, Reading) {
        let window = self.rules.calendar.window(unix_us);
        (window, self.rules.entry(&window, |entry| self.counter().read(entry)))
    }

    /// The window of an instant, the counter there, and what is allowed in it, grace not included.
    fn read(self: &Arc<Self>, unix_us: i64) -> (Window, Reading, u64) {
        self.settle(unix_us);
        let (window, reading) = self.rules_read(unix_us);
        let limit = self.rules.limit.saturating_add(self.rules.granted(&window));
        (window, reading, limit.saturating_add(reading.extra))
    }

    /// Asks for `cost`, and with `look` changes nothing. `meter` is the one the route counts on.
    pub(crate) fn ask(
        self: &Arc<Self>,
        (meter, cost): (MeterId, u32),
        unix_us: i64,
        look: bool,
    ) -> Answer {
        if self.successor.get().is_some() {
            return Answer::Stale;
        }
        let debits = meter == self.rules.meter;
        if debits && cost == 0 {
            return Answer::Open;
        }
        if matches!(self.rules.beyond, Beyond::Bill) {
            return if debits { Answer::Billed } else { Answer::Open };
        }
        self.settle(unix_us);
        let window = self.rules.calendar.window(unix_us);
        // A quota that is charged later is used up when not even one more fits.
        let cost = if debits { u64::from(cost) } else { 1 };
        let counter = self.counter();
        let take = self.rules.entry(&window, |entry| {
            if debits && !look { counter.take(entry, cost) } else { counter.look(entry, cost) }
        });
        match (take, &self.rules.beyond) {
            (Take::Granted { tag, remaining }, _) if debits => Answer::Granted { tag, remaining },
            (Take::Granted { .. }, _) => Answer::Open,
            (Take::Refused(_), Beyond::Throttle { .. }) => Answer::Throttled,
            (Take::Refused(reading), _) => {
                let Rules { limit, grace, .. } = self.rules;
                let granted = limit.saturating_add(self.rules.granted(&window));
                Answer::Refused(Exhausted {
                    used: reading.used(),
                    limit: granted.saturating_add(reading.extra),
                    ends_us: window.end_us,
                    never: cost > limit.saturating_add(grace),
                })
            }
        }
    }

    /// Undoes a take.
    pub(crate) fn put_back(&self, tag: Tag, cost: u32) {
        self.counter().put_back(tag, cost.into());
    }

    /// Counts `amount` at an instant, whatever the limit.
    pub(crate) fn add(self: &Arc<Self>, amount: u64, unix_us: i64) {
        let quota = self.current();
        quota.settle(unix_us);
        let window = quota.rules.calendar.window(unix_us);
        quota.rules.entry(&window, |entry| quota.counter().add(entry, amount));
    }

    /// As [`add`](Self::add), but not where the counter is in a newer window.
    pub(crate) fn add_in_time(self: &Arc<Self>, amount: u64, unix_us: i64) {
        let (window, reading, _) = self.read(unix_us);
        if reading.tag == window.tag {
            self.add(amount, unix_us);
        }
    }

    /// Moves on to the window of an instant.
    pub(crate) fn roll(self: &Arc<Self>, unix_us: i64) {
        self.read(unix_us);
    }

    /// Says what everything but this process used in the window that starts at `start_us`. False:
    /// that is not the current one.
    pub(crate) fn set_base(&self, start_us: i64, amount: u64) -> bool {
        let window = self.rules.calendar.window(start_us);
        window.start_us == start_us && self.counter().set_base(window.tag, amount)
    }

    /// Seconds from an instant to the end of its window, rounded up.
    pub(crate) fn seconds_left(&self, unix_us: i64) -> u64 {
        let window = self.rules.calendar.window(unix_us);
        (window.end_us - unix_us).max(0).cast_unsigned().div_ceil(1_000_000)
    }

    pub(crate) fn period(&self) -> Period {
        self.rules.calendar.period()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
