//! The usage database for a command: someone else's, that of a running gateway, or an engine started
//! for the command alone.

use std::path::Path;
use std::time::Duration;

use orbit_meter::clickhouse::engine::{self, Engine, Running};
use orbit_meter::clickhouse::{ClickHouseSettings, Store};

use super::{
    ENGINE_STOP_TIMEOUT, START_TIMEOUT, StorageError, client, connection, engine_settings,
};
use crate::settings::{ClickHouse, ClickHouseMode};

/// How often an engine that another process is starting is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A database that was reached; an engine that was started for it ends with it.
pub struct Reached {
    connection: ClickHouseSettings,
    engine: Option<Engine>,
}

impl Reached {
    /// Finds the database of these settings.
    ///
    /// Embedded, that is the engine of whoever runs on the data directory, found by the port it
    /// wrote there. When nobody does, one is started (as `program clickhouse ...`).
    pub async fn open(settings: &ClickHouse, program: &Path) -> Result<Reached, StorageError> {
        Reached::find(settings, program, false).await
    }

    /// As [`Reached::open`]; an embedded database that never was is made.
    pub async fn open_or_make(
        settings: &ClickHouse,
        program: &Path,
    ) -> Result<Reached, StorageError> {
        Reached::find(settings, program, true).await
    }

    async fn find(
        settings: &ClickHouse,
        program: &Path,
        make: bool,
    ) -> Result<Reached, StorageError> {
        if settings.mode == ClickHouseMode::External {
            return Ok(Reached { connection: connection(settings)?, engine: None });
        }
        let wait = async {
            loop {
                match engine::running(&settings.data).map_err(StorageError::Engine)? {
                    Running::Never if make => return Ok(None),
                    Running::Never => {
                        return Err(StorageError::Nothing { path: settings.data.clone() });
                    }
                    Running::Stopped => return Ok(None),
                    Running::Serving(connection) => {
                        // It writes its port just before it listens.
                        if client(&connection)?.ping().await.is_ok() {
                            return Ok(Some(connection));
                        }
                    }
                    Running::Starting => {}
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(START_TIMEOUT, wait).await {
            Ok(Ok(Some(connection))) => Ok(Reached { connection, engine: None }),
            Ok(Ok(None)) => Reached::start(settings, program),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StorageError::Mute { path: settings.data.clone() }),
        }
    }

    fn start(settings: &ClickHouse, program: &Path) -> Result<Reached, StorageError> {
        let engine = Engine::start(&engine_settings(settings), program, &["clickhouse"])
            .map_err(StorageError::Engine)?;
        Ok(Reached { connection: engine.settings(), engine: Some(engine) })
    }

    /// A client of it.
    pub fn store(&self) -> Result<Store, StorageError> {
        client(&self.connection)
    }

    /// Base URL of the HTTP interface.
    pub fn url(&self) -> &str {
        &self.connection.url
    }

    /// Stops the engine that was started for this, if one was. Drop every store first.
    pub fn close(self) -> Result<(), StorageError> {
        match self.engine {
            Some(engine) => engine.stop(ENGINE_STOP_TIMEOUT).map_err(StorageError::Engine),
            None => Ok(()),
        }
    }
}
