//! Who may talk to an interface: whoever presents its bearer token.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Problem, Token};

/// An interface's token, and the interface's name in problems and metrics.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    /// What callers must present.
    pub(crate) token: Token,
    /// Such as `admin`.
    pub(crate) name: &'static str,
}

/// Lets a request through when it carries `Authorization: Bearer` and the token.
pub(crate) async fn require_token(
    State(guard): State<Guard>,
    request: Request,
    next: Next,
) -> Response {
    let Guard { token, name } = guard;
    match bearer(request.headers()) {
        Some(presented) if token.matches(presented) => next.run(request).await,
        Some(_) => {
            metrics::counter!(format!("orbit_{name}_refused_total")).increment(1);
            Problem::new(StatusCode::UNAUTHORIZED)
                .detail(format!("not the {name} token"))
                .into_response()
        }
        None => Problem::new(StatusCode::UNAUTHORIZED)
            .detail(format!("send the {name} token as Authorization: Bearer"))
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
