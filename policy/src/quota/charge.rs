//! What is counted without being asked for: what admitted requests turned out to use, and events.
//!
//! Everything is counted by the time its row is dated ([`super::counted`]): in the window it lies in,
//! or in what was used in the window before. What a quota does not count by itself, because it is
//! dated before it [began](super::WindowView::since_us), goes to its base until the rows are read
//! anew ([`Policy::late_counts`]). An event dated ahead waits for its time, and counts at the quotas
//! there are then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Quota;
use super::counter::Added;
use crate::decide::Permit;
use crate::members::Member;
use crate::meters::MeterId;
use crate::policy::Policy;

/// Events that wait at most; of more, those count at once that are dated in the windows of now.
const MAX_EARLY: usize = 1 << 18;

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
#[derive(Clone, Copy, Debug)]
enum What {
    Amount(u64),
    Member(Member),
}

/// Events that are dated ahead, by their time and in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Early(Mutex<BTreeMap<(i64, u64), Waiting>>);

#[derive(Debug)]
struct Waiting {
    path: Box<str>,
    plan: Box<str>,
    meter: Box<str>,
    what: What,
}

impl Early {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(i64, u64), Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: there are too many.
    fn keep(&self, event: &Reported<'_>, what: What) -> bool {
        let mut all = self.lock();
        if all.len() >= MAX_EARLY {
            return false;
        }
        let same = all.range((event.at_us, 0)..=(event.at_us, u64::MAX)).next_back();
        let number = same.map_or(0, |((_, number), _)| number + 1);
        let [path, plan, meter] = [event.path, event.plan, event.meter].map(Box::from);
        all.insert((event.at_us, number), Waiting { path, plan, meter, what });
        true
    }

    /// Takes out what is due.
    fn due(&self, now_us: i64) -> BTreeMap<(i64, u64), Waiting> {
        let mut all = self.lock();
        let later = all.split_off(&(now_us.saturating_add(1), 0));
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
            let added = quota.rules.entry(&window, |entry| {
                let counter = quota.counter();
                if is_late { counter.add_base(entry, amount) } else { counter.add(entry, amount) }
            });
            match (added, quota.successor.get()) {
                (Added::Sealed, Some(successor)) => quota = successor,
                (Added::Done | Added::Sealed, _) => return is_late,
            }
        }
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

    /// Counts `amount` for an event. `now_us` is now: what is dated ahead counts when its time has come.
    /// Refuses nothing; a tenant or meter that is not there counts nowhere.
    pub fn charge_event(&self, event: &Reported<'_>, amount: u64, now_us: i64) {
        self.charge_when_due(event, What::Amount(amount), now_us);
    }

    /// As [`charge_event`](Self::charge_event), of a distinct meter: counts the member with this
    /// [id](crate::members::member_id) where it is not counted yet.
    pub fn charge_member(&self, event: &Reported<'_>, id: &[u8; 16], now_us: i64) {
        self.charge_when_due(event, What::Member(Member::of(id)), now_us);
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

    fn charge_when_due(&self, event: &Reported<'_>, what: What, now_us: i64) {
        if event.at_us <= now_us {
            self.charge_now(event, what, i64::MAX);
        } else if !self.early().keep(event, what) {
            self.charge_now(event, what, now_us);
        }
    }

    /// At every quota of the meter that holds it, where the event is not dated in a window after that
    /// of `now_us`.
    fn charge_now(&self, event: &Reported<'_>, what: What, now_us: i64) {
        let current = self.current();
        let Some(meter) = current.meter_id(event.meter) else { return };
        let at_us = event.at_us;
        current.each_slot_at(event.path, event.plan, |slot| {
            let quota = slot.quota_here().filter(|quota| quota.rules.meter == meter);
            let Some(quota) = quota else { return };
            if at_us > now_us && at_us >= quota.rules.calendar.window(now_us).end_us {
                return;
            }
            match what {
                What::Member(member) => quota.count_member(member, at_us, false),
                What::Amount(amount) if quota.set().is_none() => {
                    self.note(quota.count(amount, at_us));
                }
                What::Amount(_) => {}
            }
        });
    }

    /// Counts what was dated ahead and is due by now (unix microseconds). To be called every second
    /// or so.
    pub fn charge_due(&self, now_us: i64) {
        for ((at_us, _), Waiting { path, plan, meter, what }) in self.early().due(now_us) {
            let event = Reported { path: &path, plan: &plan, meter: &meter, at_us };
            self.charge_now(&event, what, i64::MAX);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_early_is_due_at_its_time_in_order_and_bounded() {
        let early = Early::default();
        let event = |at_us| Reported { path: "a", plan: "p", meter: "m", at_us };
        for (at_us, amount) in [(20, 1), (10, 2), (20, 3), (21, 4)] {
            assert!(early.keep(&event(at_us), What::Amount(amount)));
        }
        let due = |now_us| -> Vec<(i64, u64)> {
            let amount = |waiting: Waiting| match waiting.what {
                What::Amount(amount) => amount,
                What::Member(_) => panic!("an amount"),
            };
            let due = early.due(now_us).into_iter();
            due.map(|((at_us, _), waiting)| (at_us, amount(waiting))).collect()
        };
        assert_eq!(due(9), []);
        assert_eq!(due(20), [(10, 2), (20, 1), (20, 3)]);
        assert_eq!(due(i64::MAX), [(21, 4)]);
        for _ in 0..MAX_EARLY {
            assert!(early.keep(&event(5), What::Amount(1)));
        }
        assert!(!early.keep(&event(6), What::Amount(1)));
        assert_eq!(due(5).len(), MAX_EARLY);
    }
}
