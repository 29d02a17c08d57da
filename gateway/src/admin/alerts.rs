//! Deliveries of alerts: how they stand, and once more.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use orbit_meter::causes::with_causes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::AdminState;
use crate::alerts::outbox::{Delivery, OutboxError, State};
use crate::api::Problem;
use crate::api::words::rfc3339;

/// Most deliveries in one answer.
const MOST: usize = 1_000;

/// Which deliveries are asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    state: Option<State>,
}

/// Whose deliveries are replayed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Whose {
    webhook: Option<String>,
}

/// `GET /v1/alerts?state=pending|dead|delivered`: at most a thousand deliveries, and how many are
/// pending and dead in all.
pub(super) async fn list(
    Shared(state): Shared<Arc<AdminState>>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(which) = which.map_err(|rejection| unreadable(&rejection))?;
    let outbox = &state.alerts.outbox;
    let list = outbox.list(which.state, MOST).map_err(|error| broken(&error))?;
    let depth = outbox.depth().map_err(|error| broken(&error))?;
    let deliveries: Vec<Value> = list.iter().map(delivery).collect();
    Ok(Json(json!({ "pending": depth.pending, "dead": depth.dead, "deliveries": deliveries })))
}

/// `POST /v1/alerts/{id}/replay`: the dead deliveries of one alert.
pub(super) async fn replay(
    Shared(state): Shared<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let known = state.alerts.outbox.knows(&id).map_err(|error| broken(&error))?;
    if !known {
        return Err(Problem::new(StatusCode::NOT_FOUND).detail("no alert has this id"));
    }
    replayed(&state, Some(&id), None)
}

/// `POST /v1/alerts/replay?webhook=ID`: every dead delivery, or every one of a webhook.
pub(super) async fn replay_all(
    Shared(state): Shared<Arc<AdminState>>,
    whose: Result<Query<Whose>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(whose) = whose.map_err(|rejection| unreadable(&rejection))?;
    replayed(&state, None, whose.webhook.as_deref())
}

fn replayed(
    state: &AdminState,
    id: Option<&str>,
    webhook: Option<&str>,
) -> Result<Json<Value>, Problem> {
    let replayed = state.alerts.replay(id, webhook, state.clock.unix_us());
    let replayed = replayed.map_err(|error| broken(&error))?;
    Ok(Json(json!({ "replayed": replayed })))
}

fn delivery(delivery: &Delivery) -> Value {
    let at = match delivery.state {
        State::Pending => "next_attempt_at",
        State::Dead => "given_up_at",
        State::Delivered => "delivered_at",
    };
    json!({
        "id": delivery.id,
        "webhook": delivery.webhook,
        "state": delivery.state,
        "attempts": delivery.attempts,
        at: rfc3339(delivery.at_us),
        "last_error": delivery.last_error,
    })
}

fn unreadable(rejection: &QueryRejection) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST).detail(rejection.body_text())
}

fn broken(error: &OutboxError) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR).detail(with_causes(error))
}
