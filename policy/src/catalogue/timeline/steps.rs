//! Changes and ends of trials to steps with instants, references resolved.

use super::{History, Term, Timelines};
use crate::catalogue::quotas::Civil;
use crate::dates;
use crate::diagnostics::{Findings, Place};
use crate::documents::{ChangeAt, ChangeDoc, Located, Overrides, OwnFigures, TenantDoc, Text};
use crate::price::PricePeriod;
use crate::snapshot::Status;

/// One step on the way from a tenant's table to now.
pub(super) struct Step<'d> {
    pub(super) at_us: i64,
    pub(super) place: Place,
    pub(super) plan: Option<u32>,
    pub(super) addons: Option<Vec<u32>>,
    pub(super) apps: Option<Vec<u32>>,
    pub(super) status: Option<Status>,
    /// With the features they name.
    pub(super) overrides: Option<(&'d Overrides<'d>, Option<Vec<u32>>)>,
    /// For people.
    pub(super) what: String,
    /// The end of a trial, not a change.
    pub(super) is_trial: bool,
}

/// A trial, with its references resolved.
pub(super) struct Trial {
    until_us: i64,
    place: Place,
    /// `None`: suspended.
    then: Option<u32>,
}

/// What is known of a tenant's plans before its steps are.
struct Known<'k> {
    first: Term<'k>,
    trial: Option<&'k Trial>,
    above: &'k History,
    /// Since when, and which.
    changed: Vec<(i64, u32)>,
}

impl Known<'_> {
    /// The plan at an instant, and since when.
    fn plan_at(&self, at_us: i64) -> Option<(Option<i64>, u32)> {
        let changed = self.changed.iter().filter(|(from_us, _)| *from_us <= at_us);
        let latest = changed.max_by_key(|(from_us, _)| *from_us);
        let tried = self.trial.and_then(|trial| {
            let bought = self.changed.iter().any(|(from_us, _)| *from_us <= trial.until_us);
            let over = trial.until_us <= at_us && !bought;
            trial.then.filter(|_| over).map(|plan| (trial.until_us, plan))
        });
        let own = latest.copied().or(tried).map(|(from_us, plan)| (Some(from_us), plan));
        let first = || self.first.plan.map(|plan| (self.first.came_us, plan));
        let above = || {
            let come = |(came_us, _): &&(Option<i64>, u32)| came_us.is_none_or(|us| us <= at_us);
            self.above.iter().rfind(come).copied()
        };
        own.or_else(first).or_else(above)
    }
}

impl<'d> Timelines<'_, 'd> {
    pub(super) fn plan(
        &self,
        plan: &Located<Text<'_>>,
        came_us: Option<i64>,
        civil: &Civil,
        key: impl Fn() -> String,
        findings: &mut Findings,
    ) -> Option<u32> {
        self.products.plan_ids.choose(plan, came_us, &civil.zone, key, self.broken, findings)
    }

    pub(super) fn addons(
        &self,
        names: &[Located<Text<'_>>],
        key: impl Fn() -> String,
        findings: &mut Findings,
    ) -> Vec<u32> {
        let ids = &self.products.addon_ids;
        names.iter().filter_map(|name| ids.refer(name, &key, self.broken, findings)).collect()
    }

    pub(super) fn apps(
        &self,
        names: &[Located<Text<'_>>],
        key: impl Fn() -> String,
        findings: &mut Findings,
    ) -> Vec<u32> {
        let ids = &self.products.app_ids;
        names.iter().filter_map(|name| ids.refer(name, &key, self.broken, findings)).collect()
    }

    pub(super) fn features(
        &self,
        overrides: &Overrides<'_>,
        key: impl Fn() -> String,
        findings: &mut Findings,
    ) -> Option<Vec<u32>> {
        let names = overrides.features.as_ref()?.iter();
        Some(names.filter_map(|name| self.products.feature(name, &key, findings)).collect())
    }

    pub(super) fn trial(
        &self,
        doc: &TenantDoc<'_>,
        civil: &Civil,
        findings: &mut Findings,
    ) -> Option<Trial> {
        let trial = doc.contract.trial.as_ref()?;
        let key = |field: &str| format!("tenant.{}.trial.{field}", doc.id.value);
        let (until_us, place) = (trial.until.value.at_us(&civil.zone), trial.until.place);
        let then = trial
            .then
            .as_ref()
            .and_then(|plan| self.plan(plan, Some(until_us), civil, || key("then"), findings));
        if let Some(since) = &doc.contract.since
            && since.value.at_us(&civil.zone) >= until_us
        {
            findings.add(place, key("until"), "the trial ends before `since`");
        }
        Some(Trial { until_us, place, then })
    }

    /// The steps that the changes are, in order.
    #[expect(clippy::too_many_arguments, reason = "each says something of what a period is")]
    pub(super) fn steps(
        &self,
        changes: &[&'d ChangeDoc<'d>],
        doc: &TenantDoc<'_>,
        civil: &Civil,
        first: &Term<'d>,
        trial: Option<&Trial>,
        above: &History,
        findings: &mut Findings,
    ) -> Vec<Step<'d>> {
        let mut known = Known { first: *first, trial, above, changed: Vec::new() };
        // In the order in which they were asked for: when the period ends in which one was depends
        // on the plan that those before it had brought by then, and on none of the later ones.
        let asked_us = |change: &ChangeDoc<'_>| match change.at {
            ChangeAt::At(when) | ChangeAt::PeriodEndOf(when) => when.at_us(&civil.zone),
        };
        let mut changes = changes.to_vec();
        changes.sort_by_key(|change| asked_us(change));
        let mut steps = Vec::with_capacity(changes.len() + 1);
        for change in changes {
            let asked_us = asked_us(change);
            let at_us = match change.at {
                ChangeAt::At(_) => asked_us,
                ChangeAt::PeriodEndOf(_) => {
                    let plan = known.plan_at(asked_us);
                    self.period_end(asked_us, plan, change, doc, civil, findings)
                }
            };
            let step = self.step(at_us, change, doc, civil, findings);
            known.changed.extend(step.plan.map(|plan| (at_us, plan)));
            steps.push(step);
        }
        steps.sort_by_key(|step| step.at_us);
        steps
    }

    /// The end of what is paid for at an instant: of a billing month, or of a year since the tenant
    /// came onto a plan that is paid by the year.
    fn period_end(
        &self,
        asked_us: i64,
        plan: Option<(Option<i64>, u32)>,
        change: &ChangeDoc<'_>,
        doc: &TenantDoc<'_>,
        Civil { zone, billing_day }: &Civil,
        findings: &mut Findings,
    ) -> i64 {
        let month_end_us = || dates::period_end_us(asked_us, *billing_day, zone);
        let Some((came_us, plan)) = plan else { return month_end_us() };
        let row = &self.products.plans[plan as usize];
        if row.price.as_ref().is_none_or(|price| price.per == PricePeriod::Month) {
            return month_end_us();
        }
        let Some(came_us) = came_us else {
            let key = format!("change.{}.effective", doc.id.value);
            let message = format!(
                "plan `{}` is paid by the year: write `since`, the day on which the tenant came \
                 onto it",
                row.id
            );
            findings.add(change.place, key, message);
            return month_end_us();
        };
        dates::year_end_us(asked_us, came_us, *billing_day, zone)
    }

    fn step(
        &self,
        at_us: i64,
        change: &'d ChangeDoc<'d>,
        doc: &TenantDoc<'_>,
        civil: &Civil,
        findings: &mut Findings,
    ) -> Step<'d> {
        let key = |field: &str| format!("change.{}.{field}", doc.id.value);
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
        what.extend(change.overrides.as_ref().map(|own| format!("overrides [{}]", named(own))));
        let overrides = change.overrides.as_ref().map(|overrides| {
            (overrides, self.features(overrides, || key("overrides.features"), findings))
        });
        Step {
            at_us,
            place: change.place,
            plan,
            addons: addons.map(|names| self.addons(names, || key("addons"), findings)),
            apps: apps.map(|names| self.apps(names, || key("apps"), findings)),
            status: change.status.as_ref().map(|status| status.value),
            overrides,
            what: what.join(", "),
            is_trial: false,
        }
    }

    fn plan_name(&self, plan: u32) -> String {
        let row = &self.products.plans[plan as usize];
        format!("plan {}@{}", row.id, row.version)
    }
}

impl Trial {
    /// Puts the end of the trial among the steps, unless the tenant came onto a plan before. Returns
    /// when it ends.
    pub(super) fn end<'d>(
        self,
        steps: &mut Vec<Step<'d>>,
        timelines: &Timelines<'_, 'd>,
    ) -> Option<i64> {
        let Trial { until_us, place, then } = self;
        let bought_us = steps.iter().find(|step| step.plan.is_some()).map(|step| step.at_us);
        if bought_us.is_some_and(|bought_us| bought_us <= until_us) {
            return bought_us;
        }
        let what = match then {
            Some(plan) => format!("trial over: {}", timelines.plan_name(plan)),
            None => "trial over: status suspended".to_owned(),
        };
        // Before a change of the same instant: whatever that says counts.
        let before = steps.partition_point(|step| step.at_us < until_us);
        let end = Step {
            at_us: until_us,
            place,
            plan: then,
            addons: None,
            apps: None,
            status: then.is_none().then_some(Status::Suspended),
            overrides: None,
            what,
            is_trial: true,
        };
        steps.insert(before, end);
        Some(until_us)
    }
}

/// What overrides speak of, for people.
fn named(overrides: &Overrides<'_>) -> String {
    let Overrides { figures, features, limits, quotas } = overrides;
    let OwnFigures { users, app_count, storage_gb, api_tier, support } = figures;
    let all = [
        ("users", users.is_some()),
        ("app_count", app_count.is_some()),
        ("storage_gb", storage_gb.is_some()),
        ("api_tier", api_tier.is_some()),
        ("support", support.is_some()),
        ("features", features.is_some()),
        ("limits", !limits.is_empty()),
        ("quotas", !quotas.is_empty()),
    ];
    let said = all.iter().filter(|(_, is_said)| *is_said).map(|(name, _)| *name);
    said.collect::<Vec<_>>().join(" ")
}

/// Changes before `since`, and changes of one thing at one instant, are findings.
pub(super) fn check(
    steps: &[Step<'_>],
    since_us: Option<i64>,
    tenant: &str,
    findings: &mut Findings,
) {
    let key = |field: &str| format!("change.{tenant}.{field}");
    for (index, step) in steps.iter().enumerate() {
        if since_us.is_some_and(|since_us| step.at_us < since_us) {
            findings.add(step.place, key("at"), "the change is before `since` of the tenant");
        }
        let same = |other: &&Step<'_>| other.at_us == step.at_us;
        for other in steps[..index].iter().rev().take_while(same) {
            for (field, both) in [
                ("plan", step.plan.is_some() && other.plan.is_some()),
                ("addons", step.addons.is_some() && other.addons.is_some()),
                ("apps", step.apps.is_some() && other.apps.is_some()),
                ("status", step.status.is_some() && other.status.is_some()),
                ("overrides", step.overrides.is_some() && other.overrides.is_some()),
            ] {
                if both {
                    let message = "another change says so at the same instant, at";
                    findings.add_with(step.place, key(field), message, other.place);
                }
            }
        }
    }
}
