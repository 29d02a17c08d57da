//! One HTTP request on a connection of its own: the admin API and ClickHouse are asked rarely.

use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::target::Target;

/// The longest answer that is read as text.
const MAX_TEXT_BYTES: usize = 4 << 20;
/// Of an error's body, this much is shown.
const MAX_SHOWN_CHARS: usize = 300;

/// Why an answer did not come, or was not a success.
#[derive(Debug, Error)]
pub enum FetchError {
    /// No connection.
    #[error("cannot connect to {target}")]
    Connect {
        /// The server.
        target: Target,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("the answer of {target} did not arrive")]
    Http {
        /// The server.
        target: Target,
        /// What hyper said.
        source: hyper::Error,
    },
    /// The body broke off, or was too long.
    #[error("the body of {target}'s answer did not arrive whole: {says}")]
    Body {
        /// The server.
        target: Target,
        /// What went wrong.
        says: String,
    },
    /// No answer in time.
    #[error("{target} did not answer within {}", .limit.as_secs_f64())]
    Timeout {
        /// The server.
        target: Target,
        /// How long it had.
        limit: Duration,
    },
    /// An answer that is not a success.
    #[error("{target} answered {status}: {says}")]
    Status {
        /// The server.
        target: Target,
        /// Its status.
        status: StatusCode,
        /// The beginning of its body.
        says: String,
    },
}

/// A GET of `path`.
pub(crate) fn get(target: &Target, path: &str) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.uri_mut() = path.parse().unwrap_or_default();
    if let Ok(host) = HeaderValue::from_str(target.authority()) {
        request.headers_mut().insert(HOST, host);
    }
    request
}

/// Sends a request and awaits the header of a success; the body is the caller's to read.
pub(crate) async fn fetch(
    target: &Target,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<Response<Incoming>, FetchError> {
    let response = send(target, request, limit).await?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let says = text(target, response, limit).await.unwrap_or_default();
    let says = says.trim().chars().take(MAX_SHOWN_CHARS).collect();
    Err(FetchError::Status { target: target.clone(), status, says })
}

/// The same, whatever the status.
pub(crate) async fn send(
    target: &Target,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<Response<Incoming>, FetchError> {
    let asked = async {
        let stream = TcpStream::connect(target.address())
            .await
            .map_err(|source| FetchError::Connect { target: target.clone(), source })?;
        let broken = |source| FetchError::Http { target: target.clone(), source };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Its end shows in the response body.
        tokio::spawn(async { drop(connection.await) });
        sender.send_request(request).await.map_err(broken)
    };
    tokio::time::timeout(limit, asked)
        .await
        .map_err(|_| FetchError::Timeout { target: target.clone(), limit })?
}

/// Reads a body as text.
pub(crate) async fn text(
    target: &Target,
    response: Response<Incoming>,
    limit: Duration,
) -> Result<String, FetchError> {
    let body = Limited::new(response.into_body(), MAX_TEXT_BYTES).collect();
    let body = tokio::time::timeout(limit, body)
        .await
        .map_err(|_| FetchError::Timeout { target: target.clone(), limit })?
        .map_err(|error| FetchError::Body { target: target.clone(), says: error.to_string() })?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}
