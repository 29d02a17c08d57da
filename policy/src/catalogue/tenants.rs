//! The tree of tenants: parents first, each with the whole chain of its limits.

use std::fmt::Write;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};

use super::index::{Broken, Index, Interner};
use super::limits::{Limits, Owner, Resolved};
use super::products::Products;
use super::quotas::{self, Civil, Quotas};
use super::shares::{self, Above, Shares};
use crate::decide::MAX_CHAIN;
use crate::diagnostics::Findings;
use crate::documents::{LimitKind, TenantDoc};
use crate::snapshot::{BitSet, COMPOSED, EVERYWHERE, Label, Level, Slot, Snapshot, Status, Tenant};

/// Levels of tenants from a root to a leaf at most.
const MAX_DEPTH: usize = 8;

pub(super) struct Tenants<'d> {
    pub(super) tenants: Vec<Tenant>,
    pub(super) table: HashTable<u32>,
    pub(super) ids: Index<'d>,
    pub(super) policy_fields: Interner<Box<str>>,
}

pub(super) fn build<'d, 'i: 'd, 'b>(
    docs: &'d [TenantDoc<'i>],
    products: &Products<'_>,
    plan_limits: &[Vec<Resolved>],
    limits: &mut Limits<'b>,
    plan_quotas: &[Vec<quotas::Resolved<'d>>],
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
    let mut grower = Grower {
        docs,
        parents: &parents,
        products,
        plan_limits,
        limits,
        plan_quotas,
        quotas,
        broken,
        findings,
        grown: (0..docs.len()).map(|_| None).collect(),
        grants: HashMap::default(),
        policy_fields: Interner::new(),
        shares: Shares::default(),
    };
    for index in order {
        grower.grow(index);
    }
    let Grower { grown, policy_fields, shares, .. } = grower;
    let name = |owner: u32, label| {
        let limit = &limits.labels.get(label).full;
        format!("`{limit}` of `{}`", docs[owner as usize].id.value)
    };
    shares.finish(&name, findings);
    // Where a tenant is missing there is a finding, and no snapshot is made of this.
    let tenants: Vec<Tenant> = grown.into_iter().flatten().map(|grown| grown.tenant).collect();
    let hasher = FixedState::default();
    let mut table = HashTable::with_capacity(tenants.len());
    for (index, tenant) in (0..).zip(&tenants) {
        let rehash = |index: &u32| hasher.hash_one(&*tenants[*index as usize].id);
        table.insert_unique(hasher.hash_one(&*tenant.id), index, rehash);
    }
    Tenants { tenants, table, ids, policy_fields }
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
    grants: Arc<BitSet>,
    civil: Civil,
}

struct Grower<'g, 'd, 'i, 'b> {
    docs: &'d [TenantDoc<'i>],
    parents: &'g [Option<u32>],
    products: &'g Products<'g>,
    plan_limits: &'g [Vec<Resolved>],
    limits: &'g mut Limits<'b>,
    plan_quotas: &'g [Vec<quotas::Resolved<'d>>],
    quotas: &'g mut Quotas<'b, 'd>,
    broken: &'g Broken<'g>,
    findings: &'g mut Findings,
    grown: Vec<Option<Grown>>,
    /// What plan and add-ons grant; tenants with the same share the set.
    grants: HashMap<(u32, Vec<u32>), Arc<BitSet>, FixedState>,
    policy_fields: Interner<Box<str>>,
    shares: Shares,
}

impl Grower<'_, '_, '_, '_> {
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
        let own_plan = match &doc.plan {
            Some(plan) => {
                let plans = &self.products.plan_ids;
                Some(plans.refer(plan, || key("plan"), self.broken, self.findings)?)
            }
            None => None,
        };
        let Some(plan) = own_plan.or(parent.map(|parent| parent.tenant.plan)) else {
            if doc.clean {
                let message = "a root of the tree needs a plan";
                self.findings.add(doc.id.place, key("plan"), message);
            }
            return None;
        };
        let grants = self.grants(doc, plan, own_plan.is_some(), parent);
        let before = Before::of(id, self.limits.previous);
        let tail = match parent {
            None => &[][..],
            // What stands at the tenants above; their plan is not this one's.
            Some(Grown { tenant, plan_slots, .. }) if own_plan.is_some() => {
                &tenant.chain[..tenant.chain.len() - plan_slots]
            }
            Some(parent) => &parent.tenant.chain,
        };
        let resolved = self.resolve(index, level, plan, tail);
        let owner = Owner { tenant: index, known_as: id };
        let civil = self.civil(doc, parent);
        // Before its limits: what guarantees secure is counted from them to those above.
        let mut chain = self.own_quotas(index, level, &civil, &before.own);
        chain.extend(self.limits.slots(&resolved, owner, &before.own));
        let own = chain.len();
        chain.extend_from_slice(tail);
        let plan_slots = match parent {
            Some(parent) if own_plan.is_none() => parent.plan_slots,
            _ => {
                shares::cut(&mut chain[own..]);
                let of_plan = &self.plan_limits[plan as usize];
                chain.extend(self.limits.slots(of_plan, owner, &before.plan));
                let quotas = &self.plan_quotas[plan as usize];
                let (before, limits) = (&before.plan, &mut *self.limits);
                let slots = self.quotas.slots(quotas, owner, &civil, before, limits, self.findings);
                chain.extend(slots);
                of_plan.len() + quotas.len()
            }
        };
        if chain.len() > MAX_CHAIN {
            let message = format!("{} limits on one chain, at most {MAX_CHAIN} fit", chain.len());
            self.findings.add(doc.id.place, key("limits"), message);
        }
        let policy_field = self.policy_field(&chain);
        let path = match parent {
            Some(parent) => format!("{}/{id}", parent.tenant.path).into(),
            None => id.into(),
        };
        let status = doc.status.unwrap_or(Status::Active);
        let status = parent.map_or(status, |parent| status.max(parent.tenant.status));
        let apps = Arc::clone(&grants);
        let guarantees = chain.iter().any(Slot::is_guarantee);
        let (id, chain) = (id.into(), chain.into());
        let tenant =
            Tenant { id, path, level, status, plan, apps, chain, guarantees, policy_field };
        Some(Grown { tenant, depth, plan_slots, grants, civil })
    }

    fn civil(&mut self, doc: &TenantDoc<'_>, parent: Option<&Grown>) -> Civil {
        let key = || format!("tenant.{}.zone", doc.id.value);
        let above = parent.map(|parent| &parent.civil);
        self.quotas.civil(doc.zone.as_ref(), doc.billing_day, above, key, self.findings)
    }

    /// The slots of a tenant's own quotas.
    fn own_quotas(
        &mut self,
        index: u32,
        level: Level,
        civil: &Civil,
        before: &[&Slot],
    ) -> Vec<Slot> {
        let docs = self.docs;
        let doc = &docs[index as usize];
        let (at, labels) = (format!("tenant.{}", doc.id.value), &mut self.limits.labels);
        let (quotas, limits) = (&doc.quotas, &doc.limits);
        let resolved =
            self.quotas.resolve(quotas, limits, level, &at, labels, self.broken, self.findings);
        let owner = Owner { tenant: index, known_as: &doc.id.value };
        self.quotas.slots(&resolved, owner, civil, before, self.limits, self.findings)
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

    fn grants(
        &mut self,
        doc: &TenantDoc<'_>,
        plan: u32,
        own_plan: bool,
        parent: Option<&Grown>,
    ) -> Arc<BitSet> {
        let id = &doc.id.value;
        let mut addons = Vec::with_capacity(doc.addons.len());
        for addon in &doc.addons {
            let key = || format!("tenant.{id}.addons");
            let ids = &self.products.addon_ids;
            addons.extend(ids.refer(addon, key, self.broken, self.findings));
        }
        let products = self.products;
        let union = |base: &BitSet| {
            let mut set = base.clone();
            for addon in &addons {
                set.extend(&products.addon_apps[*addon as usize]);
            }
            Arc::new(set)
        };
        match parent {
            // A subtree has what its parent has, and what it bought itself.
            Some(parent) if !own_plan && addons.is_empty() => Arc::clone(&parent.grants),
            Some(parent) if !own_plan => union(&parent.grants),
            _ => {
                let of_plan = &products.plan_apps[plan as usize];
                let entry = self.grants.entry((plan, addons.clone()));
                Arc::clone(entry.or_insert_with(|| union(of_plan)))
            }
        }
    }

    fn policy_field(&mut self, chain: &[Slot]) -> u32 {
        if chain.iter().any(|slot| slot.scope != EVERYWHERE) {
            return COMPOSED;
        }
        let mut text = String::new();
        for slot in chain.iter().filter(|slot| !slot.is_guarantee()) {
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
}

impl<'s> Before<'s> {
    /// A tenant's own slots and its plan's in the snapshot before.
    fn of(id: &str, previous: Option<&'s Snapshot>) -> Self {
        let mut before = Before::default();
        let Some(previous) = previous else { return before };
        let Some(index) = previous.tenant_position(id) else { return before };
        for slot in previous.tenants[index as usize].chain.iter().filter(|s| s.owner == index) {
            match slot.level {
                Level::Plan => before.plan.push(slot),
                _ => before.own.push(slot),
            }
        }
        before
    }
}
