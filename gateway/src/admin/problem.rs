//! Errors of the admin API as RFC 9457 problem details.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use orbit_policy::Diagnostic;
use serde_json::{Map, Value, json};

/// Most diagnostics in one answer; `mistakes` has the true number.
const MAX_DIAGNOSTICS: usize = 1000;

/// One problem: a status, what happened, and members of its own.
pub(super) struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    members: Map<String, Value>,
}

impl Problem {
    /// A problem the status alone explains.
    pub(super) fn new(status: StatusCode) -> Problem {
        Problem { status, detail: Cow::Borrowed(""), members: Map::new() }
    }

    /// Says what happened in this case.
    pub(super) fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Problem {
        self.detail = detail.into();
        self
    }

    /// 422 with the mistakes of policy documents as member `diagnostics`.
    pub(super) fn refused(diagnostics: &[Diagnostic]) -> Problem {
        let mistakes = diagnostics.len();
        let mut problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY)
            .detail(format!("the policy documents have {mistakes} mistakes; nothing changed"));
        problem.members.insert("mistakes".to_owned(), mistakes.into());
        problem.members.insert("diagnostics".to_owned(), diagnostics_json(diagnostics));
        problem
    }
}

/// Diagnostics as a bounded JSON array.
pub(super) fn diagnostics_json(diagnostics: &[Diagnostic]) -> Value {
    let one = |diagnostic: &Diagnostic| {
        let Diagnostic { file, line, column, key, message } = diagnostic;
        json!({ "file": file, "line": line, "column": column, "key": key, "message": message })
    };
    diagnostics.iter().take(MAX_DIAGNOSTICS).map(one).collect()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = Map::new();
        // Without a type of its own a problem's title is its status's phrase (RFC 9457, 4.2.1).
        body.insert("type".to_owned(), "about:blank".into());
        body.insert("title".to_owned(), self.status.canonical_reason().unwrap_or("Error").into());
        body.insert("status".to_owned(), self.status.as_u16().into());
        if !self.detail.is_empty() {
            body.insert("detail".to_owned(), self.detail.into());
        }
        body.extend(self.members);
        let mut response = (self.status, Value::Object(body).to_string()).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"orbit admin\""),
            );
        }
        response
    }
}
