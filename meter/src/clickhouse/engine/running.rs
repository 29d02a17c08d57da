//! An engine that another process runs: whether there is one, and where it listens.
//!
//! The serving process holds the lock of its data directory and writes the port it listens on beside
//! it. The port is believed only while the lock is held: what is left behind by a crash names a port
//! that may be anybody's by now.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::files::{LOCK, Passwords, replace};
use super::{DATABASE, EngineError, USER};
use crate::clickhouse::ClickHouseSettings;

const PORT: &str = "http.port";

/// What is known of the engine of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Running {
    /// There has never been one: the directory holds no data.
    Never,
    /// No process serves the directory.
    Stopped,
    /// A process does, and does not listen yet.
    Starting,
    /// A process does; this is how to connect as ourselves.
    Serving(ClickHouseSettings),
}

/// Looks for the engine that serves `data`, without waiting for it.
pub fn running(data: &Path) -> Result<Running, EngineError> {
    let path = data.join(LOCK);
    let lock = match OpenOptions::new().read(true).open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Running::Never),
        Err(error) => return Err(EngineError::file("open", &path)(error)),
    };
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        // Freed as the file is closed; an engine that starts just now tries again.
        Ok(()) => return Ok(Running::Stopped),
        Err(rustix::io::Errno::WOULDBLOCK) => {}
        Err(error) => return Err(EngineError::file("lock", &path)(error.into())),
    }
    let path = data.join(PORT);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Running::Starting),
        Err(error) => return Err(EngineError::file("read", &path)(error)),
    };
    let Ok(port) = text.trim().parse::<u16>() else { return Ok(Running::Starting) };
    Ok(Running::Serving(ClickHouseSettings {
        url: format!("http://127.0.0.1:{port}"),
        user: USER.to_owned(),
        password: Passwords::prepare(data)?.orbit,
        database: DATABASE.to_owned(),
    }))
}

/// Writes the port beside the lock, in one step. For who holds the lock.
pub(super) fn announce(data: &Path, http_port: u16) -> Result<(), EngineError> {
    replace(&data.join(PORT), format!("{http_port}\n").as_bytes())
}

/// Takes the port back, be it ours or what a crashed engine left. For who holds the lock.
pub(super) fn withdraw(data: &Path) -> Result<(), EngineError> {
    let path = data.join(PORT);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(EngineError::file("remove", &path)(error))
        }
        _ => Ok(()),
    }
}
