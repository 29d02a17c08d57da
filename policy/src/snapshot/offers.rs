//! What would lift a refusal: the plans and add-ons of which each alone, beside what the tenant has,
//! opens the route.

use std::borrow::Cow;
use std::sync::Arc;

use super::rights::{Contract, Missing, Rights, Shelf, Supposed};
use super::{BitSet, Route, RouteIndex, Snapshot, Tenant};

/// Plans and add-ons of which each by itself would lift a refusal, in the order of the documents. Of
/// a plan only the version that is offered counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantedBy<'s> {
    /// Plans, by id; the one that the tenant is on with the version it would have to come onto.
    pub plans: Vec<Cow<'s, str>>,
    /// Add-ons, by id.
    pub addons: Vec<&'s str>,
}

impl Snapshot {
    /// Everything that a tenant lacks for a route, what is most basic first.
    pub(crate) fn missing(&self, tenant: &Tenant, route: RouteIndex) -> Vec<Missing> {
        let route = &self.routes[route.0 as usize];
        let then = self.supposing(tenant, Supposed { app: route.app, ..Supposed::default() });
        missing(&tenant.rights, &then, route)
    }

    /// What would grant a route at an instant (unix microseconds) to a tenant that is refused it.
    /// Nothing, where the tenant has only to activate an app.
    pub(crate) fn granted_by(
        &self,
        tenant: &Tenant,
        route: RouteIndex,
        at_us: i64,
    ) -> GrantedBy<'_> {
        let missing = self.missing(tenant, route);
        if missing == [Missing::Activation] {
            return GrantedBy::default();
        }
        // What an add-on grants does not count: one more may make room for another app.
        let wants_room = missing.contains(&Missing::Room);
        let (rights, route) = (&*tenant.rights, &self.routes[route.0 as usize]);
        let app = route.app;
        let admits = |what| self.supposing(tenant, what).admit(route);
        let own_id = &self.plans[rights.plan as usize].id;
        let offered = self.offered(tenant, at_us);
        let plans = (0..).zip(&self.plans).filter(|(index, plan)| {
            let is_told = plan.public || plan.id == *own_id;
            let may = plan.apps.contains(app) || rights.extra.contains(app);
            let is_another = offered.contains(*index) && *index != rights.plan;
            let what = Supposed { plan: Some(*index), addon: None, app };
            is_told && may && is_another && admits(what)
        });
        let plans = plans.map(|(_, plan)| {
            let is_own = plan.id == *own_id;
            if is_own { format!("{own_id}@{}", plan.version).into() } else { (&*plan.id).into() }
        });
        let addons = (0..).zip(&self.addons).filter(|(index, addon)| {
            let may = wants_room
                || addon.apps.contains(app)
                || route.feature.is_some_and(|feature| addon.features.contains(feature));
            let what = Supposed { plan: None, addon: Some(*index), app };
            may && !rights.addons.contains(index) && admits(what)
        });
        GrantedBy { plans: plans.collect(), addons: addons.map(|(_, addon)| &*addon.id).collect() }
    }

    /// The version of each plan that a tenant would come onto at an instant.
    fn offered(&self, tenant: &Tenant, at_us: i64) -> BitSet {
        let zone = tenant.zone();
        let begins_us = |plan: &u32| {
            let from = self.plans[*plan as usize].from;
            from.map_or(i64::MIN, |from| from.at_us(zone))
        };
        let latest = |versions: &[u32]| {
            let begun = versions.iter().filter(|plan| begins_us(plan) <= at_us);
            begun.max_by_key(|plan| begins_us(plan)).copied()
        };
        self.plan_versions.iter().filter_map(|versions| latest(versions)).collect()
    }

    /// The rights of a tenant that bought something or activated an app: a plan where the one it has
    /// was bought, an add-on by itself.
    fn supposing(&self, tenant: &Tenant, what: Supposed) -> Rights {
        let shelf = Shelf { plans: &self.plans, addons: &self.addons };
        if !tenant.inherits {
            return shelf.supposing(&tenant.rights, what);
        }
        let above = shelf.supposing(&tenant.rights, Supposed { addon: None, ..what });
        let addons = what.addon.into_iter().collect();
        shelf.below(&Arc::new(above), &Contract { addons, ..Contract::default() })
    }
}

/// What is missing to `now`; `then` is the same with the app activated as far as may be.
fn missing(now: &Rights, then: &Rights, route: &Route) -> Vec<Missing> {
    let app = route.app;
    let is_granted = then.granted.contains(app);
    let is_activated = now.activated.contains(&app);
    let is_left_out = now.leave_out(app) || is_granted && !is_activated;
    // An app that is activated by itself where there is room for it has found none.
    let has_room = !then.over.contains(&app) && (!is_granted || then.activated.contains(&app));
    let all = [
        (Missing::Grant, !is_granted),
        (Missing::Activation, !is_activated && is_left_out),
        (Missing::Room, !has_room),
        (Missing::Tier, !then.reach(route)),
        (Missing::Feature, !then.feature(route)),
    ];
    all.into_iter().filter(|(_, is_missing)| *is_missing).map(|(what, _)| what).collect()
}
