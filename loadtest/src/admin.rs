//! The two admin calls a reload under load needs: which policy is current, and apply.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use serde_json::Value;

use crate::fetch::{FetchError, fetch, text};
use crate::keys::Secret;
use crate::target::Target;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The gateway's admin API.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Its listener.
    pub target: Target,
    /// The bearer token.
    pub token: Secret,
}

impl Admin {
    /// The `version` of the current policy; JSON null when the answer has none.
    pub async fn version(&self) -> Result<Value, FetchError> {
        let response = fetch(&self.target, self.request(Method::GET, "/v1/policy"), ANSWER_TIMEOUT);
        let body = text(&self.target, response.await?, ANSWER_TIMEOUT).await?;
        let mut document: Value = serde_json::from_str(&body).map_err(|error| {
            FetchError::Body { target: self.target.clone(), says: error.to_string() }
        })?;
        Ok(document.get_mut("version").map_or(Value::Null, Value::take))
    }

    /// Asks for the policy directory to be read again.
    pub async fn apply(&self, path: &str) -> Result<(), FetchError> {
        fetch(&self.target, self.request(Method::POST, path), ANSWER_TIMEOUT).await.map(drop)
    }

    fn request(&self, method: Method, path: &str) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::from_str(self.target.authority()) {
            headers.insert(HOST, host);
        }
        // A token that no header may carry is not sent: the answer will be 401.
        if let Ok(mut bearer) = HeaderValue::from_str(&format!("Bearer {}", self.token.expose())) {
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        request
    }
}
