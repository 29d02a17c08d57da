//! What a request brings: events in one of the forms of the CloudEvents HTTP binding.
//!
//! Owns reading header fields and splitting the body. An event whose attributes are of wrong types
//! is still one event of its batch, to be refused alone.

use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::Problem;

/// Most events of one request: what one may occupy the listener with.
pub(super) const MAX_EVENTS: usize = 10_000;

const ONE: &str = "application/cloudevents+json";
const MANY: &str = "application/cloudevents-batch+json";

/// A CloudEvent, as far as it is read; null counts as absent, and extensions are ignored.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Envelope<'a> {
    pub(super) specversion: Option<String>,
    pub(super) id: Option<String>,
    pub(super) source: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) time: Option<String>,
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) data_base64: Option<&'a RawValue>,
}

/// An event of the request, or why it is none.
pub(super) type Sent<'a> = Result<Envelope<'a>, serde_json::Error>;

/// The events of a request, in order.
pub(super) fn events<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<Vec<Sent<'a>>, Problem> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(unsupported("a body must not be encoded"));
    }
    let parse = |text: &'a RawValue| serde_json::from_str::<Envelope<'a>>(text.get());
    match media_type(headers).as_str() {
        ONE => Ok(vec![parse(json(body)?)]),
        MANY => {
            let events: Vec<&RawValue> = json(body)?;
            if events.len() > MAX_EVENTS {
                let detail = format!("{} events; at most {MAX_EVENTS} are taken", events.len());
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE).detail(detail));
            }
            Ok(events.into_iter().map(parse).collect())
        }
        other if headers.contains_key("ce-specversion") => {
            let is_json = other == "application/json" || other.ends_with("+json");
            if !body.is_empty() && !is_json {
                return Err(unsupported("the data of an event must be JSON"));
            }
            Ok(vec![Ok(binary(headers, body)?)])
        }
        _ => Err(unsupported(
            "send application/cloudevents+json, application/cloudevents-batch+json, or ce- fields \
             with JSON data",
        )),
    }
}

/// Whether the request asks for all or nothing (RFC 7240: `Prefer: handling=strict`).
pub(super) fn is_strict(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    // The first of several that agree in name counts (RFC 7240, section 2).
    let handling = preferences
        .flat_map(|value| value.split(','))
        .filter_map(|preference| preference.split(';').next()?.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("handling"));
    handling.is_some_and(|(_, value)| value.trim().trim_matches('"').eq_ignore_ascii_case("strict"))
}

fn unsupported(detail: &'static str) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE).detail(detail)
}

fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST)
            .detail(format!("the body is not as announced: {error}"))
    })
}

/// The media type without its parameters, in lower case.
fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let value = value.unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Attributes in `ce-` fields, data in the body.
fn binary<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<Envelope<'a>, Problem> {
    let attribute = |name: &str| -> Result<Option<String>, Problem> {
        let Some(value) = headers.get(name) else { return Ok(None) };
        let text = decode(value.as_bytes());
        text.map(Some).ok_or_else(|| {
            Problem::new(StatusCode::BAD_REQUEST).detail(format!("{name} is not UTF-8"))
        })
    };
    Ok(Envelope {
        specversion: attribute("ce-specversion")?,
        id: attribute("ce-id")?,
        source: attribute("ce-source")?,
        kind: attribute("ce-type")?,
        subject: attribute("ce-subject")?,
        time: attribute("ce-time")?,
        data: if body.is_empty() { None } else { Some(json(body)?) },
        data_base64: None,
    })
}

/// A field's value with its percent-encoding undone (HTTP binding, 3.1.3.2).
fn decode(value: &[u8]) -> Option<String> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let pair =
            after.first_chunk::<2>().and_then(|[high, low]| Some((digit(high)?, digit(low)?)));
        match pair {
            Some((high, low)) if *first == b'%' => {
                bytes.push((high << 4 | low) as u8);
                rest = &after[2..];
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().expect("a field value"));
        }
        headers
    }

    #[test]
    fn the_preference_is_read_as_rfc_7240_says() {
        for (fields, strict) in [
            (&[("prefer", "handling=strict")][..], true),
            (&[("prefer", "respond-async, Handling=\"strict\"; x=1")], true),
            (&[("prefer", "wait=10"), ("prefer", "handling=strict")], true),
            (&[("prefer", "handling=lenient, handling=strict")], false),
            (&[("prefer", "handling")], false),
            (&[], false),
        ] {
            assert_eq!(is_strict(&headers(fields)), strict, "{fields:?}");
        }
    }

    #[test]
    fn header_values_are_percent_decoded() {
        assert_eq!(decode(b"Euro%20%E2%82%AC%20%F0%9F%98%80").as_deref(), Some("Euro € 😀"));
        assert_eq!(decode(b"100%").as_deref(), Some("100%"));
        assert_eq!(decode(b"%zz%4").as_deref(), Some("%zz%4"));
        assert_eq!(decode(b"%ff"), None);
    }

    #[test]
    fn an_event_of_wrong_types_is_refused_alone() {
        let headers =
            headers(&[("content-type", "Application/CloudEvents-Batch+JSON; charset=utf-8")]);
        let body = br#"[{"id":"a","x":{"y":[1]}},{"id":5},7,{"id":"a","id":"b"}]"#;
        let events = events(&headers, body).ok().expect("a batch");
        let ids: Vec<Option<String>> =
            events.into_iter().map(|sent| sent.ok().and_then(|event| event.id)).collect();
        assert_eq!(ids, [Some("a".to_owned()), None, None, None]);
    }
}
