//! One tenant after another: its level, rights and chain, from its parent's.

use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::MAX_DEPTH;
use super::sold::Sold;
use crate::calendar::{Calendar, Period};
use crate::catalogue::entitle::Entitler;
use crate::catalogue::index::{Broken, Interner};
use crate::catalogue::limits::{Limits, Owner, Resolved, Rung};
use crate::catalogue::quotas::{Amounts, Civil, Quotas};
use crate::catalogue::shares::{self, Above, Shares, Then};
use crate::catalogue::timeline::{History, Term, Timeline, Timelines};
use crate::decide::MAX_CHAIN;
use crate::diagnostics::Findings;
use crate::documents::{Count, LimitKind, OwnFigures, TenantDoc};
use crate::snapshot::{
    COMPOSED, Contract, EVERYWHERE, Label, Level, Rights, Slot, Snapshot, Tenant,
};

pub(super) struct Grown {
    pub(super) tenant: Tenant,
    depth: usize,
    rung: Rung,
    /// What its plan, or the one above it, has.
    pub(super) plan_limits: Rc<[Resolved]>,
    /// The plan's slots are the last of the chain.
    plan_slots: usize,
    /// The most slots any plan of its subscription has, now or later.
    most_plan_slots: usize,
    /// How many more slots tenants may have later on the way up, their plans' aside.
    later_slots: usize,
    pub(super) longest: usize,
    pub(super) civil: Civil,
    history: Rc<History>,
}

pub(super) struct Grower<'g, 'd, 'i, 'b> {
    pub(super) docs: &'d [TenantDoc<'i>],
    pub(super) parents: &'g [Option<u32>],
    pub(super) at_us: i64,
    pub(super) timelines: Timelines<'g, 'd>,
    pub(super) entitler: Entitler<'g>,
    pub(super) plan_limits: &'g [Rc<[Resolved]>],
    pub(super) limits: &'g mut Limits<'b>,
    pub(super) quotas: &'g mut Quotas<'b, 'd>,
    pub(super) broken: &'g Broken<'g>,
    pub(super) findings: &'g mut Findings,
    pub(super) grown: Vec<Option<Grown>>,
    pub(super) policy_fields: Interner<Box<str>>,
    pub(super) shares: Shares,
    /// Of those tenants that change.
    pub(super) terms: HashMap<u32, Vec<Term<'d>>, FixedState>,
    /// What their plans will have, parents first.
    pub(super) ahead: Vec<(u32, Vec<Then>)>,
}

impl<'d> Grower<'_, 'd, '_, '_> {
    pub(super) fn grow(&mut self, index: u32) {
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
        doc: &'d TenantDoc<'d>,
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
        let rung = self.rung(doc, parent);
        let civil = self.civil(doc, parent);
        let above = parent.map_or(&[][..], |parent| &parent.history);
        let timeline = self.timelines.resolve(index, doc, &civil, above, self.findings)?;
        if parent.is_none() && doc.plan.is_none() {
            if doc.clean {
                let message = "a root of the tree needs a plan";
                self.findings.add(doc.id.place, key("plan"), message);
            }
            return None;
        }
        let contract = &timeline.now.contract;
        let rights = self.entitler.rights(contract, parent.map(|parent| &parent.tenant.rights))?;
        // With a plan of its own, the plan above is not this one's.
        let subscribed = parent.filter(|_| contract.plan.is_none());
        let history = match parent {
            Some(parent) if timeline.terms.iter().all(|term| term.plan.is_none()) => {
                Rc::clone(&parent.history)
            }
            _ => timeline.history(above).into(),
        };
        let Chain { chain, plan_limits, plan_slots } =
            self.chain(index, (rung, &rights), &timeline, &civil, parent, subscribed);
        let (later_plan, later_slots) = self.later(index, &timeline);
        let later = later_plan.into_iter().chain(subscribed.map(|above| above.most_plan_slots));
        let most_plan_slots = later.max().unwrap_or_default().max(plan_slots);
        let later_slots = parent.map_or(0, |parent| parent.later_slots) + later_slots;
        let longest = chain.len() - plan_slots + most_plan_slots + later_slots;
        if longest > MAX_CHAIN {
            let message = format!("{longest} limits on one chain, at most {MAX_CHAIN} fit");
            self.findings.add(doc.id.place, key("limits"), message);
        }
        let policy_field = self.policy_field(&chain);
        let path = match parent {
            Some(parent) => format!("{}/{id}", parent.tenant.path).into(),
            None => id.into(),
        };
        let status = timeline.now.status();
        let status = parent.map_or(status, |parent| status.max(parent.tenant.status));
        let days = self.days(doc, &civil, parent);
        let tenant = Tenant {
            id: id.into(),
            path,
            level: rung.level,
            status,
            rights,
            has_own_plan: contract.plan.is_some(),
            inherits: parent.is_some() && *contract == Contract::default(),
            trial_until_us: timeline.now.trial_until_us,
            guarantees: chain.iter().any(Slot::is_guarantee),
            chain: chain.into(),
            days,
            policy_field,
        };
        if timeline.terms.len() > 1 {
            self.terms.insert(index, timeline.terms);
        }
        Some(Grown {
            tenant,
            depth,
            rung,
            plan_limits,
            plan_slots,
            most_plan_slots,
            later_slots,
            longest,
            civil,
            history,
        })
    }

    /// The most slots that a plan of its own will have, if it comes onto one, and how many more of
    /// its own it may have without.
    fn later(&mut self, index: u32, timeline: &Timeline<'d>) -> (Option<usize>, usize) {
        let id = &*self.docs[index as usize].id.value;
        let (mut most, mut more, mut ahead) = (None, 0, Vec::new());
        let figures = |term: &Term<'_>| below(&term.overrides.figures).count();
        for (place, term) in timeline.terms.iter().enumerate() {
            // Those of the past only for what may be wrong with them.
            let sold = self.sold(id, term);
            if place <= timeline.current {
                continue;
            }
            if let Some(Sold { limits, quotas }) = sold {
                most = most.max(Some(limits.len() + quotas.len()));
                ahead.push((term.from_us, limits));
            } else {
                more = more.max(figures(term).saturating_sub(figures(&timeline.term())));
            }
        }
        if !ahead.is_empty() {
            self.ahead.push((index, ahead));
        }
        (most, more)
    }

    /// Everything that a request of the tenant must pass. `subscribed` is the parent where the plan
    /// comes from it.
    fn chain(
        &mut self,
        index: u32,
        (rung, rights): (Rung, &Rights),
        timeline: &Timeline<'d>,
        civil: &Civil,
        parent: Option<&Grown>,
        subscribed: Option<&Grown>,
    ) -> Chain {
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
        let above = subscribed.map(|above| &above.plan_limits);
        let resolved = self.resolve(index, rung, above.map_or(&[][..], |limits| limits), tail);
        let owner = Owner { tenant: index, known_as: id };
        // Below a plan, a figure of its own is a quota of its own.
        let figures = subscribed.map(|_| below(&timeline.now.contract.figures));
        // Before its limits: what guarantees secure is counted from them to those above.
        let mut chain = self.own_quotas(index, rung, figures, civil, &before.own);
        chain.extend(self.limits.slots(&resolved, owner, &before.own, true));
        let own = chain.len();
        chain.extend_from_slice(tail);
        if let Some(above) = subscribed {
            let (plan_limits, plan_slots) = (Rc::clone(&above.plan_limits), above.plan_slots);
            return Chain { chain, plan_limits, plan_slots };
        }
        shares::cut(&mut chain[own..]);
        let Sold { limits: plan_limits, quotas } =
            self.sold(id, &timeline.term()).expect("who is subscribed to nobody has a plan");
        let same_plan =
            before.plan_id == Some(&*self.limits.products.plans[rights.plan as usize].id);
        chain.extend(self.limits.slots(&plan_limits, owner, &before.plan, same_plan));
        let (before, limits) = ((&*before.plan, same_plan), &mut *self.limits);
        chain.extend(self.quotas.slots(&quotas, owner, civil, before, limits, self.findings));
        let plan_slots = plan_limits.len() + quotas.len();
        Chain { chain, plan_limits, plan_slots }
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
        rung: Rung,
        figures: Option<Amounts>,
        civil: &Civil,
        before: &[&Slot],
    ) -> Vec<Slot> {
        let docs = self.docs;
        let doc = &docs[index as usize];
        let (at, labels) = (format!("tenant.{}", doc.id.value), &mut self.limits.labels);
        let (quotas, limits) = (&doc.quotas, &doc.limits);
        let mut resolved =
            self.quotas.resolve(quotas, limits, rung, &at, labels, self.broken, self.findings);
        if let Some(figures) = figures {
            self.quotas.add_figures(&mut resolved, figures, rung, labels);
        }
        let owner = Owner { tenant: index, known_as: &doc.id.value };
        self.quotas.slots(&resolved, owner, civil, (before, true), self.limits, self.findings)
    }

    /// A tenant's own limits; its shares are of those in `tail`, at whose end are those of a plan.
    fn resolve(
        &mut self,
        index: u32,
        rung: Rung,
        of_plan: &[Resolved],
        tail: &[Slot],
    ) -> Vec<Resolved> {
        let docs = self.docs;
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
        self.limits.resolve(&doc.limits, rung, &at, Some(above), self.findings)
    }

    fn rung(&mut self, doc: &TenantDoc<'_>, parent: Option<&Grown>) -> Rung {
        let above = parent.map(|parent| parent.rung.level);
        let default = match above {
            None => Level::Holding,
            Some(Level::Holding | Level::Plan) => Level::Subsidiary,
            Some(Level::Subsidiary) => Level::BusinessUnit,
            Some(Level::BusinessUnit) => Level::Department,
            Some(Level::Department) => Level::Team,
            Some(Level::Team | Level::Project | Level::Key) => Level::Project,
        };
        let level = doc.level.as_ref().map_or(default, |level| level.value);
        if let (Some(level), Some(above)) = (&doc.level, above)
            && level.value >= above
            && level.value != Level::Project
        {
            let message = format!("is not below its parent's level, {}", above.as_str());
            self.findings.add(level.place, format!("tenant.{}.level", doc.id.value), message);
        }
        let same = parent.filter(|parent| parent.rung.level == level);
        Rung { level, number: same.map_or(1, |parent| parent.rung.number + 1) }
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

/// The figures that are quotas of a tenant's own below a plan.
pub(super) fn below(figures: &OwnFigures) -> Amounts {
    let number = |count| match count {
        Some(Count::At(number)) => Some(number),
        Some(Count::Unlimited) | None => None,
    };
    Amounts::new(number(figures.users), number(figures.storage_gb))
}

/// A chain, at whose end are the slots of a plan.
struct Chain {
    chain: Vec<Slot>,
    plan_limits: Rc<[Resolved]>,
    plan_slots: usize,
}

#[derive(Default)]
struct Before<'s> {
    own: Vec<&'s Slot>,
    plan: Vec<&'s Slot>,
    /// The plan it was on.
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
        for slot in tenant.chain.iter().filter(|slot| slot.owner == index) {
            match slot.level {
                Level::Plan => before.plan.push(slot),
                _ => before.own.push(slot),
            }
        }
        before
    }
}
