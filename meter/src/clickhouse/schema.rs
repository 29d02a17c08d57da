//! The schema: numbered migrations, the columns of `usage_events`, and how long rows are kept.
//!
//! A migration is a file `schema/NNNN_name.sql` of statements that end with `;` at the end of a
//! line, with `{{database}}` for the database. Its text is final once released: the checksum of an
//! applied migration that changed is an error.
//!
//! MergeTree has no transactions, so every statement is one that may be run again (`IF NOT
//! EXISTS`), and a migration is recorded after its last one. Two gateways that start at once may
//! then both run it: the second does nothing, and the doubled record is read as one.
//!
//! Retention is no migration, because it comes from the configuration and may change at any time:
//! it is compared with the table and altered when different.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::store::{Store, StoreError};

/// The raw table, one row per event.
pub const TABLE: &str = "usage_events";

/// Name and type of every column of [`TABLE`], in the order blocks have them.
pub const COLUMNS: [(&str, &str); 25] = [
    ("node", "UInt32"),
    ("epoch", "UInt32"),
    ("lane", "UInt16"),
    ("sequence", "UInt64"),
    ("ts", "DateTime64(6, 'UTC')"),
    ("tenant", "LowCardinality(String)"),
    ("path", "LowCardinality(String)"),
    ("plan", "LowCardinality(String)"),
    ("key_id", "LowCardinality(String)"),
    ("app", "LowCardinality(String)"),
    ("route", "LowCardinality(String)"),
    ("meter", "LowCardinality(String)"),
    ("kind", "Enum8('request' = 1, 'refused' = 2, 'ingested' = 3)"),
    ("reason", "LowCardinality(String)"),
    (
        "method",
        "Enum8('OTHER' = 0, 'GET' = 1, 'HEAD' = 2, 'POST' = 3, 'PUT' = 4, 'DELETE' = 5, \
         'CONNECT' = 6, 'OPTIONS' = 7, 'TRACE' = 8, 'PATCH' = 9)",
    ),
    ("status", "UInt16"),
    ("flags", "UInt8"),
    ("requests", "UInt32"),
    ("quantity", "Decimal(38, 9)"),
    ("request_bytes", "UInt64"),
    ("response_bytes", "UInt64"),
    ("duration_us", "UInt32"),
    ("upstream_us", "UInt32"),
    ("request_id", "UUID"),
    ("batch_id", "UInt64"),
];

/// The columns of [`TABLE`] as the list of an INSERT.
pub fn column_names() -> String {
    COLUMNS.map(|(name, _)| name).join(", ")
}

/// What the schema depends on besides this program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MigrateOptions {
    /// Whole months a row is kept after its event time; `None` keeps it for ever.
    pub ttl_months: Option<u32>,
}

/// A migration that this call has applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedMigration {
    /// Its number.
    pub version: u32,
    /// Its name, without number and `.sql`.
    pub name: String,
}

struct Migration {
    version: u32,
    name: &'static str,
    text: &'static str,
}

const MIGRATIONS: [Migration; 5] = [
    Migration {
        version: 1,
        name: "usage_events",
        text: include_str!("schema/0001_usage_events.sql"),
    },
    Migration {
        version: 2,
        name: "dashboard_views",
        text: include_str!("schema/0002_dashboard_views.sql"),
    },
    Migration { version: 3, name: "proof", text: include_str!("schema/0003_proof.sql") },
    Migration {
        version: 4,
        name: "latency_view",
        text: include_str!("schema/0004_latency_view.sql"),
    },
    Migration {
        version: 5,
        name: "shipped_lanes",
        text: include_str!("schema/0005_shipped_lanes.sql"),
    },
];

/// Makes the database when it is absent, applies what was not applied yet, in order, and sets the
/// retention. Returns what it applied; a second run applies nothing.
pub async fn migrate(
    store: &Store,
    options: &MigrateOptions,
) -> Result<Vec<AppliedMigration>, StoreError> {
    let database = store.database();
    store.execute_on_server(&format!("CREATE DATABASE IF NOT EXISTS {database}")).await?;
    // A merge keeps one record of a version, whoever wrote it.
    store
        .execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations \
             (version UInt32, name String, checksum String, applied_at DateTime64(3, 'UTC')) \
             ENGINE = ReplacingMergeTree ORDER BY (version, checksum)",
        )
        .await?;
    let applied = applied(store).await?;
    let newest = MIGRATIONS.len() as u32;
    if let Some(later) = applied.keys().find(|version| **version > newest) {
        tracing::warn!(later, newest, "the schema was migrated by a later version of this program");
    }
    let mut done = Vec::new();
    for migration in &MIGRATIONS {
        let embedded = checksum(migration.text);
        if let Some(checksums) = applied.get(&migration.version) {
            if let Some(other) = checksums.iter().find(|checksum| **checksum != embedded) {
                return Err(StoreError::MigrationChanged {
                    version: migration.version,
                    name: migration.name.to_owned(),
                    applied: other.clone(),
                    embedded,
                });
            }
            continue;
        }
        apply(store, migration, &embedded).await.map_err(|source| StoreError::MigrationFailed {
            version: migration.version,
            name: migration.name.to_owned(),
            source: Box::new(source),
        })?;
        let (version, name) = (migration.version, migration.name.to_owned());
        tracing::info!(version, name, "schema migration applied");
        done.push(AppliedMigration { version, name });
    }
    retain(store, options.ttl_months).await?;
    Ok(done)
}

/// Checksums of every recorded migration, by version.
async fn applied(store: &Store) -> Result<BTreeMap<u32, Vec<String>>, StoreError> {
    let sql = "SELECT version, checksum FROM schema_migrations GROUP BY version, checksum \
               ORDER BY version";
    let mut applied: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for line in store.query_text(sql, "TSV").await?.lines() {
        let parsed = line.split_once('\t').and_then(|(version, checksum)| {
            version.parse().ok().map(|version| (version, checksum.to_owned()))
        });
        let (version, checksum) = parsed.ok_or_else(|| StoreError::Answer {
            expected: "a version and a checksum",
            got: line.to_owned(),
        })?;
        applied.entry(version).or_default().push(checksum);
    }
    Ok(applied)
}

async fn apply(store: &Store, migration: &Migration, checksum: &str) -> Result<(), StoreError> {
    for statement in statements(migration.text, store.database()) {
        store.execute(&statement).await?;
    }
    let Migration { version, name, .. } = migration;
    let record = format!(
        "INSERT INTO schema_migrations SETTINGS async_insert = 0 \
         VALUES ({version}, '{name}', '{checksum}', now64(3))"
    );
    store.execute(&record).await
}

/// The statements of a migration, with its placeholders filled in.
fn statements(text: &str, database: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .flat_map(|line| [line, "\n"])
        .collect();
    code.split(";\n")
        .map(|statement| statement.trim().replace("{{database}}", database))
        .filter(|statement| !statement.is_empty())
        .collect()
}

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes every write");
        hex
    })
}

/// Rows leave by whole parts (`ttl_only_drop_parts`), so a batch is there entirely or not at all,
/// and the projection agrees with the rows at every moment.
///
/// A part is of one month and leaves when its last row may, so a row may stay up to a month longer
/// than it must. The manifest is kept for a month more than that: it never goes before its rows.
async fn retain(store: &Store, ttl_months: Option<u32>) -> Result<(), StoreError> {
    let events = ttl_months.map(|months| format!("ts + toIntervalMonth({months})"));
    retain_table(store, TABLE, events).await?;
    let batches =
        ttl_months.map(|months| format!("max_ts + toIntervalMonth({})", months.saturating_add(2)));
    retain_table(store, "usage_batches", batches).await
}

async fn retain_table(
    store: &Store,
    table: &str,
    wanted: Option<String>,
) -> Result<(), StoreError> {
    let sql = format!(
        "SELECT extract(engine_full, ' TTL (.*) SETTINGS ') FROM system.tables \
         WHERE database = '{}' AND name = '{table}'",
        store.database()
    );
    let current = store.query_text(&sql, "TSVRaw").await?.trim().to_owned();
    match wanted {
        Some(wanted) if wanted != current => {
            tracing::info!(table, wanted, current, "retention changes");
            store.execute(&format!("ALTER TABLE {table} MODIFY TTL {wanted}")).await
        }
        None if !current.is_empty() => {
            tracing::info!(table, current, "rows are kept for ever from now on");
            store.execute(&format!("ALTER TABLE {table} REMOVE TTL")).await
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_densely_and_named_by_their_files() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version as usize, index + 1);
            assert!(migration.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert!(!statements(migration.text, "d").is_empty(), "{}", migration.name);
        }
    }

    #[test]
    fn statements_are_split_at_line_ends_only() {
        let text =
            "-- about; this\nCREATE VIEW {{database}}.a AS SELECT ';' AS b;\n\n-- x\nDROP c;\n";
        assert_eq!(statements(text, "d"), ["CREATE VIEW d.a AS SELECT ';' AS b", "DROP c"]);
    }
}
