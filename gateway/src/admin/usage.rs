//! What a tenant has left now, and what it used today.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use orbit_policy::snapshot::{LimitState, LimitUsage};
use serde_json::{Map, Value, json};

use super::AdminState;
use super::entitlements::entitlements_json;
use crate::api::Problem;
use crate::api::words::{per_second, rfc3339};

/// Microseconds of a day.
const DAY_US: i64 = 24 * 3600 * 1_000_000;

/// `GET /v1/tenants/{id}/usage`: what the tenant is entitled to; every limit that holds it,
/// narrowest first, as it stands; and today's totals (UTC) of the tenant and everything below it, as far as they were shipped.
pub(super) async fn usage(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let unix_us = state.clock.unix_us();
    let (mut body, path) = {
        let snapshot = state.policy.load();
        let limits = snapshot.usage(&id, state.clock.now());
        let (Some(tenant), Some(limits)) = (snapshot.tenant(&id), limits) else {
            return Err(Problem::new(StatusCode::NOT_FOUND).detail("no tenant has this id"));
        };
        let body = json!({
            "tenant": tenant.id,
            "path": tenant.path,
            "level": tenant.level.as_str(),
            "plan": snapshot.plan_of(tenant).id,
            "status": tenant.status.as_str(),
            "policy_version": snapshot.version(),
            "at": rfc3339(unix_us),
            "entitlements": entitlements_json(&snapshot.entitlements_of(tenant)),
            "limits": limits.iter().map(limit_json).collect::<Vec<_>>(),
        });
        (body, tenant.path.to_string())
    };
    let midnight_us = unix_us - unix_us.rem_euclid(DAY_US);
    let today = match state.storage.totals(&path, midnight_us, midnight_us + DAY_US).await {
        Ok(meters) => json!({ "since": rfc3339(midnight_us), "meters": meters }),
        // The limits are live and need no database; the caller still learns why this part is not
        // there.
        Err(error) => json!({ "since": rfc3339(midnight_us), "unavailable": error.to_string() }),
    };
    body["today"] = today;
    Ok(Json(body))
}

/// One limit: where it stands, what it allows, what is left of it.
fn limit_json(limit: &LimitUsage) -> Value {
    let mut body = Map::new();
    body.insert("level".to_owned(), limit.level.as_str().into());
    body.insert("tenant".to_owned(), limit.tenant.as_str().into());
    body.insert("name".to_owned(), limit.name.as_str().into());
    let state = match limit.state {
        LimitState::Rate { interval_ns, burst, remaining } => json!({
            "kind": "rate",
            "per_second": per_second(interval_ns),
            "burst": burst,
            "remaining": remaining,
            "spent": burst.saturating_sub(remaining),
        }),
        LimitState::Concurrent { max, in_flight } => json!({
            "kind": "concurrent",
            "max": max,
            "in_flight": in_flight,
            "remaining": max.saturating_sub(in_flight),
        }),
        LimitState::Each { interval_ns, burst } => json!({
            "kind": "each",
            "per_second": per_second(interval_ns),
            "burst": burst,
        }),
    };
    if let Value::Object(state) = state {
        body.extend(state);
    }
    Value::Object(body)
}
