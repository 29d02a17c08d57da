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
use crate::diagnostics::{Findings, Place as Spot};
use crate::documents::{GrantDoc, LimitDoc, Located, PlanDoc, QuotaDoc, Text};
use crate::levels::{LevelQuota, Levels};
use crate::meters::{Aggregate, MeterId};
use crate::quota::{self, AtLimit, Beyond, Counting, Grant, Place, Quota, Rules};
use crate::snapshot::{Control, EVERYWHERE, Label, Level, QuotaPlace, Slot, Snapshot, Tenant};

/// A quota with its names resolved, not yet anybody's.
#[derive(Clone, Copy)]
pub(super) struct Resolved<'d> {
    doc: &'d QuotaDoc<'d>,
    label: u32,
    level: Level,
    meter: MeterId,
    kind: Kind,
    /// The limit, where the document does not say it.
    figure: Option<u64>,
}

/// Whether it is of windows or of a level.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Window(Counting, Period),
    Level,
}

impl<'d> Resolved<'d> {
    pub(super) fn name(&self) -> &'d str {
        &self.doc.name.value
    }

    /// Whether it is of a gauge, and has no windows.
    pub(super) fn is_level(&self) -> bool {
        self.kind == Kind::Level
    }
}

/// Why nothing can be granted of the quota of a gauge.
pub(super) fn no_window(name: &str) -> String {
    format!(
        "`{name}` is a quota of a gauge, whose level has no window that a grant could be for: raise \
         its limit"
    )
}

/// The figures that are quotas by themselves.
#[derive(Clone, Copy)]
pub(super) struct Amounts {
    users: Option<u64>,
    storage_bytes: Option<u64>,
}

const BYTES_PER_GB: u64 = 1_000_000_000;

impl Amounts {
    pub(super) fn new(users: Option<u64>, storage_gb: Option<u64>) -> Amounts {
        let storage_bytes = storage_gb.map(|gb| gb.saturating_mul(BYTES_PER_GB));
        Amounts { users, storage_bytes }
    }

    /// Each figure with the quota that it is.
    fn each(self) -> [(&'static QuotaDoc<'static>, Option<u64>); 2] {
        [(&*USERS, self.users), (&*STORAGE, self.storage_bytes)]
    }

    /// The names of the quotas that there are.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let each = self.each().into_iter().filter(|(_, figure)| figure.is_some());
        each.map(|(doc, _)| &*doc.name.value)
    }

    /// How many there are.
    pub(super) fn count(self) -> usize {
        self.names().count()
    }
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
/// The quota of a plan's storage.
static STORAGE: LazyLock<QuotaDoc<'static>> = LazyLock::new(QuotaDoc::of_storage);

/// Whether a quota goes on from what stands in a slot.
type Fits<'f, 'd> = &'f dyn Fn(&Resolved<'d>, &Slot) -> bool;

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

    /// A figure is a quota by itself: so many users, so much storage. One that is written under the
    /// same name stands in its place.
    pub(super) fn add_figures(
        &self,
        quotas: &mut Vec<Resolved<'b>>,
        figures: Amounts,
        rung: Rung,
        labels: &mut Interner<Label>,
    ) {
        for (doc, figure) in figures.each() {
            let name = &*doc.name.value;
            let is_written = quotas.iter().any(|quota| quota.doc.name.value == name);
            let meter = self.meters.find(&doc.meter.value).filter(|_| !is_written);
            // Where the meter does not fit, its table has a finding.
            let fits = meter.and_then(|meter| Some((meter, self.kind(doc, meter).ok()?)));
            if let (Some(_), Some((meter, kind))) = (figure, fits) {
                let full = format!("{rung}/{name}").into();
                let label = labels.intern(Label { name: name.into(), full });
                quotas.push(Resolved { doc, label, level: rung.level, meter, kind, figure });
            }
        }
    }

    /// What a quota of this meter is of, if what is written fits it; else what does not, where and
    /// why.
    fn kind(
        &self,
        doc: &QuotaDoc<'_>,
        meter: MeterId,
    ) -> Result<Kind, (Spot, &'static str, String)> {
        let meter = &self.meters.meters[meter.0 as usize];
        if let Some(counting) = Counting::of(meter) {
            return match &doc.per {
                Some(per) => Ok(Kind::Window(counting, per.value)),
                None => Err((doc.place, "per", "the key is missing".to_owned())),
            };
        }
        let id = &meter.id;
        if meter.aggregate != Aggregate::Gauge {
            let message = format!(
                "`{id}` does not add up, so there is nothing to use up: a quota is of a count, sum, \
                 distinct or gauge"
            );
            return Err((doc.meter.place, "meter", message));
        }
        let no_window = format!("`{id}` is a gauge: its level lasts and has no window");
        if let Some(per) = &doc.per {
            return Err((per.place, "per", no_window));
        }
        if let Some(roll_over) = &doc.roll_over {
            let message = format!("{no_window} of which anything could be left over");
            return Err((roll_over.place, "roll_over", message));
        }
        if doc.at_limit.value == AtLimit::ThrottleTo {
            let message =
                format!("{no_window}, so there is no rate at which it could rise further");
            return Err((doc.at_limit.place, "at_limit", message));
        }
        Ok(Kind::Level)
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
            let kind = match self.kind(doc, meter) {
                Ok(kind) => kind,
                Err((place, field, message)) => {
                    findings.add(place, format!("{at}.quotas[{index}].{field}"), message);
                    continue;
                }
            };
            let full = format!("{rung}/{}", doc.name.value).into();
            let label = labels.intern(Label { name: (*doc.name.value).into(), full });
            resolved.push(Resolved { doc, label, level: rung.level, meter, kind, figure: None });
        }
        resolved
    }

    /// Slots of one owner's quotas. `before` are the owner's slots of the snapshot before, of the
    /// same kind (its own, or its plan's); `renames` says whether one that is new may go on from one
    /// of another name that is gone.
    pub(super) fn slots(
        &mut self,
        resolved: &[Resolved<'_>],
        owner: Owner<'_>,
        civil: &Civil,
        (before, renames): (&[&Slot], bool),
        limits: &mut Limits<'_>,
        findings: &mut Findings,
    ) -> Vec<Slot> {
        if resolved.is_empty() {
            return Vec::new();
        }
        let found = self.pair(resolved, before, renames);
        let pairs = resolved.iter().zip(found);
        pairs
            .map(|(quota, found)| self.slot(quota, owner, civil, found, limits, findings))
            .collect()
    }

    /// Which slot each quota goes on from: one of the same meter, first by its name, then one that is
    /// gone, if possible one of the same period.
    fn pair<'s>(
        &self,
        resolved: &[Resolved<'_>],
        before: &[&'s Slot],
        renames: bool,
    ) -> Vec<Option<&'s Slot>> {
        let Some(previous) = self.previous else { return vec![None; resolved.len()] };
        let name = |slot: &Slot| &*previous.labels[slot.label as usize].name;
        let has_name = |quota: &Resolved<'_>, slot: &Slot| name(slot) == &*quota.doc.name.value;
        let is_alike = |quota: &Resolved<'_>, slot: &Slot| {
            let of = |meter: MeterId| &previous.meter(meter).id;
            let (meter, is_kind) = match (&slot.control, quota.kind) {
                (Control::Quota(before), Kind::Window(counting, _)) => {
                    (of(before.rules.meter), before.rules.counting == counting)
                }
                (Control::Level(before), Kind::Level) => (of(before.meter), true),
                _ => return false,
            };
            is_kind && *meter == self.meters.meters[quota.meter.0 as usize].id
        };
        let has_period = |quota: &Resolved<'_>, slot: &Slot| match quota.kind {
            Kind::Window(_, period) => slot.quota_here().is_some_and(|q| q.period() == period),
            Kind::Level => true,
        };
        let is_there = |quota, slot: &Slot| has_name(quota, slot) && is_alike(quota, slot);
        let is_gone = |slot: &Slot| !resolved.iter().any(|quota| is_there(quota, slot));
        let fits: [Fits<'_, '_>; 3] = [
            &has_name,
            &|quota, slot| renames && is_gone(slot) && has_period(quota, slot),
            &|_, slot| renames && is_gone(slot),
        ];
        let mut used = vec![false; before.len()];
        let mut found: Vec<Option<&Slot>> = vec![None; resolved.len()];
        for fits in fits {
            for (quota, found) in resolved.iter().zip(&mut found).filter(|(_, f)| f.is_none()) {
                let fits = |index: &usize| {
                    !used[*index] && is_alike(quota, before[*index]) && fits(quota, before[*index])
                };
                if let Some(index) = (0..before.len()).find(fits) {
                    used[index] = true;
                    *found = Some(before[index]);
                }
            }
        }
        found
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
        let control = match quota.kind {
            Kind::Window(counting, period) => {
                let calendar = self.calendar(civil, period);
                let beyond = match (quota.doc.at_limit.value, quota.doc.throttle) {
                    (AtLimit::ThrottleTo, Some(terms)) => {
                        Beyond::Throttle { bucket: limits.bucket(terms, before), terms }
                    }
                    (AtLimit::AllowAndBill, _) => Beyond::Bill,
                    _ => Beyond::Block,
                };
                let grants = self.grants(owner.known_as, &quota.doc.name.value, civil, findings);
                let before = before.and_then(Slot::quota_here);
                let key = self.key(quota, owner, Some((counting, &calendar)));
                let rules = rules(quota, counting, calendar, grants, beyond);
                // The same key counts at the same words: nothing is to be taken over.
                let heritage = before.filter(|before| before.key != key);
                Control::Quota(Arc::new(Quota::new(key, rules, heritage.cloned())))
            }
            Kind::Level => Control::Level(self.level(quota, owner, before, findings)),
        };
        let (label, level) = (quota.label, quota.level);
        Slot { control, label, owner: owner.tenant, level, scope: EVERYWHERE }
    }

    fn level(
        &mut self,
        quota: &Resolved<'_>,
        owner: Owner<'_>,
        before: Option<&Slot>,
        findings: &mut Findings,
    ) -> Arc<LevelQuota> {
        let doc = quota.doc;
        for grant in self.take_grants(owner.known_as, &doc.name.value) {
            let (tenant, name) = (owner.known_as, &doc.name.value);
            let key = format!("grant.{tenant}.{name}.quota");
            findings.add(grant.quota.place, key, no_window(name));
        }
        let key = self.key(quota, owner, None);
        let heritage = before.and_then(Slot::level_here).map(|before| before.key);
        let heritage = heritage.filter(|before| *before != key);
        let limit = quota.figure.unwrap_or(doc.limit);
        let bills = doc.at_limit.value == AtLimit::AllowAndBill;
        let (keys, limits) = ((key, heritage), (limit, doc.grace));
        Arc::new(LevelQuota::new(keys, quota.meter, limits, &doc.thresholds, bills))
    }

    /// What its count is known by.
    fn key(
        &self,
        quota: &Resolved<'_>,
        owner: Owner<'_>,
        counts: Option<(Counting, &Calendar)>,
    ) -> u128 {
        let kind = u8::from(quota.level == Level::Plan);
        let meter = &*self.meters.meters[quota.meter.0 as usize].id;
        quota::key(kind, owner.known_as, &quota.doc.name.value, meter, counts)
    }

    /// Equal calendars are one.
    pub(super) fn calendar(&mut self, civil: &Civil, period: Period) -> Arc<Calendar> {
        let calendar = Calendar::new(civil.zone.clone(), period, civil.billing_day);
        let key = (calendar.zone_name().into(), period, calendar.billing_day());
        Arc::clone(self.calendars.entry(key).or_insert_with(|| Arc::new(calendar)))
    }

    /// The grants for a quota, taken out of those that are left.
    fn take_grants(&mut self, tenant: &str, quota: &str) -> Vec<&'b GrantDoc<'b>> {
        let Some(left) = self.grants.get_mut(tenant) else { return Vec::new() };
        left.extract_if(.., |grant| grant.quota.value == quota).collect()
    }

    fn grants(
        &mut self,
        tenant: &str,
        quota: &str,
        civil: &Civil,
        findings: &mut Findings,
    ) -> Box<[Grant]> {
        let mut grants = Vec::new();
        for grant in self.take_grants(tenant, quota) {
            if let Some(at) = When::parse(&grant.at.value) {
                let at_us = at.at_us(&civil.zone);
                grants.push(Grant { at_us, amount: grant.amount });
            } else {
                let message = "is neither a day such as 2026-11-10 nor an RFC 3339 instant";
                findings.add(grant.at.place, format!("grant.{tenant}.{quota}.at"), message);
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

fn rules(
    quota: &Resolved<'_>,
    counting: Counting,
    calendar: Arc<Calendar>,
    grants: Box<[Grant]>,
    beyond: Beyond,
) -> Rules {
    let doc = quota.doc;
    Rules {
        calendar,
        meter: quota.meter,
        counting,
        limit: quota.figure.unwrap_or(doc.limit),
        grace: doc.grace,
        roll_over: doc.roll_over.as_ref().map_or(0, |units| units.value),
        grants,
        thresholds: doc.thresholds.as_slice().into(),
        beyond,
    }
}

/// Where every quota stands, by key.
pub(super) fn places(tenants: &[Tenant]) -> Vec<QuotaPlace> {
    let mut places = Vec::new();
    for (owner, tenant) in (0..).zip(tenants) {
        for (slot, here) in (0..).zip(&tenant.chain).filter(|(_, slot)| slot.owner == owner) {
            let key = here.quota_here().map(|quota| quota.key);
            let key = key.or_else(|| here.level_here().map(|quota| quota.key));
            places.extend(key.map(|key| QuotaPlace { key, owner, slot }));
        }
    }
    places.sort_unstable_by_key(|place| place.key);
    places
}

/// Gives every quota of a snapshot the words it counts on. Those that are new since the snapshot
/// before, and all of plans when other tenants have plans of their own now, begin to count when this
/// one comes into force.
pub(super) fn settle(snapshot: &Snapshot, previous: Option<&Snapshot>, levels: &Levels) {
    let is_changed = previous.is_some_and(|previous| has_other_plans(snapshot, previous));
    for place in &snapshot.quotas {
        let slot = &snapshot.tenants[place.owner as usize].chain[place.slot as usize];
        if let Some(level) = slot.level_here() {
            levels.place(level);
        }
        let Some(quota) = slot.quota_here() else { continue };
        let same = previous.and_then(|previous| previous.quota(place.key)?.place());
        let fresh = || {
            let since_us = if previous.is_some() { i64::MAX } else { snapshot.at_us };
            match levels.memory().words(place.key) {
                Some(words) => Place::new(words, true, since_us),
                None => Place::new(quota::leaked(), false, since_us),
            }
        };
        let is_changed = is_changed && slot.level == Level::Plan;
        let begins = previous.is_some() && (same.is_none() || is_changed);
        quota.put_at(same.cloned().unwrap_or_else(fresh), begins, snapshot.at_us);
        if snapshot.meter(quota.rules.meter).aggregate == Aggregate::Distinct {
            quota.count_distinct(&snapshot.members);
        }
    }
}

/// Whether somebody has a plan of its own only now, or no more: its rows may lie below any tenant it
/// ever was below, and count at that one's plan now, or no more.
fn has_other_plans(snapshot: &Snapshot, previous: &Snapshot) -> bool {
    snapshot.tenants.iter().any(|tenant| {
        let before = previous.tenant(&tenant.id);
        before.is_some_and(|before| before.has_own_plan != tenant.has_own_plan)
    })
}

#[cfg(all(test, not(loom)))]
mod tests;
