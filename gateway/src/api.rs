//! What the gateway's own HTTP interfaces, for operators and for events, have in common.
//!
//! Guarantees of every interface that is put together from these: a bearer token is asked for, every
//! error is an RFC 9457 problem, and connections, bodies and times are bounded.

mod auth;
mod problem;
mod serve;
mod token;

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

pub(crate) use auth::Guard;
pub(crate) use auth::require_token;
pub(crate) use problem::Problem;
pub(crate) use serve::{HttpServer, Serving};
pub use token::{Token, TokenError};

/// Refuses what is announced too long, ends what takes too long, and keeps answers out of caches.
pub(crate) fn bounded(routes: Router, max_body_bytes: usize, timeout: Duration) -> Router {
    let bound = move |request, next| answer(request, next, max_body_bytes, timeout);
    routes.layer(DefaultBodyLimit::max(max_body_bytes)).layer(middleware::from_fn(bound))
}

async fn answer(
    request: Request,
    next: Next,
    max_body_bytes: usize,
    timeout: Duration,
) -> Response {
    let mut response = if announced_bytes(&request) > max_body_bytes as u64 {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE)
            .detail(format!("a body has at most {max_body_bytes} bytes"))
            .into_response()
    } else {
        match tokio::time::timeout(timeout, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::new(StatusCode::GATEWAY_TIMEOUT)
                .detail(format!("not done within {} s", timeout.as_secs()))
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
