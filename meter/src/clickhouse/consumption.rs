//! What rows say was counted: by everybody but a running gateway itself, of members, and of levels.
//!
//! Guarantees that a row counts once and in whole units, rounded up per row, as quotas are charged
//! at the edge; that the queries only read and are bounded in memory and time; and that results are
//! handed on line by line, however many tenants there are.

use std::time::Duration;

use orbit_policy::LevelRead;
use orbit_policy::quota::Sums;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::store::{Reading, Store, StoreError};

const SQL: &str = include_str!("queries/consumption.sql");
const MEMBERS_SQL: &str = include_str!("queries/consumption_members.sql");
const LEVELS_SQL: &str = include_str!("queries/consumption_levels.sql");
const OTHERS_SQL: &str = include_str!("queries/consumption_others.sql");
const OTHERS_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_MEMORY_BYTES: u64 = 1 << 30;
/// Groups that take more go to the database's disk.
const SPILL_BYTES: u64 = 1 << 29;
/// Digits after the point.
const SCALE: usize = 9;

/// Event times, half-open, unix microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first.
    pub from_us: i64,
    /// The first after it.
    pub to_us: i64,
}

/// A running gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its node.
    pub node: u32,
    /// Its epoch.
    pub epoch: u32,
}

/// What is used on one path, under one plan, of one meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumption {
    /// Ids from the root of the tree to the tenant, joined with `/`.
    pub path: String,
    /// The plan's id.
    pub plan: String,
    /// The meter.
    pub meter: String,
    /// What it adds up to. What does not fit is the largest number there is.
    pub sums: Sums,
}

/// A member that was seen on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenMember {
    /// As above.
    pub path: String,
    /// As above.
    pub plan: String,
    /// The meter.
    pub meter: String,
    /// The member's id.
    pub id: [u8; 16],
    /// Whether there are too many to be shown: this is one of those that make the same sketch.
    pub is_sketched: bool,
}

/// What was read is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ConsumptionError {
    /// The database did not answer, or refused.
    #[error("the usage database did not answer")]
    Store(#[from] StoreError),
    /// It answered something else.
    #[error("the usage database answered something else")]
    Answer(#[from] serde_json::Error),
    /// A number of the answer is none.
    #[error("the usage database answered `{0}` for a number")]
    Number(String),
}

#[derive(Deserialize)]
struct Row {
    path: String,
    plan: String,
    meter: String,
    counted: String,
    units: String,
    request_bytes: String,
    response_bytes: String,
}

#[derive(Deserialize)]
struct MemberRow {
    path: String,
    plan: String,
    meter: String,
    id: String,
    is_sketched: u8,
}

#[derive(Deserialize)]
struct LevelRow {
    tenant: String,
    level: String,
    told_us: String,
    own: String,
}

/// Shows what was used in a span but for what `except` counts itself: its rows dated `since_us`
/// (unix microseconds) or later.
pub async fn read(
    store: &Store,
    span: Span,
    except: Process,
    since_us: i64,
    timeout: Duration,
    mut visit: impl FnMut(Consumption),
) -> Result<(), ConsumptionError> {
    let mut parameters = of_span(span);
    parameters.extend(of_process(except));
    parameters.push(("since_us", since_us.to_string()));
    let mut show = |row: Row| {
        let sums = Sums {
            values: count(row.counted)?,
            units: count(row.units)?,
            request_bytes: count(row.request_bytes)?,
            response_bytes: count(row.response_bytes)?,
        };
        let Row { path, plan, meter, .. } = row;
        visit(Consumption { path, plan, meter, sums });
        Ok(())
    };
    each(store, SQL, &parameters, timeout, &mut show).await
}

/// Shows who was seen in a span as a member of one of these meters, by any node. Where there are more
/// than `most` on a path, as many as make the same sketch.
pub async fn members(
    store: &Store,
    span: Span,
    meters: &[String],
    most: u64,
    timeout: Duration,
    mut visit: impl FnMut(SeenMember),
) -> Result<(), ConsumptionError> {
    let mut parameters = of_span(span);
    parameters.push(("meters", meters.join("\u{1f}")));
    parameters.push(("most", most.to_string()));
    let mut show = |row: MemberRow| {
        let digits = row.id.replace('-', "");
        let id = u128::from_str_radix(&digits, 16);
        let id = id.map_err(|_| ConsumptionError::Number(row.id))?.to_be_bytes();
        let MemberRow { path, plan, meter, is_sketched, .. } = row;
        visit(SeenMember { path, plan, meter, id, is_sketched: is_sketched != 0 });
        Ok(())
    };
    each(store, MEMBERS_SQL, &parameters, timeout, &mut show).await
}

/// The own levels of a gauge by tenant, in no order; `process` is whose changes are told besides.
pub async fn levels(
    store: &Store,
    meter: &str,
    process: Process,
    timeout: Duration,
) -> Result<Vec<(String, LevelRead)>, ConsumptionError> {
    let mut parameters = vec![("meter", meter.to_owned())];
    parameters.extend(of_process(process));
    let mut levels = Vec::new();
    let mut show = |row: LevelRow| {
        let told_us: i64 =
            row.told_us.parse().map_err(|_| ConsumptionError::Number(row.told_us))?;
        let read = LevelRead {
            level_nano: nano(row.level)?,
            // Without an event it is the default of its column.
            told_us: (told_us > 0).then_some(told_us),
            own_nano: nano(row.own)?,
        };
        levels.push((row.tenant, read));
        Ok(())
    };
    each(store, LEVELS_SQL, &parameters, timeout, &mut show).await?;
    Ok(levels)
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
    text.trim().parse().map_err(|_| ConsumptionError::Number(text))
}

fn of_span(span: Span) -> Vec<(&'static str, String)> {
    vec![("from_us", span.from_us.to_string()), ("to_us", span.to_us.to_string())]
}

fn of_process(process: Process) -> [(&'static str, String); 2] {
    [("node", process.node.to_string()), ("epoch", process.epoch.to_string())]
}

async fn each<T: DeserializeOwned>(
    store: &Store,
    sql: &str,
    parameters: &[(&'static str, String)],
    timeout: Duration,
    visit: &mut dyn FnMut(T) -> Result<(), ConsumptionError>,
) -> Result<(), ConsumptionError> {
    let settings = [
        ("max_memory_usage", MAX_MEMORY_BYTES.to_string()),
        ("max_bytes_before_external_group_by", SPILL_BYTES.to_string()),
        ("max_bytes_before_external_sort", SPILL_BYTES.to_string()),
        ("max_execution_time", timeout.as_secs().max(1).to_string()),
        // Beside inserts and what finance asks, this can wait.
        ("max_threads", "1".to_owned()),
        // A query that reads rows twice reads the same rows.
        ("enable_shared_storage_snapshot_in_query", "1".to_owned()),
    ];
    let format = "JSONEachRow";
    let reading = Reading { sql, parameters, settings: &settings, format, timeout };
    let mut lines = store.read_lines(&reading)?;
    while let Some(line) = lines.next_line().await? {
        visit(serde_json::from_str(&line)?)?;
    }
    Ok(())
}

fn count(text: String) -> Result<u64, ConsumptionError> {
    match text.parse::<u128>() {
        Ok(count) => Ok(u64::try_from(count).unwrap_or(u64::MAX)),
        Err(_) => Err(ConsumptionError::Number(text)),
    }
}

/// A Decimal, in units of 1e-9.
fn nano(text: String) -> Result<i128, ConsumptionError> {
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let digits = format!("{whole}{fraction:0<SCALE$}");
    let is_one = !whole.is_empty() && fraction.len() <= SCALE;
    let number = digits.parse().ok().filter(|_| is_one);
    number.ok_or(ConsumptionError::Number(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_to_the_last_digit_and_what_is_none_is_told() {
        for (text, value) in [
            ("0", 0),
            ("12", 12_000_000_000),
            ("-0.5", -500_000_000),
            ("-3.000000001", -3_000_000_001),
            (
                "99999999999999999999999999999.999999999",
                99_999_999_999_999_999_999_999_999_999_999_999_999,
            ),
        ] {
            assert_eq!(nano(text.to_owned()).expect("a number"), value, "{text}");
        }
        for text in ["", "x", "1.2.3", "0.0000000001"] {
            assert!(matches!(nano(text.to_owned()), Err(ConsumptionError::Number(_))), "{text}");
        }
        let large = "340282366920938463463374607431768211455".to_owned();
        assert_eq!(count(large).expect("a number"), u64::MAX);
        assert!(matches!(count("-7".to_owned()), Err(ConsumptionError::Number(_))));
    }
}
