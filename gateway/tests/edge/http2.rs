//! Pools that speak HTTP/2, with trailers (gRPC): M1 for every way in which such an answer ends.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use orbit_gateway::proxy::Edge;
use orbit_meter::event::Flags;
use orbit_policy::{ApiKey, Nanos};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use crate::harness::{Bench, Seen, dead_address, policy_text, read_until};

type Body = BoxBody<Bytes, std::io::Error>;
type Frames = Vec<Frame<Bytes>>;

/// Ends with the header, and says nothing of a length: what a gRPC error without a message is.
struct Nothing;

impl hyper::body::Body for Nothing {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

/// Frames as they come. Its end is an empty DATA frame, unless it ends with trailers.
struct Streamed(mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>);

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(context)
    }
}

/// `frames`, the last one or else the end only when it may.
fn streamed(frames: Frames, hold: Option<Arc<Semaphore>>) -> Body {
    let (to_body, body) = mpsc::channel(8);
    tokio::spawn(async move {
        let count = frames.len();
        for (index, frame) in frames.into_iter().enumerate() {
            if frame.is_trailers() || index + 1 == count && count > 1 {
                pass(hold.as_ref()).await;
            }
            if to_body.send(Ok(frame)).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        if count == 1 {
            pass(hold.as_ref()).await;
        }
    });
    Streamed(body).boxed()
}

async fn pass(hold: Option<&Arc<Semaphore>>) {
    if let Some(hold) = hold {
        hold.acquire().await.unwrap().forget();
    }
}

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

fn trailers() -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    Frame::trailers(trailers)
}

async fn answer(
    request: Request<Incoming>,
    seen: Seen,
    hold: Arc<Semaphore>,
) -> Result<Response<Body>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    seen.lock().unwrap().push((parts.method, path.clone(), parts.headers));
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let held = path.ends_with("-held").then_some(hold);
    let grpc = Response::builder().header("content-type", "application/grpc");
    let response = match path.trim_end_matches("-held") {
        "/grpc/unary" => grpc.body(streamed(vec![data("hello"), trailers()], held)),
        "/grpc/stream" => {
            let frames = vec![data("one"), data("two"), data("three"), trailers()];
            grpc.body(streamed(frames, held))
        }
        "/grpc/error" => grpc.header("grpc-status", "7").body(Nothing.boxed()),
        "/nothing" => Response::builder().body(Nothing.boxed()),
        "/empty-data" => Response::builder().body(streamed(Vec::new(), held)),
        "/then-empty-data" => Response::builder().body(streamed(vec![data("hello")], held)),
        "/length-then-empty-data" => Response::builder()
            .header("content-length", "5")
            .body(streamed(vec![data("hello")], held)),
        "/head" => Response::builder().header("content-length", "5").body(Nothing.boxed()),
        "/204" => Response::builder().status(204).body(Nothing.boxed()),
        "/echo" => {
            Response::builder().body(Full::from(body).map_err(|never| match never {}).boxed())
        }
        _ => {
            let whole = Full::from("hello").map_err(|never| match never {});
            Response::builder().body(whole.boxed())
        }
    };
    response.map_err(std::io::Error::other)
}

async fn upstream() -> (SocketAddr, Seen, Arc<Semaphore>) {
    let (seen, hold) = (Seen::default(), Arc::new(Semaphore::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (log, may) = (Arc::clone(&seen), Arc::clone(&hold));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (log, may) = (Arc::clone(&log), Arc::clone(&may));
            let serve =
                service_fn(move |request| answer(request, Arc::clone(&log), Arc::clone(&may)));
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), serve));
        }
    });
    (address, seen, hold)
}

fn bench(peers: &str, more: &str, seen: Seen, adjust: impl FnOnce(&mut Edge)) -> Bench {
    let key = ApiKey::generate("test").unwrap();
    let nobody = "127.0.0.1:1".parse().unwrap();
    let text = policy_text(nobody, &key, "").replacen(
        "peers = [{ address = \"127.0.0.1:1\" }]",
        &format!("peers = [{peers}]\nprotocol = \"http2\"\n{more}"),
        1,
    );
    Bench::of_edge(text, key, nobody, seen, |_| {}, adjust)
}

async fn before_http2(adjust: impl FnOnce(&mut Edge)) -> (Bench, Arc<Semaphore>) {
    let (address, seen, hold) = upstream().await;
    (bench(&format!(r#"{{ address = "{address}" }}"#), "", seen, adjust), hold)
}

fn client(version: Version) -> Client<HttpConnector, Full<Bytes>> {
    let is_http2 = version == Version::HTTP_2;
    Client::builder(TokioExecutor::new()).http2_only(is_http2).build_http()
}

fn request(bench: &Bench, method: &str, path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", bench.address))
        .header("x-api-key", bench.key.reveal())
        .header("te", "trailers")
        .body(Full::from(body))
        .unwrap()
}

#[tokio::test]
async fn m1_no_end_of_an_http2_upstreams_answer_is_seen_without_its_one_record() {
    let (bench, _) = before_http2(|_| {}).await;
    let mut expected = 0;
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let client = client(version);
        for round in 0..20 {
            for (method, path, body) in [
                ("POST", "/grpc/unary", "hello"),
                ("POST", "/grpc/stream", "onetwothree"),
                ("POST", "/grpc/error", ""),
                ("GET", "/nothing", ""),
                ("GET", "/empty-data", ""),
                ("GET", "/then-empty-data", "hello"),
                ("GET", "/length-then-empty-data", "hello"),
                ("GET", "/whole", "hello"),
                ("HEAD", "/head", ""),
                ("GET", "/204", ""),
            ] {
                let name = format!("{version:?} {method} {path} in round {round}");
                let answer = client.request(request(&bench, method, path, "")).await.unwrap();
                let collected = answer.into_body().collect().await.unwrap();
                expected += 1;
                assert_eq!(bench.events(), expected, "{name}");
                let has_trailers = collected.trailers().is_some();
                let should =
                    version == Version::HTTP_2 && ["/grpc/unary", "/grpc/stream"].contains(&path);
                assert_eq!(has_trailers, should, "{name}");
                assert_eq!(collected.to_bytes(), body, "{name}");
            }
        }
    }
    let rows = bench.rows();
    assert_eq!(rows.len(), 400);
    assert!(rows.iter().all(|row| row.brief().1 == Flags::NONE), "one row each, and whole");
    let bytes: u64 = rows.iter().map(|row| row.response_bytes).sum();
    assert_eq!(bytes, 2 * 20 * (5 + 11 + 5 + 5 + 5));
}

#[tokio::test]
async fn m1_a_client_that_has_every_announced_byte_has_its_record_though_the_upstream_goes_on() {
    let (bench, hold) = before_http2(|_| {}).await;
    let text = "GET /length-then-empty-data-held HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n";
    for round in 1..=10 {
        let mut stream = bench.raw(text).await;
        read_until(&mut stream, "hello").await;
        assert_eq!(bench.events(), round);
        hold.add_permits(1);
    }
    // The end that comes after the bytes is nothing to write down.
    let answer = client(Version::HTTP_2).request(request(&bench, "GET", "/whole", "")).await;
    answer.unwrap().into_body().collect().await.unwrap();
    assert!(bench.rows().iter().all(|row| row.brief() == (200, Flags::NONE, 0, 5)));
    assert_eq!(bench.events(), 11);
}

#[tokio::test]
async fn m1_a_grpc_stream_that_takes_long_is_counted_on_the_way() {
    let (bench, hold) = before_http2(|edge| edge.long_answer = Nanos(0)).await;
    let request = request(&bench, "POST", "/grpc/stream-held", "");
    let mut answer = client(Version::HTTP_2).request(request).await.unwrap().into_body();
    for piece in ["one", "two", "three"] {
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
    }
    let bytes = |bench: &Bench| bench.rows().iter().map(|row| row.response_bytes).sum::<u64>();
    assert_eq!(bytes(&bench), 11, "all that was seen is recorded");
    hold.add_permits(1);
    assert!(answer.frame().await.unwrap().unwrap().is_trailers());
    let rows = bench.rows();
    assert_eq!(rows[0].brief(), (200, Flags::OPEN, 0, 3));
    assert!(rows[1..].iter().all(|row| row.flags == Flags::PART));
    assert_eq!(bytes(&bench), 11);
}

#[tokio::test]
async fn a_request_body_ends_once_however_its_end_comes() {
    let (bench, _) = before_http2(|_| {}).await;
    let mut expected = 0;
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let client = client(version);
        for body in ["", "some body"].repeat(10) {
            // An empty body of an HTTP/2 client ends with an empty DATA frame.
            let answer = client.request(request(&bench, "POST", "/echo", body)).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), body);
            expected += 1;
            assert_eq!(bench.events(), expected);
        }
    }
    let chunked = "POST /echo HTTP/1.1\nHost: x\nX-Api-Key: {key}\nTransfer-Encoding: chunked\n\n4\nsome\n0\n\n";
    let mut stream = bench.raw(&[chunked, chunked].concat()).await;
    let answers = read_until(&mut stream, "somesome").await;
    assert!(answers.contains("\r\n\r\nsome"), "{answers}");
    for row in bench.rows() {
        assert_eq!(row.request_bytes, row.response_bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_share_a_connection_and_each_has_its_record() {
    let (bench, _) = before_http2(|_| {}).await;
    let bench = Arc::new(bench);
    let client = client(Version::HTTP_2);
    let asked: Vec<_> = (0..300)
        .map(|_| {
            let (bench, client) = (Arc::clone(&bench), client.clone());
            tokio::spawn(async move {
                let request = request(&bench, "POST", "/grpc/unary", "ask");
                let answer = client.request(request).await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK);
                answer.into_body().collect().await.unwrap();
            })
        })
        .collect();
    for one in asked {
        one.await.unwrap();
    }
    assert_eq!(bench.events(), 300);
    assert!(bench.rows().iter().all(|row| row.brief() == (200, Flags::NONE, 3, 5)));
}

#[tokio::test]
async fn m1_a_dead_http2_server_is_a_recorded_502_and_a_retry_where_there_is_another() {
    let (alive, seen, _) = upstream().await;
    let dead = dead_address().await;
    let nobody = bench(&format!(r#"{{ address = "{dead}" }}"#), "", Seen::default(), |_| {});
    let (status, ..) = nobody.get("/").await;
    assert_eq!((status, nobody.events()), (StatusCode::BAD_GATEWAY, 1));
    assert!(nobody.rows()[0].flags.contains(Flags::GATEWAY_MADE));
    let peers = format!(r#"{{ address = "{dead}" }}, {{ address = "{alive}" }}"#);
    let either = bench(&peers, "retries = 1", seen, |_| {});
    for round in 1..=20 {
        assert_eq!(either.get("/").await.0, StatusCode::OK);
        assert_eq!(either.events(), round, "retried, recorded once");
    }
}

#[tokio::test]
async fn health_is_asked_over_http2_too() {
    let (alive, seen, _) = upstream().await;
    let dead = dead_address().await;
    let peers = format!(r#"{{ address = "{dead}" }}, {{ address = "{alive}" }}"#);
    let health = "retries = 0\nhealth = { path = \"/healthz\", interval_ms = 50, timeout_ms = 500, healthy_after = 1, unhealthy_after = 1 }";
    let bench = bench(&peers, health, seen, |_| {});
    let healthy = |address: SocketAddr| {
        let servers = bench.edge.pools.health();
        servers.iter().any(|server| server.healthy && server.address == address.to_string())
    };
    let probes = || {
        let seen = bench.seen.lock().unwrap();
        seen.iter().filter(|(_, path, _)| path == "/healthz").count()
    };
    while healthy(dead) || probes() < 3 {
        tokio::task::yield_now().await;
    }
    assert!(healthy(alive));
    for _ in 0..20 {
        assert_eq!(bench.send("POST", "/", |_| {}).await.0, StatusCode::OK);
    }
}
