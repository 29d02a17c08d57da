//! What was counted in a span of time, but for what a running gateway counts itself.
//!
//! Guarantees that a row counts once and in whole units, rounded up per row, as quotas are charged
//! at the edge; and that the query only reads and is bounded in memory and time.

use std::time::Duration;

use serde::Deserialize;

use super::store::{Reading, Store, StoreError};

const SQL: &str = include_str!("queries/consumption.sql");
const OTHERS_SQL: &str = include_str!("queries/consumption_others.sql");
const OTHERS_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_MEMORY_BYTES: u64 = 1 << 30;

/// Which rows are asked for.
#[derive(Clone, Debug)]
pub struct Span<'s> {
    /// First event time, unix microseconds.
    pub from_us: i64,
    /// First event time after the span.
    pub to_us: i64,
    /// Tenants at the root of their tree.
    pub roots: &'s [String],
    /// Whose rows are left out: a node's of this epoch.
    pub except: (u32, u32),
}

/// What one tenant used of one meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumption {
    /// Ids from the root of the tree to the tenant, joined with `/`.
    pub path: String,
    /// The meter.
    pub meter: String,
    /// Rows.
    pub rows: u64,
    /// What they add up to, each in whole units.
    pub quantity: u64,
    /// Body bytes of the requests counted on it.
    pub request_bytes: u64,
    /// Body bytes of their answers.
    pub response_bytes: u64,
}

/// Consumption could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConsumptionError {
    /// The database did not answer, or refused.
    #[error("the usage database did not answer")]
    Store(#[from] StoreError),
    /// It answered something else.
    #[error("the usage database answered something else")]
    Answer(#[from] serde_json::Error),
    /// A number of the answer is none.
    #[error("the usage database answered `{0}` for a count")]
    Count(String),
}

#[derive(Deserialize)]
struct Row {
    path: String,
    meter: String,
    rows: String,
    quantity: String,
    request_bytes: String,
    response_bytes: String,
}

/// Reads it by tenant and meter, in no order. What does not fit is the largest number there is.
pub async fn read(
    store: &Store,
    span: &Span<'_>,
    timeout: Duration,
) -> Result<Vec<Consumption>, ConsumptionError> {
    if span.roots.is_empty() {
        return Ok(Vec::new());
    }
    let (node, epoch) = span.except;
    let parameters = [
        ("from_us", span.from_us.to_string()),
        ("to_us", span.to_us.to_string()),
        // An id has no slash in it.
        ("roots", span.roots.join("/")),
        ("node", node.to_string()),
        ("epoch", epoch.to_string()),
    ];
    let settings = [
        ("max_memory_usage", MAX_MEMORY_BYTES.to_string()),
        ("max_execution_time", timeout.as_secs().max(1).to_string()),
        // Beside inserts and what finance asks, this can wait.
        ("max_threads", "1".to_owned()),
    ];
    let reading = Reading {
        sql: SQL,
        parameters: &parameters,
        settings: &settings,
        format: "JSONEachRow",
        timeout,
    };
    let text = store.read(&reading).await?;
    text.lines().map(consumption).collect()
}

/// A number that differs whenever nodes other than this one may have written rows: it is made of
/// the manifest of their batches.
pub async fn others_mark(store: &Store, node: u32) -> Result<u64, ConsumptionError> {
    let reading = Reading {
        sql: OTHERS_SQL,
        parameters: &[("node", node.to_string())],
        settings: &[("max_threads", "1".to_owned())],
        format: "TSV",
        timeout: OTHERS_TIMEOUT,
    };
    let text = store.read(&reading).await?;
    text.trim().parse().map_err(|_| ConsumptionError::Count(text))
}

fn consumption(line: &str) -> Result<Consumption, ConsumptionError> {
    let row: Row = serde_json::from_str(line)?;
    let count = |text: String| match text.parse::<u128>() {
        Ok(count) => Ok(u64::try_from(count).unwrap_or(u64::MAX)),
        Err(_) => Err(ConsumptionError::Count(text)),
    };
    Ok(Consumption {
        path: row.path,
        meter: row.meter,
        rows: count(row.rows)?,
        quantity: count(row.quantity)?,
        request_bytes: count(row.request_bytes)?,
        response_bytes: count(row.response_bytes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_the_largest_number() {
        let line = r#"{"path":"a/b","meter":"m","rows":"1","quantity":"340282366920938463463374607431768211455",
                       "request_bytes":"7","response_bytes":"0"}"#;
        let read = consumption(line).expect("a row");
        assert_eq!((read.quantity, read.request_bytes), (u64::MAX, 7));
        assert!(matches!(
            consumption(&line.replace("\"7\"", "\"-7\"")),
            Err(ConsumptionError::Count(_))
        ));
    }
}
