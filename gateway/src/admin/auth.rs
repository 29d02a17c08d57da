//! Who may talk to the admin API: whoever presents the bearer token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AdminState;
use super::problem::Problem;

/// Lets a request through when it carries `Authorization: Bearer` and the token.
pub(super) async fn require_token(
    State(state): State<Arc<AdminState>>,
    request: Request,
    next: Next,
) -> Response {
    match bearer(request.headers()) {
        Some(presented) if state.token.matches(presented) => next.run(request).await,
        Some(_) => {
            metrics::counter!("orbit_admin_refused_total").increment(1);
            Problem::new(StatusCode::UNAUTHORIZED).detail("not the admin token").into_response()
        }
        None => Problem::new(StatusCode::UNAUTHORIZED)
            .detail("send the admin token as Authorization: Bearer")
            .into_response(),
    }
}

/// The credentials of the only `Authorization: Bearer` field; the scheme's case does not matter.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let field = fields.next()?.as_bytes();
    if fields.next().is_some() {
        return None;
    }
    let (scheme, credentials) = field.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| credentials.trim_ascii())
}
