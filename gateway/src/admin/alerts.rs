//! Deliveries of alerts: how they stand, and once more.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use jiff::Timestamp;
use orbit_meter::causes::with_causes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::AdminState;
use crate::alerts::outbox::{self, Delivery, OutboxError, Replay, State};
use crate::api::Problem;
use crate::api::words::rfc3339;

/// Deliveries in one answer: where the request does not say, and at most.
const PAGE: (usize, usize) = (100, 1_000);

/// Which deliveries are asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    state: Option<State>,
    webhook: Option<String>,
    /// Of alerts recorded since, RFC 3339.
    since: Option<String>,
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Whose deliveries are replayed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Whose {
    webhook: Option<String>,
}

/// `GET /v1/alerts?state=pending|dead|delivered&webhook=ID&since=TIME&limit=N&cursor=C`: a page of
/// deliveries, state by state and the oldest first, and how many are pending and dead in all.
pub(super) async fn list(
    Shared(state): Shared<Arc<AdminState>>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(which) = which.map_err(|rejection| unreadable(rejection.body_text()))?;
    let query = query(which)?;
    let outbox = &state.alerts.outbox;
    let page = outbox.list(&query).map_err(|error| broken(&error))?;
    let depth = outbox.depth().map_err(|error| broken(&error))?;
    let deliveries: Vec<Value> = page.deliveries.iter().map(delivery).collect();
    Ok(Json(json!({
        "pending": depth.pending,
        "dead": depth.dead,
        "deliveries": deliveries,
        "next_cursor": page.next.map(|next| next.to_string()),
    })))
}

fn query(which: Which) -> Result<outbox::Query, Problem> {
    let since_us = which.since.map(|since| match since.parse::<Timestamp>() {
        Ok(since) => Ok(since.as_microsecond()),
        Err(_) => Err(unreadable("`since` is no RFC 3339 time, such as 2026-11-01T00:00:00Z")),
    });
    let after = which.cursor.map(|cursor| cursor.parse().map_err(|_| unreadable(NO_CURSOR)));
    let most = which.limit.unwrap_or(PAGE.0);
    if !(1..=PAGE.1).contains(&most) {
        return Err(unreadable(format!("`limit` is not from 1 to {}", PAGE.1)));
    }
    Ok(outbox::Query {
        state: which.state,
        webhook: which.webhook,
        since_us: since_us.transpose()?,
        after: after.transpose()?,
        most,
    })
}

const NO_CURSOR: &str = "`cursor` is not one that an answer gave";

/// `POST /v1/alerts/{id}/replay`: the dead deliveries of one alert.
pub(super) async fn replay(
    Shared(state): Shared<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let known = state.alerts.outbox.knows(&id).map_err(|error| broken(&error))?;
    if !known {
        return Err(Problem::new(StatusCode::NOT_FOUND).detail("no alert has this id"));
    }
    replayed(&state, Replay { id: Some(&id), webhook: None })
}

/// `POST /v1/alerts/replay?webhook=ID`: every dead delivery, or every one of a webhook.
pub(super) async fn replay_all(
    Shared(state): Shared<Arc<AdminState>>,
    whose: Result<Query<Whose>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(whose) = whose.map_err(|rejection| unreadable(rejection.body_text()))?;
    let webhook = whose.webhook.as_deref();
    if let Some(id) = webhook.filter(|id| !state.alerts.has_webhook(id)) {
        let detail = format!("no webhook `{id}` is in the settings");
        return Err(Problem::new(StatusCode::NOT_FOUND).detail(detail));
    }
    replayed(&state, Replay { id: None, webhook })
}

/// `left` stay dead, since their webhook is not in the settings.
fn replayed(state: &AdminState, which: Replay<'_>) -> Result<Json<Value>, Problem> {
    let replayed = state.alerts.replay(which, state.clock.unix_us());
    let replayed = replayed.map_err(|error| broken(&error))?;
    Ok(Json(json!({ "replayed": replayed.deliveries, "left": replayed.left })))
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
        "recorded_at": rfc3339(delivery.recorded_us),
        "attempts": delivery.attempts,
        at: rfc3339(delivery.at_us),
        "last_error": delivery.last_error,
    })
}

fn unreadable(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST).detail(detail)
}

fn broken(error: &OutboxError) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE).detail(with_causes(error))
}
