//! The usage database this process writes to: someone else's, or an engine of its own.
//!
//! Owns starting the embedded engine, the schema, and a thread that keeps watch: it asks whether
//! the database answers, brings the schema up to date as soon as it does, and starts the engine
//! again when it died. Guarantees that no request ever waits for any of this: the proxy and the
//! journal go on while the database is away, and what happened is in [`StorageStatus`], the log and
//! the metrics.

mod reach;
mod session;
mod totals;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use orbit_meter::causes::with_causes;
use orbit_meter::clickhouse::engine::{Engine, EngineError, EngineSettings};
use orbit_meter::clickhouse::{
    AppliedMigration, ClickHouseSettings, MigrateOptions, Store, StoreError,
};

use crate::settings::{ClickHouse, ClickHouseMode};
pub use reach::Reached;
pub use session::Session;
pub use totals::{MeterTotal, TotalsError};

/// How long an embedded engine may take to answer: a start after a crash reads its parts first.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// How long an engine that was started for a migration may take to stop.
const ENGINE_STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest password file read, in bytes.
const MAX_PASSWORD_BYTES: u64 = 4096;

/// The usage database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The embedded engine did not start.
    #[error("the embedded ClickHouse engine did not start")]
    Engine(#[source] EngineError),
    /// The schema could not be brought up to date.
    #[error("the usage database at {url} could not be migrated")]
    Migrate {
        /// Where it is.
        url: String,
        /// What it said.
        source: StoreError,
    },
    /// The connection settings cannot be used.
    #[error("the connection settings for {url} cannot be used")]
    Settings {
        /// Where it would be.
        url: String,
        /// Why not.
        source: StoreError,
    },
    /// The password could not be read.
    #[error("cannot read the ClickHouse password from {}", path.display())]
    Password {
        /// The password's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing was ever kept in this data directory.
    #[error("there is no usage database in {}: no gateway has run on it yet", path.display())]
    Nothing {
        /// The embedded engine's data directory.
        path: PathBuf,
    },
    /// A process holds the data directory and does not answer.
    #[error("the ClickHouse engine that serves {} does not answer", path.display())]
    Mute {
        /// The embedded engine's data directory.
        path: PathBuf,
    },
    /// A thread or runtime could not be made.
    #[error("cannot start the thread that watches the usage database")]
    Thread(#[source] io::Error),
}

/// What is known of the usage database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorageStatus {
    /// Whether it answered when last asked.
    pub reachable: bool,
    /// Whether its schema is this version's.
    pub migrated: bool,
    /// How often the embedded engine was started again.
    pub engine_restarts: u32,
    /// The last failure, until it answers again. Holds no secret.
    pub last_error: Option<String>,
}

/// The database in use and the thread that watches it.
pub struct Storage {
    handle: StorageHandle,
    stop: Sender<()>,
    thread: Option<JoinHandle<Option<Engine>>>,
}

/// Where the database is and how it is. Cheap to clone.
#[derive(Clone)]
pub struct StorageHandle {
    connection: ClickHouseSettings,
    /// For the admin API's runtime alone, which asks for totals.
    reader: Store,
    status: Arc<Mutex<StorageStatus>>,
}

impl StorageHandle {
    /// A handle on a database that nobody watches.
    ///
    /// Fails when the settings are no address.
    pub fn unwatched(connection: ClickHouseSettings) -> Result<StorageHandle, StorageError> {
        let reader = client(&connection)?;
        Ok(StorageHandle { connection, reader, status: Arc::default() })
    }

    /// A client of its own. Clients are not shared between threads' runtimes: a pooled connection
    /// lives on the runtime that opened it.
    pub fn store(&self) -> Result<Store, StorageError> {
        client(&self.connection)
    }

    /// What is known of the database.
    pub fn status(&self) -> StorageStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Base URL of the HTTP interface.
    pub fn url(&self) -> &str {
        &self.connection.url
    }

    fn update(&self, change: impl FnOnce(&mut StorageStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Storage {
    /// Starts using the database.
    ///
    /// An embedded engine is started (as `program clickhouse ...`) and migrated before this
    /// returns, or that is the error the first time. Later on it may be away (a full disk, a start that
    /// takes long): the watching thread goes on trying (**M4**). An external database is not waited for
    /// at all, as it may neither answer nor refuse.
    pub fn start(settings: &ClickHouse, program: &Path) -> Result<Storage, StorageError> {
        let Start { connection, engine_settings, engine, may_be_away } = match settings.mode {
            ClickHouseMode::Embedded => Start::embedded(settings, program)?,
            ClickHouseMode::External => Start {
                connection: connection(settings)?,
                engine_settings: None,
                engine: None,
                may_be_away: true,
            },
        };
        let handle = StorageHandle::unwatched(connection)?;
        let runtime = runtime().map_err(StorageError::Thread)?;
        let mut watch = watch::Watch {
            store: handle.store()?,
            handle: handle.clone(),
            options: migrate_options(settings),
            engine_settings,
            engine,
            program: program.to_owned(),
            runtime,
            failures: 0,
        };
        if watch.engine.is_some()
            && let Err(source) = watch.migrate()
            && !may_be_away
        {
            let url = handle.connection.url.clone();
            return Err(StorageError::Migrate { url, source });
        }
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("storage".to_owned())
            .spawn(move || watch.run(&stopped))
            .map_err(StorageError::Thread)?;
        Ok(Storage { handle, stop, thread: Some(thread) })
    }

    /// A handle for others.
    pub fn handle(&self) -> StorageHandle {
        self.handle.clone()
    }

    /// Stops watching, and stops the embedded engine within `timeout`.
    pub fn stop(mut self, timeout: Duration) -> Result<(), StorageError> {
        match self.end_watch() {
            Some(engine) => engine.stop(timeout).map_err(StorageError::Engine),
            None => Ok(()),
        }
    }

    /// Ends the thread and returns the engine, if there is one.
    fn end_watch(&mut self) -> Option<Engine> {
        if self.stop.send(()).is_err() {
            tracing::debug!("the storage thread has ended already");
        }
        self.thread.take().and_then(|thread| {
            thread.join().unwrap_or_else(|_| {
                tracing::error!("the storage thread panicked");
                None
            })
        })
    }
}

/// What is there when a database begins to be used.
struct Start {
    connection: ClickHouseSettings,
    /// For an engine of our own.
    engine_settings: Option<EngineSettings>,
    engine: Option<Engine>,
    /// Whether what is not there yet is waited for.
    may_be_away: bool,
}

impl Start {
    fn embedded(settings: &ClickHouse, program: &Path) -> Result<Start, StorageError> {
        let wanted = engine_settings(settings);
        let may_be_away = wanted.has_data();
        match Engine::start(&wanted, program, &["clickhouse"]) {
            Ok(engine) => Ok(Start {
                connection: engine.settings(),
                // A new engine must be where the clients of the old one look for it.
                engine_settings: Some(EngineSettings {
                    http_port: engine.http_port(),
                    tcp_port: engine.tcp_port(),
                    ..wanted
                }),
                engine: Some(engine),
                may_be_away,
            }),
            Err(error) if may_be_away && error.may_pass() => {
                let error = with_causes(&error);
                tracing::error!(error, "the ClickHouse engine did not start; trying again");
                let (wanted, connection) = wanted.settled().map_err(StorageError::Engine)?;
                Ok(Start { connection, engine_settings: Some(wanted), engine: None, may_be_away })
            }
            Err(error) => Err(StorageError::Engine(error)),
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // Dropping the engine stops it.
        drop(self.end_watch());
    }
}

/// Brings the schema of the database in `settings` up to date and returns what was applied, in
/// order.
///
/// An embedded engine that nobody runs is started for that and stopped again.
pub fn migrate(
    settings: &ClickHouse,
    program: &Path,
) -> Result<Vec<AppliedMigration>, StorageError> {
    let mut session = Session::open(settings, program)?;
    let applied = std::mem::take(&mut session.applied);
    session.close()?;
    Ok(applied)
}

/// A client that connects when it is first used.
fn client(connection: &ClickHouseSettings) -> Result<Store, StorageError> {
    Store::new(connection)
        .map_err(|source| StorageError::Settings { url: connection.url.clone(), source })
}

/// The embedded engine as set.
fn engine_settings(settings: &ClickHouse) -> EngineSettings {
    EngineSettings {
        library: settings.library.clone(),
        data: settings.data.clone(),
        http_port: settings.http_port,
        tcp_port: settings.tcp_port,
        max_memory_bytes: settings.max_memory_bytes,
        start_timeout: START_TIMEOUT,
    }
}

/// The external server as set, with the password from its file.
fn connection(settings: &ClickHouse) -> Result<ClickHouseSettings, StorageError> {
    let password = match &settings.password_file {
        Some(path) => password(path)
            .map_err(|source| StorageError::Password { path: path.clone(), source })?,
        None => String::new(),
    };
    Ok(ClickHouseSettings {
        url: settings.url.clone().unwrap_or_default(),
        user: settings.user.clone(),
        password,
        database: settings.database.clone(),
    })
}

/// The first line of a short file.
fn password(path: &Path) -> io::Result<String> {
    if std::fs::metadata(path)?.len() > MAX_PASSWORD_BYTES {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    let text = std::fs::read_to_string(path)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn migrate_options(settings: &ClickHouse) -> MigrateOptions {
    MigrateOptions { ttl_months: settings.ttl_months() }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
