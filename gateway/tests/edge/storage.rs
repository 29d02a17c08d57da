//! Quotas of storage on the wire: an upload that does not fit is refused before it is read where its
//! length is known, and while it streams where not (P1, P2).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use orbit_meter::event::{Flags, Kind, View};
use orbit_policy::ApiKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Bench, Seen, policy_text, read_until, scripted, upstream};

const METER: &str = r#"
[[meter]]
id = "storage"
value = "request_bytes"
routes = ["crm"]
[[route]]
id = "free"
path = "/free"
app = "crm"
upstream = "apps"
"#;

/// An edge whose team has so many bytes.
fn with_limit(upstream: std::net::SocketAddr, seen: Seen, limit: u64) -> Bench {
    let key = ApiKey::generate("test").unwrap();
    let quota =
        format!("quotas = [{{ name = \"storage\", meter = \"storage\", limit = {limit} }}]");
    let text = policy_text(upstream, &key, "").replace("limits = []", &quota) + METER;
    Bench::of_policy(text, key, upstream, seen, |_| {})
}

async fn bench(limit: u64) -> Bench {
    let (upstream, seen) = upstream().await;
    with_limit(upstream, seen, limit)
}

/// In use at the quota of the team, with what is on its way.
fn level(bench: &Bench) -> u64 {
    let snapshot = bench.policy.load();
    let quotas = snapshot.quotas_of("acme-web", 0).unwrap();
    quotas.iter().find(|quota| quota.meter == "storage").unwrap().used
}

/// What the rows make of it: the quantities of all figures.
fn stored(bench: &Bench) -> i128 {
    let mut stored = 0;
    for lane in bench.journal.lanes() {
        let mut reader = bench.journal.reader(lane, None).unwrap();
        while let Some(frame) = reader.read().unwrap() {
            let row = View::decode(frame.row).unwrap();
            if row.kind() == Kind::Request && row.meter() == "storage" {
                assert!(row.flags().contains(Flags::MEASURED));
                assert!((200..300).contains(&row.status()), "{}", row.status());
                stored += row.quantity_nano() / 1_000_000_000;
            }
        }
    }
    stored
}

/// When nothing is on its way any more: what is stored, by quota and rows.
async fn settled(bench: &Bench) -> u64 {
    while i128::from(level(bench)) != stored(bench) {
        tokio::task::yield_now().await;
    }
    level(bench)
}

async fn put(bench: &Bench, path: &str, bytes: usize) -> (StatusCode, HeaderMap, Bytes) {
    let set = |request: &mut http::Request<_>| {
        *request.body_mut() = Full::new(Bytes::from(vec![b'x'; bytes])).boxed();
    };
    bench.send("POST", path, set).await
}

/// A refusal's body without what differs each time.
fn problem(body: &[u8]) -> Value {
    let mut problem: Value = serde_json::from_slice(body).unwrap();
    problem.as_object_mut().unwrap().remove("instance").unwrap();
    problem
}

#[tokio::test]
async fn p1_an_upload_of_known_length_is_refused_before_it_is_read_to_the_byte() {
    let bench = bench(1_000).await;
    assert_eq!(put(&bench, "/store", 990).await.0, StatusCode::CREATED);
    let (status, headers, body) = put(&bench, "/store", 11).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    for absent in ["retry-after", "ratelimit"] {
        assert!(!headers.contains_key(absent), "a level has no end: {headers:?}");
    }
    assert_eq!(headers["ratelimit-policy"], "\"plan/requests\";q=100000;w=1");
    assert_eq!(
        problem(&body),
        json!({
            "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
            "title": "Too Many Requests",
            "status": 429,
            "detail": "`team/storage` of team `acme-web` has no room for the request: 990 of 1000 storage are in use.",
            "quota": "team/storage",
            "meter": "storage",
            "level": "team",
            "tenant": "acme-web",
            "used": 990,
            "limit": 1_000,
            "violated-policies": ["team/storage"],
        })
    );
    assert_eq!(put(&bench, "/store", 10).await.0, StatusCode::CREATED, "to the byte");
    assert_eq!(put(&bench, "/store", 1).await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(bench.seen.lock().unwrap().len(), 2, "nothing else went to the upstream");
    assert_eq!(settled(&bench).await, 1_000);
    // What raises nothing is not refused, nor what does not count on the meter.
    assert_eq!(bench.get("/").await.0, StatusCode::OK);
    assert_eq!(bench.send("DELETE", "/", |_| {}).await.0, StatusCode::OK);
    assert_eq!(put(&bench, "/store", 0).await.0, StatusCode::CREATED);
    assert_eq!(put(&bench, "/free", 50).await.0, StatusCode::OK);
    assert_eq!(settled(&bench).await, 1_000);
}

#[tokio::test]
async fn what_fails_is_given_back_and_leaves_no_row() {
    let bench = bench(1_000).await;
    for (path, status) in [("/reject", 507), ("/500", 500), ("/never", 504), ("/304", 304)] {
        assert_eq!(put(&bench, path, 1_000).await.0, status, "{path}");
        assert_eq!((settled(&bench).await, stored(&bench)), (0, 0), "{path}");
    }
    // A client that goes away in the middle.
    let text = "POST /store HTTP/1.1\nHost: x\nX-Api-Key: {key}\nContent-Length: 1000\n\nxxxxx";
    let before = bench.seen.lock().unwrap().len();
    let client = bench.raw(text).await;
    while bench.seen.lock().unwrap().len() == before {
        tokio::task::yield_now().await;
    }
    assert_eq!(level(&bench), 1_000, "reserved whole");
    assert_eq!(put(&bench, "/store", 1).await.0, StatusCode::TOO_MANY_REQUESTS);
    drop(client);
    assert_eq!(settled(&bench).await, 0);
    assert_eq!(put(&bench, "/store", 1_000).await.0, StatusCode::CREATED);
    assert_eq!(settled(&bench).await, 1_000);
}

#[tokio::test]
async fn an_upload_that_is_answered_before_it_has_come_counts_what_came() {
    let (upstream, go) =
        scripted(vec!["HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", "0\n\n"]).await;
    let bench = with_limit(upstream, Seen::default(), 1_000);
    let text = "POST / HTTP/1.1\nHost: x\nX-Api-Key: {key}\nContent-Length: 8\n\nfive!";
    let mut client = bench.raw(text).await;
    read_until(&mut client, "\r\n\r\n").await;
    client.write_all(b"xyz").await.unwrap();
    go.add_permits(1);
    read_until(&mut client, "0\r\n\r\n").await;
    drop(client);
    assert_eq!(settled(&bench).await, 8);
}

/// An upstream that tells how much of the bodies it got, whether or not they end, and answers each
/// whole one with 201.
async fn counting() -> (std::net::SocketAddr, Arc<AtomicU64>, Arc<Mutex<Vec<&'static str>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (got, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (bytes, log) = (Arc::clone(&got), Arc::clone(&ends));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (bytes, log) = (Arc::clone(&bytes), Arc::clone(&log));
            let serve =
                hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (bytes, log) = (Arc::clone(&bytes), Arc::clone(&log));
                    async move {
                        let mut body = request.into_body();
                        while let Some(frame) = body.frame().await {
                            let Ok(frame) = frame else {
                                log.lock().unwrap().push("cut");
                                return Err(std::io::Error::other("cut"));
                            };
                            let length = frame.data_ref().map_or(0, Bytes::len);
                            bytes.fetch_add(length as u64, Ordering::Relaxed);
                        }
                        log.lock().unwrap().push("whole");
                        let answer = http::Response::builder().status(201);
                        answer.body(Full::new(Bytes::new())).map_err(std::io::Error::other)
                    }
                });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), serve),
            );
        }
    });
    (address, got, ends)
}

const CHUNKED: &str = "POST / HTTP/1.1\nHost: x\nX-Api-Key: {key}\nTransfer-Encoding: chunked\n\n";

/// The answer to a chunked body of these pieces, each sent once the one before has arrived.
async fn chunked(
    bench: &Bench,
    got: &AtomicU64,
    pieces: &[usize],
) -> (String, tokio::net::TcpStream) {
    let mut client = bench.raw(CHUNKED).await;
    for piece in pieces {
        let before = got.load(Ordering::Relaxed);
        let text = format!("{piece:x}\r\n{}\r\n", "x".repeat(*piece));
        client.write_all(text.as_bytes()).await.unwrap();
        // Until it has gone on, or was refused.
        let mut answer = [0; 4096];
        loop {
            if got.load(Ordering::Relaxed) == before + *piece as u64 {
                break;
            }
            match client.try_read(&mut answer) {
                Ok(length) => {
                    let mut text = String::from_utf8_lossy(&answer[..length]).into_owned();
                    let mut rest = Vec::new();
                    let _closed = client.read_to_end(&mut rest).await;
                    text.push_str(&String::from_utf8_lossy(&rest));
                    return (text, client);
                }
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }
    client.write_all(b"0\r\n\r\n").await.unwrap();
    (read_until(&mut client, "\r\n\r\n").await, client)
}

#[tokio::test]
async fn p1_a_chunked_upload_goes_as_far_as_there_is_room_to_the_byte() {
    let (upstream, got, ends) = counting().await;
    let bench = with_limit(upstream, Seen::default(), 1_000);
    let (answer, _) = chunked(&bench, &got, &[300, 400]).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(settled(&bench).await, 700);
    // The piece that does not fit stays here, and the upstream sees no end.
    let (answer, _) = chunked(&bench, &got, &[100, 199, 2]).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert!(answer.contains("quota-exceeded") && answer.contains("\"used\":999"), "{answer}");
    assert!(!answer.to_lowercase().contains("retry-after"), "{answer}");
    while ends.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*ends.lock().unwrap(), ["whole", "cut"]);
    assert_eq!(got.load(Ordering::Relaxed), 999);
    assert_eq!(settled(&bench).await, 700, "what came of it is given back");
    let (answer, _) = chunked(&bench, &got, &[100, 199, 1]).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "to the byte: {answer}");
    assert_eq!(settled(&bench).await, 1_000);
    let (answer, _) = chunked(&bench, &got, &[1]).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "nothing is left: {answer}");
    assert_eq!(got.load(Ordering::Relaxed), 1_299, "it was not begun");
    // Its row is that of a request that was answered with 429.
    let statuses: Vec<u16> = bench.rows().iter().map(|row| row.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 1);
}

/// A body whose length nothing tells.
struct Frames(VecDeque<Bytes>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

#[tokio::test]
async fn p1_an_http2_upload_without_a_length_goes_as_far_as_there_is_room() {
    let (upstream, got, _) = counting().await;
    let bench = with_limit(upstream, Seen::default(), 1_000);
    let send = async |pieces: Vec<usize>, length: Option<usize>, method: &str| {
        let client: Client<_, Frames> =
            Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        let body = Frames(pieces.into_iter().map(|piece| Bytes::from(vec![b'x'; piece])).collect());
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}/", bench.address))
            .header("x-api-key", bench.key.reveal());
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let answer = client.request(request.body(body).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    };
    assert_eq!(send(vec![500, 200], None, "POST").await.0, 201);
    assert_eq!(settled(&bench).await, 700);
    let (status, body) = send(vec![100, 200, 1], None, "POST").await;
    assert_eq!((status, problem(&body)["used"].as_u64()), (429, Some(1_000)));
    assert_eq!(settled(&bench).await, 700);
    let before = got.load(Ordering::Relaxed);
    let (status, _) = send(vec![100, 201], Some(301), "POST").await;
    assert_eq!((status, got.load(Ordering::Relaxed)), (429, before), "it was not begun");
    assert_eq!(send(vec![100, 200], Some(300), "POST").await.0, 201);
    assert_eq!(settled(&bench).await, 1_000);
    // Bodies that may come and do not.
    for method in ["GET", "DELETE"] {
        assert_eq!(send(vec![], None, method).await.0, 201);
    }
    assert_eq!(send(vec![1], None, "DELETE").await.0, 429, "one that comes after all");
}

#[tokio::test]
async fn p1_sixteen_uploaders_at_once_never_pass_the_level() {
    const LIMIT: u64 = 20_000;
    let bench = Arc::new(bench(LIMIT).await);
    let stored = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..16_usize)
        .map(|task| {
            let (bench, stored) = (Arc::clone(&bench), Arc::clone(&stored));
            tokio::spawn(async move {
                for turn in 0..30 {
                    let bytes = 17 + (task * 31 + turn * 7) % 150;
                    let path = if turn % 4 == 3 { "/reject" } else { "/store" };
                    if put(&bench, path, bytes).await.0 == StatusCode::CREATED {
                        stored.fetch_add(bytes as u64, Ordering::Relaxed);
                    }
                    assert!(level(&bench) <= LIMIT);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let stored = stored.load(Ordering::Relaxed);
    assert_eq!(settled(&bench).await, stored);
    assert!(stored <= LIMIT && stored > LIMIT - 200, "filled and not more: {stored}");
}
