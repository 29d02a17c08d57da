//! What may be wrong at an instant that is still to come, or at that of a grant: judged today, at
//! every one of them, and only where something changes.

use super::grow::{Grower, below};
use crate::catalogue::index::Index;
use crate::catalogue::quotas::no_window;
use crate::catalogue::shares::Ahead;
use crate::dates::{Utc, When};
use crate::documents::GrantDoc;

impl Grower<'_, '_, '_, '_> {
    /// Looks at shares now, and at all instants at which a tenant will come onto another plan or
    /// other terms.
    pub(super) fn look_ahead(&mut self) {
        let (docs, terms, at_us) = (self.docs, &self.terms, self.at_us);
        let labels = &self.limits.labels;
        let named = |owner: u32, label| {
            format!("`{}` of `{}`", labels.get(label).full, docs[owner as usize].id.value)
        };
        self.shares.check(&named, self.findings);
        if !self.findings.is_empty() {
            return;
        }
        let has_plan = |tenant: u32, at_us| match terms.get(&tenant) {
            Some(terms) => {
                let term = terms.iter().rfind(|term| term.from_us <= at_us);
                term.is_some_and(|term| term.plan.is_some())
            }
            None => docs[tenant as usize].plan.is_some(),
        };
        let ahead = Ahead {
            docs,
            parents: self.parents,
            changes: &self.ahead,
            has_plan: &has_plan,
            name: &|label| &labels.get(label).full,
        };
        self.shares.look_ahead(&ahead, at_us, self.findings);
    }

    /// Grants of tenants that change: the quota must be there at the grant's own instant, whatever
    /// is in force now.
    pub(super) fn judge(&mut self, grants: &[GrantDoc<'_>], ids: &Index<'_>) {
        for grant in grants {
            let (tenant, quota) = (&*grant.tenant.value, &*grant.quota.value);
            let Some(index) = ids.get(tenant).filter(|index| self.terms.contains_key(index)) else {
                continue;
            };
            let Some(grown) = &self.grown[index as usize] else { continue };
            let key = |field: &str| format!("grant.{tenant}.{quota}.{field}");
            let Some(at) = When::parse(&grant.at.value) else {
                let message = "is neither a day such as 2026-11-10 nor an RFC 3339 instant";
                self.findings.add(grant.at.place, key("at"), message);
                continue;
            };
            let at_us = at.at_us(&grown.civil.zone);
            let term = self.terms[&index].iter().rfind(|term| term.from_us <= at_us);
            let term = *term.expect("the first term is since ever");
            let doc = &self.docs[index as usize];
            if doc.quotas.iter().any(|own| own.name.value == quota) {
                continue;
            }
            let sold = self.sold(tenant, &term);
            let of_plan = sold.iter().flat_map(|sold| &sold.quotas);
            if let Some(of_plan) = of_plan.clone().find(|of_plan| of_plan.name() == quota) {
                if of_plan.is_level() {
                    self.findings.add(grant.quota.place, key("quota"), no_window(quota));
                }
                continue;
            }
            let mut of_figures = below(&term.overrides.figures).names();
            if sold.is_some() || !of_figures.any(|name| name == quota) {
                let message = format!(
                    "neither `{tenant}` nor its plan has a quota `{quota}` at {}",
                    Utc(at_us)
                );
                self.findings.add(grant.quota.place, key("quota"), message);
            }
        }
    }
}
