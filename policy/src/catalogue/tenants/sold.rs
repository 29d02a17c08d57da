//! What a plan comes to for a tenant: its limits and quotas, with those of the tenant's contract in
//! their place.

use std::rc::Rc;

use super::grow::Grower;
use crate::catalogue::limits::Resolved;
use crate::catalogue::quotas::{self, Amounts};
use crate::catalogue::timeline::Term;
use crate::documents::Overrides;
use crate::snapshot::{Level, instead};

pub(super) struct Sold<'d> {
    pub(super) limits: Rc<[Resolved]>,
    pub(super) quotas: Vec<quotas::Resolved<'d>>,
}

impl<'d> Grower<'_, 'd, '_, '_> {
    /// What a tenant's own plan comes to in a term. `None`: it has its plan from above, and then
    /// nothing can stand in its place.
    pub(super) fn sold(&mut self, tenant: &str, term: &Term<'d>) -> Option<Sold<'d>> {
        let Overrides { limits, quotas, .. } = term.overrides;
        let at = format!("{}.{tenant}.overrides", term.said.0);
        let Some(plan) = term.plan else {
            if !limits.is_empty() || !quotas.is_empty() {
                let message = "limits and quotas of `overrides` stand in the place of the plan's: \
                               here the plan is that of a tenant above";
                self.findings.add(term.said.1, at, message);
            }
            return None;
        };
        let is_replaced = |name: &str| {
            let limit = limits.iter().any(|limit| limit.name.value == name);
            limit || quotas.iter().any(|quota| quota.name.value == name)
        };
        let of_plan = &self.plan_limits[plan as usize];
        let in_force = if limits.is_empty() && quotas.is_empty() {
            Rc::clone(of_plan)
        } else {
            let level = Level::Plan.into();
            let own = self.limits.resolve(limits, level, &at, None, self.findings);
            let labels = &self.limits.labels;
            let stays = |limit: &&Resolved| !is_replaced(&labels.get(limit.label()).name);
            of_plan.iter().filter(stays).chain(&own).copied().collect()
        };
        let (labels, broken) = (&mut self.limits.labels, self.broken);
        let level = Level::Plan.into();
        let own = self.quotas.resolve(quotas, limits, level, &at, labels, broken, self.findings);
        let row = &self.limits.products.plans[plan as usize];
        let figures = instead(row.figures(), &term.overrides.figures);
        let amounts = Amounts::new(figures.users, figures.storage_gb);
        let quotas = self.quotas.of_plan(plan, &own, is_replaced, amounts, labels);
        Some(Sold { limits: in_force, quotas })
    }
}
