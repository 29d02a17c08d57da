//! A gateway in this process: proxy, ingest listener, journal, shipper and the real engine.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orbit_gateway::clock::Clock;
use orbit_gateway::ingest::{Bounds, IngestServer, IngestState};
use orbit_gateway::proxy::{Edge, metrics, open};
use orbit_gateway::quota_state::{Reconciler, Sources};
use orbit_gateway::server::{ProxyServer, Running};
use orbit_gateway::settings::{ClickHouse, OnFull, Server};
use orbit_gateway::storage::Storage;
use orbit_gateway::tenant_api::TenantApi;
use orbit_gateway::upstreams::Pools;
use orbit_meter::clickhouse::Store;
use orbit_meter::clickhouse::consumption::{self, Process, Span};
use orbit_meter::ingest::{IndexSettings, IngestIndex};
use orbit_meter::journal::{Journal, JournalSettings};
use orbit_meter::refusals::{Flusher, Refusals};
use orbit_meter::ship::{ShipSettings, Shipper, ShipperHandle};
use orbit_policy::quota::InMemory;
use orbit_policy::{ApiKey, Nanos, Policy, PolicySettings, Source};
use serde_json::Value;

use crate::model::{Row, kinds};

const MINUTE: Duration = Duration::from_mins(1);

pub(crate) struct Gateway {
    pub(crate) policy: Arc<Policy>,
    pub(crate) clock: Arc<Clock>,
    journal: Arc<Journal>,
    edge: Arc<Edge>,
    shipper: Mutex<Option<Arc<ShipperHandle>>>,
    /// The latest time of an event.
    ahead_us: AtomicI64,
    ingest: IngestServer,
    token: String,
    address: SocketAddr,
    upstream: SocketAddr,
    storage: Storage,
    _flusher: Flusher,
    _running: std::mem::ManuallyDrop<Running>,
    _directory: tempfile::TempDir,
}

fn sources(text: &str, upstream: SocketAddr) -> Vec<Source> {
    let text = text.replace("{upstream}", &upstream.to_string());
    vec![Source { file: "test.toml".into(), text }]
}

impl Gateway {
    pub(crate) fn start(text: &str) -> Gateway {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path();
        let upstream = upstream();
        let clock = Arc::new(Clock::start());
        let mut journal = JournalSettings::new(home.join("journal"));
        (journal.segment_bytes, journal.max_bytes) = (64 * 1024, 1024 * 1024);
        let journal = Journal::open(journal).unwrap();
        let since_us = clock.unix_us();
        let settings = PolicySettings {
            max_dynamic_keys: 1_000,
            hash_key: [9; 16],
            memory: InMemory::shared(),
        };
        let policy = match Policy::new(&sources(text, upstream), &settings, since_us) {
            Ok(policy) => Arc::new(policy),
            Err(found) => panic!("{found}"),
        };
        let clickhouse = ClickHouse {
            data: home.join("clickhouse"),
            http_port: 0,
            tcp_port: 0,
            max_memory_bytes: 2 << 30,
            ..ClickHouse::default()
        };
        let program = Path::new(env!("CARGO_BIN_EXE_orbit"));
        let storage = Storage::start(&clickhouse, program).unwrap();
        let refusals = Arc::new(Refusals::open(Arc::clone(&journal)).unwrap());
        let flusher = refusals.start().unwrap();
        let server = Server {
            threads: 2,
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            ..Server::default()
        };
        let store = storage.handle().store().unwrap();
        let edge = Arc::new(Edge {
            limits: server.limits.clone(),
            trusted_proxies: Vec::new(),
            on_full: OnFull::ServeUnmetered,
            policy: Arc::clone(&policy),
            journal: Arc::clone(&journal),
            refusals: Arc::clone(&refusals),
            refusal_counts: Arc::default(),
            pools: Arc::new(Pools::default()),
            tenant_api: Arc::new(TenantApi::start(Arc::clone(&policy), store).unwrap()),
            clock: Arc::clone(&clock),
            metrics: Arc::new(metrics::Metrics::new()),
            // Every piece of an answer has its row at once.
            long_answer: Nanos(0),
            draining: false.into(),
        });
        let bound = ProxyServer::bind(Arc::clone(&edge), &server).unwrap();
        let address = bound.addresses()[0];
        let index = IndexSettings::new(Duration::from_hours(24 * 36));
        let index = Arc::new(IngestIndex::open(&journal, &index, since_us).unwrap());
        let token_file = home.join("ingest.token");
        let state = IngestState {
            token: orbit_gateway::admin::Token::load_or_create(&token_file).unwrap(),
            policy: Arc::clone(&policy),
            journal: Arc::clone(&journal),
            index,
            clock: Arc::clone(&clock),
            bounds: Bounds { max_body_bytes: 1 << 20, max_age_days: 35, max_future_s: 300 },
        };
        let ingest = IngestServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), state).unwrap();
        Gateway {
            policy,
            clock,
            journal,
            edge,
            shipper: Mutex::new(None),
            ahead_us: AtomicI64::new(0),
            ingest,
            token: std::fs::read_to_string(token_file).unwrap().trim().to_owned(),
            address,
            upstream,
            storage,
            _flusher: flusher,
            // pingora's schedulers must not end before the process does.
            _running: std::mem::ManuallyDrop::new(bound.start().unwrap()),
            _directory: directory,
        }
    }

    pub(crate) fn apply(&self, text: &str) {
        let sources = sources(text, self.upstream);
        if let Err(found) = self.policy.apply(&sources, || self.clock.read()) {
            panic!("{found}");
        }
    }

    /// The status of a request; 0 when the connection ends without one.
    pub(crate) fn ask(
        &self,
        key: &ApiKey,
        method: &str,
        path: &str,
        fields: &str,
        body: &str,
    ) -> u16 {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Api-Key: {}\r\n{fields}\r\n{body}",
            key.reveal()
        );
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = Vec::new();
        if path.ends_with("/away") {
            // Gone with the first bytes of the answer.
            let mut some = [0; 20];
            let length = stream.read(&mut some).unwrap_or(0);
            answer.extend_from_slice(&some[..length]);
        } else {
            let _cut = stream.read_to_end(&mut answer);
        }
        let text = String::from_utf8_lossy(&answer);
        text.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// An event is dated so.
    pub(crate) fn comes(&self, at_us: i64) {
        self.ahead_us.fetch_max(at_us, Ordering::Relaxed);
    }

    /// Sends a batch of events.
    pub(crate) fn events(&self, events: &Value) {
        let body = events.to_string();
        let text = format!(
            "POST /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/cloudevents-batch+json\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        let mut stream = TcpStream::connect(self.ingest.address()).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        // Of a full journal some are taken, and none is taken twice.
        let status = &answer[9..12];
        assert!(status == "202" || status == "503" && self.journal.is_full(), "{answer}");
    }

    /// Waits until every request has all of its rows.
    pub(crate) fn quiet(&self) {
        let metrics = &self.edge.metrics;
        while metrics.oldest_open_us().is_some() || metrics.in_flight() > 0 {
            std::thread::yield_now();
        }
    }

    /// Waits until the second is over.
    pub(crate) fn next_second(&self) {
        let second = || self.clock.unix_us() / 1_000_000;
        let now = second();
        while second() == now {
            std::thread::yield_now();
        }
    }

    pub(crate) fn ship(&self) {
        let store = self.storage.handle().store().unwrap();
        let (counts, refusals) = (Arc::clone(&self.edge.metrics), Arc::clone(&self.edge.refusals));
        let settings = ShipSettings {
            max_delay: Duration::from_millis(50),
            open: Some(open::ask(counts, refusals, Arc::clone(&self.clock))),
            ..ShipSettings::default()
        };
        let shipper = Shipper::start(Arc::clone(&self.journal), store, settings).unwrap();
        *self.shipper.lock().unwrap() = Some(Arc::new(shipper));
    }

    pub(crate) fn stop_shipping(&self) {
        drop(self.shipper.lock().unwrap().take());
    }

    fn shipper(&self) -> Arc<ShipperHandle> {
        Arc::clone(self.shipper.lock().unwrap().as_ref().unwrap())
    }

    /// Everything that was counted is in the database, and what is dated ahead is due.
    pub(crate) fn flush(&self) {
        self.quiet();
        while self.clock.unix_us() <= self.ahead_us.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        self.policy.charge_due(self.clock.unix_us());
        while self.edge.refusals.oldest_us().is_some() {
            std::thread::yield_now();
        }
        self.shipper().flush(MINUTE).unwrap();
    }

    /// How many events the journal took.
    pub(crate) fn appended(&self) -> u64 {
        self.journal.status().appended_events
    }

    pub(crate) fn reconcile(&self) -> Reconciler {
        Reconciler::start(Sources {
            policy: Arc::clone(&self.policy),
            journal: Arc::clone(&self.journal),
            shipper: self.shipper(),
            storage: self.storage.handle(),
            clock: Arc::clone(&self.clock),
        })
        .unwrap()
    }

    /// Waits until nothing is wrong any more.
    pub(crate) fn wait_until<T: std::fmt::Debug>(&self, wrong: impl Fn() -> Vec<T>) {
        let until_us = self.clock.unix_us() + 60_000_000;
        loop {
            let wrong = wrong();
            if wrong.is_empty() {
                return;
            }
            assert!(self.clock.unix_us() < until_us, "{:?}: {wrong:#?}", kinds(&self.rows()));
        }
    }

    fn block_on<T>(&self, work: impl AsyncFnOnce(Store) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(self.storage.handle().store().unwrap()).await })
    }

    /// Every row there is.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let sql = "SELECT tenant, path, meter, kind, flags, requests, toString(quantity), \
                   request_bytes, response_bytes, toUnixTimestamp64Micro(ts), request_id, node, \
                   epoch, lane, sequence FROM usage_events";
        let text = self.block_on(async |store| store.query_text(sql, "TSV").await.unwrap());
        let row = |line: &str| {
            let fields: Vec<&str> = line.split('\t').collect();
            let number = |at: usize| fields[at].parse::<u64>().unwrap();
            let (whole, fraction) = fields[6].split_once('.').unwrap_or((fields[6], ""));
            Row {
                tenant: fields[0].to_owned(),
                path: fields[1].split('/').map(str::to_owned).collect(),
                meter: fields[2].to_owned(),
                kind: fields[3].to_owned(),
                flags: number(4) as u8,
                requests: number(5),
                nano: format!("{whole}{fraction:0<9}").parse().unwrap(),
                request_bytes: number(7),
                response_bytes: number(8),
                ts_us: fields[9].parse().unwrap(),
                request_id: fields[10].to_owned(),
                place: (number(11) as u32, number(12) as u32, number(13) as u32, number(14)),
            }
        };
        text.lines().map(row).collect()
    }

    /// What counts, by key, as a process of another epoch would read it.
    pub(crate) fn read_counts(&self) -> HashMap<u128, u64> {
        let mut windows = HashMap::new();
        self.policy.each_quota(self.clock.unix_us(), &mut |view| {
            let Some(window) = view.window.filter(|_| view.meter != "active_users") else { return };
            let span = Span { from_us: window.start_us, to_us: window.end_us };
            windows
                .entry((span.from_us, span.to_us))
                .or_insert((span, Vec::new()))
                .1
                .push(view.key);
        });
        let snapshot = self.policy.load();
        let mut counts: HashMap<u128, u64> = HashMap::new();
        for (span, keys) in windows.into_values() {
            let mut all: HashMap<u128, u64> = HashMap::new();
            self.block_on(async |store| {
                let nobody = Process { node: 0, epoch: 0 };
                consumption::read(&store, span, nobody, 0, MINUTE, |used| {
                    let place = (&*used.path, &*used.plan, &*used.meter);
                    snapshot.each_count(place, &used.sums, &mut |key, amount| {
                        *all.entry(key).or_default() += amount;
                    });
                })
                .await
                .unwrap();
            });
            counts.extend(keys.into_iter().map(|key| (key, all.get(&key).copied().unwrap_or(0))));
        }
        counts
    }
}

/// An upstream that answers by the last part of the path, for as long as the test program runs.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || serve(socket));
        }
    });
    address
}

fn serve(mut socket: TcpStream) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            let is_chunked = head.contains("transfer-encoding: chunked");
            if if is_chunked { body.ends_with("0\r\n\r\n") } else { body.len() >= length } {
                break;
            }
        }
        match socket.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => request.extend_from_slice(&buffer[..length]),
        }
    }
    let text = String::from_utf8_lossy(&request);
    let path = text.split(' ').nth(1).unwrap_or_default();
    let kind = path.rsplit('/').next().unwrap_or_default();
    let is_whole = text.to_ascii_lowercase().contains("x-whole: yes");
    let worked = if is_whole { "12" } else { "12.5" };
    let head = format!("X-Orbit-Processing-Ms: {worked}\r\nX-Seats: 2\r\nConnection: close\r\n");
    let piece = |length: usize| format!("{length:x}\r\n{}\r\n", "y".repeat(length));
    let chunked = "Transfer-Encoding: chunked\r\n";
    let pieces = match kind {
        "none" => vec![format!("HTTP/1.1 204 No Content\r\n{head}\r\n")],
        "fails" => Vec::new(),
        "cut" => vec![format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 50\r\n\r\nhello")],
        "events" => vec![
            format!("HTTP/1.1 200 OK\r\n{head}{chunked}Content-Type: text/event-stream\r\n\r\n"),
            piece(20),
            piece(30),
            "0\r\n\r\n".to_owned(),
        ],
        "chunked" | "away" => {
            let count = if kind == "away" { 60 } else { 3 };
            let header = format!("HTTP/1.1 200 OK\r\n{head}{chunked}\r\n");
            let pieces = (0..count).map(|_| piece(700));
            [header].into_iter().chain(pieces).chain(["0\r\n\r\n".to_owned()]).collect()
        }
        _ => vec![format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 5\r\n\r\nhello")],
    };
    for piece in pieces {
        if socket.write_all(piece.as_bytes()).is_err() {
            return;
        }
    }
}
