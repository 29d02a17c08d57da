//! Errors of the gateway's own interfaces as RFC 9457 problem details.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

/// One problem: a status, what happened, and members of its own.
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: Cow<'static, str>,
    members: Map<String, Value>,
    retry_after_s: Option<u32>,
}

impl Problem {
    /// A problem the status alone explains.
    pub(crate) fn new(status: StatusCode) -> Problem {
        // Without a type of its own a problem's title is its status's phrase (RFC 9457, 4.2.1).
        Problem::of_type(status, "about:blank")
    }

    /// A problem of a registered type.
    pub(crate) fn of_type(status: StatusCode, kind: &'static str) -> Problem {
        Problem {
            status,
            kind,
            detail: Cow::Borrowed(""),
            members: Map::new(),
            retry_after_s: None,
        }
    }

    /// Says what happened in this case.
    pub(crate) fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Problem {
        self.detail = detail.into();
        self
    }

    /// An extension member (RFC 9457, 3.2).
    pub(crate) fn member(mut self, name: &str, value: impl Into<Value>) -> Problem {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Says when it may be worth trying again.
    pub(crate) fn retry_after(mut self, seconds: u32) -> Problem {
        self.retry_after_s = Some(seconds);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = Map::new();
        body.insert("type".to_owned(), self.kind.into());
        body.insert("title".to_owned(), self.status.canonical_reason().unwrap_or("Error").into());
        body.insert("status".to_owned(), self.status.as_u16().into());
        if !self.detail.is_empty() {
            body.insert("detail".to_owned(), self.detail.into());
        }
        body.extend(self.members);
        let mut response = (self.status, Value::Object(body).to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"orbit\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
