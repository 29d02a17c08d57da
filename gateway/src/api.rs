//! What the gateway's own HTTP interfaces, for operators and for events, have in common.
//!
//! Guarantees of every interface that is put together from these: a bearer token is asked for, every
//! error is an RFC 9457 problem, and connections, bodies and times are bounded.

mod auth;
mod problem;
mod serve;
mod token;
pub(crate) mod words;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;

pub(crate) use auth::Guard;
pub(crate) use auth::require_token;
pub(crate) use problem::Problem;
pub(crate) use serve::{HttpServer, Serving};
pub use token::{Token, TokenError};

/// How much more than a whole body is read of one that is too long, and for how long.
const DISCARDED_BYTES: usize = 64 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

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
        // Who asks before sending has not sent.
        if !request.headers().contains_key(header::EXPECT) {
            discard(request.into_body(), max_body_bytes).await;
        }
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

/// Reads a bounded part of what the client sends anyway: one that is a little over the bound then
/// finds the answer, and not a connection that was reset under its hands.
async fn discard(mut body: Body, max_body_bytes: usize) {
    let mut left = max_body_bytes + DISCARDED_BYTES;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
            if bytes >= left {
                return;
            }
            left -= bytes;
        }
    };
    if tokio::time::timeout(DISCARD_TIMEOUT, read).await.is_err() {
        tracing::debug!("a body that is too long arrives too slowly to be read");
    }
}

/// The length of the body as the client announced it; 0 when it did not.
fn announced_bytes(request: &Request) -> u64 {
    let length = request.headers().get(header::CONTENT_LENGTH);
    length.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}
