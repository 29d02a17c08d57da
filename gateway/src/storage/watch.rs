//! The thread that keeps the usage database usable.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use metrics::{counter, gauge};
use orbit_meter::causes::with_causes;
use orbit_meter::clickhouse::engine::{Engine, EngineSettings};
use orbit_meter::clickhouse::{MigrateOptions, Store, StoreError};
use tokio::runtime::Runtime;

use super::StorageHandle;

/// How often the database is asked whether it is there.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Longest time it may take to say so.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time a migration may take: adding a projection to a large table is quick, waiting for a
/// lock may not be.
const MIGRATE_TIMEOUT: Duration = Duration::from_mins(10);
/// Pause before the first restart of a dead engine; doubled for each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between restarts.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What the watching thread owns.
pub(super) struct Watch {
    pub(super) store: Store,
    pub(super) handle: StorageHandle,
    pub(super) options: MigrateOptions,
    /// The engine to keep alive; none for an external database.
    pub(super) engine_settings: Option<EngineSettings>,
    pub(super) engine: Option<Engine>,
    pub(super) program: PathBuf,
    pub(super) runtime: Runtime,
    /// Deaths and failed starts of the engine since it last answered.
    pub(super) failures: u32,
}

impl Watch {
    /// Watches until told to stop; returns the engine for whoever stops it.
    pub(super) fn run(mut self, stopped: &Receiver<()>) -> Option<Engine> {
        let mut pause = Duration::ZERO;
        while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            pause = if self.engine_died() { self.restart() } else { CHECK_INTERVAL };
            self.check();
        }
        self.engine
    }

    /// Whether there should be an engine and there is none.
    fn engine_died(&mut self) -> bool {
        if self.engine_settings.is_none() {
            return false;
        }
        let Some(engine) = &self.engine else { return true };
        let Some(status) = engine.exited() else { return false };
        let said = engine.last_words();
        tracing::error!(%status, said, "the ClickHouse engine died");
        self.engine = None;
        gauge!("orbit_clickhouse_reachable").set(0.0);
        self.handle.update(|known| {
            known.reachable = false;
            known.last_error = Some(format!("the engine died: {status}"));
        });
        true
    }

    /// Starts the engine again; returns how long to wait until the next look.
    fn restart(&mut self) -> Duration {
        let Some(settings) = &self.engine_settings else { return CHECK_INTERVAL };
        self.failures += 1;
        match Engine::start(settings, &self.program, &["clickhouse"]) {
            Ok(engine) => {
                tracing::info!(pid = engine.pid(), "the ClickHouse engine was started again");
                counter!("orbit_engine_restarts_total").increment(1);
                self.handle.update(|status| status.engine_restarts += 1);
                self.engine = Some(engine);
            }
            Err(error) => {
                tracing::error!(error = with_causes(&error), "the ClickHouse engine did not start");
                self.failed(&error);
            }
        }
        let doublings = self.failures.saturating_sub(1).min(16);
        FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
    }

    /// Asks whether the database answers, and migrates it when it has not been yet: a migration may
    /// take long, so one that says nothing at all is not asked for it.
    fn check(&mut self) {
        let ping = async { tokio::time::timeout(CHECK_TIMEOUT, self.store.ping()).await };
        match self.runtime.block_on(ping) {
            // A failure is kept in the status and told there.
            Ok(Ok(())) if !self.handle.status().migrated => drop(self.migrate()),
            Ok(Ok(())) => self.answered(),
            Ok(Err(error)) => self.failed(&error),
            Err(late) => self.failed(&late),
        }
    }

    /// Brings the schema up to date.
    pub(super) fn migrate(&mut self) -> Result<(), StoreError> {
        let migrate = async {
            tokio::time::timeout(MIGRATE_TIMEOUT, self.store.migrate(&self.options)).await
        };
        match self.runtime.block_on(migrate) {
            Ok(Ok(applied)) => {
                if !applied.is_empty() {
                    tracing::info!(migrations = applied.len(), "the usage database was migrated");
                }
                self.handle.update(|status| status.migrated = true);
                self.answered();
                Ok(())
            }
            Ok(Err(error)) => {
                self.failed(&error);
                Err(error)
            }
            Err(late) => {
                self.failed(&late);
                Ok(())
            }
        }
    }

    fn answered(&mut self) {
        self.failures = 0;
        gauge!("orbit_clickhouse_reachable").set(1.0);
        let mut back = false;
        self.handle.update(|status| {
            back = !status.reachable;
            status.reachable = true;
            status.last_error = None;
        });
        if back {
            tracing::info!(url = self.handle.url(), "the usage database answers");
        }
    }

    fn failed(&self, error: &dyn std::error::Error) {
        gauge!("orbit_clickhouse_reachable").set(0.0);
        let text = with_causes(error);
        let mut news = false;
        self.handle.update(|status| {
            // Once per outage, or when the reason changes: it is asked every two seconds.
            news = status.last_error.as_ref() != Some(&text);
            status.reachable = false;
            status.last_error = Some(text.clone());
        });
        if news {
            tracing::warn!(error = text, "the usage database does not answer");
        }
    }
}
