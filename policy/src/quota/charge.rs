//! What is counted without being asked for: what admitted requests turned out to use, and events.
//!
//! Everything is counted by the time its row is dated ([`super::counted`]): in the window it lies in,
//! or in what was used in the window before. What a quota does not count by itself, because it is
//! dated before it [began](super::WindowView::since_us), goes to its base until the rows are read
//! anew ([`Policy::late_counts`]). An event dated ahead waits until its window has begun.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Quota;
use super::counter::Added;
use crate::decide::Permit;
use crate::members::Member;
use crate::meters::MeterId;
use crate::policy::Policy;

/// Every window begins and ends with one.
const QUARTER_US: i64 = 15 * 60 * 1_000_000;
/// What waits at most; more of it is read from rows by the next process.
const MAX_EARLY: usize = 1 << 20;

/// An event, as far as quotas look at it: what its row says.
#[derive(Clone, Copy, Debug)]
pub struct Reported<'e> {
    /// Ids from the root of the tree to the tenant, joined with `/`.
    pub path: &'e str,
    /// The tenant's plan.
    pub plan: &'e str,
    /// The meter.
    pub meter: &'e str,
    /// Its time, unix microseconds.
    pub at_us: i64,
}

/// What an event counts.
#[derive(Clone, Copy)]
enum What {
    Amount(u64),
    Member(Member),
}

/// What is dated ahead, by the quarter of an hour and the key of the quota.
#[derive(Debug, Default)]
pub(crate) struct Early(Mutex<BTreeMap<(i64, u128), Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    amount: u64,
    members: Vec<Member>,
}

impl Early {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(i64, u128), Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, key: u128, at_us: i64, what: What) {
        let mut all = self.lock();
        let is_full = all.len() >= MAX_EARLY;
        let place = (at_us.div_euclid(QUARTER_US), key);
        if is_full && !all.contains_key(&place) {
            return;
        }
        let waiting = all.entry(place).or_default();
        match what {
            What::Amount(amount) => waiting.amount = waiting.amount.saturating_add(amount),
            What::Member(member) if waiting.members.len() < MAX_EARLY => {
                waiting.members.push(member);
            }
            What::Member(_) => {}
        }
    }

    /// Takes out what is due.
    fn due(&self, now_us: i64) -> BTreeMap<(i64, u128), Waiting> {
        let mut all = self.lock();
        let later = all.split_off(&(now_us.div_euclid(QUARTER_US) + 1, 0));
        std::mem::replace(&mut *all, later)
    }
}

impl Quota {
    /// Counts `amount` dated `at_us`, whatever the limit. Returns whether it went to the base.
    pub(crate) fn count(self: &Arc<Self>, amount: u64, at_us: i64) -> bool {
        let mut quota = self;
        loop {
            quota.settle(at_us);
            let window = quota.rules.calendar.window(at_us);
            let is_late = at_us < quota.since_us();
            let added = quota.rules.entry(&window, |entry| match is_late {
                true => quota.counter().add_base(entry, amount),
                false => quota.counter().add(entry, amount),
            });
            match (added, quota.successor.get()) {
                (Added::Sealed, Some(successor)) => quota = successor,
                (Added::Done | Added::Sealed, _) => return is_late,
            }
        }
    }

    /// Whether an instant lies behind the window of now.
    fn is_ahead(&self, at_us: i64, now_us: i64) -> bool {
        at_us > now_us && at_us >= self.rules.calendar.window(now_us).end_us
    }
}

impl Policy {
    /// Counts `amount` of a meter at every quota of it that holds an admitted request, for a row that
    /// is dated `at_us` (unix microseconds, not ahead). Refuses nothing. Allocates nothing.
    ///
    /// `meter` is a number of [`Permit::snapshot`].
    pub fn charge(&self, permit: &Permit, meter: MeterId, amount: u64, at_us: i64) {
        let current = self.current();
        let count = |quota: &Arc<Quota>| self.note(quota.count(amount, at_us));
        if Arc::ptr_eq(&current, permit.snapshot()) {
            let quotas = permit.tenant().quotas().filter(|quota| quota.rules.meter == meter);
            quotas.filter(|quota| quota.set().is_none()).for_each(count);
            return;
        }
        // Quotas that came since count it, too.
        let Some(meter) = current.meter_id(&permit.snapshot().meter(meter).id) else { return };
        current.each_slot_at(&permit.tenant().path, permit.plan_id(), |slot| {
            let quota = slot.quota_here().filter(|quota| quota.rules.meter == meter);
            quota.filter(|quota| quota.set().is_none()).into_iter().for_each(count);
        });
    }

    /// Counts `amount` for an event. `now_us` is now: what is dated ahead counts when its window has
    /// begun. Refuses nothing; a tenant or meter that is not there counts nowhere.
    pub fn charge_event(&self, event: &Reported<'_>, amount: u64, now_us: i64) {
        self.charge_what(event, What::Amount(amount), now_us);
    }

    /// As [`charge_event`](Self::charge_event), of a distinct meter: counts the member with this
    /// [id](crate::members::member_id) where it is not counted yet.
    pub fn charge_member(&self, event: &Reported<'_>, id: &[u8; 16], now_us: i64) {
        self.charge_what(event, What::Member(Member::of(id)), now_us);
    }

    /// A member was seen by any node in the window that begins at `event.at_us`, as rows say: puts it
    /// into every set of such a window that counts it and does not know it. `is_sketched`: it is one of
    /// those that make a sketch of more. What was in the quota's window before is not touched.
    pub fn see_member(&self, event: &Reported<'_>, end_us: i64, id: &[u8; 16], is_sketched: bool) {
        let current = self.current();
        let Some(meter) = current.meter_id(event.meter) else { return };
        current.each_slot_at(event.path, event.plan, |slot| {
            let quota = slot.quota_here().filter(|quota| quota.rules.meter == meter);
            let Some(quota) = quota else { return };
            let window = quota.rules.calendar.window(event.at_us);
            if (window.start_us, window.end_us) == (event.at_us, end_us) {
                quota.count_member(Member::of(id), event.at_us, is_sketched);
            }
        });
    }

    fn charge_what(&self, event: &Reported<'_>, what: What, now_us: i64) {
        let current = self.current();
        let Some(meter) = current.meter_id(event.meter) else { return };
        current.each_slot_at(event.path, event.plan, |slot| {
            let Some(quota) = slot.quota_here().filter(|quota| quota.rules.meter == meter) else {
                return;
            };
            if quota.is_ahead(event.at_us, now_us) {
                self.early().keep(quota.key, event.at_us, what);
            } else {
                self.count_what(quota, what, event.at_us);
            }
        });
    }

    fn count_what(&self, quota: &Arc<Quota>, what: What, at_us: i64) {
        match what {
            What::Amount(amount) if quota.set().is_none() => self.note(quota.count(amount, at_us)),
            What::Member(member) => quota.count_member(member, at_us, false),
            What::Amount(_) => {}
        }
    }

    /// Counts what was dated ahead and is due by now (unix microseconds). To be called every second
    /// or so.
    pub fn charge_due(&self, now_us: i64) {
        let due = self.early().due(now_us);
        let current = self.current();
        for ((quarter, key), Waiting { amount, members }) in due {
            let Some(quota) = current.quota(key) else { continue };
            let at_us = quarter * QUARTER_US;
            if amount > 0 {
                self.count_what(quota, What::Amount(amount), at_us);
            }
            members.into_iter().for_each(|member| quota.count_member(member, at_us, false));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_early_is_due_with_its_quarter_and_bounded() {
        let early = Early::default();
        early.keep(1, 3 * QUARTER_US - 1, What::Amount(5));
        early.keep(1, 2 * QUARTER_US, What::Amount(6));
        early.keep(2, 3 * QUARTER_US, What::Amount(7));
        assert!(early.due(2 * QUARTER_US - 1).is_empty());
        let due = early.due(2 * QUARTER_US);
        let seen: Vec<_> = due.iter().map(|(place, waiting)| (*place, waiting.amount)).collect();
        assert_eq!(seen, [((2, 1), 11)]);
        assert_eq!(early.due(i64::MAX / 2).len(), 1);
        for key in 0..MAX_EARLY as u128 + 10 {
            early.keep(key, 0, What::Amount(1));
        }
        early.keep(3, 0, What::Amount(1));
        let due = early.due(0);
        assert_eq!((due.len(), due[&(0, 3)].amount), (MAX_EARLY, 2));
    }
}
