//! The admin calls a run needs: which policy is current, apply, and how the parts are.

use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::Value;

use crate::fetch::{FetchError, fetch, get, send, text};
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
        let mut document = self.json(response.await?).await?;
        Ok(document.get_mut("version").map_or(Value::Null, Value::take))
    }

    /// What `/readyz` answers, ready or not.
    pub async fn readiness(&self) -> Result<Value, FetchError> {
        let response = send(&self.target, self.request(Method::GET, "/readyz"), ANSWER_TIMEOUT);
        self.json(response.await?).await
    }

    /// Asks for the policy directory to be read again.
    pub async fn apply(&self, path: &str) -> Result<(), FetchError> {
        fetch(&self.target, self.request(Method::POST, path), ANSWER_TIMEOUT).await.map(drop)
    }

    /// How many alerts are pending and dead.
    pub async fn alerts(&self) -> Result<Value, FetchError> {
        let request = self.request(Method::GET, "/v1/alerts?limit=1");
        let response = fetch(&self.target, request, ANSWER_TIMEOUT);
        self.json(response.await?).await
    }

    /// Has every dead alert delivered once more.
    pub async fn replay_alerts(&self) -> Result<Value, FetchError> {
        let request = self.request(Method::POST, "/v1/alerts/replay");
        let response = fetch(&self.target, request, ANSWER_TIMEOUT);
        self.json(response.await?).await
    }

    async fn json(&self, response: Response<Incoming>) -> Result<Value, FetchError> {
        let body = text(&self.target, response, ANSWER_TIMEOUT).await?;
        serde_json::from_str(&body).map_err(|error| FetchError::Body {
            target: self.target.clone(),
            says: error.to_string(),
        })
    }

    fn request(&self, method: Method, path: &str) -> Request<Full<Bytes>> {
        let mut request = get(&self.target, path);
        *request.method_mut() = method;
        // A token that no header may carry is not sent: the answer will be 401.
        if let Ok(mut bearer) = HeaderValue::from_str(&format!("Bearer {}", self.token.expose())) {
            bearer.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        request
    }
}
