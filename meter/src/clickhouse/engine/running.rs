//! An engine that another process runs: whether there is one, and where it listens.
//!
//! The serving process holds the lock of its data directory and writes the port it listens on beside
//! it. The port is believed only while the lock is held: what is left behind by a crash names a port
//! that may be anybody's by now. It is written in place, always as long: a full disk has room for it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::files::{LOCK, Passwords};
use super::ports::Ports;
use super::{EngineError, USER};
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
    match text.trim().parse::<u16>() {
        Ok(http @ 1..) => {
            let passwords = Passwords::prepare(data)?;
            Ok(Running::Serving(passwords.connection(USER, Ports { http, tcp: 0 })))
        }
        _ => Ok(Running::Starting),
    }
}

/// Writes the port beside the lock. For who holds the lock.
pub(super) fn announce(data: &Path, http_port: u16) -> Result<(), EngineError> {
    let path = data.join(PORT);
    let open = || -> io::Result<File> {
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)
    };
    let text = format!("{http_port:05}\n");
    let written = open().and_then(|file| file.write_all_at(text.as_bytes(), 0));
    written.map_err(EngineError::file("write", &path))
}

/// Takes the port back, be it ours or what a crashed engine left. For who holds the lock.
pub(super) fn withdraw(data: &Path) -> Result<(), EngineError> {
    announce(data, 0)
}
