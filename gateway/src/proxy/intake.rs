//! From a request's header to its admission, and what of the header goes on to the upstream.

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode};
use orbit_policy::documents::is_reserved_path;
use orbit_policy::{Body, Call, Decision, Denial};
use pingora::Result;
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use super::Edge;
use super::exchange::Exchange;
use super::problem::{Problem, REDUCED_CAPACITY};
use super::trace;
use crate::settings::OnFull;

/// Names of our own: a client's are stripped, ours are sent on.
pub(super) const OUR_PREFIX: &str = "x-orbit-";
const KEY_FIELD: &str = "x-api-key";
const BEARER: &[u8] = b"Bearer ";

/// What came of a request's header.
pub enum Intake {
    /// To be forwarded; the admission is in the exchange.
    Admitted,
    /// For the gateway itself, whatever can be recorded and forwarded at the moment.
    Own,
    /// Refused by policy.
    Denied(Denial),
    /// Refused before any policy was asked: the answer, and the reason to count.
    Unfit(Box<Problem>, &'static str),
}

/// Checks a header's size, then asks the policy; unless the gateway answers itself.
pub fn take_in(edge: &Edge, session: &mut Session, ctx: &mut Exchange) -> Intake {
    let body = body(session);
    let header = session.req_header();
    if let Some((problem, reason)) = header_too_large(edge, header, ctx) {
        return Intake::Unfit(Box::new(problem), reason);
    }
    if is_reserved_path(header.uri.path()) {
        return Intake::Own;
    }
    if let Some((problem, reason)) = unfit(edge, header) {
        return Intake::Unfit(Box::new(problem), reason);
    }
    let (key, key_field) = presented_key(&header.headers);
    ctx.key_field = key_field;
    if let Body::Length(length) = body {
        ctx.asked_bytes = length;
    }
    let call = Call {
        key,
        host: host(header),
        path: header.uri.path(),
        method: header.method.as_str(),
        client: ctx.client_ip(edge, session),
        body,
        header: &|name| header.headers.get(name).map(http::HeaderValue::as_bytes),
        now: ctx.started.mono,
        unix_us: ctx.started.unix_us,
    };
    match edge.policy.decide(&call) {
        Decision::Admit(admission) => {
            ctx.admission = Some(admission);
            ctx.measure_request(header);
            Intake::Admitted
        }
        Decision::Deny(denial) => Intake::Denied(denial),
    }
}

fn header_too_large(
    edge: &Edge,
    header: &RequestHeader,
    ctx: &mut Exchange,
) -> Option<(Problem, &'static str)> {
    let limits = &edge.limits;
    let mut bytes = header.raw_path().len();
    let mut fields = 0;
    for (name, value) in &header.headers {
        fields += 1;
        bytes += name.as_str().len() + value.len() + 4;
        ctx.has_forged_fields |= is_forged(name.as_str());
    }
    if fields > limits.max_headers || bytes > limits.max_header_bytes {
        let (most, size) = (limits.max_headers, limits.max_header_bytes);
        let detail = format!("At most {most} header fields of {size} bytes in all are accepted.");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Some((Problem::new(status, "header-too-large", detail), "header_too_large"));
    }
    None
}

fn unfit(edge: &Edge, header: &RequestHeader) -> Option<(Problem, &'static str)> {
    let limits = &edge.limits;
    if length(&header.headers).is_some_and(|length| length > limits.max_body_bytes) {
        return Some((body_too_large(), "body_too_large"));
    }
    if edge.on_full == OnFull::Refuse && edge.journal.is_full() {
        let detail = "Usage cannot be recorded at the moment, so nothing is served.";
        let problem = Problem::of_type(StatusCode::SERVICE_UNAVAILABLE, REDUCED_CAPACITY, detail);
        return Some((problem.header("Retry-After", "1"), "journal_full"));
    }
    None
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What is known of a request's body. A method that brings none is taken at its word, though HTTP/2
/// may tell only later that nothing comes: what does come is asked for piece by piece.
fn body(session: &mut Session) -> Body {
    let is_over = session.is_http2() && session.is_body_empty();
    let header = session.req_header();
    let is_chunked = header.headers.contains_key(TRANSFER_ENCODING);
    let brings_none =
        matches!(header.method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS);
    match length(&header.headers) {
        Some(0) if !is_chunked => Body::None,
        Some(length) if !is_chunked => Body::Length(length),
        _ if is_chunked => Body::Unknown,
        _ if !session.is_http2() || is_over || brings_none => Body::None,
        _ => Body::Unknown,
    }
}

/// Whether a field is one of ours, in any spelling: many upstreams take `_` for `-`.
fn is_forged(name: &str) -> bool {
    let folds_to = |ours: &str, name: &str| {
        name.len() == ours.len()
            && name.bytes().zip(ours.bytes()).all(|(a, b)| a == b || a == b'_' && b == b'-')
    };
    let ours = |name: &str| name.get(..OUR_PREFIX.len()).is_some_and(|n| folds_to(OUR_PREFIX, n));
    let spelt = |field: &str| name != field && folds_to(field, name);
    name.starts_with('x') && (ours(name) || spelt("x-request-id") || spelt(KEY_FIELD))
}

/// Whether a field's value is a key of ours, with or without `Bearer`.
fn holds_key(value: &[u8]) -> bool {
    let bearer = value.split_at_checked(BEARER.len());
    let token = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER)).map(|(_, t)| t);
    [Some(value), token].into_iter().flatten().any(|text| text.trim_ascii().starts_with(b"orb_"))
}

/// The answer to a body over the limit.
pub fn body_too_large() -> Problem {
    let detail = "The body is larger than this gateway accepts.";
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
}

/// `Authorization: Bearer orb_…` or else `X-Api-Key`. A bearer token that is not of our form is
/// the upstream's affair where the other field holds a key.
pub(super) fn presented_key(headers: &HeaderMap) -> (Option<&[u8]>, Option<&'static str>) {
    let bearer = headers.get(AUTHORIZATION).map(http::HeaderValue::as_bytes).and_then(|value| {
        let (scheme, token) = value.split_at_checked(BEARER.len())?;
        scheme.eq_ignore_ascii_case(BEARER).then_some(token)
    });
    let own = headers.get(KEY_FIELD).map(http::HeaderValue::as_bytes);
    match (bearer, own) {
        (Some(token), _) if token.starts_with(b"orb_") => (bearer, Some("authorization")),
        (_, Some(_)) => (own, Some(KEY_FIELD)),
        (Some(_), None) => (bearer, Some("authorization")),
        (None, None) => (None, None),
    }
}

fn host(header: &RequestHeader) -> &str {
    let authority = header.uri.authority().map(http::uri::Authority::as_str);
    let field = || header.headers.get(HOST).and_then(|host| host.to_str().ok());
    authority.or_else(field).unwrap_or_default()
}

/// Takes the client's key and whatever it sent under our names off the request, and puts the
/// tenant's identity, the request's id and its trace on it.
pub fn prepare_upstream(
    session: &Session,
    request: &mut RequestHeader,
    ctx: &mut Exchange,
) -> Result<()> {
    if ctx.has_forged_fields {
        let names = session.req_header().headers.keys();
        for name in names.filter(|name| is_forged(name.as_str())) {
            request.remove_header(name.as_str());
        }
    }
    // The field that counted, and any other that holds a key of ours.
    for field in [AUTHORIZATION.as_str(), KEY_FIELD] {
        let mut values = session.req_header().headers.get_all(field).into_iter();
        if ctx.key_field == Some(field) || values.any(|value| holds_key(value.as_bytes())) {
            request.remove_header(field);
        }
    }
    let Some(admission) = &ctx.admission else { return Ok(()) };
    let permit = &admission.permit;
    request.insert_header("X-Orbit-Tenant", &*permit.tenant().id)?;
    request.insert_header("X-Orbit-Plan", permit.plan_id())?;
    request.insert_header("X-Request-Id", ctx.id.hex().as_slice())?;
    let from_client = request.headers.get("traceparent").map(http::HeaderValue::as_bytes);
    let continued = from_client.is_some_and(|text| trace::valid(text).is_some());
    let traceparent = trace::traceparent(from_client, &ctx.id);
    request.insert_header("traceparent", traceparent.as_slice())?;
    if !continued {
        request.remove_header("tracestate");
    }
    Ok(())
}
