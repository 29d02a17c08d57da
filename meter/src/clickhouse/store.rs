//! The client of ClickHouse's HTTP interface: inserts, verification, queries and migrations.
//!
//! Guarantees:
//!
//! - An insert is synchronous (`async_insert = 0`), carries its deduplication token, and is one
//!   block whatever its size. Success means that the server has the part on disk.
//! - A failed insert says which of two things is known: [`InsertError::Refused`], nothing was written
//!   and the same block may be sent again; or [`InsertError::Ambiguous`], it may or may not have been
//!   written and [`Store::count_batch`] must be asked first. When in doubt it is ambiguous.
//! - Every call ends: each has a timeout.
//! - Passwords travel in headers only and are in no error, log or `Debug`.
//!
//! A `Store` and its clones share one pool of connections, which belong to the runtime that opened
//! them: make one store per runtime. `https` URLs use TLS with the public web's root certificates.

mod error;
mod lines;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use clickhouse::Client;
use clickhouse::query::Query;

pub use error::{InsertError, StoreError};
pub use lines::Lines;

use super::native::Totals;
use super::schema::{self, TABLE};
use super::{AppliedMigration, ClickHouseSettings, EncodedBlock, MigrateOptions, queries};

const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// For one chunk of a block to leave, and for the server to finish once it has all of it.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
const INSERT_TIMEOUT: Duration = Duration::from_mins(2);
const QUERY_TIMEOUT: Duration = Duration::from_mins(2);
/// DDL and mutations wait for merges in their way.
const CHANGE_TIMEOUT: Duration = Duration::from_mins(10);

/// A query that changes nothing ends with the connection it came on.
const CANCEL_ON_CLOSE: &str = "cancel_http_readonly_queries_on_client_close";

/// A query that only reads, and what it may take.
pub(crate) struct Reading<'r> {
    pub(crate) sql: &'r str,
    /// Values of its `{name:Type}` placeholders.
    pub(crate) parameters: &'r [(&'static str, String)],
    pub(crate) settings: &'r [(&'static str, String)],
    pub(crate) format: &'r str,
    pub(crate) timeout: Duration,
}

/// A connection pool to one ClickHouse. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    /// Without a current database, which may not exist yet.
    server: Client,
    /// With ours as the current database.
    client: Client,
    database: String,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Store {
    /// A client for `settings`; connects when it is first used.
    pub fn new(settings: &ClickHouseSettings) -> Result<Self, StoreError> {
        let scheme = settings.url.split_once("://").map(|(scheme, _)| scheme);
        if !matches!(scheme, Some("http" | "https")) {
            return Err(StoreError::Settings { problem: "the url is not http:// or https://" });
        }
        if !is_identifier(&settings.database) {
            return Err(StoreError::Settings {
                problem: "the database is not a name of letters, digits and _",
            });
        }
        let server = Client::default()
            .with_url(&settings.url)
            .with_user(&settings.user)
            .with_password(&settings.password)
            .with_product_info("orbit", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            client: server.clone().with_database(&settings.database),
            server,
            database: settings.database.clone(),
        })
    }

    /// The database that holds our tables.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Whether the server answers us (it may not have our database yet).
    pub async fn ping(&self) -> Result<(), StoreError> {
        within(PING_TIMEOUT, self.server.query_raw("SELECT 1").execute()).await
    }

    /// Brings the schema up to date; see [`schema::migrate`].
    pub async fn migrate(
        &self,
        options: &MigrateOptions,
    ) -> Result<Vec<AppliedMigration>, StoreError> {
        schema::migrate(self, options).await
    }

    /// Inserts one block as one part under a deduplication token, which is also the query's id.
    ///
    /// The server drops a block whose token it has seen, and answers as if it had written it. It
    /// remembers the token *before* the part is in place: a server that is killed in between drops
    /// every later block with that token, so success alone does not prove that a block which was
    /// sent before is there. After an ambiguous failure, therefore:
    ///
    /// 1. [`cancel_insert`](Self::cancel_insert), because the server may still be at it;
    /// 2. [`count_batch`](Self::count_batch), and send again only if nothing is there.
    ///
    /// A stopped server (SIGSTOP, a stalled machine) may hold a whole request that it has not begun
    /// to read, which neither step sees. Sending again under the *same* token first and counting
    /// afterwards is safe from that as well; a new token is needed only if the count is then still
    /// 0.
    pub async fn insert_block(&self, block: &EncodedBlock, token: &str) -> Result<(), InsertError> {
        if block.rows() == 0 {
            return Ok(());
        }
        let sql = format!("INSERT INTO {TABLE} ({}) FORMAT Native", schema::column_names());
        let mut insert = self
            .client
            .insert_formatted_with(sql)
            .with_timeouts(Some(SEND_TIMEOUT), Some(INSERT_TIMEOUT))
            .with_setting("async_insert", "0")
            .with_setting("wait_end_of_query", "1")
            .with_setting("insert_deduplicate", "1")
            .with_setting("insert_deduplication_token", token)
            .with_setting("query_id", token)
            // A table that is distributed over shards has taken the rows when it answers.
            .with_setting("distributed_foreground_insert", "1")
            // The block is a part as it is: never split by rows or bytes, never waited on for more.
            .with_setting("max_insert_block_size", block.rows().to_string())
            .with_setting("max_insert_block_size_bytes", "0")
            .with_setting("min_insert_block_size_rows", "1")
            .with_setting("min_insert_block_size_bytes", "0");
        insert.send(block.bytes().clone()).await.map_err(InsertError::from)?;
        insert.end().await.map_err(InsertError::from)
    }

    /// Inserts rows of a small table whose rows may be written twice (RowBinary).
    pub(super) async fn insert_rows(
        &self,
        table: &str,
        columns: &str,
        rows: Vec<u8>,
    ) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut insert = self
            .client
            .insert_formatted_with(format!("INSERT INTO {table} ({columns}) FORMAT RowBinary"))
            .with_timeouts(Some(SEND_TIMEOUT), Some(INSERT_TIMEOUT))
            .with_setting("async_insert", "0")
            .with_setting("wait_end_of_query", "1")
            .with_setting("distributed_foreground_insert", "1")
            // Ingested events may be of any month, and so may the batches listed at once.
            .with_setting("max_partitions_per_insert_block", "0");
        insert.send(rows.into()).await.map_err(StoreError::from)?;
        insert.end().await.map_err(StoreError::from)
    }

    /// Ends the insert with this token if the server still works on it, and waits until it has
    /// ended: it has then written all of its block or nothing, and will not write any more.
    pub async fn cancel_insert(&self, token: &str) -> Result<(), StoreError> {
        let query = self.client.query_raw("KILL QUERY WHERE query_id = {token:String} SYNC");
        within(CHANGE_TIMEOUT, query.param("token", token).execute()).await
    }

    /// Rows of a batch that are in the table; `month` (yyyymm) is the partition it went to.
    pub async fn count_batch(&self, batch_id: u64, month: u32) -> Result<u64, StoreError> {
        let sql = format!(
            "SELECT count() FROM {TABLE} WHERE batch_id = {batch_id} AND toYYYYMM(ts) = {month}"
        );
        self.number(&sql).await
    }

    /// What the rows of a batch add up to that are in the table.
    pub async fn batch_totals(&self, batch_id: u64, month: u32) -> Result<Totals, StoreError> {
        let sql = format!(
            "SELECT {} FROM {TABLE} WHERE batch_id = {batch_id} AND toYYYYMM(ts) = {month}",
            Totals::select_list()
        );
        let got = self.query_text(&sql, "TSV").await?;
        Totals::parse(&got).ok_or(StoreError::Answer { expected: "a batch's totals", got })
    }

    /// Deletes what is there of a batch, in the raw table and the projection, and waits until it is
    /// gone.
    pub async fn delete_batch(&self, batch_id: u64, month: u32) -> Result<(), StoreError> {
        // A mutation and not a lightweight delete: the rows leave the disk, so that a later resend
        // of the batch shares the partition with nothing of it.
        let sql = format!(
            "ALTER TABLE {TABLE} DELETE IN PARTITION ID '{month}' WHERE batch_id = {batch_id} \
             SETTINGS mutations_sync = 2"
        );
        self.execute(&sql).await
    }

    /// Runs a statement that returns nothing: DDL, a mutation.
    pub async fn execute(&self, sql: &str) -> Result<(), StoreError> {
        within(CHANGE_TIMEOUT, self.client.query_raw(sql).execute()).await
    }

    /// Runs a statement outside our database, which may not exist yet.
    pub(super) async fn execute_on_server(&self, sql: &str) -> Result<(), StoreError> {
        within(CHANGE_TIMEOUT, self.server.query_raw(sql).execute()).await
    }

    /// The whole result of a query in one of ClickHouse's text formats (`TSV`, `JSONEachRow`, ...).
    pub async fn query_text(&self, sql: &str, format: &str) -> Result<String, StoreError> {
        text(self.client.query_raw(sql), format).await
    }

    /// The result of a query line by line, for results that are too large to hold.
    pub fn query_lines(&self, sql: &str, format: &str) -> Result<Lines, StoreError> {
        let cursor = self.client.query_raw(sql).fetch_bytes(format).map_err(StoreError::from)?;
        Ok(Lines::new(cursor, QUERY_TIMEOUT))
    }

    /// Runs a query of [`queries::all`] with its `{name:Type}` parameters.
    pub async fn named(
        &self,
        name: &str,
        parameters: &[(&str, &str)],
        format: &str,
    ) -> Result<String, StoreError> {
        let sql = queries::find(name)
            .ok_or_else(|| StoreError::UnknownQuery { name: name.to_owned() })?
            .sql;
        let mut query = self.client.query_raw(sql);
        for (parameter, value) in parameters {
            query = query.param(parameter, value);
        }
        text(query, format).await
    }

    /// The whole result of a long query that changes nothing, with parameters and settings of its
    /// own. ClickHouse ends it as soon as nobody waits for it any more.
    pub(crate) async fn read(&self, reading: &Reading<'_>) -> Result<String, StoreError> {
        text_within(self.reading(reading), reading.format, reading.timeout).await
    }

    /// The same line by line, each within the timeout.
    pub(crate) fn read_lines(&self, reading: &Reading<'_>) -> Result<Lines, StoreError> {
        let cursor = self.reading(reading).fetch_bytes(reading.format).map_err(StoreError::from)?;
        Ok(Lines::new(cursor, reading.timeout))
    }

    fn reading(&self, reading: &Reading<'_>) -> Query {
        let mut query = self.client.query_raw(reading.sql);
        for (parameter, value) in reading.parameters {
            query = query.param(parameter, value);
        }
        for (setting, value) in reading.settings {
            query = query.with_setting(*setting, value);
        }
        query.with_setting("readonly", "2").with_setting(CANCEL_ON_CLOSE, "1")
    }

    /// The single number a query returns.
    pub(super) async fn number(&self, sql: &str) -> Result<u64, StoreError> {
        let got = self.query_text(sql, "TSV").await?;
        got.trim().parse().map_err(|_| StoreError::Answer { expected: "a number", got })
    }
}

async fn text(query: Query, format: &str) -> Result<String, StoreError> {
    text_within(query, format, QUERY_TIMEOUT).await
}

async fn text_within(query: Query, format: &str, timeout: Duration) -> Result<String, StoreError> {
    // Held back until it is complete: an error half way is then an error, not part of the text.
    let query = query.with_setting("wait_end_of_query", "1");
    let bytes = within(timeout, async { query.fetch_bytes(format)?.collect().await }).await?;
    String::from_utf8(bytes.into()).map_err(|error| StoreError::Answer {
        expected: "text in UTF-8",
        got: String::from_utf8_lossy(error.as_bytes()).chars().take(200).collect(),
    })
}

async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, clickhouse::error::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result.map_err(StoreError::from),
        Err(_) => Err(StoreError::TimedOut { after: timeout }),
    }
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.len() <= 128
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
