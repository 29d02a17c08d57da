//! What a tenant is allowed, and what is left of it now: its plan, its apps, and every limit and
//! quota that holds it.

use bytes::Bytes;
use orbit_policy::Snapshot;
use orbit_policy::snapshot::{Entitlements, LimitState, LimitUsage, Tenant};
use serde::Serialize;

use super::quotas::{self, Quota};
use super::{View, json};
use crate::api::words;

/// The answer.
#[derive(Debug, Default, Serialize)]
pub(super) struct Limits {
    pub(super) tenant: String,
    /// Ids from the key's own tenant to the chosen one.
    pub(super) path: String,
    pub(super) level: &'static str,
    pub(super) status: &'static str,
    /// When all of this was so.
    pub(super) at: String,
    pub(super) policy_version: u64,
    pub(super) plan: PlanFacts,
    pub(super) apps: Vec<AppFacts>,
    /// Narrowest first.
    pub(super) limits: Vec<Limit>,
    /// As above.
    pub(super) quotas: Vec<Quota>,
}

/// The plan, and the figures in force: what overrides and add-ons say stands in the place of the
/// plan's. `None` is unlimited.
#[derive(Debug, Default, Serialize)]
pub(super) struct PlanFacts {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) users: Option<u64>,
    pub(super) app_count: Option<u64>,
    pub(super) storage_gb: Option<u64>,
    pub(super) support: &'static str,
    pub(super) api_tier: &'static str,
}

/// An app that the tenant may use.
#[derive(Debug, Default, Serialize)]
pub(super) struct AppFacts {
    pub(super) id: String,
    pub(super) title: String,
}

/// One limit as it stands.
#[derive(Debug, Default, Serialize)]
pub(super) struct Limit {
    pub(super) name: String,
    pub(super) level: &'static str,
    /// Where it stands; not for those above the key's own tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tenant: Option<String>,
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) burst: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remaining: Option<u64>,
}

/// `GET /orbit/v1/limits`.
pub(super) fn answer(view: &View) -> Bytes {
    let snapshot = &*view.snapshot;
    let (own, chosen) = (view.own(), view.chosen());
    let now = view.at.mono;
    // A key's own limits hold who uses it, and nobody below.
    let of_key =
        if chosen.id == own.id { snapshot.key_usage(view.caller, now) } else { Vec::new() };
    let shared = snapshot.usage(&chosen.id, now).unwrap_or_default();
    let limits = of_key.iter().chain(&shared).map(|limit| describe(snapshot, own, limit));
    let apps = snapshot.apps_of(chosen);
    json(&Limits {
        tenant: view.tenant.clone(),
        path: view.path(),
        level: chosen.level.as_str(),
        status: chosen.status.as_str(),
        at: words::rfc3339(view.at.unix_us),
        policy_version: snapshot.version(),
        plan: plan(snapshot, chosen),
        apps: apps
            .map(|app| AppFacts { id: app.id.to_string(), title: app.title.to_string() })
            .collect(),
        limits: limits.collect(),
        quotas: quotas::standing(view),
    })
}

fn describe(snapshot: &Snapshot, own: &Tenant, limit: &LimitUsage) -> Limit {
    let seen = snapshot.within(own, &limit.tenant).is_some();
    let named = Limit {
        name: limit.name.clone(),
        level: limit.level.as_str(),
        tenant: seen.then(|| limit.tenant.clone()),
        ..Limit::default()
    };
    match limit.state {
        LimitState::Rate { interval_ns, burst, remaining } => Limit {
            kind: "rate",
            per_second: Some(words::per_second(interval_ns)),
            burst: Some(burst),
            remaining: Some(remaining),
            ..named
        },
        LimitState::Concurrent { max, in_flight } => Limit {
            kind: "concurrent",
            max: Some(max),
            remaining: Some(max.saturating_sub(in_flight).into()),
            ..named
        },
        LimitState::Each { interval_ns, burst } => Limit {
            kind: "each",
            per_second: Some(words::per_second(interval_ns)),
            burst: Some(burst),
            ..named
        },
    }
}

fn plan(snapshot: &Snapshot, chosen: &Tenant) -> PlanFacts {
    let Entitlements { plan, figures, .. } = snapshot.entitlements_of(chosen);
    PlanFacts {
        id: plan.id.to_string(),
        title: plan.title.to_string(),
        users: figures.users,
        app_count: figures.app_count,
        storage_gb: figures.storage_gb,
        support: figures.support.as_str(),
        api_tier: figures.api_tier.as_str(),
    }
}
