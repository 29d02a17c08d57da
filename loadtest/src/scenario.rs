//! A scenario: what is sent, how fast, for how long, and what should come of it.
//!
//! Scenarios are TOML documents. Unknown keys are errors, and every error names file, line, column
//! and key. A scenario holds labels of API keys, never a key.

mod document;
mod shape;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use thiserror::Error;

/// Arrival of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Open loop: so many per second, on a schedule fixed before the start.
    PerSecond(f64),
    /// Closed loop: each connection sends as soon as its last answer has ended.
    Max,
}

/// How much is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So many requests, those of the warm-up included.
    Requests(u64),
    /// So long, after the warm-up.
    Duration(Duration),
}

/// The protocol spoken to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, one request at a time per connection.
    Http1,
    /// HTTP/2 with prior knowledge, this many streams at a time per connection.
    Http2 {
        /// Concurrent streams per connection.
        streams: u32,
    },
}

/// When the client goes away on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// Never: the answer is read to its end.
    Never,
    /// This long after the request was sent, whether or not an answer has begun.
    Sent(Duration),
    /// When the response header has arrived.
    Header,
    /// When this many body bytes have arrived; an answer that is shorter is received whole.
    Body(u64),
}

/// The header that carries the API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyHeader {
    /// `Authorization: Bearer <key>`.
    Bearer,
    /// `X-Api-Key: <key>`.
    ApiKey,
}

/// One kind of request of a scenario.
#[derive(Clone, Debug)]
pub struct RequestKind {
    /// Its name in reports.
    pub name: String,
    /// Its share: `weight` of every sum-of-weights requests, evenly interleaved.
    pub weight: u32,
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The `Host`; the target's own when absent.
    pub host: Option<String>,
    /// Label of the API key in the keys file; none is sent when absent.
    pub key: Option<String>,
    /// Where the key goes.
    pub key_header: KeyHeader,
    /// Length of the request body.
    pub body_bytes: u32,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// When the client leaves.
    pub abort: Abort,
    /// It is to become a WebSocket; HTTP/1.1 only.
    pub websocket: bool,
    /// Statuses that are right; empty: any.
    pub expect: Vec<u16>,
    /// Whether an answer may be cut short by the server without failing the run.
    pub may_fail: bool,
    /// The tenant its row must name.
    pub tenant: Option<String>,
    /// The app its row must name.
    pub app: Option<String>,
    /// The route its row must name.
    pub route: Option<String>,
    /// What a request of the route costs.
    pub cost: u64,
    /// What its row of a further meter must say: the meter's id, and billionths.
    pub figure: Option<(String, i128)>,
    /// Who asks, as far as the policy knows: each name has a row of a member.
    pub user: Option<String>,
}

/// A limit the run is expected to meet exactly.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedLimit {
    /// Admissions per `per_s`.
    pub rate: f64,
    /// The period of `rate`, in seconds.
    pub per_s: f64,
    /// How many are admitted at once from a full bucket.
    pub burst: u64,
    /// The level every refusal must name.
    pub level: String,
    /// A policy every refusal must list, when given.
    pub policy: Option<String>,
    /// Names of the request kinds that share the limit; empty: all.
    pub requests: Vec<String>,
}

/// A limit that several share, and what is guaranteed to each.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedShares {
    /// What all of them have together, per second.
    pub per_s: f64,
    /// The burst of the limit.
    pub burst: u64,
    /// The bursts of the guarantees together.
    pub guaranteed_burst: u64,
    /// Who is guaranteed what. Every request kind is under the limit, with a guarantee or without.
    pub shares: Vec<ExpectedShare>,
}

/// What is guaranteed to the requests of a kind.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedShare {
    /// The name of the request kind.
    pub request: String,
    /// Admissions per second, whatever the others ask for.
    pub guarantee_per_s: f64,
}

/// A whole scenario, checked.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name in reports.
    pub name: String,
    /// The target, unless the command line says otherwise.
    pub url: Option<String>,
    /// Arrival of requests.
    pub rate: Rate,
    /// How much is sent.
    pub amount: Amount,
    /// What is sent before measuring begins.
    pub warmup: Duration,
    /// Connections, over all threads.
    pub connections: u32,
    /// The protocol.
    pub protocol: Protocol,
    /// Threads of the generator.
    pub threads: u32,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// How long answers are awaited after the last request was due.
    pub drain: Duration,
    /// What is sent, at least one kind.
    pub requests: Vec<RequestKind>,
    /// The limit to check.
    pub expect_limit: Option<ExpectedLimit>,
    /// The shared limit to check.
    pub expect_shares: Option<ExpectedShares>,
}

/// One mistake in a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// The key at fault.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
}

/// Why a scenario was not understood.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// The file could not be read.
    #[error("cannot read the scenario {file}")]
    Read {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The document has mistakes.
    #[error("{}", Listed(file, mistakes))]
    Mistakes {
        /// The file.
        file: String,
        /// All of them, or the first where it is not TOML.
        mistakes: Vec<Mistake>,
    },
}

struct Listed<'a>(&'a str, &'a [Mistake]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Mistake { line, column, key, message }) in self.1.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{line}:{column}: {key}: {message}", self.0)?;
        }
        Ok(())
    }
}

impl Scenario {
    /// Reads and checks a scenario file.
    pub fn read(path: &Path) -> Result<Scenario, ScenarioError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Read { file: file.clone(), source })?;
        Scenario::parse(&file, &text)
    }

    /// The same from text; `file` is used in errors, and its stem as the name when there is none.
    pub fn parse(file: &str, text: &str) -> Result<Scenario, ScenarioError> {
        document::parse(file, text)
            .map_err(|mistakes| ScenarioError::Mistakes { file: file.to_owned(), mistakes })
    }

    /// Requests that can be under way at a time.
    pub fn workers(&self) -> u32 {
        match self.protocol {
            Protocol::Http1 => self.connections,
            Protocol::Http2 { streams } => self.connections * streams,
        }
    }

    /// The kind of each request of one period of the scenario, weights evenly interleaved: request
    /// `i` is of kind `interleaved[i % interleaved.len()]`.
    pub fn interleaved(&self) -> Vec<u16> {
        let total: i64 = self.requests.iter().map(|kind| i64::from(kind.weight)).sum();
        let mut credit = vec![0_i64; self.requests.len()];
        (0..total)
            .map(|_| {
                for (credit, kind) in credit.iter_mut().zip(&self.requests) {
                    *credit += i64::from(kind.weight);
                }
                // The first of the richest: `max_by_key` alone would take the last.
                let richest = (0..credit.len()).rev().max_by_key(|&kind| credit[kind]).unwrap_or(0);
                credit[richest] -= total;
                richest as u16
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
