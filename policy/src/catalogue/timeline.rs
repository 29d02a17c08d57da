//! What a tenant's own documents say at an instant: its table, then every change until then.
//!
//! A function of documents and instant alone, so a restart that missed a change resolves like a
//! process that saw it. Changes still to come are checked like those that have come: a document
//! that is in force never turns out wrong at one of its instants.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::index::{Broken, Index};
use super::products::Products;
use super::quotas::Civil;
use crate::dates;
use crate::diagnostics::{Findings, Place};
use crate::documents::{ChangeAt, ChangeDoc, Located, Overrides, TenantDoc, Text};
use crate::snapshot::{Change, Status};

/// What is a tenant's own at an instant; the rest comes from above.
pub(super) struct Standing {
    /// In its version.
    pub(super) plan: Option<u32>,
    /// Plans of its own that it will come onto.
    pub(super) plans_ahead: Vec<u32>,
    pub(super) addons: Vec<u32>,
    /// Activated apps, in order.
    pub(super) apps: Option<Vec<u32>>,
    pub(super) overrides: Overrides,
    status: Status,
    /// Its trial is over, and nothing has been bought since.
    trial_over: bool,
    pub(super) trial_until_us: Option<i64>,
}

/// One step on the way from a tenant's table to now.
struct Step {
    at_us: i64,
    place: Place,
    plan: Option<u32>,
    addons: Option<Vec<u32>>,
    apps: Option<Vec<u32>>,
    status: Option<Status>,
    /// For people.
    what: String,
    /// The end of a trial, not a change.
    is_trial: bool,
}

pub(super) struct Timelines<'t> {
    at_us: i64,
    products: &'t Products<'t>,
    broken: &'t Broken<'t>,
    changes_of: HashMap<u32, Vec<&'t ChangeDoc<'t>>, FixedState>,
    /// Of all tenants so far.
    changes: Vec<Change>,
    plan_changes_us: Vec<i64>,
}

impl<'t> Timelines<'t> {
    pub(super) fn new(
        docs: &'t [ChangeDoc<'t>],
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
        let (changes, plan_changes_us) = (Vec::new(), Vec::new());
        Timelines { at_us, products, broken, changes_of, changes, plan_changes_us }
    }

    /// The changes of all tenants, and the instants at which some will come onto another plan.
    pub(super) fn finish(self) -> (Vec<Change>, Vec<i64>) {
        (self.changes, self.plan_changes_us)
    }

    /// What is the tenant's own now. `None`: its plan is not there, which is a finding.
    pub(super) fn resolve(
        &mut self,
        index: u32,
        doc: &TenantDoc<'_>,
        civil: &Civil,
        findings: &mut Findings,
    ) -> Option<Standing> {
        let key = |field: &str| format!("tenant.{}.{field}", doc.id.value);
        let contract = &doc.contract;
        let since_us = contract.since.as_ref().map(|since| since.value.at_us(&civil.zone));
        let plan = match &doc.plan {
            Some(plan) => Some(self.plan(plan, since_us, civil, || key("plan"), findings)?),
            None => None,
        };
        let mut standing = Standing {
            plan,
            plans_ahead: Vec::new(),
            addons: self.addons(&doc.addons, || key("addons"), findings),
            apps: contract.apps.as_ref().map(|apps| self.apps(apps, || key("apps"), findings)),
            overrides: contract.overrides,
            status: doc.status.unwrap_or(Status::Active),
            trial_over: false,
            trial_until_us: None,
        };
        let changes = self.changes_of.get(&index).cloned().unwrap_or_default();
        if changes.is_empty() && contract.trial.is_none() {
            return Some(standing);
        }
        let mut steps: Vec<Step> =
            changes.iter().map(|change| self.step(change, doc, civil, findings)).collect();
        steps.sort_by_key(|step| step.at_us);
        check(&steps, since_us, &doc.id.value, findings);
        self.add_trial(&mut steps, doc, civil, &mut standing, findings);
        for step in steps {
            self.take(step, &doc.id.value, &mut standing);
        }
        Some(standing)
    }

    fn plan(
        &self,
        plan: &Located<Text<'_>>,
        came_us: Option<i64>,
        civil: &Civil,
        key: impl Fn() -> String,
        findings: &mut Findings,
    ) -> Option<u32> {
        self.products.plan_ids.choose(plan, came_us, &civil.zone, key, self.broken, findings)
    }

    fn addons(
        &self,
        names: &[Located<Text<'_>>],
        key: impl Fn() -> String,
        findings: &mut Findings,
    ) -> Vec<u32> {
        let ids = &self.products.addon_ids;
        names.iter().filter_map(|name| ids.refer(name, &key, self.broken, findings)).collect()
    }

    fn apps(
        &self,
        names: &[Located<Text<'_>>],
        key: impl Fn() -> String,
        findings: &mut Findings,
    ) -> Vec<u32> {
        let ids = &self.products.app_ids;
        names.iter().filter_map(|name| ids.refer(name, &key, self.broken, findings)).collect()
    }

    fn step(
        &self,
        change: &ChangeDoc<'_>,
        doc: &TenantDoc<'_>,
        civil: &Civil,
        findings: &mut Findings,
    ) -> Step {
        let key = |field: &str| format!("change.{}.{field}", doc.id.value);
        let Civil { zone, billing_day } = civil;
        let at_us = match change.at {
            ChangeAt::At(at) => at.at_us(zone),
            ChangeAt::PeriodEndOf(requested) => {
                dates::period_end_us(requested.at_us(zone), *billing_day, zone)
            }
        };
        let plan = change
            .plan
            .as_ref()
            .and_then(|plan| self.plan(plan, Some(at_us), civil, || key("plan"), findings));
        let addons = change.addons.as_ref();
        let apps = change.apps.as_ref();
        let mut what: Vec<String> = plan.iter().map(|plan| self.plan_name(*plan)).collect();
        let list = |names: &Vec<Located<Text<'_>>>| {
            names.iter().map(|name| &*name.value).collect::<Vec<_>>().join(" ")
        };
        what.extend(addons.map(|names| format!("add-ons [{}]", list(names))));
        what.extend(apps.map(|names| format!("apps [{}]", list(names))));
        what.extend(change.status.as_ref().map(|s| format!("status {}", s.value.as_str())));
        Step {
            at_us,
            place: change.place,
            plan,
            addons: addons.map(|names| self.addons(names, || key("addons"), findings)),
            apps: apps.map(|names| self.apps(names, || key("apps"), findings)),
            status: change.status.as_ref().map(|status| status.value),
            what: what.join(", "),
            is_trial: false,
        }
    }

    /// The end of a trial is a step as well, unless the tenant came onto a plan before.
    fn add_trial(
        &self,
        steps: &mut Vec<Step>,
        doc: &TenantDoc<'_>,
        civil: &Civil,
        standing: &mut Standing,
        findings: &mut Findings,
    ) {
        let Some(trial) = &doc.contract.trial else { return };
        let key = |field: &str| format!("tenant.{}.trial.{field}", doc.id.value);
        let until_us = trial.until.value.at_us(&civil.zone);
        let plan = trial
            .then
            .as_ref()
            .and_then(|plan| self.plan(plan, Some(until_us), civil, || key("then"), findings));
        if let Some(since) = &doc.contract.since
            && since.value.at_us(&civil.zone) >= until_us
        {
            findings.add(trial.until.place, key("until"), "the trial ends before `since`");
        }
        let bought_us = steps.iter().find(|step| step.plan.is_some()).map(|step| step.at_us);
        let ends_us = bought_us.map_or(until_us, |bought_us| bought_us.min(until_us));
        standing.trial_until_us = Some(ends_us).filter(|ends_us| self.at_us < *ends_us);
        if bought_us.is_some_and(|bought_us| bought_us <= until_us) {
            return;
        }
        let what = match plan {
            Some(plan) => format!("trial over: {}", self.plan_name(plan)),
            None => "trial over: status suspended".to_owned(),
        };
        // Before a change of the same instant: whatever that says counts.
        let place = steps.partition_point(|step| step.at_us < until_us);
        let status = trial.then.is_none().then_some(Status::Suspended);
        steps.insert(
            place,
            Step {
                at_us: until_us,
                place: trial.until.place,
                plan,
                addons: None,
                apps: None,
                status,
                what,
                is_trial: true,
            },
        );
    }

    fn plan_name(&self, plan: u32) -> String {
        let row = &self.products.plans[plan as usize];
        format!("plan {}@{}", row.id, row.version)
    }

    fn take(&mut self, step: Step, tenant: &str, standing: &mut Standing) {
        let Step { at_us, plan, addons, apps, status, what, is_trial, .. } = step;
        let (tenant, what) = (Some(tenant.into()), what.into());
        self.changes.push(Change { at_us, tenant, what });
        if at_us > self.at_us {
            standing.plans_ahead.extend(plan);
            self.plan_changes_us.extend(plan.map(|_| at_us));
            return;
        }
        if is_trial {
            standing.trial_over = status.is_some();
        } else if plan.is_some() || status.is_some() {
            // Whoever buys after a trial is served again.
            standing.trial_over = false;
            standing.status = status.unwrap_or(standing.status);
        }
        standing.plan = plan.or(standing.plan);
        standing.addons = addons.unwrap_or(std::mem::take(&mut standing.addons));
        standing.apps = apps.or(standing.apps.take());
    }
}

impl Standing {
    /// Whether it is served, as far as it is up to the tenant itself.
    pub(super) fn status(&self) -> Status {
        if self.trial_over { Status::Suspended } else { self.status }
    }
}

/// Changes before `since`, and changes of one thing at one instant, are findings.
fn check(steps: &[Step], since_us: Option<i64>, tenant: &str, findings: &mut Findings) {
    let key = |field: &str| format!("change.{tenant}.{field}");
    for (index, step) in steps.iter().enumerate() {
        if since_us.is_some_and(|since_us| step.at_us < since_us) {
            findings.add(step.place, key("at"), "the change is before `since` of the tenant");
        }
        let same = |other: &&Step| other.at_us == step.at_us;
        for other in steps[..index].iter().rev().take_while(same) {
            for (field, both) in [
                ("plan", step.plan.is_some() && other.plan.is_some()),
                ("addons", step.addons.is_some() && other.addons.is_some()),
                ("apps", step.apps.is_some() && other.apps.is_some()),
                ("status", step.status.is_some() && other.status.is_some()),
            ] {
                if both {
                    let message = "another change says so at the same instant, at";
                    findings.add_with(step.place, key(field), message, other.place);
                }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
