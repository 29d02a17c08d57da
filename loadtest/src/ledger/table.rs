//! The rows of a run, from ClickHouse's HTTP interface.
//!
//! Reads only. Rows are streamed and never held; their number is checked against the server's own
//! count, so that an answer that breaks off cannot pass for a short one.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, InvalidHeaderValue};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use thiserror::Error;

use crate::clock::Clock;
use crate::fetch::{FetchError, fetch, text};
use crate::keys::Secret;
use crate::target::Target;

use super::decode::{COLUMNS, Decoded, row};
use super::{Lane, Row};

const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Where `usage_events` is.
#[derive(Clone, Debug)]
pub struct Table {
    /// ClickHouse's HTTP interface.
    pub target: Target,
    /// The user.
    pub user: String,
    /// Their password.
    pub password: Secret,
    /// The database.
    pub database: String,
}

/// A span of event time, microseconds since the Unix epoch, the end not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first microsecond.
    pub from_unix_us: i64,
    /// The first beyond.
    pub to_unix_us: i64,
}

/// Why the rows could not be read.
#[derive(Debug, Error)]
pub enum TableError {
    /// ClickHouse did not answer, or not with a success.
    #[error("cannot ask ClickHouse")]
    Fetch(#[from] FetchError),
    /// The answer broke off.
    #[error("ClickHouse's rows broke off")]
    Broken(#[source] hyper::Error),
    /// The answer is not what was asked for.
    #[error("ClickHouse's answer is not {expected}")]
    Malformed {
        /// What it should have been.
        expected: &'static str,
    },
    /// Fewer or more rows than the server counted.
    #[error("ClickHouse counted {counted} rows and sent {sent}")]
    Count {
        /// Its own count.
        counted: u64,
        /// Rows received.
        sent: u64,
    },
    /// User, password or database cannot be sent.
    #[error("user, password or database cannot be sent in a header")]
    Unsendable(#[from] InvalidHeaderValue),
}

/// How many requests ClickHouse has recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Rows of any kind.
    pub rows: u64,
    /// Answered requests.
    pub requests: u64,
    /// Refusals the refused rows stand for.
    pub refusals: u64,
}

/// How long to wait for ClickHouse to catch up.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// With all that is expected there, no change for so long ends the waiting.
    pub quiet_complete: Duration,
    /// The same while some are missing.
    pub quiet_missing: Duration,
    /// The end of all waiting.
    pub limit: Duration,
}

impl Patience {
    /// What a gateway needs: a second until a count of refusals closes, and one until a batch is
    /// shipped.
    pub fn at_most(limit: Duration) -> Patience {
        let quiet_complete = Duration::from_millis(2500);
        Patience { quiet_complete, quiet_missing: Duration::from_secs(8), limit }
    }
}

impl Window {
    /// All event time there is.
    pub const EVER: Window = Window { from_unix_us: 0, to_unix_us: 7_258_118_400_000_000 };

    /// The whole seconds that contain a run, and one more for what was counted at its end.
    pub fn around(started_unix_us: i64, ended_unix_us: i64) -> Window {
        const SECOND_US: i64 = 1_000_000;
        Window {
            from_unix_us: started_unix_us.div_euclid(SECOND_US) * SECOND_US,
            to_unix_us: (ended_unix_us.div_euclid(SECOND_US) + 2) * SECOND_US,
        }
    }

    fn condition(&self) -> String {
        format!(
            "ts >= fromUnixTimestamp64Micro({}) AND ts < fromUnixTimestamp64Micro({})",
            self.from_unix_us, self.to_unix_us
        )
    }
}

impl Table {
    /// How many requests of the window are recorded now.
    pub async fn recorded(&self, window: Window) -> Result<Recorded, TableError> {
        let sql = format!(
            "SELECT count(), sumIf(requests, kind = 'request'), sumIf(requests, kind = 'refused') \
             FROM usage_events WHERE {} FORMAT TSV",
            window.condition()
        );
        let lines = self.numbers(&sql).await?;
        let [[rows, requests, refusals]] = lines[..] else {
            return Err(TableError::Malformed { expected: "one line of three numbers" });
        };
        Ok(Recorded { rows, requests, refusals })
    }

    /// Waits until nothing changes any more; what is recorded then. So many requests are expected.
    pub async fn settled(
        &self,
        window: Window,
        expected: u64,
        patience: &Patience,
        watch: &mut dyn FnMut(Recorded),
    ) -> Result<Recorded, TableError> {
        let clock = Clock::start();
        let passed = |since_ns: u64| Duration::from_nanos(clock.now_ns() - since_ns);
        let (mut last, mut changed_ns) = (self.recorded(window).await?, clock.now_ns());
        loop {
            watch(last);
            let complete = last.requests + last.refusals >= expected;
            let quiet = if complete { patience.quiet_complete } else { patience.quiet_missing };
            if passed(changed_ns) >= quiet || passed(0) >= patience.limit {
                return Ok(last);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
            let now = self.recorded(window).await?;
            if now != last {
                (last, changed_ns) = (now, clock.now_ns());
            }
        }
    }

    /// Gives every row of the window to `each`; how many there were.
    pub async fn rows(
        &self,
        window: Window,
        mut each: impl FnMut(&Row<'_>),
    ) -> Result<u64, TableError> {
        let condition = window.condition();
        let sql = format!("SELECT {COLUMNS} FROM usage_events WHERE {condition} FORMAT RowBinary");
        let mut body = self.query(&sql).await?.into_body();
        let (mut pending, mut sent) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(TableError::Broken)?;
            let Some(data) = frame.data_ref() else { continue };
            pending.extend_from_slice(data);
            let mut at = 0;
            loop {
                match row(&pending[at..]) {
                    Decoded::Row(row, bytes) => {
                        each(&row);
                        sent += 1;
                        at += bytes;
                    }
                    Decoded::Incomplete => break,
                    Decoded::Malformed => return Err(TableError::Malformed { expected: "rows" }),
                }
            }
            pending.drain(..at);
        }
        let counted = self.recorded(window).await?.rows;
        if counted != sent || !pending.is_empty() {
            return Err(TableError::Count { counted, sent });
        }
        Ok(sent)
    }

    /// The lanes that wrote in the window, each over its whole life.
    pub async fn lanes(&self, window: Window) -> Result<Vec<Lane>, TableError> {
        let sql = format!(
            "SELECT node, epoch, lane, count(), uniqExact(sequence), min(sequence), max(sequence) \
             FROM usage_events WHERE (node, epoch, lane) IN \
             (SELECT DISTINCT node, epoch, lane FROM usage_events WHERE {}) \
             GROUP BY node, epoch, lane ORDER BY node, epoch, lane FORMAT TSV",
            window.condition()
        );
        let lines = self.numbers(&sql).await?;
        let lane = |[node, epoch, lane, rows, distinct, first, last]: [u64; 7]| {
            Some(Lane {
                name: (node.try_into().ok()?, epoch.try_into().ok()?, lane.try_into().ok()?),
                rows,
                distinct,
                first,
                last,
            })
        };
        let lanes: Option<Vec<Lane>> = lines.into_iter().map(lane).collect();
        lanes.ok_or(TableError::Malformed { expected: "lanes" })
    }

    pub(crate) async fn numbers<const N: usize>(
        &self,
        sql: &str,
    ) -> Result<Vec<[u64; N]>, TableError> {
        let answer = self.ask(sql).await?;
        let line = |line: &str| -> Option<[u64; N]> {
            let fields: Option<Vec<u64>> = line.split('\t').map(|n| n.parse().ok()).collect();
            fields?.try_into().ok()
        };
        let lines: Option<Vec<_>> = answer.lines().map(line).collect();
        lines.ok_or(TableError::Malformed { expected: "lines of numbers" })
    }

    /// The answer to a query, as text.
    pub(crate) async fn ask(&self, sql: &str) -> Result<String, TableError> {
        Ok(text(&self.target, self.query(sql).await?, ANSWER_TIMEOUT).await?)
    }

    pub(crate) async fn query(&self, sql: &str) -> Result<Response<Incoming>, TableError> {
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(sql.as_bytes())));
        *request.method_mut() = Method::POST;
        let mut password = HeaderValue::from_str(self.password.expose())?;
        password.set_sensitive(true);
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(self.target.authority())?);
        headers.insert("x-clickhouse-user", HeaderValue::from_str(&self.user)?);
        headers.insert("x-clickhouse-key", password);
        headers.insert("x-clickhouse-database", HeaderValue::from_str(&self.database)?);
        Ok(fetch(&self.target, request, ANSWER_TIMEOUT).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_whole_seconds_around_the_run() {
        let window = Window::around(1_700_000_000_250_000, 1_700_000_003_999_999);
        assert_eq!(window.from_unix_us, 1_700_000_000_000_000);
        assert_eq!(window.to_unix_us, 1_700_000_005_000_000);
    }
}
