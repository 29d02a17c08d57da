//! What a tenant is not entitled to: five problems, each with what was asked, what the tenant has,
//! and what would grant it, for people and as members for machines.

use http::StatusCode;
use orbit_policy::Denial;
use orbit_policy::snapshot::{Entitlements, GrantedBy};
use serde_json::{Value, json};

use crate::proxy::problem::Problem;

/// What every one of them speaks of.
pub(super) struct Facts<'d> {
    denial: &'d Denial,
    app: &'d str,
    plan: &'d str,
    tenant: &'d str,
    has: Option<Entitlements<'d>>,
    granted_by: GrantedBy<'d>,
    /// What would grant it, for people.
    granted: String,
}

impl<'d> Facts<'d> {
    pub(super) fn of(denial: &'d Denial) -> Facts<'d> {
        let granted_by = denial.granted_by();
        Facts {
            denial,
            app: denial.app_id().unwrap_or_default(),
            plan: denial.plan_id().unwrap_or_default(),
            tenant: denial.tenant().map_or("", |tenant| &*tenant.id),
            has: denial.entitlements(),
            granted: list(&granted_by),
            granted_by,
        }
    }

    /// Neither plan nor add-ons grant the app.
    pub(super) fn not_entitled(&self) -> Problem {
        let Facts { app, plan, granted, .. } = self;
        let detail =
            format!("The app `{app}` is not part of the plan `{plan}`. Granted by: {granted}.");
        self.problem("not-entitled", detail)
    }

    /// Plan or add-ons grant the app; somebody has to activate it.
    pub(super) fn app_not_activated(&self) -> Problem {
        let Facts { app, plan, tenant, .. } = self;
        let detail = format!(
            "The app `{app}` is granted by the plan `{plan}` or an add-on, but not activated for \
             `{tenant}`. To activate it, add it to `apps` of the tenant in the policy, and of the \
             tenants above it that list their own."
        );
        self.problem("app-not-activated", detail).with("activated", self.activated())
    }

    /// The app is activated, after as many others as the plan allows.
    pub(super) fn app_limit_exceeded(&self) -> Problem {
        let Facts { app, plan, tenant, granted, .. } = self;
        let count = self.app_count().unwrap_or_default();
        let detail = format!(
            "`{tenant}` may use {count} apps on the plan `{plan}`, and `{app}` was activated after \
             them. Give up another one, or change to a plan with more: {granted}."
        );
        self.problem("app-limit-exceeded", detail)
            .with("app-limit", self.app_count())
            .with("activated", self.activated())
    }

    /// The route is for a higher API tier.
    pub(super) fn api_tier_too_low(&self) -> Problem {
        let Facts { plan, granted, .. } = self;
        let needed = self.denial.route().map_or("", |route| route.tier.as_str());
        let tier = self.has.as_ref().map_or("", |has| has.figures.api_tier.as_str());
        let detail = format!(
            "This is one of the {needed} APIs; the plan `{plan}` has the {tier} ones. Granted by: \
             {granted}."
        );
        self.problem("api-tier-too-low", detail)
            .with("api-tier", tier)
            .with("needed-api-tier", needed)
    }

    /// The route needs a feature that was not bought.
    pub(super) fn feature_not_included(&self) -> Problem {
        let Facts { plan, granted, .. } = self;
        let feature = self.denial.feature().unwrap_or_default();
        let detail = format!(
            "The feature `{feature}` is part of neither the plan `{plan}` nor the add-ons. Granted \
             by: {granted}."
        );
        self.problem("feature-not-included", detail).with("feature", feature)
    }

    fn problem(&self, slug: &str, detail: String) -> Problem {
        let GrantedBy { plans, addons } = &self.granted_by;
        Problem::new(StatusCode::FORBIDDEN, slug, detail)
            .with("app", self.app)
            .with("plan", self.plan)
            .with("tenant", self.tenant)
            .with("granted-by", json!({ "plans": plans, "addons": addons }))
    }

    fn activated(&self) -> Value {
        let apps = self.has.iter().flat_map(|has| &has.apps);
        apps.map(|activated| &*activated.app.id).collect()
    }

    fn app_count(&self) -> Option<u64> {
        self.has.as_ref().and_then(|has| has.figures.app_count)
    }
}

/// `plan business, plan enterprise, add-on advanced-ai`, or `nothing`.
fn list(granted_by: &GrantedBy<'_>) -> String {
    let plans = granted_by.plans.iter().map(|id| format!("plan {id}"));
    let addons = granted_by.addons.iter().map(|id| format!("add-on {id}"));
    let all: Vec<_> = plans.chain(addons).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}
