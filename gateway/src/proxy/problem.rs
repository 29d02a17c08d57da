//! RFC 9457 problem details: the one form of every error the gateway itself answers with.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, StatusCode};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use serde_json::{Map, Value};

use super::trace::RequestId;

/// IANA's registry of problem types (draft-ietf-httpapi-ratelimit-headers-11, section 9).
pub const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
/// As above.
pub const REDUCED_CAPACITY: &str =
    "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";

/// An error answer in the making.
pub struct Problem {
    status: StatusCode,
    body: Map<String, Value>,
    header: ResponseHeader,
}

impl Problem {
    /// A problem of one of our own types, `urn:orbit:problem:<slug>`.
    pub fn new(status: StatusCode, slug: &str, detail: impl Into<String>) -> Problem {
        Problem::of_type(status, format!("urn:orbit:problem:{slug}"), detail)
    }

    /// A problem of a type registered elsewhere.
    pub fn of_type(
        status: StatusCode,
        kind: impl Into<String>,
        detail: impl Into<String>,
    ) -> Problem {
        let mut body = Map::new();
        body.insert("type".into(), Value::String(kind.into()));
        body.insert("title".into(), status.canonical_reason().unwrap_or("Error").into());
        body.insert("status".into(), status.as_u16().into());
        body.insert("detail".into(), Value::String(detail.into()));
        let header = ResponseHeader::build(status, Some(8)).expect("a status builds a header");
        Problem { status, body, header }
    }

    /// An extension member (RFC 9457, section 3.2).
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Problem {
        self.body.insert(member.into(), value.into());
        self
    }

    /// A header field of the answer; a value that is none is left out.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Problem {
        // Values come from our own texts and validated ids; a failure would lose a field only.
        let _left_out = self.header.insert_header(name, value.as_ref());
        self
    }

    /// The status it answers with.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What it says happened.
    pub fn detail(&self) -> &str {
        self.body.get("detail").and_then(Value::as_str).unwrap_or_default()
    }

    /// Writes the answer. `keep` says whether the connection may serve another request.
    pub async fn send(mut self, session: &mut Session, id: &RequestId, keep: bool) -> Result<()> {
        let hex = id.hex();
        let hex = std::str::from_utf8(&hex).expect("hexadecimal digits are ASCII");
        self.body.insert("instance".into(), format!("urn:orbit:request:{hex}").into());
        let body = serde_json::to_vec(&self.body).expect("texts and numbers are always JSON");
        let header = &mut self.header;
        header.insert_header(CONTENT_TYPE, "application/problem+json")?;
        header.insert_header(CONTENT_LENGTH, body.len().to_string())?;
        // RFC 6585: a 429 must not be cached; nor is any other answer of this kind anybody else's.
        header.insert_header(CACHE_CONTROL, "no-store")?;
        header.insert_header("X-Request-Id", hex)?;
        if !keep {
            session.set_keepalive(None);
        }
        let no_body = session.req_header().method == Method::HEAD;
        session.write_response_header(Box::new(self.header), no_body).await?;
        if !no_body {
            session.write_response_body(Some(Bytes::from(body)), true).await?;
        }
        Ok(())
    }
}
