//! One request and its answer.

use std::future::Future;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::ledger::RequestId;
use crate::scenario::Abort;

use super::prepare::Prepared;
use super::record::{Failure, Outcome, Refusal, Whole};

/// A refusal's body beyond this is not looked at.
const MAX_REFUSAL_BYTES: usize = 16 << 10;
const REQUEST_ID: &str = "x-request-id";

/// Awaits the answer of a request that `send` sends, and reads it as far as its kind says.
pub(super) async fn exchange(
    send: impl Future<Output = hyper::Result<Response<Incoming>>>,
    kind: &Prepared,
) -> Outcome {
    let answered = match kind.abort {
        Abort::Sent(wait) => match tokio::time::timeout(wait, send).await {
            Err(_elapsed) => return Outcome::Aborted,
            Ok(answered) => answered,
        },
        _ => send.await,
    };
    let response = match answered {
        Ok(response) => response,
        Err(error) => return Outcome::Failed(before_answer(&error)),
    };
    if matches!(kind.abort, Abort::Header | Abort::Sent(_)) {
        return Outcome::Aborted;
    }
    finished(response, kind).await
}

/// Reads an answer as far as its kind says.
pub(super) async fn finished(response: Response<Incoming>, kind: &Prepared) -> Outcome {
    let status = response.status().as_u16();
    let (head, body) = response.into_parts();
    let problem = is_problem(&head.headers);
    let wants_refusal = kind.limited && problem && head.status == StatusCode::TOO_MANY_REQUESTS;
    let stop_at = match kind.abort {
        Abort::Body(bytes) => bytes,
        _ => u64::MAX,
    };
    match read(body, stop_at, wants_refusal).await {
        Ok(Read::Whole { body_bytes, kept }) => {
            let refusal = wants_refusal.then(|| Box::new(refusal(&kept)));
            let id = request_id(&head.headers);
            let sent_bytes = kind.body_bytes();
            Outcome::Whole(Whole { status, id, problem, body_bytes, sent_bytes, refusal })
        }
        Ok(Read::Stopped) => Outcome::Aborted,
        Err(_) => Outcome::Failed(Failure::CutShort),
    }
}

/// The id the answer says it has.
pub(super) fn request_id(headers: &HeaderMap) -> Option<RequestId> {
    headers.get(REQUEST_ID).and_then(|id| RequestId::parse(id.as_bytes()))
}

enum Read {
    Whole { body_bytes: u64, kept: Vec<u8> },
    Stopped,
}

async fn read(mut body: Incoming, stop_at: u64, keep: bool) -> Result<Read, hyper::Error> {
    let (mut body_bytes, mut kept) = (0, Vec::new());
    while !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
        let frame = frame?;
        let Some(data) = frame.data_ref() else { continue };
        body_bytes += data.len() as u64;
        // An answer that has ended cannot be given up any more, however long it was.
        if body_bytes >= stop_at && !body.is_end_stream() {
            return Ok(Read::Stopped);
        }
        if keep && kept.len() + data.len() <= MAX_REFUSAL_BYTES {
            kept.extend_from_slice(data);
        }
    }
    Ok(Read::Whole { body_bytes, kept })
}

/// What a refusal names; nothing when its body is not what RFC 9457 says.
fn refusal(body: &[u8]) -> Refusal {
    serde_json::from_slice(body).unwrap_or_default()
}

/// Whether the gateway made the answer itself: those are RFC 9457 problem details.
pub(super) fn is_problem(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        let essence = value.split(|byte| *byte == b';').next().unwrap_or(value);
        essence.trim_ascii().eq_ignore_ascii_case(b"application/problem+json")
    })
}

fn before_answer(error: &hyper::Error) -> Failure {
    if error.is_parse() && !error.is_incomplete_message() {
        Failure::Protocol
    } else {
        Failure::Closed
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn problem_details_are_recognised_with_and_without_parameters() {
        for (value, expected) in [
            ("application/problem+json", true),
            ("Application/Problem+JSON; charset=utf-8", true),
            ("application/json", false),
            ("application/problem+jsonx", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_problem(&headers), expected, "{value}");
        }
        assert!(!is_problem(&HeaderMap::new()));
    }

    #[test]
    fn a_refusal_names_its_level_or_nothing() {
        let body = br#"{"status":429,"level":"team","violated-policies":["a","b"]}"#;
        let named = refusal(body);
        assert_eq!(named.level.as_deref(), Some("team"));
        assert_eq!(named.violated, ["a", "b"]);
        for body in [&b"{}"[..], b"", b"[1", b"{\"level\":7}"] {
            assert_eq!(refusal(body), Refusal::default());
        }
    }
}
