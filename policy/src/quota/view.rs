//! Quotas as others see them, and charging them from outside a chain.
//!
//! * [`Permit::charge`] counts what is known only once a request was admitted: bytes, processing.
//! * [`Policy::charge`] counts an ingested event.
//! * [`Snapshot::quotas_of`] shows a tenant's quotas and those above it.
//! * [`Policy::each_quota`] shows every quota once, for alerts and reconciliation.
//! * [`Policy::set_base`] takes what reconciliation found.
//! * [`Policy::roll`] lets windows pass where nobody asks.

use std::sync::Arc;

use super::{Beyond, Quota};
use crate::calendar::Period;
use crate::decide::Permit;
use crate::members::Member;
use crate::meters::MeterId;
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

/// A quota in its current window. Amounts are units of its meter.
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
    /// How long its windows are.
    pub period: Period,
    /// The IANA zone of its calendar.
    pub zone: &'s str,
    /// First instant of the window, unix microseconds.
    pub start_us: i64,
    /// First instant after the window, unix microseconds.
    pub end_us: i64,
    /// Used in the window, by everybody.
    pub used: u64,
    /// Whether `used` is an estimate with a standard error of 0.81 %: of very many members.
    pub estimated: bool,
    /// The part of `used` that this process did not count itself.
    pub base: u64,
    /// The limit as written.
    pub limit: u64,
    /// Granted in this window on top.
    pub granted: u64,
    /// Rolled over from the window before on top.
    pub rolled_over: u64,
    /// What may be used beyond all of that before `at_limit` happens.
    pub grace: u64,
    /// Percentages of [`allowance`](Self::allowance) at which somebody wants to know, in order.
    pub thresholds: &'s [u16],
    /// What happens at the limit.
    pub at_limit: AtLimit,
    /// The last window that is over, where anything is known of one.
    pub previous: Option<Previous>,
}

impl QuotaView<'_> {
    /// What may be used in the window: limit, grants and what was rolled over; no grace.
    pub fn allowance(&self) -> u64 {
        self.limit.saturating_add(self.granted).saturating_add(self.rolled_over)
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
    fn quotas(&self) -> impl Iterator<Item = &Arc<Quota>> {
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
            period: quota.period(),
            zone: rules.calendar.zone_name(),
            start_us: window.start_us,
            end_us: window.end_us,
            used: members.map_or(reading.used(), |count| count.members),
            estimated: members.is_some_and(|count| count.estimated),
            base: reading.base,
            limit: rules.limit,
            granted: allowance - rules.limit - reading.extra,
            rolled_over: reading.extra,
            grace: rules.grace,
            thresholds: &rules.thresholds,
            at_limit: quota.at_limit(),
            previous: quota.previous(&window),
        }
    }

    /// The quotas that hold a tenant, narrowest first, each in the window that contains the instant
    /// (unix microseconds). `None`: no such tenant.
    pub fn quotas_of(&self, tenant: &str, unix_us: i64) -> Option<Vec<QuotaView<'_>>> {
        let tenant = self.tenant(tenant)?;
        let view = |slot| Some(self.quota_view(slot, Slot::quota_here(slot)?, unix_us));
        Some(tenant.chain.iter().filter_map(view).collect())
    }

    /// Every quota once, where it stands.
    pub(super) fn quota_slots(&self) -> impl Iterator<Item = (&Slot, &Arc<Quota>)> {
        (0..self.quotas.len()).filter_map(|place| self.quota_slot(place))
    }

    /// The quota at a place of those.
    pub(super) fn quota_slot(&self, place: usize) -> Option<(&Slot, &Arc<Quota>)> {
        let place = self.quotas.get(place)?;
        let slot = &self.tenants[place.owner as usize].chain[place.slot as usize];
        Some((slot, slot.quota_here()?))
    }

    pub(crate) fn quota(&self, key: u128) -> Option<&Arc<Quota>> {
        let found = self.quotas.binary_search_by_key(&key, |place| place.key).ok()?;
        let place = &self.quotas[found];
        self.tenants[place.owner as usize].chain[place.slot as usize].quota_here()
    }
}

impl Permit {
    /// Counts `amount` of a meter at every quota of it that holds this request, narrowest first, in
    /// the window in which the request arrived or a newer one. Refuses nothing. Allocates nothing.
    ///
    /// `meter` is a number of [`Permit::snapshot`].
    pub fn charge(&self, meter: MeterId, amount: u64) {
        let quotas = self.tenant().quotas().filter(|quota| quota.set().is_none());
        for quota in quotas.filter(|quota| quota.rules.meter == meter) {
            quota.add(amount, self.unix_us());
        }
    }
}

impl Policy {
    /// Counts `amount` of a meter for a tenant and everything above it, for an event that did not
    /// pass the edge. Only where `at_unix_us` lies in the current window of a quota: what is late,
    /// or early, is left to reconciliation. Refuses nothing; an unknown tenant or meter counts
    /// nowhere.
    pub fn charge(&self, tenant: &str, meter: &str, amount: u64, at_unix_us: i64) {
        let snapshot = self.load();
        let Some((tenant, meter)) = snapshot.tenant(tenant).zip(snapshot.meter_id(meter)) else {
            return;
        };
        if !self.is_due(at_unix_us) {
            return;
        }
        let quotas = tenant.quotas().filter(|quota| quota.set().is_none());
        for quota in quotas.filter(|quota| quota.rules.meter == meter) {
            quota.add_in_time(amount, at_unix_us);
        }
    }

    /// As [`charge`](Self::charge), of a distinct meter: counts the member with this
    /// [id](crate::members::member_id) where it is not counted yet.
    pub fn charge_member(&self, tenant: &str, meter: &str, id: &[u8; 16], at_unix_us: i64) {
        let snapshot = self.load();
        let Some((tenant, meter)) = snapshot.tenant(tenant).zip(snapshot.meter_id(meter)) else {
            return;
        };
        if !self.is_due(at_unix_us) {
            return;
        }
        for quota in tenant.quotas().filter(|quota| quota.rules.meter == meter) {
            quota.count_member(Member::of(id), at_unix_us);
        }
    }

    /// Shows every quota once, in the window that contains the instant (unix microseconds).
    /// Allocates nothing.
    pub fn each_quota(&self, unix_us: i64, visit: &mut dyn FnMut(&QuotaView<'_>)) {
        let snapshot = self.load();
        for (slot, quota) in snapshot.quota_slots() {
            visit(&snapshot.quota_view(slot, quota, unix_us));
        }
    }

    /// Says what everything but this process used of a quota in the window that starts at
    /// `start_us` (unix microseconds). False: there is no such quota, or its window is another one
    /// by now.
    pub fn set_base(&self, key: u128, start_us: i64, amount: u64) -> bool {
        self.load().quota(key).is_some_and(|quota| quota.set_base(start_us, amount))
    }

    /// Lets every quota move on to the window of the instant (unix microseconds). To be called each
    /// minute, so that what nobody asks for is rolled over, too, and tags stay comparable.
    pub fn roll(&self, unix_us: i64) {
        self.rolled_at(unix_us);
        for (_, quota) in self.load().quota_slots() {
            quota.roll(unix_us);
        }
    }

    /// Quotas for which the memory had no room: a restart forgets what they counted.
    pub fn unkept_quotas(&self) -> usize {
        let snapshot = self.load();
        let places = snapshot.quota_slots().filter_map(|(_, quota)| quota.place());
        places.filter(|place| !place.is_kept).count()
    }
}
