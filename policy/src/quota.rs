//! Quotas: how much of a meter may be used in a calendar window, and what happens when it is.
//!
//! A quota stands at a tenant, for everything below it, and is a slot of the chain like a limit. It
//! looks at the requests whose route its meter counts, and at no others. On a route that counts on
//! the quota's own meter a request is debited when it is admitted; any other meter is charged later
//! ([`Policy::charge`](crate::Policy::charge)), and the quota refuses the next request once it is
//! used up. What counts in all is said in [`counted`].
//!
//! Its count is known by owner, name, meter and calendar, and outlives snapshots: neither a reload,
//! nor another plan or limit, nor (with a [`Memory`] that lasts) a restart forgives any of it
//! (**P3**). A quota that appears where another one of the same meter disappears, or whose calendar
//! changes, takes over what was used in the other one's window, with the first call for it, and
//! keeps it until the rows have been read. From then on its count is what it would be had it been
//! there all the time.

mod charge;
pub mod counted;
mod counter;
mod distinct;
mod heir;
mod memory;
mod pulse;
mod view;

use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Arc, Mutex, OnceLock};

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::bucket::{Bucket, Terms};
use crate::calendar::{Calendar, Period, Tag, Window};
use crate::meters::MeterId;
pub(crate) use charge::Early;
pub use charge::Reported;
pub use counted::{Counting, Sums};
use counter::{Closed, Counter, Entry, Take};
pub use counter::{MAX_COUNT, Words, begin_process};
use distinct::Distinct;
pub(crate) use distinct::Entrance;
pub(crate) use memory::leaked;
pub use memory::{InMemory, Memory};
pub use pulse::Pulse;
pub use view::{AtLimit, Previous, QuotaView, WindowView};

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
    pub(crate) counting: Counting,
    pub(crate) limit: u64,
    pub(crate) grace: u64,
    pub(crate) roll_over: u64,
    pub(crate) grants: Box<[Grant]>,
    /// Percent of the limit, in order.
    pub(crate) thresholds: Box<[u16]>,
    pub(crate) beyond: Beyond,
}

/// Where a quota counts.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) words: &'static Words,
    /// Whether the words are the [`Memory`]'s, and not those of this process alone.
    pub(crate) is_kept: bool,
    /// What is dated from this instant on is counted here, what is dated before is in the base; unix
    /// microseconds.
    pub(crate) since_us: Arc<AtomicI64>,
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
    /// Whether it begins to count when its snapshot comes into force.
    begins: AtomicBool,
    /// The instant its snapshot is of, unix microseconds; set with the place.
    from_us: AtomicI64,
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
    /// `None`: a level has no end.
    pub(crate) ends_us: Option<i64>,
    /// Whether the request costs more than any window has.
    pub(crate) never: bool,
}

/// What a count is known by. `kind` tells a tenant's own quotas from those of its plan; `counts` is
/// there for what has windows, and not for a level.
pub(crate) fn key(
    kind: u8,
    owner: &str,
    name: &str,
    meter: &str,
    counts: Option<(Counting, &Calendar)>,
) -> u128 {
    let mut hasher = SipHasher13::new();
    hasher.write_u8(kind);
    for text in [owner, name, meter] {
        hasher.write(text.as_bytes());
        hasher.write_u8(0xff);
    }
    if let Some((counting, calendar)) = counts {
        hasher.write_u8(counting as u8);
        hasher.write(calendar.zone_name().as_bytes());
        hasher.write_u8(0xff);
        hasher.write(calendar.period().as_str().as_bytes());
        hasher.write_u8(calendar.billing_day());
    }
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
            begins: AtomicBool::new(false),
            from_us: AtomicI64::new(i64::MIN),
        }
    }

    fn counter(&self) -> Counter<'static> {
        Counter(self.place().expect("a snapshot in force has given its quotas their words").words)
    }

    fn allowance(&self, window: &Window, reading: &counter::Reading) -> u64 {
        let limit = self.rules.limit.saturating_add(self.rules.granted(window));
        limit.saturating_add(reading.extra)
    }

    /// Asks for so many units, and with `look` changes nothing. `None`: the request is charged later.
    pub(crate) fn ask(self: &Arc<Self>, units: Option<u32>, unix_us: i64, look: bool) -> Answer {
        if units == Some(0) {
            return Answer::Open;
        }
        let debits = units.is_some();
        if matches!(self.rules.beyond, Beyond::Bill) {
            return if debits { Answer::Billed } else { Answer::Open };
        }
        self.settle(unix_us);
        let window = self.rules.calendar.window(unix_us);
        // A quota that is charged later is used up when not even one more fits.
        let cost = units.map_or(1, u64::from);
        let counter = self.counter();
        let take = self.rules.entry(&window, |entry| {
            if debits && !look { counter.take(entry, cost) } else { counter.look(entry, cost) }
        });
        match (take, &self.rules.beyond) {
            (Take::Granted { tag, remaining }, _) if debits => Answer::Granted { tag, remaining },
            (Take::Granted { .. }, _) => Answer::Open,
            (Take::Sealed, _) => Answer::Stale,
            (Take::Refused(_), Beyond::Throttle { .. }) => Answer::Throttled,
            (Take::Refused(reading), _) => {
                let Rules { limit, grace, .. } = self.rules;
                Answer::Refused(Exhausted {
                    used: reading.used(),
                    limit: self.allowance(&window, &reading),
                    ends_us: Some(window.end_us),
                    never: cost > limit.saturating_add(grace),
                })
            }
        }
    }

    /// Undoes a take.
    pub(crate) fn put_back(&self, tag: Tag, cost: u32) {
        self.counter().put_back(tag, cost.into());
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
