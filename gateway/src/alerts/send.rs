//! One attempt to deliver an event to a webhook.
//!
//! Guarantees: an answer's header is there within the timeout or not at all, no redirect is
//! followed, the body of the answer is not read, and the connection goes where
//! [`guard`](super::guard) looked. What failed is said in words without secrets, query or user of
//! the URL.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use orbit_meter::causes::with_causes;

use super::guard::{GuardedResolver, Inside, is_public};
use super::outbox::Due;
use super::sign::{SecretError, Secrets};
use crate::settings::Webhook;

/// To connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What came of an attempt.
#[derive(Debug)]
pub enum Sent {
    /// 2xx.
    Delivered,
    /// 410: the receiver wants no more.
    Gone,
    /// Anything else: worth another attempt.
    Failed(String),
}

/// Why nothing was sent.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("the secret")]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Inside(#[from] Inside),
    #[error("the request cannot be made")]
    Request(#[from] http::Error),
    #[error("no connection, or it broke")]
    Client(#[from] hyper_util::client::legacy::Error),
    #[error("no answer within {} s", .0.as_secs_f64())]
    Late(Duration),
}

/// Sends to one webhook.
pub struct Sender {
    webhook: Webhook,
    uri: Uri,
    timeout: Duration,
    client: Client<HttpsConnector<HttpConnector<GuardedResolver>>, Full<Bytes>>,
}

impl Sender {
    /// For a webhook of checked settings, which may take so long to answer.
    pub fn new(webhook: &Webhook, timeout: Duration) -> Sender {
        let resolver = GuardedResolver { allow_private: webhook.allow_private };
        let mut connector = HttpConnector::new_with_resolver(resolver);
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT.min(timeout)));
        // By name: more than one is in the process, and which is its default is a matter of order.
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(provider)
            .expect("the provider has the ciphers of the default versions")
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let uri = webhook.uri().expect("settings are checked before they are used");
        Sender { webhook: webhook.clone(), uri, timeout, client }
    }

    /// Sends an event once.
    pub async fn send(&self, due: &Due, timestamp_s: i64) -> Sent {
        match self.attempt(due, timestamp_s).await {
            Ok(status) if status.is_success() => Sent::Delivered,
            Ok(http::StatusCode::GONE) => Sent::Gone,
            Ok(status) => Sent::Failed(format!("answered {status}")),
            Err(error) => Sent::Failed(with_causes(&error)),
        }
    }

    async fn attempt(&self, due: &Due, timestamp_s: i64) -> Result<http::StatusCode, SendError> {
        // A literal address is never resolved.
        let literal = self.uri.host().map(|host| host.trim_matches(['[', ']']));
        if let Some(Ok(address)) = literal.map(str::parse)
            && !self.webhook.allow_private
            && !is_public(address)
        {
            return Err(Inside(address).into());
        }
        // Read for each attempt, so that a secret is rotated by writing the file.
        let secrets = Secrets::read(&self.webhook.secret_file)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.uri)
            .header("content-type", "application/json")
            .header("user-agent", concat!("orbit/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &due.id)
            .header("webhook-timestamp", timestamp_s)
            .header("webhook-signature", secrets.sign(&due.id, timestamp_s, &due.body))
            .body(Full::new(Bytes::from(due.body.clone())))?;
        let answer = tokio::time::timeout(self.timeout, self.client.request(request)).await;
        Ok(answer.map_err(|_| SendError::Late(self.timeout))??.status())
    }
}
