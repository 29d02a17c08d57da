//! The usage database for a command that writes to it, with this version's schema.

use std::path::Path;

use orbit_meter::clickhouse::{AppliedMigration, Store};

use super::{Reached, StorageError, migrate_options, runtime};
use crate::settings::ClickHouse;

/// A reachable and migrated database.
pub struct Session {
    reached: Reached,
    /// What was applied to bring the schema up to date, in order.
    pub applied: Vec<AppliedMigration>,
}

impl Session {
    /// Reaches the database, or starts the embedded engine, and brings the schema up to date.
    pub fn open(settings: &ClickHouse, program: &Path) -> Result<Session, StorageError> {
        let runtime = runtime().map_err(StorageError::Thread)?;
        let reached = runtime.block_on(Reached::open_or_make(settings, program))?;
        let store = reached.store()?;
        let applied = runtime
            .block_on(store.migrate(&migrate_options(settings)))
            .map_err(|source| StorageError::Migrate { url: reached.url().to_owned(), source })?;
        Ok(Session { reached, applied })
    }

    /// A client of its own.
    pub fn store(&self) -> Result<Store, StorageError> {
        self.reached.store()
    }

    /// Stops the engine that was started for this, if one was. Drop every store first.
    pub fn close(self) -> Result<(), StorageError> {
        self.reached.close()
    }
}
