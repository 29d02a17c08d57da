//! Quotas to slots: meters and calendars resolved, grants given to the quotas they are for, counts
//! found again (**P3**).

use std::sync::{Arc, LazyLock};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::index::{Broken, Interner};
use super::limits::{Limits, Owner, Rung};
use super::meters::Meters;
use crate::calendar::{Calendar, Period};
use crate::dates::When;
use crate::diagnostics::Findings;
use crate::documents::{GrantDoc, LimitDoc, Located, PlanDoc, QuotaDoc, Text};
use crate::meters::{Aggregate, MeterId};
use crate::quota::{self, AtLimit, Beyond, Grant, Memory, Place, Quota, Rules};
use crate::snapshot::{Control, EVERYWHERE, Label, Level, QuotaPlace, Slot, Snapshot, Tenant};

/// A quota with its names resolved, not yet anybody's.
#[derive(Clone, Copy)]
pub(super) struct Resolved<'d> {
    doc: &'d QuotaDoc<'d>,
    label: u32,
    level: Level,
    meter: MeterId,
    /// The limit, where the document does not say it.
    figure: Option<u64>,
}

impl<'d> Resolved<'d> {
    pub(super) fn name(&self) -> &'d str {
        &self.doc.name.value
    }
}

/// The figures that are quotas by themselves.
#[derive(Clone, Copy)]
pub(super) struct Amounts {
    pub(super) users: Option<u64>,
}

/// The calendar of a tenant.
#[derive(Clone, Debug)]
pub(super) struct Civil {
    pub(super) zone: TimeZone,
    /// The day on which a billing period begins, 1 to 31.
    pub(super) billing_day: u8,
}

/// The quota of a plan's users.
static USERS: LazyLock<QuotaDoc<'static>> = LazyLock::new(QuotaDoc::of_users);

/// Everything that making quotas needs.
pub(super) struct Quotas<'m, 'b> {
    previous: Option<&'m Snapshot>,
    meters: &'m Meters,
    zones: TimeZoneDatabase,
    calendars: HashMap<(Box<str>, Period, u8), Arc<Calendar>, FixedState>,
    /// By tenant, in the order of the documents; what is left at the end is for no quota.
    grants: HashMap<&'b str, Vec<&'b GrantDoc<'b>>, FixedState>,
    /// The quotas of each plan.
    plans: Vec<Vec<Resolved<'b>>>,
}

impl Default for Civil {
    fn default() -> Civil {
        Civil { zone: TimeZone::UTC, billing_day: 1 }
    }
}

impl<'m, 'b> Quotas<'m, 'b> {
    pub(super) fn new(
        previous: Option<&'m Snapshot>,
        meters: &'m Meters,
        grants: &'b [GrantDoc<'b>],
    ) -> Self {
        let mut by_tenant: HashMap<_, Vec<_>, _> = HashMap::with_hasher(FixedState::default());
        for grant in grants {
            by_tenant.entry(&*grant.tenant.value).or_default().push(grant);
        }
        Quotas {
            previous,
            meters,
            zones: TimeZoneDatabase::bundled(),
            calendars: HashMap::default(),
            grants: by_tenant,
            plans: Vec::new(),
        }
    }

    /// The calendar of a tenant: what it says, else that of the tenant above. A billing period
    /// begins on the day that is said, else on that of the day since when it has its plan.
    pub(super) fn civil(
        &self,
        zone: Option<&Located<Text<'_>>>,
        (billing_day, since): (Option<u8>, Option<When>),
        above: Option<&Civil>,
        key: impl FnOnce() -> String,
        findings: &mut Findings,
    ) -> Civil {
        let mut civil = above.cloned().unwrap_or_default();
        if let Some(name) = zone {
            if let Ok(zone) = self.zones.get(&name.value) {
                civil.zone = zone;
            } else {
                let message = format!(
                    "there is no time zone `{}`; a zone is a name such as America/Sao_Paulo",
                    name.value
                );
                findings.add(name.place, key(), message);
            }
        }
        let of_since = || since.map(|since| since.day_of_month(&civil.zone));
        civil.billing_day = billing_day.or_else(of_since).unwrap_or(civil.billing_day);
        civil
    }

    /// Resolves the quotas of every plan.
    pub(super) fn read_plans(
        &mut self,
        plans: &'b [PlanDoc<'b>],
        labels: &mut Interner<Label>,
        broken: &Broken<'_>,
        findings: &mut Findings,
    ) {
        let resolve = |plan: &'b PlanDoc<'b>| {
            let at = format!("plan.{}", plan.id.value);
            let rung = Level::Plan.into();
            self.resolve(&plan.quotas, &plan.limits, rung, &at, labels, broken, findings)
        };
        self.plans = plans.iter().map(resolve).collect();
    }

    /// The quotas of a plan, by its place among the plans, with a contract's `own` and what `figures`
    /// come to. What has the name of something that the contract has is replaced by that.
    pub(super) fn of_plan(
        &self,
        plan: u32,
        own: &[Resolved<'b>],
        is_replaced: impl Fn(&str) -> bool,
        figures: Amounts,
        labels: &mut Interner<Label>,
    ) -> Vec<Resolved<'b>> {
        let mut quotas = self.plans[plan as usize].clone();
        quotas.retain(|quota| !is_replaced(quota.name()));
        quotas.extend_from_slice(own);
        self.add_figures(&mut quotas, figures, Level::Plan.into(), labels);
        quotas
    }

    /// A figure is a quota by itself: so many users. One that is written under the same name stands
    /// in its place.
    pub(super) fn add_figures(
        &self,
        quotas: &mut Vec<Resolved<'b>>,
        figures: Amounts,
        rung: Rung,
        labels: &mut Interner<Label>,
    ) {
        for (doc, figure) in [(&*USERS, figures.users)] {
            let name = &*doc.name.value;
            let is_written = quotas.iter().any(|quota| quota.doc.name.value == name);
            let meter = self.meters.find(&doc.meter.value);
            if let (Some(_), Some(meter), false) = (figure, meter, is_written) {
                let full = format!("{rung}/{name}").into();
                let label = labels.intern(Label { name: name.into(), full });
                quotas.push(Resolved { doc, label, level: rung.level, meter, figure });
            }
        }
    }

    /// Resolves meters; a name that is there twice, also among the limits, is a finding.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the catalogue to be")]
    pub(super) fn resolve(
        &self,
        docs: &'b [QuotaDoc<'b>],
        limits: &[LimitDoc<'_>],
        rung: Rung,
        at: &str,
        labels: &mut Interner<Label>,
        broken: &Broken<'_>,
        findings: &mut Findings,
    ) -> Vec<Resolved<'b>> {
        let mut resolved = Vec::with_capacity(docs.len());
        for (index, doc) in docs.iter().enumerate() {
            let names = docs[..index].iter().map(|other| &other.name);
            let mut names = names.chain(limits.iter().map(|limit| &limit.name));
            if let Some(first) = names.find(|name| name.value == doc.name.value) {
                let key = format!("{at}.quotas[{index}].name");
                let message = "the name is taken already, at";
                findings.add_with(doc.name.place, key, message, first.place);
            }
            let Some(meter) = self.meters.find(&doc.meter.value) else {
                if !broken.has("meter", &doc.meter.value) {
                    let key = format!("{at}.quotas[{index}].meter");
                    let message = format!("there is no meter `{}`", doc.meter.value);
                    findings.add(doc.meter.place, key, message);
                }
                continue;
            };
            let full = format!("{rung}/{}", doc.name.value).into();
            let label = labels.intern(Label { name: (*doc.name.value).into(), full });
            resolved.push(Resolved { doc, label, level: rung.level, meter, figure: None });
        }
        resolved
    }

    /// Slots of one owner's quotas. `before` are the owner's slots of the snapshot before, of the
    /// same kind (its own, or its plan's).
    pub(super) fn slots(
        &mut self,
        resolved: &[Resolved<'_>],
        owner: Owner<'_>,
        civil: &Civil,
        before: &[&Slot],
        limits: &mut Limits<'_>,
        findings: &mut Findings,
    ) -> Vec<Slot> {
        if resolved.is_empty() {
            return Vec::new();
        }
        let before: Vec<&Slot> =
            before.iter().copied().filter(|slot| slot.quota_here().is_some()).collect();
        let name = |slot: &Slot| {
            let previous = self.previous.expect("slots before come from a snapshot before");
            &*previous.labels[slot.label as usize].name
        };
        let by_name = resolved
            .iter()
            .map(|quota| before.iter().copied().find(|slot| name(slot) == &*quota.doc.name.value));
        let mut found: Vec<Option<&Slot>> = by_name.collect();
        // Then a quota that is new takes over from one that is gone.
        let is_gone = |slot: &&Slot| resolved.iter().all(|q| name(slot) != &*q.doc.name.value);
        let mut gone = before.iter().copied().filter(is_gone);
        found.iter_mut().filter(|slot| slot.is_none()).for_each(|slot| *slot = gone.next());
        let pairs = resolved.iter().zip(found);
        pairs
            .map(|(quota, found)| self.slot(quota, owner, civil, found, limits, findings))
            .collect()
    }

    fn slot(
        &mut self,
        quota: &Resolved<'_>,
        owner: Owner<'_>,
        civil: &Civil,
        before: Option<&Slot>,
        limits: &mut Limits<'_>,
        findings: &mut Findings,
    ) -> Slot {
        let doc = quota.doc;
        let calendar = self.calendar(civil, doc.per);
        let kind = u8::from(quota.level == Level::Plan);
        let key = quota::key(kind, owner.known_as, &doc.name.value, &calendar);
        let beyond = match (doc.at_limit, doc.throttle) {
            (AtLimit::ThrottleTo, Some(terms)) => {
                Beyond::Throttle { bucket: limits.bucket(terms, before), terms }
            }
            (AtLimit::AllowAndBill, _) => Beyond::Bill,
            _ => Beyond::Block,
        };
        let rules = Rules {
            calendar,
            meter: quota.meter,
            limit: quota.figure.unwrap_or(doc.limit),
            grace: doc.grace,
            roll_over: doc.roll_over,
            grants: self.grants(owner.known_as, &doc.name.value, civil, findings),
            thresholds: doc.thresholds.as_slice().into(),
            beyond,
        };
        // The same key counts at the same words: nothing is to be taken over.
        let heritage = before.and_then(Slot::quota_here).filter(|before| before.key != key);
        let control = Control::Quota(Arc::new(Quota::new(key, rules, heritage.cloned())));
        let (label, level) = (quota.label, quota.level);
        Slot { control, label, owner: owner.tenant, level, scope: EVERYWHERE }
    }

    /// Equal calendars are one.
    pub(super) fn calendar(&mut self, civil: &Civil, period: Period) -> Arc<Calendar> {
        let calendar = Calendar::new(civil.zone.clone(), period, civil.billing_day);
        let key = (calendar.zone_name().into(), period, calendar.billing_day());
        Arc::clone(self.calendars.entry(key).or_insert_with(|| Arc::new(calendar)))
    }

    /// The grants for a quota, taken out of those that are left.
    fn grants(
        &mut self,
        tenant: &str,
        quota: &str,
        civil: &Civil,
        findings: &mut Findings,
    ) -> Box<[Grant]> {
        let Some(left) = self.grants.get_mut(tenant) else { return Box::default() };
        let mut grants = Vec::new();
        for grant in left.extract_if(.., |grant| grant.quota.value == quota) {
            match When::parse(&grant.at.value) {
                Some(at) => {
                    let at_us = at.at_us(&civil.zone);
                    grants.push(Grant { at_us, amount: grant.amount });
                }
                None => {
                    let message = "is neither a day such as 2026-11-10 nor an RFC 3339 instant";
                    findings.add(grant.at.place, format!("grant.{tenant}.{quota}.at"), message);
                }
            }
        }
        grants.into()
    }

    /// Grants that no quota took become findings, where the tenant itself is none.
    pub(super) fn finish(
        self,
        mut is_there: impl FnMut(&Located<Text<'_>>, &mut Findings) -> bool,
        findings: &mut Findings,
    ) {
        for grant in self.grants.into_values().flatten() {
            if is_there(&grant.tenant, findings) {
                let (tenant, quota) = (&grant.tenant.value, &grant.quota.value);
                let key = format!("grant.{tenant}.{quota}.quota");
                let message =
                    format!("neither `{tenant}` nor its plan has a quota `{quota}` there");
                findings.add(grant.quota.place, key, message);
            }
        }
    }
}

/// Where every quota stands, by key.
pub(super) fn places(tenants: &[Tenant]) -> Vec<QuotaPlace> {
    let mut places = Vec::new();
    for (owner, tenant) in (0..).zip(tenants) {
        for (slot, here) in (0..).zip(&tenant.chain).filter(|(_, slot)| slot.owner == owner) {
            places.extend(here.quota_here().map(|quota| QuotaPlace {
                key: quota.key,
                owner,
                slot,
            }));
        }
    }
    places.sort_unstable_by_key(|place| place.key);
    places
}

/// Gives every quota of a snapshot the words it counts on.
pub(super) fn settle(snapshot: &Snapshot, previous: Option<&Snapshot>, memory: &dyn Memory) {
    for place in &snapshot.quotas {
        let Some(quota) = snapshot.quota(place.key) else { continue };
        let same = previous.and_then(|previous| previous.quota(place.key)?.place());
        let fresh = || match memory.words(place.key) {
            Some(words) => Place { words, is_kept: true },
            None => Place { words: quota::leaked(), is_kept: false },
        };
        quota.put_at(same.unwrap_or_else(fresh));
        if snapshot.meter(quota.rules.meter).aggregate == Aggregate::Distinct {
            quota.count_distinct(&snapshot.members);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
