//! An edge on a free port, an upstream that answers by path, and clients.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use orbit_gateway::clock::Clock;
use orbit_gateway::proxy::{Edge, metrics, record};
use orbit_gateway::server::{ProxyServer, Running};
use orbit_gateway::settings::{OnFull, Server};
use orbit_gateway::tenant_api::TenantApi;
use orbit_gateway::upstreams::Pools;
use orbit_meter::clickhouse::{ClickHouseSettings, Store};
use orbit_meter::event::{Flags, Kind, View};
use orbit_meter::journal::{Journal, JournalSettings};
use orbit_meter::refusals::Refusals;
use orbit_policy::quota::InMemory;
use orbit_policy::{ApiKey, Policy, PolicySettings, Source};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// What an upstream saw of a request.
pub(crate) type Seen = Arc<Mutex<Vec<(Method, String, HeaderMap)>>>;

/// A policy around one upstream: tenants `acme` > `acme-web` with a key, `limits` at the team.
pub(crate) fn policy_text(upstream: SocketAddr, key: &ApiKey, limits: &str) -> String {
    format!(
        r#"
[[plan]]
id = "business"
apps = ["crm"]
limits = [{{ name = "requests", rate = 100_000, per = "second" }}]
[[app]]
id = "crm"
[[app]]
id = "ai"
[[upstream]]
id = "apps"
peers = [{{ address = "{upstream}" }}]
read_timeout_ms = 2_000
[[route]]
id = "crm"
app = "crm"
upstream = "apps"
[[route]]
id = "only-get"
app = "crm"
host = "get.example.com"
methods = ["GET"]
upstream = "apps"
[[route]]
id = "ai"
path = "/ai"
app = "ai"
upstream = "apps"
[[tenant]]
id = "acme"
plan = "business"
[[tenant]]
id = "acme-web"
level = "team"
parent = "acme"
limits = [{limits}]
[[tenant]]
id = "gone"
parent = "acme"
status = "suspended"
[[tenant]]
id = "poor"
parent = "acme"
status = "unpaid"
[[key]]
id = "{}"
tenant = "acme-web"
hash = "{}"
"#,
        key.id, key.hash
    )
}

pub(crate) fn sources(text: String) -> Vec<Source> {
    vec![Source { file: "test.toml".into(), text }]
}

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) request_id: [u8; 16],
    pub(crate) ts_us: i64,
    pub(crate) status: u16,
    pub(crate) flags: Flags,
    pub(crate) requests: u32,
    pub(crate) quantity_nano: i128,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) duration_us: u32,
}

impl Row {
    fn of(row: &View<'_>) -> Row {
        Row {
            request_id: row.request_id(),
            ts_us: row.ts_us(),
            status: row.status(),
            flags: row.flags(),
            requests: row.requests(),
            quantity_nano: row.quantity_nano(),
            request_bytes: row.request_bytes(),
            response_bytes: row.response_bytes(),
            duration_us: row.duration_us(),
        }
    }

    /// Status, flags, and the bytes of both bodies.
    pub(crate) fn brief(&self) -> (u16, Flags, u64, u64) {
        let counts = !self.flags.contains(Flags::PART);
        let quantity_nano = if counts { 1_000_000_000 } else { 0 };
        assert_eq!((self.requests, self.quantity_nano), (u32::from(counts), quantity_nano));
        (self.status, self.flags, self.request_bytes, self.response_bytes)
    }
}

/// Everything one test needs.
pub(crate) struct Bench {
    pub(crate) key: ApiKey,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<SocketAddr>,
    pub(crate) upstream: SocketAddr,
    pub(crate) seen: Seen,
    pub(crate) policy: Arc<Policy>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) edge: Arc<Edge>,
    running: Option<Running>,
    _directory: TempDir,
}

impl Bench {
    pub(crate) async fn new(limits: &str) -> Bench {
        Bench::with(limits, |_| {}).await
    }

    pub(crate) async fn with(limits: &str, settings: impl FnOnce(&mut Server)) -> Bench {
        let (upstream, seen) = upstream().await;
        let key = ApiKey::generate("test").unwrap();
        let text = policy_text(upstream, &key, limits);
        Bench::of_policy(text, key, upstream, seen, settings)
    }

    /// In front of an upstream that is there already, and that may take its time.
    pub(crate) fn before(
        upstream: SocketAddr,
        limits: &str,
        adjust: impl FnOnce(&mut Edge),
    ) -> Bench {
        let key = ApiKey::generate("test").unwrap();
        let text = policy_text(upstream, &key, limits).replace("read_timeout_ms = 2_000", "");
        Bench::of_edge(text, key, upstream, Seen::default(), |_| {}, adjust)
    }

    pub(crate) fn of_policy(
        text: String,
        key: ApiKey,
        upstream: SocketAddr,
        seen: Seen,
        settings: impl FnOnce(&mut Server),
    ) -> Bench {
        Bench::of_edge(text, key, upstream, seen, settings, |_| {})
    }

    /// As above; `adjust` may change the edge itself, its journal too.
    pub(crate) fn of_edge(
        text: String,
        key: ApiKey,
        upstream: SocketAddr,
        seen: Seen,
        settings: impl FnOnce(&mut Server),
        adjust: impl FnOnce(&mut Edge),
    ) -> Bench {
        let mut server = Server { threads: 2, ..Server::default() };
        server.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        settings(&mut server);
        let directory = tempfile::tempdir().unwrap();
        let mut journal = JournalSettings::new(directory.path().join("journal"));
        journal.segment_bytes = 1 << 20;
        let journal = Journal::open(journal).unwrap();
        let policy_settings = PolicySettings {
            max_dynamic_keys: 1_000,
            hash_key: [9; 16],
            memory: InMemory::shared(),
        };
        let policy = match Policy::new(&sources(text), &policy_settings, 0) {
            Ok(policy) => Arc::new(policy),
            Err(diagnostics) => panic!("{diagnostics}"),
        };
        let mut edge = Edge {
            limits: server.limits.clone(),
            trusted_proxies: server.trusted_proxies.clone(),
            on_full: OnFull::Refuse,
            policy: Arc::clone(&policy),
            journal: Arc::clone(&journal),
            refusals: Arc::new(Refusals::open(Arc::clone(&journal)).unwrap()),
            refusal_counts: Arc::default(),
            pools: Arc::new(Pools::default()),
            tenant_api: Arc::new(TenantApi::start(Arc::clone(&policy), no_database()).unwrap()),
            clock: Arc::new(Clock::start()),
            metrics: Arc::new(metrics::Metrics::new()),
            long_answer: record::LONG_ANSWER,
            draining: false.into(),
        };
        adjust(&mut edge);
        let edge = Arc::new(edge);
        let bound = ProxyServer::bind(Arc::clone(&edge), &server).unwrap();
        let (address, tls) = (bound.addresses()[0], bound.tls_addresses().first().copied());
        let running = Some(bound.start().unwrap());
        Bench {
            key,
            address,
            tls,
            upstream,
            seen,
            policy,
            journal: Arc::clone(&edge.journal),
            edge,
            running,
            _directory: directory,
        }
    }

    /// Events written so far.
    pub(crate) fn events(&self) -> u64 {
        self.journal.status().appended_events
    }

    /// The rows of requests written so far, of each lane in their order.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for lane in self.journal.lanes() {
            let mut reader = self.journal.reader(lane, None).unwrap();
            while let Some(frame) = reader.read().unwrap() {
                let row = View::decode(frame.row).unwrap();
                if row.kind() == Kind::Request {
                    rows.push(Row::of(&row));
                }
            }
        }
        rows
    }

    /// The rows written so far, when there are `count` of them. For what nobody can see the end
    /// of: it comes a little later.
    pub(crate) async fn rows_when(&self, count: u64) -> Vec<Row> {
        while self.events() < count {
            tokio::task::yield_now().await;
        }
        self.rows()
    }

    /// A request with the key; `set` may change it.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        set: impl FnOnce(&mut Request<BoxBody<Bytes, Infallible>>),
    ) -> (StatusCode, HeaderMap, Bytes) {
        let uri = format!("http://{}{path}", self.address);
        let mut request =
            Request::builder().method(method).uri(uri).body(Empty::new().boxed()).unwrap();
        let bearer = format!("Bearer {}", self.key.reveal());
        request.headers_mut().insert("authorization", bearer.parse().unwrap());
        set(&mut request);
        let client: Client<HttpConnector, BoxBody<Bytes, Infallible>> =
            Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, HeaderMap, Bytes) {
        self.send("GET", path, |_| {}).await
    }

    /// A connection on which to write anything.
    pub(crate) async fn raw(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let text = text.replace("{key}", self.key.reveal()).replace('\n', "\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The proxy's threads run until the process ends: pingora keeps its schedulers by thread
        // number, and a later test whose threads got the numbers of ended ones would be handed
        // schedulers that are gone. Draining is tested on whole processes.
        std::mem::forget(self.running.take());
        self.journal.close();
    }
}

/// Reads until the text holds `end` or the other side closes.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&text).contains(end) {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => text.extend_from_slice(&buffer[..length]),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A usage database that is away.
pub(crate) fn no_database() -> Store {
    let url = "http://127.0.0.1:1".to_owned();
    let (user, password, database) = ("orbit".to_owned(), String::new(), "orbit".to_owned());
    Store::new(&ClickHouseSettings { url, user, password, database }).unwrap()
}

/// A port on which nothing listens.
pub(crate) async fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// An upstream on a free port; ends with the test's runtime.
pub(crate) async fn upstream() -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let log = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            let serve = service_fn(move |request| answer(request, Arc::clone(&log)));
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), serve),
            );
        }
    });
    (address, seen)
}

/// An upstream that reads a request's header and then writes `answer` as it is, in pieces, each
/// when it is told to go on or at once; then closes. On each of its connections.
pub(crate) async fn scripted(answer: Vec<&'static str>) -> (SocketAddr, Arc<Semaphore>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let go = Arc::new(Semaphore::new(0));
    let may = Arc::clone(&go);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (may, answer) = (Arc::clone(&may), answer.clone());
            tokio::spawn(async move {
                read_until(&mut stream, "\r\n\r\n").await;
                for (index, piece) in answer.iter().enumerate() {
                    if index > 0 {
                        may.acquire().await.unwrap().forget();
                    }
                    if stream.write_all(piece.replace('\n', "\r\n").as_bytes()).await.is_err() {
                        return;
                    }
                }
                let _gone = stream.shutdown().await;
                // What is not read would turn the end into a reset.
                while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {}
            });
        }
    });
    (address, go)
}

type Body = BoxBody<Bytes, std::io::Error>;

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// A body that comes in pieces as they are sent.
struct Pieces(tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(context)
    }
}

/// Pieces of a body; `cut` ends it with an error instead of its end.
fn pieces(count: usize, cut: bool) -> Body {
    let (to_body, pieces) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for _ in 0..count {
            let frame = Frame::data(Bytes::from_static(&[b'x'; 1_000]));
            if to_body.send(Ok(frame)).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        if cut {
            let _gone = to_body.send(Err(std::io::Error::other("cut"))).await;
        }
    });
    Pieces(pieces).boxed()
}

async fn answer(request: Request<Incoming>, seen: Seen) -> Result<Response<Body>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    seen.lock().unwrap().push((parts.method, path.clone(), parts.headers));
    let response = Response::builder();
    let response = match path.as_str() {
        "/204" => response.status(204).body(full("")),
        "/304" => response.status(304).body(full("")),
        "/empty" => response.body(full("")),
        "/chunked" => response.body(pieces(3, false)),
        "/cut" => response.body(pieces(3, true)),
        "/own-limits" => response
            .header("RateLimit", "\"theirs\";r=3;t=9")
            .header("RateLimit-Policy", "\"theirs\";q=3;w=9")
            .header("Retry-After", "9")
            .status(429)
            .body(full("slow down")),
        "/500" => response.status(500).body(full("oh no")),
        "/never" => {
            std::future::pending::<()>().await;
            unreachable!()
        }
        "/store" | "/reject" => {
            body.collect().await.map_err(std::io::Error::other)?;
            response.status(if path == "/store" { 201 } else { 507 }).body(full(""))
        }
        "/echo" => {
            let bytes = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
            response.body(full(bytes))
        }
        _ => response.body(full("hello")),
    };
    response.map_err(std::io::Error::other)
}
