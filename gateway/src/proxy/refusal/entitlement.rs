//! What a tenant is not entitled to: five problems, each with what was asked, what the tenant has,
//! and what would grant it, for people and as members for machines.

use http::StatusCode;
use orbit_policy::Denial;
use orbit_policy::snapshot::{Figures, GrantedBy, Missing};
use serde_json::{Value, json};

use crate::proxy::problem::Problem;

/// How an app that is granted is made use of.
const TO_ACTIVATE: &str = "add it to `apps` of the tenant in the policy, and of the tenants above it \
                           that list their own";

/// What every one of them speaks of.
pub(super) struct Facts<'d> {
    denial: &'d Denial,
    app: &'d str,
    plan: &'d str,
    tenant: &'d str,
    /// What is most basic first.
    missing: Vec<Missing>,
    granted_by: GrantedBy<'d>,
}

impl<'d> Facts<'d> {
    pub(super) fn of(denial: &'d Denial) -> Facts<'d> {
        Facts {
            denial,
            app: denial.app_id().unwrap_or_default(),
            plan: denial.plan_id().unwrap_or_default(),
            tenant: denial.tenant().map_or("", |tenant| &*tenant.id),
            missing: denial.missing(),
            granted_by: denial.granted_by(),
        }
    }

    /// Neither plan nor add-ons grant the app.
    pub(super) fn not_entitled(&self) -> Problem {
        let Facts { app, plan, .. } = self;
        let detail = format!("The app `{app}` is not part of the plan `{plan}`.{}", self.remedy());
        self.problem("not-entitled", detail)
    }

    /// Plan or add-ons grant the app; somebody has to activate it.
    pub(super) fn app_not_activated(&self) -> Problem {
        let Facts { app, plan, tenant, .. } = self;
        let more = if self.missing.len() > 1 { self.remedy() } else { String::new() };
        let detail = format!(
            "The app `{app}` is granted by the plan `{plan}` or an add-on, but not activated for \
             `{tenant}`. To activate it, {TO_ACTIVATE}.{more}"
        );
        self.problem("app-not-activated", detail).with("activated", self.activated())
    }

    /// The app is activated, after as many others as the plan allows.
    pub(super) fn app_limit_exceeded(&self) -> Problem {
        let Facts { app, plan, tenant, .. } = self;
        let count = self.app_count().unwrap_or_default();
        let detail = format!(
            "`{tenant}` may use {count} apps on the plan `{plan}`, and `{app}` was activated after \
             them. Give up another one, or have more.{}",
            self.remedy()
        );
        self.problem("app-limit-exceeded", detail)
            .with("app-limit", self.app_count())
            .with("activated", self.activated())
    }

    /// The route is for a higher API tier.
    pub(super) fn api_tier_too_low(&self) -> Problem {
        let (plan, needed) = (self.plan, self.needed_tier());
        let tier = self.figures().map_or("", |figures| figures.api_tier.as_str());
        let detail = format!(
            "This is one of the {needed} APIs; the plan `{plan}` has the {tier} ones.{}",
            self.remedy()
        );
        self.problem("api-tier-too-low", detail)
            .with("api-tier", tier)
            .with("needed-api-tier", needed)
    }

    /// The route needs a feature that was not bought.
    pub(super) fn feature_not_included(&self) -> Problem {
        let (plan, feature) = (self.plan, self.feature());
        let detail = format!(
            "The feature `{feature}` is part of neither the plan `{plan}` nor the add-ons.{}",
            self.remedy()
        );
        self.problem("feature-not-included", detail).with("feature", feature)
    }

    /// What else is missing than what is missing first, and what grants all of it.
    fn remedy(&self) -> String {
        let (mut also, mut then) = (Vec::new(), String::new());
        for missing in self.missing.iter().skip(1) {
            match missing {
                Missing::Grant => also.push(format!("the app `{}`", self.app)),
                Missing::Activation => then = format!(" Then {TO_ACTIVATE}."),
                Missing::Room => {
                    let count = self.app_count().unwrap_or_default();
                    also.push(format!("room among the {count} apps that may be used"));
                }
                Missing::Tier => also.push(format!("the {} APIs", self.needed_tier())),
                Missing::Feature => also.push(format!("the feature `{}`", self.feature())),
            }
        }
        let granted = list(&self.granted_by);
        match (also.is_empty(), granted.is_empty()) {
            (true, true) => " Granted by: nothing that is offered.".to_owned(),
            (true, false) => format!(" Granted by: {granted}.{then}"),
            (false, true) => format!(
                " Missing as well: {}. No single plan and no single add-on grants all of it.",
                also.join(", ")
            ),
            (false, false) => format!(
                " Missing as well: {}. All of it is granted by: {granted}.{then}",
                also.join(", ")
            ),
        }
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
        self.denial.activated().collect()
    }

    fn figures(&self) -> Option<Figures> {
        self.denial.figures()
    }

    fn app_count(&self) -> Option<u64> {
        self.figures().and_then(|figures| figures.app_count)
    }

    fn needed_tier(&self) -> &'static str {
        self.denial.route().map_or("", |route| route.tier.as_str())
    }

    fn feature(&self) -> &'d str {
        self.denial.feature().unwrap_or_default()
    }
}

/// `plan business, plan enterprise, add-on advanced-ai`; nothing where nothing is.
fn list(granted_by: &GrantedBy<'_>) -> String {
    let plans = granted_by.plans.iter().map(|id| format!("plan {id}"));
    let addons = granted_by.addons.iter().map(|id| format!("add-on {id}"));
    plans.chain(addons).collect::<Vec<_>>().join(", ")
}
