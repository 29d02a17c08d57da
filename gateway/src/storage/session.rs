//! The usage database for a command that ends, without anybody watching it.

use std::path::Path;

use orbit_meter::clickhouse::engine::Engine;
use orbit_meter::clickhouse::{AppliedMigration, ClickHouseSettings, Store};

use super::{
    ENGINE_STOP_TIMEOUT, StorageError, client, connection, engine_settings, migrate_options,
    runtime,
};
use crate::settings::{ClickHouse, ClickHouseMode};

/// A reachable database with this version's schema. An embedded engine was started for it and dies
/// with it.
pub struct Session {
    connection: ClickHouseSettings,
    engine: Option<Engine>,
    /// What was applied to bring the schema up to date, in order.
    pub applied: Vec<AppliedMigration>,
}

impl Session {
    /// Starts the embedded engine, if it is that, and brings the schema up to date.
    pub fn open(settings: &ClickHouse, program: &Path) -> Result<Session, StorageError> {
        let (connection, engine) = match settings.mode {
            ClickHouseMode::Embedded => {
                let engine = Engine::start(&engine_settings(settings), program, &["clickhouse"])
                    .map_err(StorageError::Engine)?;
                (engine.settings(), Some(engine))
            }
            ClickHouseMode::External => (connection(settings)?, None),
        };
        let url = connection.url.clone();
        let store = client(&connection)?;
        let runtime = runtime().map_err(StorageError::Thread)?;
        let applied = runtime
            .block_on(store.migrate(&migrate_options(settings)))
            .map_err(|source| StorageError::Migrate { url, source })?;
        Ok(Session { connection, engine, applied })
    }

    /// A client of its own.
    pub fn store(&self) -> Result<Store, StorageError> {
        client(&self.connection)
    }

    /// Base URL of the HTTP interface.
    pub fn url(&self) -> &str {
        &self.connection.url
    }

    /// Stops the engine, if there is one.
    pub fn close(self) -> Result<(), StorageError> {
        match self.engine {
            Some(engine) => engine.stop(ENGINE_STOP_TIMEOUT).map_err(StorageError::Engine),
            None => Ok(()),
        }
    }
}
