//! The queries of an audit: their text, their parameters, and what they may take from the server.
//!
//! Guarantees that every query runs read-only and within the [`Limits`](super::Limits), and that an
//! answer of another form is an error.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{AuditError, Options, bounds_us};
use crate::clickhouse::native::ROW_DIGEST;
use crate::clickhouse::store::{Lines, Reading, Store, StoreError};
use crate::event::LATEST_TS_US;

/// A query, by its file.
#[derive(Clone, Copy)]
pub(super) struct Query {
    name: &'static str,
    sql: &'static str,
}

macro_rules! query {
    ($constant:ident, $name:literal, $file:literal) => {
        pub(super) const $constant: Query = Query {
            name: $name,
            sql: include_str!(concat!("../clickhouse/queries/audit_", $file, ".sql")),
        };
    };
}

query!(FACTS, "facts", "facts");
query!(MONTHS, "months", "months");
query!(BATCHES, "batches", "batches");
query!(UNLISTED, "unlisted rows", "unlisted");
query!(RANGES, "ranges", "ranges");
query!(PLANS, "plans", "plans");
query!(LANES, "lanes", "lanes");
query!(SEQUENCES, "sequences", "sequences");
query!(INGESTED, "ingested events", "ingested");
query!(INGESTED_COUNT, "ingested events", "ingested_count");
query!(OPEN_PARTS, "parts of long requests", "open_parts");
query!(PROJECTION, "projection", "projection");
query!(LOSSES, "losses", "losses");

/// Errors of the server that mean that the schema is another one: UNKNOWN_IDENTIFIER,
/// UNKNOWN_TABLE, UNKNOWN_DATABASE.
const OTHER_SCHEMA: [i32; 3] = [47, 60, 81];

/// One row of an answer.
pub(super) type Facts = Map<String, Value>;

/// Parameters of one query, over those of every query.
pub(super) type Parameters<'p> = &'p [(&'static str, String)];

/// Asks with the parameters and limits of one audit.
pub(super) struct Asker<'a> {
    store: &'a Store,
    parameters: Vec<(&'static str, String)>,
    settings: Vec<(&'static str, String)>,
    timeout: Duration,
    max_memory_bytes: u64,
    known: Known,
}

/// What the server says before anything else; see `audit_facts.sql`.
#[derive(Clone, Copy, serde::Deserialize)]
struct Known {
    now_us: i64,
    horizon_us: i64,
    settled_us: i64,
}

/// What most queries answer: one row of counts and examples.
#[derive(serde::Deserialize)]
pub(super) struct Counts {
    pub(super) checked: u64,
    pub(super) wrong: u64,
    /// Not looked at, because retention may have taken it.
    #[serde(default)]
    pub(super) passed_over: u64,
    pub(super) examples: Vec<Facts>,
}

impl<'a> Asker<'a> {
    pub(super) async fn new(store: &'a Store, options: &Options) -> Result<Self, AuditError> {
        let (from_us, to_us) = bounds_us(&options.scope);
        let limits = options.limits;
        let spill_bytes = (limits.max_memory_bytes / 4).to_string();
        let mut asker = Self {
            store,
            parameters: vec![
                ("from_us", from_us.to_string()),
                ("to_us", to_us.to_string()),
                ("tenant", options.scope.tenant.clone().unwrap_or_default()),
                (
                    "written_from_us",
                    options.scope.written_from_us.unwrap_or(LATEST_TS_US).to_string(),
                ),
                ("dense", u8::from(!is_partial(options)).to_string()),
                ("only", "[]".to_owned()),
                ("near", "[]".to_owned()),
            ],
            settings: vec![
                ("max_threads", limits.max_threads.to_string()),
                ("max_memory_usage", limits.max_memory_bytes.to_string()),
                ("max_bytes_before_external_group_by", spill_bytes.clone()),
                ("max_bytes_before_external_sort", spill_bytes),
                ("max_execution_time", limits.timeout.as_secs().to_string()),
                // Behind inserts, where the server may say so.
                ("os_thread_priority", "10".to_owned()),
                ("priority", "10".to_owned()),
                ("do_not_merge_across_partitions_select_final", "1".to_owned()),
                ("enable_named_columns_in_function_tuple", "1".to_owned()),
                ("output_format_json_quote_64bit_integers", "0".to_owned()),
            ],
            timeout: limits.timeout,
            max_memory_bytes: limits.max_memory_bytes,
            known: Known { now_us: 0, horizon_us: 0, settled_us: 0 },
        };
        asker.known = asker.one(FACTS, &[]).await?;
        asker.parameters.extend([
            ("horizon_us", asker.known.horizon_us.to_string()),
            ("settled_us", asker.known.settled_us.to_string()),
        ]);
        Ok(asker)
    }

    /// The server's time when the audit began.
    pub(super) fn now_us(&self) -> i64 {
        self.known.now_us
    }

    /// Memory that one query may take.
    pub(super) fn max_memory_bytes(&self) -> u64 {
        self.max_memory_bytes
    }

    /// The first time whose events have all been kept; 0 when all ever were.
    pub(super) fn settled_us(&self) -> i64 {
        self.known.settled_us
    }

    /// yyyymm of every month in scope.
    pub(super) async fn months(&self) -> Result<Vec<u32>, AuditError> {
        #[derive(serde::Deserialize)]
        struct Month {
            month: u32,
        }
        let months: Vec<Month> = self.all(MONTHS, &[]).await?;
        Ok(months.into_iter().map(|found| found.month).collect())
    }

    /// The only row of an answer.
    pub(super) async fn one<T: DeserializeOwned>(
        &self,
        query: Query,
        parameters: Parameters<'_>,
    ) -> Result<T, AuditError> {
        let text = self.text(query, parameters, &[], "JSONEachRow").await?;
        serde_json::from_str(&text).map_err(|_| not_understood(query, &text))
    }

    /// Every row of an answer that fits in memory.
    pub(super) async fn all<T: DeserializeOwned>(
        &self,
        query: Query,
        parameters: Parameters<'_>,
    ) -> Result<Vec<T>, AuditError> {
        let text = self.text(query, parameters, &[], "JSONEachRow").await?;
        let parse = |line| serde_json::from_str(line).map_err(|_| not_understood(query, line));
        text.lines().map(parse).collect()
    }

    /// The lines of an answer that need not fit in memory, tab-separated.
    pub(super) fn lines(
        &self,
        query: Query,
        parameters: Parameters<'_>,
    ) -> Result<Lines, AuditError> {
        let (sql, parameters) = self.prepare(query, parameters);
        let reading = Reading {
            sql: &sql,
            parameters: &parameters,
            settings: &self.settings,
            format: "TSV",
            timeout: self.timeout,
        };
        self.store.read_lines(&reading).map_err(|error| failed(query, error))
    }

    /// The answer as text in one of the server's formats.
    pub(super) async fn text(
        &self,
        query: Query,
        parameters: Parameters<'_>,
        settings: &[(&'static str, String)],
        format: &str,
    ) -> Result<String, AuditError> {
        let settings = [self.settings.as_slice(), settings].concat();
        let (sql, parameters) = self.prepare(query, parameters);
        let reading = Reading {
            sql: &sql,
            parameters: &parameters,
            settings: &settings,
            format,
            timeout: self.timeout,
        };
        self.store.read(&reading).await.map_err(|error| failed(query, error))
    }

    /// The query's text, and every parameter with the value it has for this one.
    fn prepare(&self, query: Query, own: Parameters<'_>) -> (String, Vec<(&'static str, String)>) {
        let common = self.parameters.iter();
        let common = common.filter(|(name, _)| own.iter().all(|(other, _)| other != name));
        let parameters = common.chain(own).cloned().collect();
        (query.sql.replace("{{row_digest}}", ROW_DIGEST), parameters)
    }
}

/// Whether rows that are in no scope may explain a gap.
fn is_partial(options: &Options) -> bool {
    options.scope.is_window() || options.scope.tenant.is_some()
}

pub(super) fn failed(query: Query, source: StoreError) -> AuditError {
    match source.code() {
        Some(code) if OTHER_SCHEMA.contains(&code) => AuditError::Schema(source),
        _ => AuditError::Store { query: query.name, source },
    }
}

pub(super) fn not_understood(query: Query, got: &str) -> AuditError {
    AuditError::Answer { query: query.name, got: got.chars().take(200).collect() }
}
