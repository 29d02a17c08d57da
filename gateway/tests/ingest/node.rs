//! A listener with a journal of its own, a client, and what is in the journal.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orbit_gateway::admin::Token;
use orbit_gateway::clock::Clock;
use orbit_gateway::ingest::{Bounds, IngestServer, IngestState};
use orbit_meter::event::{EventId, Flags, Kind, View};
use orbit_meter::ingest::{IndexSettings, IngestIndex};
use orbit_meter::journal::{Journal, JournalSettings};
use orbit_policy::quota::InMemory;
use orbit_policy::{Nanos, Policy, PolicySettings, Source};
use serde_json::{Value, json};

pub(crate) const BATCH: &str = "application/cloudevents-batch+json";
pub(crate) const SINGLE: &str = "application/cloudevents+json";

pub(crate) const POLICY: &str = r#"
[[plan]]
id = "business"
[[app]]
id = "crm"
[[tenant]]
id = "acme"
plan = "business"
[[tenant]]
id = "acme-web"
parent = "acme"
"#;

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Accepted, duplicates and the number rejected of a 202.
    pub(crate) fn counts(&self) -> (u64, u64, usize) {
        assert_eq!(self.status, 202, "{}", self.body);
        let body = self.json();
        let count = |name: &str| body[name].as_u64().unwrap();
        (count("accepted"), count("duplicates"), body["rejected"].as_array().unwrap().len())
    }

    /// The body, which must be a problem with this status.
    pub(crate) fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        assert_eq!(self.json()["status"], status);
        self.json()
    }
}

/// A row of the journal, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: EventId,
    pub(crate) request_id: [u8; 16],
    pub(crate) ts_us: i64,
    pub(crate) tenant: String,
    pub(crate) path: String,
    pub(crate) plan: String,
    pub(crate) app: String,
    pub(crate) meter: String,
    pub(crate) quantity_nano: i128,
    pub(crate) requests: u32,
    pub(crate) flags: Flags,
}

/// Every ingested event in the journal.
pub(crate) fn rows(journal: &Journal) -> Vec<Row> {
    let mut rows = Vec::new();
    for lane in journal.lanes() {
        let mut reader = journal.reader(lane, None).unwrap();
        while let Some(frame) = reader.read().unwrap() {
            let row = View::decode(frame.row).unwrap();
            assert_eq!((row.kind(), row.status(), row.route()), (Kind::Ingested, 0, ""));
            rows.push(Row {
                id: frame.id,
                request_id: row.request_id(),
                ts_us: row.ts_us(),
                tenant: row.tenant().to_owned(),
                path: row.path().to_owned(),
                plan: row.plan().to_owned(),
                app: row.app().to_owned(),
                meter: row.meter().to_owned(),
                quantity_nano: row.quantity_nano(),
                requests: row.requests(),
                flags: row.flags(),
            });
        }
    }
    rows
}

pub(crate) fn journal(directory: &Path, max_bytes: u64) -> Arc<Journal> {
    let settings = JournalSettings {
        segment_bytes: 64 * 1024,
        max_bytes,
        ..JournalSettings::new(directory.join("journal"))
    };
    Journal::open(settings).unwrap()
}

/// A listener and what it works with; a dropped one leaves its directory.
pub(crate) struct Node {
    pub(crate) journal: Arc<Journal>,
    pub(crate) index: Arc<IngestIndex>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) clock: Arc<Clock>,
    server: IngestServer,
    token: String,
}

impl Node {
    pub(crate) fn start(directory: &Path) -> Node {
        Node::with_room(directory, 64 << 20)
    }

    pub(crate) fn with_room(directory: &Path, max_bytes: u64) -> Node {
        let journal = journal(directory, max_bytes);
        let clock = Arc::new(Clock::start());
        let settings =
            IndexSettings { min_slots: 256, ..IndexSettings::new(Duration::from_hours(24 * 36)) };
        let index = IngestIndex::open(&journal, &settings, clock.unix_us()).unwrap();
        let index = Arc::new(index);
        let settings = PolicySettings {
            max_dynamic_keys: 1000,
            hash_key: [3; 16],
            memory: InMemory::shared(),
        };
        let policy = Arc::new(Policy::new(&[source(POLICY)], &settings).unwrap());
        let token_file = directory.join("ingest.token");
        let state = IngestState {
            token: Token::load_or_create(&token_file).unwrap(),
            policy: Arc::clone(&policy),
            journal: Arc::clone(&journal),
            index: Arc::clone(&index),
            clock: Arc::clone(&clock),
            bounds: Bounds { max_body_bytes: 1 << 20, max_age_days: 35, max_future_s: 300 },
        };
        let server = IngestServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), state).unwrap();
        let token = std::fs::read_to_string(&token_file).unwrap().trim().to_owned();
        Node { journal, index, policy, clock, server, token }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// In order, as the process ends.
    pub(crate) fn stop(self) {
        drop(self.server);
        self.index.close().unwrap();
        self.journal.close();
    }

    /// Replaces the policy documents.
    pub(crate) fn apply(&self, text: &str) {
        self.policy.apply(&[source(text)], || Nanos(0)).unwrap();
    }

    pub(crate) fn post(&self, kind: &str, fields: &str, body: &str) -> Answer {
        let fields = format!("Content-Type: {kind}\r\n{fields}");
        self.send(&fields, body)
    }

    /// With the token and whatever fields are given.
    pub(crate) fn send(&self, fields: &str, body: &str) -> Answer {
        let fields = format!("Authorization: Bearer {}\r\n{fields}", self.token);
        exchange(self.address(), "POST", "/v1/events", &fields, body).unwrap()
    }

    pub(crate) fn batch(&self, events: &[Value]) -> Answer {
        self.post(BATCH, "", &Value::from(events).to_string())
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        rows(&self.journal)
    }
}

fn source(text: &str) -> Source {
    Source { file: "policy.toml".to_owned(), text: text.to_owned() }
}

/// An event as it should be, to be spoilt by tests.
pub(crate) fn event(id: &str) -> Value {
    json!({
        "specversion": "1.0",
        "id": id,
        "source": "/test",
        "type": "storage",
        "subject": "acme-web",
        "data": { "quantity": 2, "unknown": true },
        "extension": "ignored",
    })
}

/// The same with a member replaced, or taken out by null.
pub(crate) fn with(id: &str, member: &str, value: impl Into<Value>) -> Value {
    let mut event = event(id);
    event[member] = value.into();
    event
}

/// One request on a connection of its own; an error when the server is gone.
pub(crate) fn exchange(
    address: SocketAddr,
    method: &str,
    target: &str,
    fields: &str,
    body: &str,
) -> std::io::Result<Answer> {
    let mut socket = TcpStream::connect(address)?;
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: ingest\r\nConnection: close\r\n\
         Content-Length: {length}\r\n{fields}\r\n{body}"
    );
    socket.write_all(request.as_bytes())?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    let gone = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(gone)?;
    let length = head.to_lowercase().lines().find_map(|line| {
        line.strip_prefix("content-length: ").and_then(|length| length.parse::<usize>().ok())
    });
    if length.is_some_and(|length| length != body.len()) {
        return Err(gone());
    }
    let status = head.get(9..12).and_then(|digits| digits.parse().ok()).ok_or_else(gone)?;
    Ok(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
}
