//! The embedded ClickHouse: a child process of its own, so that it can crash or run out of memory
//! alone.
//!
//! [`Engine::start`] prepares the data directory, spawns `PROGRAM ARGUMENTS... --data DIR ...` (for
//! the product: `orbit clickhouse`), and returns once the engine answers an authenticated query.
//! The child runs [`serve()`]. Guarantees:
//!
//! - it listens on 127.0.0.1 only, and every user but one has a password; the one without, which the
//!   engine's own session needs, cannot be logged in as (see `engine/files.rs`);
//! - it dies with its parent: on the end of its standard input, and by the kernel's parent-death
//!   signal should it be too busy to notice;
//! - passwords are never in arguments, logs, errors or `Debug`;
//! - a data directory is served by one engine at a time, and [`running()`] tells other processes
//!   where it listens;
//! - one that was served before needs not a block more to be served again: a full disk does not keep it
//!   from starting (**M4**).
//!
//! Restarting after a crash is the caller's affair: [`Engine::exited`] tells.

mod definitions;
mod files;
mod library;
mod ports;
mod process;
mod running;
mod serve;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use files::Passwords;
use ports::Ports;
pub use process::Engine;
pub use running::{Running, running};
pub use serve::{ServeArguments, serve};

use super::ClickHouseSettings;

/// Database the embedded engine's users are confined to.
pub const DATABASE: &str = "orbit";
/// The gateway's own user.
pub const USER: &str = "orbit";
/// The read-only user for people: SELECT on [`DATABASE`] only.
pub const FINANCE_USER: &str = "finance";

/// How to run the embedded engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// `libchdb.so`; `None` looks in `ORBIT_LIBCHDB`, then in `deploy/clickhouse/node_modules`
    /// upwards from the working directory and the program.
    pub library: Option<PathBuf>,
    /// Data directory, created when absent (mode 0700).
    pub data: PathBuf,
    /// Port of the HTTP interface on 127.0.0.1; 0 takes a free one.
    pub http_port: u16,
    /// Port of the native TCP interface on 127.0.0.1; 0 takes a free one.
    pub tcp_port: u16,
    /// `max_server_memory_usage` of the engine, in bytes.
    pub max_memory_bytes: u64,
    /// How long a start may take before it is given up.
    pub start_timeout: Duration,
}

impl EngineSettings {
    /// Settings for `data` with free ports, 4 GiB of memory and a minute to start.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            library: None,
            data: data.into(),
            http_port: 0,
            tcp_port: 0,
            max_memory_bytes: 4 << 30,
            start_timeout: Duration::from_mins(1),
        }
    }

    /// For an engine that does not run yet: the same with free ports in place of each 0, and how to
    /// connect to it once it runs.
    pub fn settled(&self) -> Result<(EngineSettings, ClickHouseSettings), EngineError> {
        let ports = Ports::pick(self.http_port, self.tcp_port)
            .map_err(EngineError::system("find a free port"))?;
        let connection = Passwords::prepare(&self.data)?.connection(USER, ports);
        let settings = Self { http_port: ports.http, tcp_port: ports.tcp, ..self.clone() };
        Ok((settings, connection))
    }

    /// Whether an engine has kept data of ours in the directory.
    pub fn has_data(&self) -> bool {
        self.data.join("metadata").join(DATABASE).with_extension("sql").exists()
    }
}

/// Why the embedded engine could not be prepared, started, served or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// `libchdb.so` is not where it was looked for.
    #[error(
        "the ClickHouse engine is not installed: no libchdb.so at {}; run `make engine` \
         (it needs npm and x86-64 Linux with glibc), or name the file in ORBIT_LIBCHDB",
        list(looked_at)
    )]
    LibraryMissing {
        /// Every place that was tried, in order.
        looked_at: Vec<PathBuf>,
    },
    /// The file is there but is not the library we need.
    #[error("cannot load {}", path.display())]
    LibraryUnusable {
        /// The file.
        path: PathBuf,
        /// What the dynamic linker said.
        #[source]
        source: libloading::Error,
    },
    /// An argument cannot be handed to the engine.
    #[error("{argument} contains a NUL byte")]
    NulInArgument {
        /// Which one.
        argument: &'static str,
    },
    /// The command line of the serving process is not understood.
    #[error("unusable argument {argument:?}: {problem}")]
    Argument {
        /// As given.
        argument: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file of the data directory could not be prepared.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A password file exists but holds no usable password.
    #[error("{} holds no usable password; delete it to have a new one made", path.display())]
    BadPasswordFile {
        /// The file.
        path: PathBuf,
    },
    /// Another engine serves this directory.
    #[error("another engine still serves {}", path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// The program that runs the engine could not be spawned.
    #[error("cannot run {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A system call that serving needs failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The child ended before it answered.
    #[error("the engine ended with {status} before it answered; it said: {said}")]
    Died {
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of its standard error.
        said: String,
    },
    /// The child did not answer in time; it has been killed.
    #[error("the engine did not answer within {waited:?} and was killed; it said: {said}")]
    Silent {
        /// The time it was given.
        waited: Duration,
        /// The end of its standard error.
        said: String,
    },
    /// The engine returned although nobody asked it to stop.
    #[error("the engine returned without having been asked to stop: {message}")]
    Returned {
        /// What the engine reported.
        message: String,
    },
    /// The engine ended badly when asked to stop.
    #[error("the engine ended with {status} when asked to stop; it said: {said}")]
    UncleanStop {
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of its standard error.
        said: String,
    },
    /// The engine did not stop in time; it has been killed. Acknowledged data is safe.
    #[error("the engine did not stop within {waited:?} and was killed")]
    StopTimedOut {
        /// The time it was given.
        waited: Duration,
    },
}

impl EngineError {
    /// Whether trying again may help without anybody doing anything about the program, its settings
    /// or the passwords.
    pub fn may_pass(&self) -> bool {
        !matches!(
            self,
            Self::LibraryMissing { .. }
                | Self::LibraryUnusable { .. }
                | Self::NulInArgument { .. }
                | Self::Argument { .. }
                | Self::BadPasswordFile { .. }
                | Self::Spawn { .. }
        )
    }

    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}
