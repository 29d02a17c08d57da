//! The demonstration upstream that `orbit up` puts behind the gateway.
//!
//! Owns a small HTTP server on loopback with a few paths worth proxying: plain, chunked, empty,
//! slow and failing answers, each telling which identity the gateway vouched for. Guarantees that
//! it never repeats a credential and that it is gone when its handle is.

mod pieces;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use pieces::Pieces;

/// Longest answer delay a client may ask for.
const MAX_DELAY: Duration = Duration::from_secs(30);
/// Most pieces a client may ask `/stream` for.
const MAX_PIECES: u32 = 10_000;

/// A running demonstration upstream.
pub struct Demo {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Demo {
    /// Binds `address` (port 0 takes a free one) and serves on a thread of its own.
    pub fn start(address: SocketAddr) -> io::Result<Demo> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("demo".to_owned()).spawn(move || {
            runtime.block_on(serve(listener, stopped));
            // Whoever still reads a stream is cut off here.
            runtime.shutdown_background();
        })?;
        Ok(Demo { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the demo upstream's thread panicked");
        }
    }
}

/// Serves until the other end of `stopped` is gone.
async fn serve(listener: TcpListener, stopped: oneshot::Receiver<()>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the demo upstream cannot listen"),
    };
    let server = std::future::IntoFuture::into_future(axum::serve(listener, routes()));
    tokio::select! {
        result = server => {
            if let Err(error) = result {
                tracing::error!(%error, "the demo upstream stopped");
            }
        }
        _ = stopped => {}
    }
}

/// Every path answers, by its last segment: the routes of `config/policy` put an app before it.
fn routes() -> Router {
    let segment = |name: &str, handler: MethodRouter| {
        Router::new()
            .route(&format!("/{name}"), handler.clone())
            .route(&format!("/{{app}}/{name}"), handler)
    };
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .merge(segment("stream", get(stream)))
        .merge(segment("nothing", any(async || StatusCode::NO_CONTENT)))
        .merge(segment("slow", get(slow)))
        .merge(segment("fail", any(fail)))
        .merge(segment("reports", get(reports).post(new_report)))
        .fallback(echo)
}

/// What the gateway says about the caller; the only request headers ever repeated.
fn identity(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers
        .iter()
        .filter(|(name, _)| {
            let name = name.as_str();
            name.starts_with("x-orbit-") || name == "x-request-id" || name == "traceparent"
        })
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect()
}

async fn echo(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let body = json!({
        "message": "hello from the demo upstream",
        "method": method.as_str(),
        "path": uri.path(),
        "identity": identity(&headers),
    });
    Json(body).into_response()
}

/// `/stream?pieces=10&interval_ms=20`: a body of unknown length, one line a piece.
#[derive(Deserialize)]
struct StreamQuery {
    pieces: Option<u32>,
    interval_ms: Option<u64>,
}

async fn stream(Query(query): Query<StreamQuery>) -> Response {
    let pieces = query.pieces.unwrap_or(10).min(MAX_PIECES);
    let interval = Duration::from_millis(query.interval_ms.unwrap_or(20)).min(MAX_DELAY);
    let body = Body::new(Pieces::new(pieces, interval));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// `/slow?ms=500`.
#[derive(Deserialize)]
struct SlowQuery {
    ms: Option<u64>,
}

async fn slow(Query(query): Query<SlowQuery>) -> Response {
    let delay = Duration::from_millis(query.ms.unwrap_or(500)).min(MAX_DELAY);
    tokio::time::sleep(delay).await;
    Json(json!({ "waited_ms": delay.as_millis() as u64 })).into_response()
}

async fn fail() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": "as asked" }))).into_response()
}

async fn reports(headers: HeaderMap) -> Response {
    let body = json!({
        "reports": [
            { "id": "r-1", "title": "Sales by region", "status": "ready" },
            { "id": "r-2", "title": "Churn", "status": "running" },
        ],
        "identity": identity(&headers),
    });
    Json(body).into_response()
}

async fn new_report() -> Response {
    let location = [(header::LOCATION, "/reports/r-3")];
    (StatusCode::CREATED, location, Json(json!({ "id": "r-3", "status": "queued" })))
        .into_response()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn get(demo: &Demo, target: &str, headers: &str) -> String {
        let mut socket = TcpStream::connect(demo.address()).expect("it listens");
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("answered");
        answer
    }

    #[test]
    fn it_repeats_the_identity_and_no_credential() {
        let demo = Demo::start(SocketAddr::from(([127, 0, 0, 1], 0))).expect("started");
        let headers = "X-Orbit-Tenant: acme-web\r\nAuthorization: Bearer hidden\r\n";
        let answer = get(&demo, "/hello", headers);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(r#""x-orbit-tenant":"acme-web""#), "{answer}");
        assert!(!answer.contains("hidden"), "{answer}");
        assert!(get(&demo, "/crm/nothing", "").starts_with("HTTP/1.1 204"));
        assert!(get(&demo, "/fail", "").starts_with("HTTP/1.1 500"));
    }

    #[test]
    fn a_stream_is_chunked_and_ends() {
        let demo = Demo::start(SocketAddr::from(([127, 0, 0, 1], 0))).expect("started");
        let answer = get(&demo, "/stream?pieces=3&interval_ms=0", "");
        assert!(answer.to_lowercase().contains("transfer-encoding: chunked"), "{answer}");
        assert_eq!(answer.matches(r#"{"piece":"#).count(), 3, "{answer}");
        assert!(answer.ends_with("0\r\n\r\n"), "{answer}");
    }

    #[test]
    fn its_port_is_free_after_drop() {
        let demo = Demo::start(SocketAddr::from(([127, 0, 0, 1], 0))).expect("started");
        let address = demo.address();
        drop(demo);
        assert!(TcpStream::connect(address).is_err());
    }
}
