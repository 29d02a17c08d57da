//! Clients that send until they are told that everything is kept.
//!
//! Each failure (a connection refused, cut or abandoned, no answer in time, a 503) is followed by the
//! same request. Guarantees that a run ends: acknowledged as a whole, or given up with a reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{IngestRun, Random};
use crate::clock::Clock;
use crate::target::Target;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Of a hundred requests, so many are abandoned before their answer.
const ABANDON_PERCENT: f64 = 2.0;
/// Longest wait before the same request is sent again.
const MAX_PAUSE_MS: u64 = 200;
/// Findings that are worded; all are counted.
const MAX_FINDINGS: usize = 10;

/// Why a run was given up.
#[derive(Debug, Error)]
pub enum SendError {
    /// Nothing was acknowledged for too long.
    #[error("nothing was acknowledged for {} s; last: {last}", .patience.as_secs())]
    Stuck {
        /// How long.
        patience: Duration,
        /// What failed last.
        last: String,
    },
    /// There is nothing to send on.
    #[error("cannot start a runtime")]
    Runtime(#[source] std::io::Error),
    /// An answer that no retry will change.
    #[error("the ingest API answered {status}: {says}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// The beginning of its body.
        says: String,
    },
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Events acknowledged.
    pub events: u64,
    /// Of these, known already when they were: an earlier answer had not come.
    pub known: u64,
    /// Requests, with those that failed.
    pub requests: u64,
    /// Requests without an answer.
    pub failed: u64,
    /// Requests answered with 503.
    pub unavailable: u64,
    /// Acknowledged batches that were sent again.
    pub resent: u64,
    /// Answers that should not be, and the first of them in words.
    pub wrong: u64,
    /// See `wrong`.
    pub findings: Vec<String>,
}

impl Sent {
    fn find(&mut self, finding: String) {
        self.wrong += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    fn add(&mut self, other: Sent) {
        self.events += other.events;
        self.known += other.known;
        self.requests += other.requests;
        self.failed += other.failed;
        self.unavailable += other.unavailable;
        self.resent += other.resent;
        self.wrong += other.wrong;
        self.findings.extend(other.findings);
        self.findings.truncate(MAX_FINDINGS);
    }
}

/// Sends everything; `watch` is told now and then how many events are acknowledged.
pub async fn send(run: &IngestRun, watch: &mut dyn FnMut(u64)) -> Result<Sent, SendError> {
    let shared = Arc::new(Shared {
        run: run.clone(),
        clock: Clock::start(),
        next_batch: AtomicU64::new(0),
        acknowledged: AtomicU64::new(0),
        progress_ns: AtomicU64::new(0),
    });
    let mut clients = JoinSet::new();
    for number in 0..run.clients {
        let random = Random::of(run.seed.wrapping_add(u64::from(number) << 40));
        let shared = Arc::clone(&shared);
        let client = Client { shared, random, link: None, sent: Sent::default() };
        clients.spawn(client.run());
    }
    let mut sent = Sent::default();
    loop {
        match tokio::time::timeout(LOOK_INTERVAL, clients.join_next()).await {
            Ok(Some(Ok(ended))) => sent.add(ended?),
            Ok(Some(Err(panicked))) => std::panic::resume_unwind(panicked.into_panic()),
            Ok(None) => return Ok(sent),
            Err(_) => {}
        }
        watch(shared.acknowledged.load(Ordering::Relaxed));
    }
}

struct Shared {
    run: IngestRun,
    clock: Clock,
    next_batch: AtomicU64,
    acknowledged: AtomicU64,
    /// When something was acknowledged last.
    progress_ns: AtomicU64,
}

struct Client {
    shared: Arc<Shared>,
    random: Random,
    link: Option<SendRequest<Full<Bytes>>>,
    sent: Sent,
}

#[derive(Deserialize)]
struct Answer {
    accepted: u64,
    duplicates: u64,
    rejected: Vec<serde_json::Value>,
}

/// What one attempt brought.
enum Attempt {
    Acknowledged(Answer),
    Later(Duration, String),
}

impl Client {
    async fn run(mut self) -> Result<Sent, SendError> {
        let shared = Arc::clone(&self.shared);
        let run = &shared.run;
        let mut mine = Vec::new();
        loop {
            let batch = shared.next_batch.fetch_add(1, Ordering::Relaxed);
            if batch >= run.batches() {
                return Ok(self.sent);
            }
            let answer = self.deliver(batch).await?;
            self.judge(batch, &answer, false);
            mine.push(batch);
            if self.random.is_lucky(run.resend_percent) {
                let again = mine[self.random.below(mine.len() as u64) as usize];
                let answer = self.deliver(again).await?;
                self.judge(again, &answer, true);
            }
            tokio::time::sleep(run.pause).await;
        }
    }

    /// Sends a batch until it is acknowledged.
    async fn deliver(&mut self, batch: u64) -> Result<Answer, SendError> {
        let shared = Arc::clone(&self.shared);
        let body = Bytes::from(shared.run.body(batch));
        loop {
            match self.attempt(&body).await? {
                Attempt::Acknowledged(answer) => {
                    shared.progress_ns.fetch_max(shared.clock.now_ns(), Ordering::Relaxed);
                    return Ok(answer);
                }
                Attempt::Later(pause, last) => {
                    self.link = None;
                    let since_ns = shared.progress_ns.load(Ordering::Relaxed);
                    let waited_ns = shared.clock.now_ns().saturating_sub(since_ns);
                    let patience = shared.run.patience;
                    if Duration::from_nanos(waited_ns) > patience {
                        return Err(SendError::Stuck { patience, last });
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn attempt(&mut self, body: &Bytes) -> Result<Attempt, SendError> {
        self.sent.requests += 1;
        let limit = if self.random.is_lucky(ABANDON_PERCENT) {
            Duration::from_micros(self.random.below(20_000))
        } else {
            ANSWER_TIMEOUT
        };
        let pause = Duration::from_millis(1 + self.random.below(MAX_PAUSE_MS));
        let answered = tokio::time::timeout(limit, self.exchange(body)).await;
        let (status, retry_after_s, text) = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.sent.failed += 1;
                return Ok(Attempt::Later(pause, error.to_string()));
            }
            Err(_) => {
                self.sent.failed += 1;
                return Ok(Attempt::Later(pause, "no answer in time".to_owned()));
            }
        };
        match status {
            StatusCode::ACCEPTED => match serde_json::from_slice(&text) {
                Ok(answer) => Ok(Attempt::Acknowledged(answer)),
                Err(error) => Ok(Attempt::Later(pause, error.to_string())),
            },
            StatusCode::SERVICE_UNAVAILABLE => {
                self.sent.unavailable += 1;
                let pause = retry_after_s.map_or(pause, Duration::from_secs);
                Ok(Attempt::Later(pause, "503".to_owned()))
            }
            status => {
                let says = String::from_utf8_lossy(&text).chars().take(500).collect();
                Err(SendError::Refused { status, says })
            }
        }
    }

    /// One request and its whole answer, on the link there is or a new one.
    async fn exchange(&mut self, body: &Bytes) -> Result<Exchanged, ExchangeError> {
        let run = &self.shared.run;
        let mut link = match self.link.take() {
            Some(link) if !link.is_closed() => link,
            _ => connect(&run.target).await?,
        };
        let request = Request::post("/v1/events")
            .header(HOST, run.target.authority())
            .header(CONTENT_TYPE, "application/cloudevents-batch+json")
            .header(AUTHORIZATION, format!("Bearer {}", run.token.expose()))
            .body(Full::new(body.clone()))?;
        link.ready().await?;
        let (parts, body) = link.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let text = body.map_err(ExchangeError::Body)?.to_bytes();
        self.link = Some(link);
        let retry_after = parts.headers.get(RETRY_AFTER);
        let retry_after_s = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        Ok((parts.status, retry_after_s, text))
    }

    /// What an acknowledgement must say; the events of a batch are kept by then, whatever it says.
    fn judge(&mut self, batch: u64, answer: &Answer, is_again: bool) {
        let events = self.shared.run.numbers(batch).count() as u64;
        let Answer { accepted, duplicates, rejected } = answer;
        if *accepted + *duplicates != events || !rejected.is_empty() {
            let first = rejected.first().map_or_else(String::new, |first| format!(", as {first}"));
            self.sent.find(format!(
                "batch {batch} of {events} events: {accepted} accepted, {duplicates} duplicates, \
                 {} rejected{first}",
                rejected.len()
            ));
        }
        if is_again {
            self.sent.resent += 1;
            if *accepted > 0 {
                let says =
                    format!("batch {batch} was acknowledged; sent again, {accepted} counted");
                self.sent.find(says);
            }
            return;
        }
        self.sent.events += events;
        self.sent.known += duplicates;
        self.shared.acknowledged.fetch_add(events, Ordering::Relaxed);
    }
}

async fn connect(target: &Target) -> Result<SendRequest<Full<Bytes>>, ExchangeError> {
    let stream = TcpStream::connect(target.address()).await?;
    stream.set_nodelay(true)?;
    let (link, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its end shows at the next request.
    tokio::spawn(async { drop(connection.await) });
    Ok(link)
}

/// Status, `Retry-After` in seconds, body.
type Exchanged = (StatusCode, Option<u64>, Bytes);

#[derive(Debug, Error)]
enum ExchangeError {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("the connection broke: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be sent: {0}")]
    Request(#[from] http::Error),
    #[error("the answer broke off: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
}
