//! The tree of tenants: parents first, each with the whole chain of its limits.

use std::fmt::Write;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::entitle::Entitler;
use super::index::{Broken, Index, Interner};
use super::limits::{Limits, Owner, Resolved};
use super::quotas::{Amounts, Civil, Quotas};
use super::shares::{self, Above, Shares};
use super::timeline::{Standing, Timelines};
use crate::calendar::{Calendar, Period};
use crate::decide::MAX_CHAIN;
use crate::diagnostics::Findings;
use crate::documents::{ChangeDoc, LimitKind, Overrides, TenantDoc};
use crate::snapshot::{COMPOSED, Change, EVERYWHERE, Label, Level, Rights, Slot, Snapshot, Tenant};

/// Levels of tenants from a root to a leaf at most.
const MAX_DEPTH: usize = 8;

pub(super) struct Tenants<'d> {
    pub(super) tenants: Vec<Tenant>,
    pub(super) table: HashTable<u32>,
    pub(super) ids: Index<'d>,
    pub(super) policy_fields: Interner<Box<str>>,
    /// The most limits each will have on its chain, on whichever plan it will be.
    pub(super) longest: Vec<usize>,
    pub(super) changes: Vec<Change>,
    /// When tenants will come onto another plan.
    pub(super) plan_changes_us: Vec<i64>,
}

/// `at_us` is the instant for which the tree is grown.
#[expect(clippy::too_many_arguments, reason = "each is a part of the catalogue to be")]
pub(super) fn build<'d, 'i: 'd, 'b>(
    docs: &'d [TenantDoc<'i>],
    changes: &'d [ChangeDoc<'i>],
    at_us: i64,
    plan_limits: &[Vec<Resolved>],
    limits: &mut Limits<'b>,
    quotas: &mut Quotas<'b, 'd>,
    broken: &Broken<'_>,
    findings: &mut Findings,
) -> Tenants<'d> {
    let ids = Index::build("tenant", docs.iter().map(|doc| &doc.id), findings);
    let parents: Vec<Option<u32>> = docs
        .iter()
        .map(|doc| {
            let key = || format!("tenant.{}.parent", doc.id.value);
            doc.parent.as_ref().and_then(|parent| ids.refer(parent, key, broken, findings))
        })
        .collect();
    let order = order(docs, &parents, findings);
    let (products, routes) = (limits.products, limits.routes);
    let mut grower = Grower {
        docs,
        parents: &parents,
        timelines: Timelines::new(changes, &ids, at_us, products, broken, findings),
        entitler: Entitler::new(products, routes),
        plan_limits,
        limits,
        quotas,
        broken,
        findings,
        grown: (0..docs.len()).map(|_| None).collect(),
        policy_fields: Interner::new(),
        shares: Shares::default(),
    };
    for index in order {
        grower.grow(index);
    }
    let Forest { grown, policy_fields, shares, changes, plan_changes_us } = grower.finish();
    let name = |owner: u32, label| {
        let limit = &limits.labels.get(label).full;
        format!("`{limit}` of `{}`", docs[owner as usize].id.value)
    };
    shares.finish(&name, findings);
    // Where a tenant is missing there is a finding, and no snapshot is made of this.
    let grown = grown.into_iter().flatten();
    let (tenants, longest): (Vec<Tenant>, _) =
        grown.map(|grown| (grown.tenant, grown.longest)).unzip();
    let hasher = FixedState::default();
    let mut table = HashTable::with_capacity(tenants.len());
    for (index, tenant) in (0..).zip(&tenants) {
        let rehash = |index: &u32| hasher.hash_one(&*tenants[*index as usize].id);
        table.insert_unique(hasher.hash_one(&*tenant.id), index, rehash);
    }
    Tenants { tenants, table, ids, policy_fields, longest, changes, plan_changes_us }
}

/// Parents before children. A cycle is one finding, at its first tenant, that spells it out.
fn order(docs: &[TenantDoc<'_>], parents: &[Option<u32>], findings: &mut Findings) -> Vec<u32> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnPath,
        Done,
    }
    let mut marks = vec![Mark::New; docs.len()];
    let mut order = Vec::with_capacity(docs.len());
    let mut path = Vec::new();
    for start in 0..docs.len() as u32 {
        let mut at = Some(start);
        while let Some(index) = at.filter(|index| marks[*index as usize] == Mark::New) {
            marks[index as usize] = Mark::OnPath;
            path.push(index);
            at = parents[index as usize];
        }
        if let Some(closing) = at.filter(|index| marks[*index as usize] == Mark::OnPath) {
            let from = path.iter().position(|index| *index == closing).unwrap_or_default();
            let mut names: Vec<_> =
                path[from..].iter().map(|index| &*docs[*index as usize].id.value).collect();
            names.push(names[0]);
            let doc = &docs[closing as usize];
            let place = doc.parent.as_ref().map_or(doc.id.place, |parent| parent.place);
            let key = format!("tenant.{}.parent", doc.id.value);
            findings.add(place, key, format!("a cycle in the tree: {}", names.join(" -> ")));
        }
        for index in path.drain(..).rev() {
            marks[index as usize] = Mark::Done;
            order.push(index);
        }
    }
    order
}

struct Grown {
    tenant: Tenant,
    depth: usize,
    /// The plan's slots are the last of the chain.
    plan_slots: usize,
    /// The most slots any plan of its subscription has, now or later.
    most_plan_slots: usize,
    longest: usize,
    civil: Civil,
}

struct Grower<'g, 'd, 'i, 'b> {
    docs: &'d [TenantDoc<'i>],
    parents: &'g [Option<u32>],
    timelines: Timelines<'g>,
    entitler: Entitler<'g>,
    plan_limits: &'g [Vec<Resolved>],
    limits: &'g mut Limits<'b>,
    quotas: &'g mut Quotas<'b, 'd>,
    broken: &'g Broken<'g>,
    findings: &'g mut Findings,
    grown: Vec<Option<Grown>>,
    policy_fields: Interner<Box<str>>,
    shares: Shares,
}

/// What a grower leaves behind.
struct Forest {
    grown: Vec<Option<Grown>>,
    policy_fields: Interner<Box<str>>,
    shares: Shares,
    changes: Vec<Change>,
    plan_changes_us: Vec<i64>,
}

impl Grower<'_, '_, '_, '_> {
    fn finish(self) -> Forest {
        let Grower { grown, policy_fields, shares, timelines, .. } = self;
        let (changes, plan_changes_us) = timelines.finish();
        Forest { grown, policy_fields, shares, changes, plan_changes_us }
    }

    fn grow(&mut self, index: u32) {
        let doc = &self.docs[index as usize];
        let parent = match self.parents[index as usize] {
            // A parent that is not there, or could not be read, has a finding of its own.
            None if doc.parent.is_some() => return,
            None => None,
            Some(parent) => match self.grown[parent as usize].take() {
                None => return,
                some => some.map(|grown| (parent, grown)),
            },
        };
        let grown = self.grow_under(index, doc, parent.as_ref().map(|(_, grown)| grown));
        if let Some((parent, taken)) = parent {
            self.grown[parent as usize] = Some(taken);
        }
        self.grown[index as usize] = grown;
    }

    fn grow_under(
        &mut self,
        index: u32,
        doc: &TenantDoc<'_>,
        parent: Option<&Grown>,
    ) -> Option<Grown> {
        let id = &*doc.id.value;
        let key = |field: &str| format!("tenant.{id}.{field}");
        let depth = parent.map_or(1, |parent| parent.depth + 1);
        if depth > MAX_DEPTH {
            let message = format!("the tree is deeper than {MAX_DEPTH} levels here");
            self.findings.add(doc.id.place, key("parent"), message);
            return None;
        }
        let level = self.level(doc, parent);
        let civil = self.civil(doc, parent);
        let standing = self.timelines.resolve(index, doc, &civil, self.findings)?;
        if parent.is_none() && doc.plan.is_none() {
            if doc.clean {
                let message = "a root of the tree needs a plan";
                self.findings.add(doc.id.place, key("plan"), message);
            }
            return None;
        }
        let rights = self.rights(&standing, parent)?;
        // With a plan of its own, the plan above is not this one's.
        let subscribed = parent.filter(|_| standing.plan.is_none());
        let (chain, plan_slots) =
            self.chain(index, (level, &rights), &standing, &civil, parent, subscribed);
        let ahead =
            standing.plans_ahead.iter().map(|plan| self.plan_slots(*plan, &standing.overrides));
        let later = ahead.chain(subscribed.map(|above| above.most_plan_slots)).max();
        let most_plan_slots = later.unwrap_or_default().max(plan_slots);
        let longest = chain.len() - plan_slots + most_plan_slots;
        if longest > MAX_CHAIN {
            let message = format!("{longest} limits on one chain, at most {MAX_CHAIN} fit");
            self.findings.add(doc.id.place, key("limits"), message);
        }
        let policy_field = self.policy_field(&chain);
        let path = match parent {
            Some(parent) => format!("{}/{id}", parent.tenant.path).into(),
            None => id.into(),
        };
        let status = standing.status();
        let status = parent.map_or(status, |parent| status.max(parent.tenant.status));
        let days = self.days(doc, &civil, parent);
        let guarantees = chain.iter().any(Slot::is_guarantee);
        let tenant = Tenant {
            id: id.into(),
            path,
            level,
            status,
            rights,
            has_own_plan: standing.plan.is_some(),
            trial_until_us: standing.trial_until_us,
            chain: chain.into(),
            days,
            guarantees,
            policy_field,
        };
        Some(Grown { tenant, depth, plan_slots, most_plan_slots, longest, civil })
    }

    /// Everything that a request of the tenant must pass, and how many slots at its end are the
    /// plan's. `subscribed` is the parent where the plan comes from it.
    fn chain(
        &mut self,
        index: u32,
        (level, rights): (Level, &Rights),
        standing: &Standing,
        civil: &Civil,
        parent: Option<&Grown>,
        subscribed: Option<&Grown>,
    ) -> (Vec<Slot>, usize) {
        let docs = self.docs;
        let id = &*docs[index as usize].id.value;
        let before = Before::of(id, self.limits.previous);
        let tail = match (parent, subscribed) {
            (None, _) => &[][..],
            (Some(parent), Some(_)) => &parent.tenant.chain,
            (Some(Grown { tenant, plan_slots, .. }), None) => {
                &tenant.chain[..tenant.chain.len() - plan_slots]
            }
        };
        let plan = rights.plan;
        let resolved = self.resolve(index, level, plan, tail);
        let owner = Owner { tenant: index, known_as: id };
        // Below a plan, a figure of its own is a quota of its own.
        let overrides = &standing.overrides;
        let figures = subscribed.map(|_| Amounts::new(overrides.users, overrides.storage_gb));
        // Before its limits: what guarantees secure is counted from them to those above.
        let mut chain = self.own_quotas(index, level, figures, civil, &before.own);
        chain.extend(self.limits.slots(&resolved, owner, &before.own));
        let own = chain.len();
        chain.extend_from_slice(tail);
        if let Some(above) = subscribed {
            return (chain, above.plan_slots);
        }
        shares::cut(&mut chain[own..]);
        chain.extend(self.limits.slots(&self.plan_limits[plan as usize], owner, &before.plan));
        let limits = &mut *self.limits;
        let renames = before.plan_id == Some(&*limits.products.plans[plan as usize].id);
        let before = (&*before.plan, renames);
        let figures = Amounts::new(rights.figures.users, rights.figures.storage_gb);
        let quotas = self.quotas.of_plan(plan, figures, &mut limits.labels);
        chain.extend(self.quotas.slots(&quotas, owner, civil, before, limits, self.findings));
        let plan_slots = self.plan_limits[plan as usize].len() + quotas.len();
        (chain, plan_slots)
    }

    /// How many slots a plan has on the chain of whoever will be on it.
    fn plan_slots(&mut self, plan: u32, overrides: &Overrides) -> usize {
        let figures = self.entitler.figures(plan, overrides);
        let figures = Amounts::new(figures.users, figures.storage_gb);
        let quotas = self.quotas.of_plan(plan, figures, &mut self.limits.labels);
        self.plan_limits[plan as usize].len() + quotas.len()
    }

    fn days(
        &mut self,
        doc: &TenantDoc<'_>,
        civil: &Civil,
        parent: Option<&Grown>,
    ) -> Arc<[Arc<Calendar>]> {
        let above = parent.map(|parent| &parent.tenant.days);
        if let Some(above) = above.filter(|_| doc.zone.is_none()) {
            return Arc::clone(above);
        }
        let own = self.quotas.calendar(civil, Period::Day);
        let is_own = |days: &&Arc<Calendar>| Arc::ptr_eq(days, &own);
        let others = above.into_iter().flat_map(|above| above.iter());
        let others = others.filter(|days| !is_own(days)).map(Arc::clone);
        [Arc::clone(&own)].into_iter().chain(others).collect()
    }

    fn civil(&mut self, doc: &TenantDoc<'_>, parent: Option<&Grown>) -> Civil {
        let key = || format!("tenant.{}.zone", doc.id.value);
        let above = parent.map(|parent| &parent.civil);
        let since = doc.contract.since.as_ref().map(|since| since.value);
        let days = (doc.billing_day, since);
        self.quotas.civil(doc.zone.as_ref(), days, above, key, self.findings)
    }

    /// The slots of a tenant's own quotas.
    fn own_quotas(
        &mut self,
        index: u32,
        level: Level,
        figures: Option<Amounts>,
        civil: &Civil,
        before: &[&Slot],
    ) -> Vec<Slot> {
        let docs = self.docs;
        let doc = &docs[index as usize];
        let (at, labels) = (format!("tenant.{}", doc.id.value), &mut self.limits.labels);
        let (quotas, limits) = (&doc.quotas, &doc.limits);
        let mut resolved =
            self.quotas.resolve(quotas, limits, level, &at, labels, self.broken, self.findings);
        if let Some(figures) = figures {
            self.quotas.add_figures(&mut resolved, figures, level, labels);
        }
        let owner = Owner { tenant: index, known_as: &doc.id.value };
        self.quotas.slots(&resolved, owner, civil, (before, true), self.limits, self.findings)
    }

    /// A tenant's own limits; its shares are of those in `tail`.
    fn resolve(&mut self, index: u32, level: Level, plan: u32, tail: &[Slot]) -> Vec<Resolved> {
        let (docs, of_plan) = (self.docs, &self.plan_limits[plan as usize]);
        let doc = &docs[index as usize];
        let written = |slot: &Slot, label: &Label| {
            if slot.level == Level::Plan {
                return of_plan.iter().find(|l| l.label() == slot.label).map(Resolved::written);
            }
            let limits = &docs[slot.owner as usize].limits;
            limits.iter().find(|l| *l.name.value == *label.name).map(|l| l.written)
        };
        let parents = self.parents;
        let mut above = std::iter::successors(parents[index as usize], |at| parents[*at as usize]);
        let has_shares = doc.limits.iter().any(|limit| matches!(limit.kind, LimitKind::Share(_)));
        let above = Above {
            shares: &mut self.shares,
            tenant: index,
            slots: tail,
            written: &|slot, label| {
                written(slot, label).expect("a slot is made of a limit of its owner")
            },
            in_doubt: has_shares && above.any(|at| !docs[at as usize].clean),
        };
        let at = format!("tenant.{}", doc.id.value);
        self.limits.resolve(&doc.limits, level, &at, Some(above), self.findings)
    }

    fn level(&mut self, doc: &TenantDoc<'_>, parent: Option<&Grown>) -> Level {
        let above = parent.map(|parent| parent.tenant.level);
        let default = match above {
            None => Level::Holding,
            Some(Level::Holding | Level::Plan) => Level::Subsidiary,
            Some(Level::Subsidiary) => Level::BusinessUnit,
            Some(Level::BusinessUnit) => Level::Department,
            Some(Level::Department) => Level::Team,
            Some(Level::Team | Level::Project | Level::Key) => Level::Project,
        };
        let Some(level) = &doc.level else { return default };
        if let Some(above) = above
            && level.value >= above
            && level.value != Level::Project
        {
            let message = format!("is not below its parent's level, {}", above.as_str());
            self.findings.add(level.place, format!("tenant.{}.level", doc.id.value), message);
        }
        level.value
    }

    /// From its own plan, or from above. `None`: it has neither.
    fn rights(&mut self, standing: &Standing, parent: Option<&Grown>) -> Option<Arc<Rights>> {
        if let Some(plan) = standing.plan {
            return Some(self.entitler.with_plan(plan, standing));
        }
        parent.map(|parent| self.entitler.below(&parent.tenant.rights, standing))
    }

    fn policy_field(&mut self, chain: &[Slot]) -> u32 {
        if chain.iter().any(|slot| slot.scope != EVERYWHERE) {
            return COMPOSED;
        }
        let mut text = String::new();
        for slot in chain.iter().filter(|slot| slot.is_shown()) {
            let joint = if text.is_empty() { "" } else { ", " };
            let name = &self.limits.labels.get(slot.label).full;
            let (quota, window_s) = slot.quota();
            let item = crate::decide::PolicyItem { name, quota, window_s };
            let _infallible = write!(text, "{joint}{item}");
        }
        self.policy_fields.intern(text.into())
    }
}

#[derive(Default)]
struct Before<'s> {
    own: Vec<&'s Slot>,
    plan: Vec<&'s Slot>,
    plan_id: Option<&'s str>,
}

impl<'s> Before<'s> {
    /// A tenant's own slots and its plan's in the snapshot before.
    fn of(id: &str, previous: Option<&'s Snapshot>) -> Self {
        let mut before = Before::default();
        let Some(previous) = previous else { return before };
        let Some(index) = previous.tenant_position(id) else { return before };
        let tenant = &previous.tenants[index as usize];
        before.plan_id = Some(&previous.plan_of(tenant).id);
        for slot in tenant.chain.iter().filter(|s| s.owner == index) {
            match slot.level {
                Level::Plan => before.plan.push(slot),
                _ => before.own.push(slot),
            }
        }
        before
    }
}
