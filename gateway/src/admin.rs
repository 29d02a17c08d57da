//! The operators' listener: health, readiness, metrics, the policy in force, deliveries of alerts,
//! usage of a tenant.
//!
//! Owns its socket, its thread and its own small runtime, so that neither a flood of traffic nor a
//! long policy check can keep an operator out. Guarantees that everything but `/healthz` asks for
//! the bearer token, that every error is an RFC 9457 problem, and that connections, bodies and
//! times are bounded.

mod alerts;
mod entitlements;
mod policy;
mod readiness;
mod state;
mod usage;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};

use crate::api::{self, Guard, HttpServer, Problem, Serving};
pub use crate::api::{Token, TokenError};
pub(crate) use entitlements::entitlements_json;
pub use readiness::{Check, Readiness};
pub use state::{AdminState, policy_check};

/// Longest request body: candidate policy documents.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// Longest time to answer; checking the largest catalogue takes a few seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// What Prometheus is told the metrics are.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How it is served.
const SERVING: Serving = Serving { name: "admin", max_connections: 64, yields_to_traffic: true };

/// The running admin listener; dropping it stops it within two seconds.
#[derive(Debug)]
pub struct AdminServer(HttpServer);

impl AdminServer {
    /// Binds `address` (port 0 takes a free one) and serves on a thread of its own.
    pub fn start(address: SocketAddr, state: AdminState) -> io::Result<AdminServer> {
        HttpServer::start(address, routes(Arc::new(state)), SERVING).map(AdminServer)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

/// All paths, with the token asked of all but one.
fn routes(state: Arc<AdminState>) -> Router {
    let guard = Guard { token: state.token.clone(), name: SERVING.name };
    let routes = Router::new()
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/policy", get(policy::current))
        .route("/v1/policy/check", post(policy::check))
        .route("/v1/policy/apply", post(policy::apply))
        .route("/v1/alerts", get(alerts::list))
        .route("/v1/alerts/replay", post(alerts::replay_all))
        .route("/v1/alerts/{id}/replay", post(alerts::replay))
        .route("/v1/tenants/{id}/usage", get(usage::usage))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || Problem::new(StatusCode::METHOD_NOT_ALLOWED))
        .layer(middleware::from_fn_with_state(guard, api::require_token))
        .route("/healthz", get(async || "ok\n"))
        .with_state(state);
    api::bounded(routes, MAX_BODY_BYTES, ANSWER_TIMEOUT)
}

async fn ready(State(state): State<Arc<AdminState>>) -> Response {
    let report = state.readiness.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], state.metrics.render()).into_response()
}
