//! `POST /v1/events`: usage that does not pass the proxy, sent as CloudEvents 1.0.
//!
//! Owns its listener, its thread and what is answered. Guarantees: 202 is answered only when every
//! event it counts as accepted survives `kill -9`; a (source, id) that was counted before is a
//! success and counts no more ([`IngestIndex`]); so any request may be sent again, whatever came of
//! it. An event is `subject` (the tenant), `type` (the meter), `time` and data with `quantity`, or
//! what the meter's table names instead, and `app`; what is wrong with one is said with its index
//! and reason, and the others are kept, unless `Prefer: handling=strict` asks for all or nothing.

mod quantity;
mod reading;
mod request;
mod take;
mod usage;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use metrics::{counter, describe_counter, describe_gauge, gauge};
use orbit_meter::ingest::IngestIndex;
use orbit_meter::journal::Journal;
use orbit_policy::Policy;

use crate::api::{self, Guard, HttpServer, Problem, Serving, Token};
use crate::clock::Clock;

/// Longest time to answer, the body's arrival included.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// How it is served.
const SERVING: Serving = Serving { name: "ingest", max_connections: 256, yields_to_traffic: false };

/// What is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Longest request body.
    pub max_body_bytes: usize,
    /// Oldest event, in days before its arrival.
    pub max_age_days: u32,
    /// Latest event, in seconds after its arrival.
    pub max_future_s: u32,
}

/// Everything ingestion works with.
pub struct IngestState {
    /// What senders must present.
    pub token: Token,
    /// Who the tenants are.
    pub policy: Arc<Policy>,
    /// Where events are kept.
    pub journal: Arc<Journal>,
    /// Which were counted already.
    pub index: Arc<IngestIndex>,
    /// The process's clock.
    pub clock: Arc<Clock>,
    /// What is taken.
    pub bounds: Bounds,
}

/// The running listener; dropping it stops it within two seconds, answers under way first.
#[derive(Debug)]
pub struct IngestServer(HttpServer);

impl IngestServer {
    /// Binds `address` (port 0 takes a free one) and serves on a thread of its own.
    pub fn start(address: SocketAddr, state: IngestState) -> io::Result<IngestServer> {
        describe();
        publish(&state);
        HttpServer::start(address, routes(Arc::new(state)), SERVING).map(IngestServer)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

fn describe() {
    describe_counter!("orbit_ingest_events_total", "Ingested events by what became of them.");
    describe_counter!("orbit_ingest_requests_total", "Requests to the ingest API by status code.");
    describe_gauge!("orbit_ingest_index_entries", "Ingested events that would be recognised.");
}

fn publish(state: &IngestState) {
    gauge!("orbit_ingest_index_entries").set(state.index.entries() as f64);
}

fn routes(state: Arc<IngestState>) -> Router {
    let guard = Guard { token: state.token.clone(), name: SERVING.name };
    let max_body_bytes = state.bounds.max_body_bytes;
    let routes = Router::new()
        .route("/v1/events", post(events))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || Problem::new(StatusCode::METHOD_NOT_ALLOWED))
        .layer(middleware::from_fn_with_state(guard, api::require_token))
        .with_state(state);
    api::bounded(routes, max_body_bytes, ANSWER_TIMEOUT).layer(middleware::from_fn(counted))
}

/// Counts answers by their status.
async fn counted(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let code = response.status().as_str().to_owned();
    counter!("orbit_ingest_requests_total", "code" => code).increment(1);
    response
}

/// Takes events. What takes time here is memory and the processor's: no waiting, so no other thread.
async fn events(
    State(state): State<Arc<IngestState>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body =
        body.map_err(|rejection| Problem::new(rejection.status()).detail(rejection.body_text()))?;
    if state.journal.is_full() {
        return Err(take::no_room());
    }
    let strict = request::is_strict(&headers);
    let sent = request::events(&headers, &body)?;
    let taken = take::take(&state, &sent, strict, state.clock.unix_us())?;
    publish(&state);
    let mut response = (StatusCode::ACCEPTED, Json(taken.body())).into_response();
    if strict {
        let applied = HeaderValue::from_static("handling=strict");
        response.headers_mut().insert("preference-applied", applied);
    }
    Ok(response)
}
