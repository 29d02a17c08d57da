//! Quotas as others see them.
//!
//! * [`Snapshot::quotas_of`] shows a tenant's quotas and those above it.
//! * [`Policy::each_quota`] shows every quota once, for alerts and reconciliation.
//! * [`Policy::set_base`] takes what reconciliation found.
//! * [`Policy::roll`] lets windows pass where nobody asks.

use std::sync::Arc;

use super::{Beyond, Quota};
use crate::calendar::Period;
use crate::levels::LevelQuota;
use crate::policy::Policy;
use crate::snapshot::{Level, Slot, Snapshot, Tenant};

/// What happens once a quota and its grace are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtLimit {
    /// Refused until the window ends.
    Block,
    /// Admitted, and counted.
    AllowAndBill,
    /// Held to a rate.
    ThrottleTo,
}

impl AtLimit {
    /// The name in documents and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            AtLimit::Block => "block",
            AtLimit::AllowAndBill => "allow_and_bill",
            AtLimit::ThrottleTo => "throttle_to",
        }
    }
}

/// A window that is over: the latest before the current one of which anything is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Its first instant, unix microseconds.
    pub start_us: i64,
    /// The first instant after it, unix microseconds.
    pub end_us: i64,
    /// What was used in it.
    pub used: u64,
    /// What the documents in force now allow in it: the limit and grants. What had been rolled over
    /// into it is not known any more.
    pub limit: u64,
}

/// The window a quota is in. Amounts are units of its meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowView<'s> {
    /// How long its windows are.
    pub period: Period,
    /// The IANA zone of its calendar.
    pub zone: &'s str,
    /// First instant of the window, unix microseconds.
    pub start_us: i64,
    /// First instant after the window, unix microseconds.
    pub end_us: i64,
    /// Granted in this window on top of the limit.
    pub granted: u64,
    /// Rolled over from the window before on top of the limit.
    pub rolled_over: u64,
    /// The part of what is used that this process did not count itself: see
    /// [`counted`](super::counted).
    pub base: u64,
    /// From what instant on this process counts at it by itself, unix microseconds.
    pub since_us: i64,
    /// The last window that is over, where anything is known of one.
    pub previous: Option<Previous>,
}

/// A quota as it stands. Amounts are units of its meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaView<'s> {
    /// What its count is known by, the same in every process; see [`Policy::set_base`].
    pub key: u128,
    /// The tenant it stands at.
    pub tenant: &'s str,
    /// The path of that tenant: ids from its root, joined with `/`.
    pub path: &'s str,
    /// Where it stands.
    pub level: Level,
    /// Its name.
    pub name: &'s str,
    /// Level and name: `team/api-calls`.
    pub full_name: &'s str,
    /// The meter it is of.
    pub meter: &'s str,
    /// Its window; `None`: it is of a level, which lasts.
    pub window: Option<WindowView<'s>>,
    /// Used in the window, by everybody; or how high the level is, with what is on its way.
    pub used: u64,
    /// Whether `used` is an estimate with a standard error of 0.81 %: of very many members.
    pub estimated: bool,
    /// The limit as written.
    pub limit: u64,
    /// What may be used beyond all of that before `at_limit` happens.
    pub grace: u64,
    /// Percentages of [`allowance`](Self::allowance) at which somebody wants to know, in order.
    pub thresholds: &'s [u16],
    /// What happens at the limit.
    pub at_limit: AtLimit,
}

impl QuotaView<'_> {
    /// What may be used: limit, grants and what was rolled over; no grace.
    pub fn allowance(&self) -> u64 {
        let more = self.window.map_or((0, 0), |window| (window.granted, window.rolled_over));
        self.limit.saturating_add(more.0).saturating_add(more.1)
    }

    /// What is used beyond the [`allowance`](Self::allowance): grace in use, or what is to be billed.
    pub fn overage(&self) -> u64 {
        self.used.saturating_sub(self.allowance())
    }

    /// What is left of the [`allowance`](Self::allowance).
    pub fn remaining(&self) -> u64 {
        self.allowance().saturating_sub(self.used)
    }
}

impl Quota {
    pub(crate) fn at_limit(&self) -> AtLimit {
        match self.rules.beyond {
            Beyond::Block => AtLimit::Block,
            Beyond::Bill => AtLimit::AllowAndBill,
            Beyond::Throttle { .. } => AtLimit::ThrottleTo,
        }
    }

    fn previous(&self, window: &crate::calendar::Window) -> Option<Previous> {
        let (tag, used) = self.counter().previous();
        let closed = self.rules.calendar.earlier(tag, window)?;
        let limit = self.rules.limit.saturating_add(self.rules.granted(&closed));
        Some(Previous { start_us: closed.start_us, end_us: closed.end_us, used, limit })
    }
}

impl Tenant {
    /// The quotas that hold it, narrowest first.
    pub(super) fn quotas(&self) -> impl Iterator<Item = &Arc<Quota>> {
        self.chain.iter().filter_map(|slot| slot.quota_here())
    }
}

impl Snapshot {
    pub(super) fn quota_view<'s>(
        &'s self,
        slot: &Slot,
        quota: &'s Arc<Quota>,
        unix_us: i64,
    ) -> QuotaView<'s> {
        let (window, reading, allowance) = quota.read(unix_us);
        let (rules, label) = (&quota.rules, &self.labels[slot.label as usize]);
        let owner = &self.tenants[slot.owner as usize];
        let members = quota.member_count(&window);
        QuotaView {
            key: quota.key,
            tenant: &owner.id,
            path: &owner.path,
            level: slot.level,
            name: &label.name,
            full_name: &label.full,
            meter: &self.meter(rules.meter).id,
            window: Some(WindowView {
                period: quota.period(),
                zone: rules.calendar.zone_name(),
                start_us: window.start_us,
                end_us: window.end_us,
                granted: allowance - rules.limit - reading.extra,
                rolled_over: reading.extra,
                base: reading.base,
                since_us: quota.since_us(),
                previous: quota.previous(&window),
            }),
            used: members.map_or(reading.used(), |count| count.members),
            estimated: members.is_some_and(|count| count.estimated),
            limit: rules.limit,
            grace: rules.grace,
            thresholds: &rules.thresholds,
            at_limit: quota.at_limit(),
        }
    }

    fn level_view<'s>(&'s self, slot: &Slot, quota: &'s LevelQuota) -> QuotaView<'s> {
        let (label, owner) =
            (&self.labels[slot.label as usize], &self.tenants[slot.owner as usize]);
        QuotaView {
            key: quota.key,
            tenant: &owner.id,
            path: &owner.path,
            level: slot.level,
            name: &label.name,
            full_name: &label.full,
            meter: &self.meter(quota.meter).id,
            window: None,
            used: quota.sum().used(),
            estimated: false,
            limit: quota.limit,
            grace: quota.grace,
            thresholds: &quota.thresholds,
            at_limit: if quota.bills { AtLimit::AllowAndBill } else { AtLimit::Block },
        }
    }

    /// The quotas that hold a tenant, narrowest first, each in the window that contains the instant
    /// (unix microseconds). `None`: no such tenant.
    pub fn quotas_of(&self, tenant: &str, unix_us: i64) -> Option<Vec<QuotaView<'_>>> {
        let tenant = self.tenant(tenant)?;
        Some(tenant.chain.iter().filter_map(|slot| self.view_of(slot, unix_us)).collect())
    }

    pub(super) fn view_of<'s>(&'s self, slot: &'s Slot, unix_us: i64) -> Option<QuotaView<'s>> {
        match (slot.quota_here(), slot.level_here()) {
            (Some(quota), _) => Some(self.quota_view(slot, quota, unix_us)),
            (None, Some(quota)) => Some(self.level_view(slot, quota)),
            (None, None) => None,
        }
    }

    /// The slots of all quotas, each once, where it stands.
    pub(super) fn all_quotas(&self) -> impl Iterator<Item = &Slot> {
        (0..self.quotas.len()).filter_map(|place| self.quota_slot(place))
    }

    /// The slot of the quota at a place of those.
    pub(super) fn quota_slot(&self, place: usize) -> Option<&Slot> {
        let place = self.quotas.get(place)?;
        Some(&self.tenants[place.owner as usize].chain[place.slot as usize])
    }

    /// Every quota that has windows once, where it stands.
    pub(super) fn quota_slots(&self) -> impl Iterator<Item = (&Slot, &Arc<Quota>)> {
        self.all_quotas().filter_map(|slot| Some((slot, slot.quota_here()?)))
    }

    pub(crate) fn quota(&self, key: u128) -> Option<&Arc<Quota>> {
        let found = self.quotas.binary_search_by_key(&key, |place| place.key).ok()?;
        let place = &self.quotas[found];
        self.tenants[place.owner as usize].chain[place.slot as usize].quota_here()
    }
}

impl Policy {
    /// Shows every quota once, in the window that contains the instant (unix microseconds).
    /// Allocates nothing.
    pub fn each_quota(&self, unix_us: i64, visit: &mut dyn FnMut(&QuotaView<'_>)) {
        let snapshot = self.current();
        let views = snapshot.all_quotas().filter_map(|slot| snapshot.view_of(slot, unix_us));
        views.for_each(|view| visit(&view));
    }

    /// Says what a quota's base comes to in the window that starts at `start_us` (unix microseconds),
    /// as read when its view said `base`: what was counted there since comes on top. False: there is
    /// no such quota, or its window is another one by now.
    pub fn set_base(&self, key: u128, start_us: i64, amount: u64, base: u64) -> bool {
        self.current().quota(key).is_some_and(|quota| quota.set_base(start_us, amount, base))
    }

    /// Lets every quota move on to the window of the instant (unix microseconds). To be called each
    /// minute, so that what nobody asks for is rolled over, too, and tags stay comparable.
    pub fn roll(&self, unix_us: i64) {
        for (_, quota) in self.current().quota_slots() {
            quota.read(unix_us);
        }
    }

    /// Quotas and levels for which the memory had no room: a restart forgets what they counted.
    pub fn unkept_quotas(&self) -> usize {
        let snapshot = self.current();
        let places = snapshot.quota_slots().filter_map(|(_, quota)| quota.place());
        places.filter(|place| !place.is_kept).count() + self.unkept_levels()
    }
}
