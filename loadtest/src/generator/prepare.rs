//! Requests made ready before the run: per request only cheap copies remain.

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body_util::Full;

use crate::keys::Keys;
use crate::scenario::{Abort, KeyHeader, Protocol, RequestKind, Scenario};
use crate::target::Target;

use super::RunError;

/// One kind of request, ready to be sent any number of times.
pub(super) struct Prepared {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
    /// When the client leaves.
    pub(super) abort: Abort,
    /// The limit under check applies: refusals are read for what they name.
    pub(super) limited: bool,
    /// It is to become a WebSocket.
    pub(super) websocket: bool,
}

impl Prepared {
    /// Bytes of the body.
    pub(super) fn body_bytes(&self) -> u64 {
        self.body.len() as u64
    }

    /// A copy to send: reference counts and one header map.
    pub(super) fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// Prepares all kinds of a scenario.
pub(super) fn prepare(
    scenario: &Scenario,
    target: &Target,
    keys: &Keys,
) -> Result<Vec<Prepared>, RunError> {
    scenario.requests.iter().map(|kind| one(scenario, kind, target, keys)).collect()
}

fn one(
    scenario: &Scenario,
    kind: &RequestKind,
    target: &Target,
    keys: &Keys,
) -> Result<Prepared, RunError> {
    let unsendable = || RunError::Unsendable { kind: kind.name.clone() };
    let authority = kind.host.as_deref().unwrap_or(target.authority());
    let path: PathAndQuery = kind.path.parse().map_err(|_| unsendable())?;
    let mut headers = HeaderMap::new();
    let (uri, version) = if scenario.protocol == Protocol::Http1 {
        let host = HeaderValue::from_str(authority).map_err(|_| unsendable())?;
        headers.insert(HOST, host);
        (Uri::from(path), Version::HTTP_11)
    } else {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(authority.parse::<Authority>().map_err(|_| unsendable())?);
        parts.path_and_query = Some(path);
        (Uri::from_parts(parts).map_err(|_| unsendable())?, Version::HTTP_2)
    };
    if let Some(label) = &kind.key {
        let missing = || RunError::NoKey { kind: kind.name.clone(), label: label.clone() };
        let (name, value) = key_header(kind.key_header, keys.get(label).ok_or_else(missing)?);
        headers.insert(name, value.ok_or_else(unsendable)?);
    }
    if kind.websocket {
        // RFC 6455, section 4.1; the key is the one of its example.
        for (name, value) in [
            (CONNECTION, "Upgrade"),
            (UPGRADE, "websocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    for (name, value) in &kind.headers {
        headers.append(name, value.clone());
    }
    let limited = scenario
        .expect_limit
        .as_ref()
        .is_some_and(|limit| limit.requests.is_empty() || limit.requests.contains(&kind.name));
    Ok(Prepared {
        method: kind.method.clone(),
        uri,
        version,
        headers,
        body: Bytes::from(vec![b'x'; kind.body_bytes as usize]),
        abort: kind.abort,
        limited,
        websocket: kind.websocket,
    })
}

fn key_header(header: KeyHeader, key: &str) -> (HeaderName, Option<HeaderValue>) {
    let (name, value) = match header {
        KeyHeader::Bearer => (AUTHORIZATION, format!("Bearer {key}")),
        KeyHeader::ApiKey => (HeaderName::from_static("x-api-key"), key.to_owned()),
    };
    let value = HeaderValue::try_from(value).ok().map(|mut value| {
        value.set_sensitive(true);
        value
    });
    (name, value)
}
