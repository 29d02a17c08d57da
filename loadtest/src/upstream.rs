//! Fake upstreams: one small HTTP server whose paths choose how it behaves.
//!
//! It shares the machine's cores with the gateway it stands behind, so an ordinary answer does no
//! formatting, no allocation of a body and no timer. The first path segment that names a behaviour
//! decides; what stands before it is ignored, so a gateway may keep its route prefix.
//!
//! | path | answer |
//! |---|---|
//! | `/fixed/<n>` | n bytes with Content-Length |
//! | `/slow/<ms>` | the plain answer after so long |
//! | `/stream/<chunks>/<bytes>/<ms>` | chunked, a pause between chunks |
//! | `/chunked/<chunks>/<bytes>` | chunked, without pauses |
//! | `/grpc/<messages>/<bytes>` | the same with a status in trailers, as gRPC has it |
//! | `/204`, `/304` | no body |
//! | `/head` | 1234 bytes, or only their Content-Length to a HEAD |
//! | `/fail/<status>` | that status and a short text |
//! | `/reset` | half of what Content-Length promised, then the connection closes |
//! | `/echo` | the request body, read whole first (8 MiB at most) |
//! | `/headers` | the request headers as JSON |
//! | `/events/<events>/<ms>` | server-sent events with pauses between them |
//! | `/websocket` | to an upgrade: 101, then whatever comes is sent back until it ends |
//! | anything else | 72 bytes of JSON |

mod body;

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, UPGRADE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use body::{FILL_BYTES, Payload};

/// The answer to every path that names no behaviour.
pub const PLAIN_ANSWER: &[u8; 72] =
    br#"{"ok":true,"from":"loadtest upstream","note":"72 bytes always the same"}"#;

const MAX_FIXED_BYTES: u64 = 1 << 30;
const MAX_CHUNKS: u64 = 1_000_000;
const MAX_PAUSE_MS: u64 = 60_000;
const MAX_ECHO_BYTES: usize = 8 << 20;
const HEAD_BYTES: u64 = 1234;
const RESET_PROMISED_BYTES: u64 = 2000;
const EVENT_BYTES: u64 = 80;

/// A bound, not yet serving, server.
pub struct Upstream {
    listener: TcpListener,
    address: SocketAddr,
}

impl Upstream {
    /// Binds a loopback port; 0 lets the system choose.
    pub async fn bind(port: u16) -> std::io::Result<Upstream> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        Ok(Upstream { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` completes; open connections are then dropped.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let mut connections = tokio::task::JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(connection(stream))),
                    // Out of descriptors, most likely: give some time to come free.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// A client that goes away, or does not speak HTTP, is no news to a fake upstream.
async fn connection(stream: TcpStream) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    // One look at the first bytes tells the protocols apart: "PRI " is no HTTP/1 method.
    let mut start = [0; 4];
    let prior_knowledge = matches!(stream.peek(&mut start).await, Ok(4) if &start == b"PRI ");
    let service = service_fn(answer);
    let ended = if prior_knowledge {
        let server = http2::Builder::new(TokioExecutor::new());
        server.serve_connection(TokioIo::new(stream), service).await
    } else {
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connection.with_upgrades().await
    };
    drop(ended);
}

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
enum Behaviour {
    Fixed(u64),
    Slow(Duration),
    Stream { chunks: u64, bytes: u64, pause: Option<Duration> },
    Grpc { messages: u64, bytes: u64 },
    NoContent,
    NotModified,
    Head,
    Fail(u16),
    Reset,
    Echo,
    Headers,
    Events { events: u64, pause: Duration },
    Websocket,
    Plain,
    Malformed,
}

fn behaviour(path: &str) -> Behaviour {
    let mut parts = path.split('/');
    while let Some(word) = parts.next() {
        let mut number = |most: u64| parts.next()?.parse::<u64>().ok().filter(|n| *n <= most);
        let found = match word {
            "fixed" => number(MAX_FIXED_BYTES).map(Behaviour::Fixed),
            "slow" => number(MAX_PAUSE_MS).map(|ms| Behaviour::Slow(Duration::from_millis(ms))),
            "stream" => (|| {
                let (chunks, bytes) = (number(MAX_CHUNKS)?, number(FILL_BYTES)?);
                let pause = Some(Duration::from_millis(number(MAX_PAUSE_MS)?));
                Some(Behaviour::Stream { chunks, bytes, pause })
            })(),
            "chunked" => (|| {
                let (chunks, bytes) = (number(MAX_CHUNKS)?, number(FILL_BYTES)?);
                Some(Behaviour::Stream { chunks, bytes, pause: None })
            })(),
            "grpc" => (|| {
                let (messages, bytes) = (number(MAX_CHUNKS)?, number(FILL_BYTES)?);
                Some(Behaviour::Grpc { messages, bytes })
            })(),
            "fail" => number(599).filter(|n| *n >= 200).map(|n| Behaviour::Fail(n as u16)),
            "204" => Some(Behaviour::NoContent),
            "304" => Some(Behaviour::NotModified),
            "head" => Some(Behaviour::Head),
            "reset" => Some(Behaviour::Reset),
            "echo" => Some(Behaviour::Echo),
            "headers" => Some(Behaviour::Headers),
            "events" => (|| {
                let (events, pause) = (number(MAX_CHUNKS)?, number(MAX_PAUSE_MS)?);
                Some(Behaviour::Events { events, pause: Duration::from_millis(pause) })
            })(),
            "websocket" => Some(Behaviour::Websocket),
            _ => continue,
        };
        return found.unwrap_or(Behaviour::Malformed);
    }
    Behaviour::Plain
}

async fn answer(request: Request<Incoming>) -> Result<Response<Payload>, Infallible> {
    let behaviour = behaviour(request.uri().path());
    if behaviour == Behaviour::Echo {
        return Ok(echo(request).await);
    }
    if behaviour == Behaviour::Websocket && request.headers().contains_key(UPGRADE) {
        return Ok(websocket(request));
    }
    let to_head = request.method() == Method::HEAD;
    let headers = (behaviour == Behaviour::Headers).then(|| request.headers().clone());
    if !request.body().is_end_stream() {
        // An unread body would cost the client its connection.
        let mut body = request.into_body();
        while let Some(Ok(_)) = body.frame().await {}
    }
    Ok(match behaviour {
        Behaviour::Fixed(bytes) => ok("application/octet-stream", Payload::fill(bytes)),
        Behaviour::Slow(pause) => {
            tokio::time::sleep(pause).await;
            plain()
        }
        Behaviour::Stream { chunks, bytes, pause } => {
            ok("application/octet-stream", Payload::chunks(chunks, bytes, pause))
        }
        Behaviour::Grpc { messages, bytes } => {
            let trailer = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
            let body = Payload::chunks(messages, bytes, None).with_trailer(trailer);
            ok("application/grpc", body)
        }
        Behaviour::NoContent => empty(StatusCode::NO_CONTENT),
        Behaviour::NotModified => {
            let mut response = empty(StatusCode::NOT_MODIFIED);
            response.headers_mut().insert(ETAG, HeaderValue::from_static("\"loadtest\""));
            response
        }
        Behaviour::Head => {
            let body = if to_head { Payload::empty() } else { Payload::fill(HEAD_BYTES) };
            let mut response = ok("application/octet-stream", body);
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(HEAD_BYTES));
            response
        }
        Behaviour::Fail(status) => text(status, "the fake upstream was asked to fail\n"),
        Behaviour::Malformed => text(400, "the fake upstream did not understand the path\n"),
        Behaviour::Reset => ok("application/octet-stream", Payload::cut(RESET_PROMISED_BYTES)),
        Behaviour::Headers => seen(&headers.unwrap_or_default()),
        Behaviour::Events { events, pause } => {
            ok("text/event-stream", Payload::chunks(events, EVENT_BYTES, Some(pause)))
        }
        Behaviour::Plain | Behaviour::Echo | Behaviour::Websocket => plain(),
    })
}

fn plain() -> Response<Payload> {
    ok("application/json", Payload::whole(Bytes::from_static(PLAIN_ANSWER)))
}

fn ok(content_type: &'static str, body: Payload) -> Response<Payload> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn empty(status: StatusCode) -> Response<Payload> {
    let mut response = Response::new(Payload::empty());
    *response.status_mut() = status;
    response
}

fn text(status: u16, says: &'static str) -> Response<Payload> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return empty(status);
    }
    let mut response = ok("text/plain", Payload::whole(Bytes::from_static(says.as_bytes())));
    *response.status_mut() = status;
    response
}

async fn echo(request: Request<Incoming>) -> Response<Payload> {
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    match Limited::new(request.into_body(), MAX_ECHO_BYTES).collect().await {
        Ok(body) => {
            let mut response = ok("application/octet-stream", Payload::whole(body.to_bytes()));
            if let Some(content_type) = content_type {
                response.headers_mut().insert(CONTENT_TYPE, content_type);
            }
            response
        }
        Err(_) => text(413, "the request body is too long, or was cut short\n"),
    }
}

/// Switches protocols and sends back what comes. Nobody checks the key: no browser asks.
fn websocket(request: Request<Incoming>) -> Response<Payload> {
    tokio::spawn(async {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let mut stream = TokioIo::new(upgraded);
            let mut buffer = [0; 1024];
            while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..bytes]).await.is_err() {
                    break;
                }
            }
            // Whoever is gone needs no farewell.
            stream.shutdown().await.ok();
        }
    });
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    response
}

/// `{"name": ["value", ...], ...}`, as the upstream received them.
fn seen(headers: &http::HeaderMap) -> Response<Payload> {
    let value = |v: &HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    let all = |name: &HeaderName| headers.get_all(name).iter().map(value).collect::<Vec<_>>();
    let fields: std::collections::BTreeMap<_, _> =
        headers.keys().map(|name| (name.as_str(), all(name))).collect();
    let json = serde_json::to_vec(&fields).expect("a map of strings is JSON");
    ok("application/json", Payload::whole(json.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_choose_behaviours() {
        let stream = |chunks, bytes, ms: Option<u64>| Behaviour::Stream {
            chunks,
            bytes,
            pause: ms.map(Duration::from_millis),
        };
        for (path, expected) in [
            ("/fixed/10", Behaviour::Fixed(10)),
            ("/billing/v1/fixed/10", Behaviour::Fixed(10)),
            ("/slow/5", Behaviour::Slow(Duration::from_millis(5))),
            ("/stream/3/100/7", stream(3, 100, Some(7))),
            ("/chunked/3/100", stream(3, 100, None)),
            ("/load/grpc/3/100", Behaviour::Grpc { messages: 3, bytes: 100 }),
            ("/fail/503", Behaviour::Fail(503)),
            ("/fail/100", Behaviour::Malformed),
            ("/fixed/", Behaviour::Malformed),
            ("/fixed/99999999999", Behaviour::Malformed),
            ("/stream/3", Behaviour::Malformed),
            ("/events/9/5", Behaviour::Events { events: 9, pause: Duration::from_millis(5) }),
            ("/load/websocket", Behaviour::Websocket),
            ("/204", Behaviour::NoContent),
            ("/v1/customers", Behaviour::Plain),
            ("", Behaviour::Plain),
        ] {
            assert_eq!(behaviour(path), expected, "{path}");
        }
    }
}
