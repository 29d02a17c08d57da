//! What a tenant's own documents say over time: its table, then every change in the order of their
//! instants.
//!
//! A function of documents and instant alone, so a restart that missed a change resolves like a
//! process that saw it. Changes still to come are checked like those that have come: a document
//! that is in force never turns out wrong at one of its instants.

mod steps;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::index::{Broken, Index};
use super::products::Products;
use super::quotas::Civil;
use crate::diagnostics::{Findings, Place};
use crate::documents::{ChangeDoc, Overrides, TenantDoc};
use crate::snapshot::{Change, Contract, Status};
use steps::Step;

/// A tenant's own documents, over time.
pub(super) struct Timeline<'d> {
    pub(super) now: Standing,
    /// Every plan and every contract, in order; the first since ever.
    pub(super) terms: Vec<Term<'d>>,
    /// Which of them is in force.
    pub(super) current: usize,
}

/// What is a tenant's own at an instant; the rest comes from above.
pub(super) struct Standing {
    pub(super) contract: Contract,
    status: Status,
    /// Its trial is over, and nothing has been bought since.
    trial_over: bool,
    pub(super) trial_until_us: Option<i64>,
}

/// What a tenant is held to from an instant on.
#[derive(Clone, Copy)]
pub(super) struct Term<'d> {
    pub(super) from_us: i64,
    /// In its version; `None`: that of the tenant above.
    pub(super) plan: Option<u32>,
    /// Since when it has been on the plan, where that is known.
    came_us: Option<i64>,
    pub(super) overrides: &'d Overrides<'d>,
    /// The kind of table that holds the overrides, and where it stands.
    pub(super) said: (&'static str, Place),
}

pub(super) struct Timelines<'t, 'd> {
    at_us: i64,
    products: &'t Products<'t>,
    broken: &'t Broken<'t>,
    changes_of: HashMap<u32, Vec<&'d ChangeDoc<'d>>, FixedState>,
    /// Of all tenants so far.
    changes: Vec<Change>,
}

/// Plans and since when, as known of the tenant above.
pub(super) type History = [(Option<i64>, u32)];

impl<'t, 'd> Timelines<'t, 'd> {
    pub(super) fn new(
        docs: &'d [ChangeDoc<'d>],
        tenants: &Index<'_>,
        at_us: i64,
        products: &'t Products<'t>,
        broken: &'t Broken<'t>,
        findings: &mut Findings,
    ) -> Self {
        let mut changes_of: HashMap<u32, Vec<_>, FixedState> = HashMap::default();
        for doc in docs {
            let key = || format!("change.{}.tenant", doc.tenant.value);
            if let Some(tenant) = tenants.refer(&doc.tenant, key, broken, findings) {
                changes_of.entry(tenant).or_default().push(doc);
            }
        }
        Timelines { at_us, products, broken, changes_of, changes: Vec::new() }
    }

    /// The changes of all tenants.
    pub(super) fn finish(self) -> Vec<Change> {
        self.changes
    }

    /// The timeline of a tenant, whose plan is that of the tenant above while it has none of its
    /// own. `None`: its plan is not there, which is a finding.
    pub(super) fn resolve(
        &mut self,
        index: u32,
        doc: &'d TenantDoc<'d>,
        civil: &Civil,
        above: &History,
        findings: &mut Findings,
    ) -> Option<Timeline<'d>> {
        let key = |field: &str| format!("tenant.{}.{field}", doc.id.value);
        let contract = &doc.contract;
        let since_us = contract.since.as_ref().map(|since| since.value.at_us(&civil.zone));
        let plan = match &doc.plan {
            Some(plan) => Some(self.plan(plan, since_us, civil, || key("plan"), findings)?),
            None => None,
        };
        let said = ("tenant", doc.id.place);
        let overrides = &contract.overrides;
        let first = Term { from_us: i64::MIN, plan, came_us: since_us, overrides, said };
        let features = self.features(overrides, || key("overrides.features"), findings);
        let mut now = Standing {
            contract: Contract {
                plan,
                addons: self.addons(&doc.addons, || key("addons"), findings),
                apps: contract.apps.as_ref().map(|apps| self.apps(apps, || key("apps"), findings)),
                figures: overrides.figures,
                features,
            },
            status: doc.status.unwrap_or(Status::Active),
            trial_over: false,
            trial_until_us: None,
        };
        let changes = self.changes_of.get(&index).map_or(&[][..], Vec::as_slice);
        if changes.is_empty() && contract.trial.is_none() {
            return Some(Timeline { now, terms: vec![first], current: 0 });
        }
        let trial = self.trial(doc, civil, findings);
        let changes = changes.to_vec();
        let mut steps = self.steps(&changes, doc, civil, &first, trial.as_ref(), above, findings);
        steps::check(&steps, since_us, &doc.id.value, findings);
        if let Some(trial) = trial {
            now.trial_until_us = trial.end(&mut steps, self).filter(|end_us| self.at_us < *end_us);
        }
        let mut timeline = Timeline { now, terms: vec![first], current: 0 };
        for step in steps {
            self.take(step, &doc.id.value, &mut timeline);
        }
        Some(timeline)
    }

    fn take(&mut self, step: Step<'d>, tenant: &str, timeline: &mut Timeline<'d>) {
        let Step { at_us, place, plan, addons, apps, status, overrides, what, is_trial } = step;
        self.changes.push(Change { at_us, tenant: Some(tenant.into()), what: what.into() });
        let Timeline { now, terms, current } = timeline;
        if plan.is_some() || overrides.is_some() {
            let mut term = *terms.last().expect("the first is since ever");
            term.from_us = at_us;
            if plan.is_some() {
                (term.plan, term.came_us) = (plan, Some(at_us));
            }
            if let Some((overrides, _)) = &overrides {
                (term.overrides, term.said) = (*overrides, ("change", place));
            }
            terms.push(term);
        }
        if at_us > self.at_us {
            return;
        }
        *current = terms.len() - 1;
        if is_trial {
            now.trial_over = status.is_some();
        } else if plan.is_some() || status.is_some() {
            // Whoever buys after a trial is served again.
            now.trial_over = false;
            now.status = status.unwrap_or(now.status);
        }
        let contract = &mut now.contract;
        contract.plan = plan.or(contract.plan);
        contract.addons = addons.unwrap_or(std::mem::take(&mut contract.addons));
        contract.apps = apps.or(contract.apps.take());
        if let Some((overrides, features)) = overrides {
            (contract.figures, contract.features) = (overrides.figures, features);
        }
    }
}

impl<'d> Timeline<'d> {
    /// What is in force.
    pub(super) fn term(&self) -> Term<'d> {
        self.terms[self.current]
    }

    /// The plans that the tenant has over time, from its documents and from above.
    pub(super) fn history(&self, above: &History) -> Vec<(Option<i64>, u32)> {
        let own = self.terms.iter().filter_map(|term| Some((term.came_us, term.plan?)));
        let mut own: Vec<_> = own.collect();
        own.dedup();
        let first_us = own.first().map(|(came_us, _)| came_us.unwrap_or(i64::MIN));
        let until_then = |(came_us, _): &&(Option<i64>, u32)| {
            first_us.is_none_or(|first_us| came_us.unwrap_or(i64::MIN) < first_us)
        };
        let from_above = above.iter().filter(until_then).copied();
        from_above.chain(own).collect()
    }
}

impl Standing {
    /// Whether it is served, as far as it is up to the tenant itself.
    pub(super) fn status(&self) -> Status {
        if self.trial_over { Status::Suspended } else { self.status }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
