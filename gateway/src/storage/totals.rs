//! What a part of the tenant tree used, read from the usage database.

use std::time::Duration;

use jiff::Timestamp;
use orbit_meter::clickhouse::StoreError;
use serde::{Deserialize, Serialize};

use super::StorageHandle;

/// Longest time an operator waits for totals.
const TOTALS_TIMEOUT: Duration = Duration::from_secs(10);
/// Microseconds of an hour, the grain of the totals.
const HOUR_US: i64 = 3600 * 1_000_000;
/// How the database writes a time.
const TIME: &str = "%Y-%m-%d %H:%M:%S";

/// One meter's totals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MeterTotal {
    /// The meter.
    pub meter: String,
    /// The quantity on it, a decimal number that no float could hold.
    pub quantity: String,
    /// Requests.
    pub requests: u64,
    /// Bytes of response bodies.
    pub response_bytes: u64,
}

/// Totals could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TotalsError {
    /// The database did not answer in time.
    #[error("the usage database did not answer within {} s", TOTALS_TIMEOUT.as_secs())]
    Late,
    /// The database could not be asked, or refused.
    #[error("the usage database did not answer")]
    Store(#[source] StoreError),
    /// A time is outside what the database can hold.
    #[error("{0} microseconds is not a time")]
    Time(i64),
    /// The answer is not what was asked for.
    #[error("the usage database answered something else")]
    Answer(#[source] serde_json::Error),
    /// A number of the answer is none.
    #[error("the usage database answered `{0}` for a count")]
    Count(String),
}

/// A row with every value as text, which loses no digit.
#[derive(Deserialize)]
struct Row {
    meter: String,
    quantity: String,
    requests: String,
    response_bytes: String,
}

impl StorageHandle {
    /// Totals by meter of the tenant at `path` and everything below it, for the hours in
    /// `[from_us, to_us)`: unix microseconds, rounded down to the hour, at most a month apart.
    ///
    /// What was not shipped yet is not in them.
    pub async fn totals(
        &self,
        path: &str,
        from_us: i64,
        to_us: i64,
    ) -> Result<Vec<MeterTotal>, TotalsError> {
        let depth = path.split('/').count().to_string();
        let (from, to) = (time(from_us)?, time(to_us)?);
        let parameters = [
            ("from", from.as_str()),
            ("to", to.as_str()),
            ("timezone", "UTC"),
            ("depth", depth.as_str()),
            ("root", path),
        ];
        // Below the root at its own depth there is one node: the root.
        let asked =
            self.reader.named("usage_by_level_meter_month", &parameters, "JSONStringsEachRow");
        let text = tokio::time::timeout(TOTALS_TIMEOUT, asked)
            .await
            .map_err(|_| TotalsError::Late)?
            .map_err(TotalsError::Store)?;
        text.lines().map(total).collect()
    }
}

fn time(unix_us: i64) -> Result<String, TotalsError> {
    let hour_us = unix_us - unix_us.rem_euclid(HOUR_US);
    let at = Timestamp::from_microsecond(hour_us).map_err(|_| TotalsError::Time(unix_us))?;
    Ok(at.strftime(TIME).to_string())
}

fn total(line: &str) -> Result<MeterTotal, TotalsError> {
    let row: Row = serde_json::from_str(line).map_err(TotalsError::Answer)?;
    let count = |text: String| text.parse::<u64>().map_err(|_| TotalsError::Count(text));
    Ok(MeterTotal {
        meter: row.meter,
        quantity: row.quantity,
        requests: count(row.requests)?,
        response_bytes: count(row.response_bytes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_written_as_the_database_reads_them() {
        assert_eq!(time(1_796_000_000_000_000).expect("a time"), "2026-11-30 00:00:00");
        assert!(time(i64::MAX).is_err());
    }

    #[test]
    fn totals_keep_every_digit() {
        let line = concat!(
            r#"{"node":"acme","meter":"api_calls","month":"202611","requests":"7","#,
            r#""quantity":"12345678901234567890.5","response_bytes":"99"}"#
        );
        let total = total(line).expect("a row");
        assert_eq!(total.quantity, "12345678901234567890.5");
        assert_eq!((total.requests, total.response_bytes), (7, 99));
        assert!(matches!(super::total("{}"), Err(TotalsError::Answer(_))));
    }
}
