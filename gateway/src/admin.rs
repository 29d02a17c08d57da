//! The operators' listener: health, readiness, metrics, the policy in force, usage of a tenant.
//!
//! Owns its socket, its thread and its own small runtime, so that neither a flood of traffic nor a
//! long policy check can keep an operator out. Guarantees that everything but `/healthz` asks for
//! the bearer token, that every error is an RFC 9457 problem, and that connections, bodies and
//! times are bounded.

mod auth;
mod policy;
mod problem;
mod readiness;
mod serve;
mod state;
mod token;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};

use problem::Problem;
pub use readiness::{Check, Readiness};
pub use serve::AdminServer;
pub use state::{AdminState, policy_check};
pub use token::{Token, TokenError};

/// Longest request body: candidate policy documents.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// Longest time to answer; checking the largest catalogue takes a few seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// What Prometheus is told the metrics are.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All paths, with the token asked of all but one.
fn routes(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/policy", get(policy::current))
        .route("/v1/policy/check", post(policy::check))
        .route("/v1/policy/apply", post(policy::apply))
        .route("/v1/tenants/{id}/usage", get(usage::usage))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || Problem::new(StatusCode::METHOD_NOT_ALLOWED))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), auth::require_token))
        .route("/healthz", get(async || "ok\n"))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(bounded))
        .with_state(state)
}

/// Refuses what is announced too long, ends what takes too long, and keeps answers out of caches.
async fn bounded(request: Request, next: Next) -> Response {
    let mut response = if announced_bytes(&request) > MAX_BODY_BYTES as u64 {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE)
            .detail(format!("a body has at most {MAX_BODY_BYTES} bytes"))
            .into_response()
    } else {
        match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::new(StatusCode::GATEWAY_TIMEOUT)
                .detail(format!("not done within {} s", ANSWER_TIMEOUT.as_secs()))
                .into_response(),
        }
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The length of the body as the client announced it; 0 when it did not.
fn announced_bytes(request: &Request) -> u64 {
    let length = request.headers().get(header::CONTENT_LENGTH);
    length.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}

async fn ready(State(state): State<Arc<AdminState>>) -> Response {
    let report = state.readiness.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], state.metrics.render()).into_response()
}
