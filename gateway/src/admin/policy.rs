//! The policy in force, judging documents, and putting them in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use orbit_policy::{Diagnostic, Diagnostics, Source, Summary};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::AdminState;
use crate::api::Problem;
use crate::api::words::rfc3339;
use crate::reload::{self, ApplyError, Outcome, Status};

/// Most diagnostics in one answer; `mistakes` has the true number.
const MAX_DIAGNOSTICS: usize = 1000;

/// `GET /v1/policy`.
pub(super) async fn current(State(state): State<Arc<AdminState>>) -> Json<Value> {
    Json(status_json(&state.reloads.status()))
}

/// Checks take turns: one of the largest catalogue takes a core and gigabytes.
static CHECK_TURN: Semaphore = Semaphore::const_new(1);

/// The policy in force and the last attempt, as `/v1/policy` and `/readyz` tell it.
pub(super) fn status_json(status: &Status) -> Value {
    let last_error = match &status.outcome {
        Outcome::Refused(diagnostics) => json!({
            "at": rfc3339(status.attempted_at_us),
            "mistakes": diagnostics.len(),
            "diagnostics": diagnostics_json(diagnostics),
        }),
        Outcome::Applied | Outcome::Unchanged => Value::Null,
    };
    json!({
        "version": status.version,
        "hash": status.fingerprint.to_string(),
        "loaded_at": rfc3339(status.loaded_at_us),
        "next_change_at": status.next_change_us.map(rfc3339),
        "counts": summary_json(&status.summary),
        "last_attempt": {
            "at": rfc3339(status.attempted_at_us),
            "cause": status.cause.as_str(),
            "result": status.outcome.as_str(),
        },
        "last_error": last_error,
    })
}

fn summary_json(summary: &Summary) -> Value {
    let Summary { tenants, keys, plans, apps, routes } = summary;
    json!({ "tenants": tenants, "keys": keys, "plans": plans, "apps": apps, "routes": routes })
}

/// `POST /v1/policy/check`: the documents in the body, or those on disk when it is empty.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Candidate {
    /// Text by file name.
    files: BTreeMap<String, String>,
}

/// Judges documents and changes nothing.
pub(super) async fn check(
    State(state): State<Arc<AdminState>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let body =
        body.map_err(|rejection| Problem::new(rejection.status()).detail(rejection.body_text()))?;
    let candidate = if body.is_empty() {
        None
    } else {
        let parsed: Result<Candidate, _> = serde_json::from_slice(&body);
        Some(parsed.map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST)
                .detail(format!("expected {{\"files\": {{\"name\": \"TOML text\"}}}}: {error}"))
        })?)
    };
    drop(body);
    let turn = CHECK_TURN.acquire().await.expect("this semaphore is never closed");
    let paths = state.policy_paths.clone();
    let at_us = state.clock.unix_us();
    let judged = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let sources = match candidate {
            Some(Candidate { files }) => {
                files.into_iter().map(|(file, text)| Source { file, text }).collect()
            }
            None => reload::read(&paths).map_err(Diagnostics)?,
        };
        orbit_policy::check(&sources, at_us).map(|snapshot| Summary::of(&snapshot))
    });
    match judged.await {
        Ok(Ok(summary)) => Ok(Json(json!({ "valid": true, "counts": summary_json(&summary) }))),
        Ok(Err(Diagnostics(diagnostics))) => Err(refused(&diagnostics)),
        Err(error) => {
            tracing::error!(%error, "a policy check failed");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR))
        }
    }
}

/// `POST /v1/policy/apply`: reads the documents on disk again, by the one reload path.
pub(super) async fn apply(State(state): State<Arc<AdminState>>) -> Result<Json<Value>, Problem> {
    let status = state.reloads.apply().await.map_err(|error| match error {
        ApplyError::Busy => Problem::new(StatusCode::CONFLICT).detail(error.to_string()),
        ApplyError::Stopping => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE).detail(error.to_string())
        }
    })?;
    match &status.outcome {
        Outcome::Refused(diagnostics) => Err(refused(diagnostics)),
        Outcome::Applied | Outcome::Unchanged => Ok(Json(status_json(&status))),
    }
}

/// 422 with the mistakes of policy documents as member `diagnostics`.
fn refused(diagnostics: &[Diagnostic]) -> Problem {
    let mistakes = diagnostics.len();
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY)
        .detail(format!("the policy documents have {mistakes} mistakes; nothing changed"))
        .member("mistakes", mistakes)
        .member("diagnostics", diagnostics_json(diagnostics))
}

/// Diagnostics as a bounded JSON array.
fn diagnostics_json(diagnostics: &[Diagnostic]) -> Value {
    let one = |diagnostic: &Diagnostic| {
        let Diagnostic { file, line, column, key, message } = diagnostic;
        json!({ "file": file, "line": line, "column": column, "key": key, "message": message })
    };
    diagnostics.iter().take(MAX_DIAGNOSTICS).map(one).collect()
}
