//! The serving process: runs the engine inside this process until it is told to stop.
//!
//! The engine is clickhouse-local with two query files. The first starts the listeners; the second
//! is a pipe that this process holds open, and waiting for its next query is what keeps the engine
//! serving. Stopping writes the queries that end the listeners into the pipe and closes it.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::definitions;
use super::files::{self, Passwords};
use super::library::{self, Libchdb};
use super::ports::Ports;
use super::running::{announce, withdraw};
use super::{EngineError, EngineSettings};

const START: &[u8] = b"SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP;";
const STOP: &[u8] = b"SYSTEM STOP LISTEN HTTP; SYSTEM STOP LISTEN TCP;";
/// A stop with an insert in flight takes up to 5 s; a new engine waits longer than that.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);

/// What the serving process is told on its command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeArguments {
    /// `--library FILE`, see [`EngineSettings::library`].
    pub library: Option<PathBuf>,
    /// `--data DIR`, required.
    pub data: PathBuf,
    /// `--http-port N`, default 8123; 0 takes a free port.
    pub http_port: u16,
    /// `--tcp-port N`, default 9000; 0 takes a free port.
    pub tcp_port: u16,
    /// `--max-memory-bytes N`, default 4 GiB.
    pub max_memory_bytes: u64,
    /// `--exit-with-parent`: also stop at the end of standard input or when the parent dies.
    pub exit_with_parent: bool,
}

impl ServeArguments {
    /// The arguments, one line each, for a program's help.
    pub const HELP: &str = "\
--data DIR              data directory, created when absent
--library FILE          libchdb.so (default: ORBIT_LIBCHDB, then deploy/clickhouse/node_modules)
--http-port N           HTTP interface on 127.0.0.1 (default 8123, 0 = a free one)
--tcp-port N            native interface on 127.0.0.1 (default 9000, 0 = a free one)
--max-memory-bytes N    memory limit of the engine (default 4294967296)
--exit-with-parent      stop at the end of standard input and when the parent process dies";

    /// Parses what follows the program's own arguments.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, EngineError> {
        let mut parsed = Self {
            library: None,
            data: PathBuf::new(),
            http_port: 8123,
            tcp_port: 9000,
            max_memory_bytes: 4 << 30,
            exit_with_parent: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let name = argument.to_string_lossy().into_owned();
            if name == "--exit-with-parent" {
                parsed.exit_with_parent = true;
                continue;
            }
            let known = ["--library", "--data", "--http-port", "--tcp-port", "--max-memory-bytes"];
            if !known.contains(&name.as_str()) {
                return Err(EngineError::Argument { argument: name, problem: "unknown" });
            }
            let Some(value) = arguments.next() else {
                return Err(EngineError::Argument { argument: name, problem: "needs a value" });
            };
            match name.as_str() {
                "--library" => parsed.library = Some(value.into()),
                "--data" => parsed.data = value.into(),
                "--http-port" => parsed.http_port = number(&name, &value)?,
                "--tcp-port" => parsed.tcp_port = number(&name, &value)?,
                _ => parsed.max_memory_bytes = number(&name, &value)?,
            }
        }
        if parsed.data.as_os_str().is_empty() {
            let argument = "--data".to_owned();
            return Err(EngineError::Argument { argument, problem: "required" });
        }
        Ok(parsed)
    }

    /// The command line that makes a child serve `settings` on `ports` for as long as we live.
    pub(super) fn for_child(settings: &EngineSettings, ports: Ports) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec!["--data".into(), settings.data.clone().into()];
        if let Some(library) = &settings.library {
            line.extend(["--library".into(), library.clone().into()]);
        }
        line.extend(["--http-port".into(), ports.http.to_string().into()]);
        line.extend(["--tcp-port".into(), ports.tcp.to_string().into()]);
        line.extend(["--max-memory-bytes".into(), settings.max_memory_bytes.to_string().into()]);
        line.push("--exit-with-parent".into());
        line
    }
}

fn number<N: std::str::FromStr>(name: &str, value: &OsString) -> Result<N, EngineError> {
    value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| EngineError::Argument {
        argument: format!("{name} {}", value.to_string_lossy()),
        problem: "not a number in range",
    })
}

/// Runs the engine in this process; returns when SIGTERM, SIGINT or (with `exit_with_parent`) the
/// end of standard input has stopped it. A return for any other reason is an error.
///
/// Call it before the process has any other thread: it blocks the two signals for the calling
/// thread and for those made after it. A second signal ends the process at once with status 128 +
/// signal.
pub fn serve(arguments: &ServeArguments) -> Result<(), EngineError> {
    let path = library::locate(arguments.library.as_deref())?;
    let signals = block_stop_signals()?;
    // Whatever the engine creates in its directory is nobody else's to read.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let passwords = Passwords::prepare(&arguments.data)?;
    let data =
        fs::canonicalize(&arguments.data).map_err(EngineError::file("resolve", &arguments.data))?;
    let (queries, keep) = pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| EngineError::system("create a pipe")(error.into()))?;
    let stop = Arc::new(Stop { keep: Mutex::new(Some(File::from(keep))), data: data.clone() });
    watch_signals(signals, Arc::clone(&stop))?;
    if arguments.exit_with_parent {
        watch_parent(Arc::clone(&stop))?;
    }

    let Some(lock) = files::lock(&data, LOCK_PATIENCE, || stop.requested())? else {
        return Ok(());
    };
    withdraw(&data)?;
    definitions::remove_empty(&data)?;
    let config = files::configure(&data, &passwords, arguments.max_memory_bytes)?;
    let ports = Ports::pick(arguments.http_port, arguments.tcp_port)
        .map_err(EngineError::system("find a free port"))?;

    let memfd = memfd_create("start.sql", MemfdFlags::CLOEXEC);
    let start = memfd.map_err(|error| EngineError::system("create a memory file")(error.into()))?;
    let mut start = File::from(start);
    start.write_all(START).map_err(EngineError::system("write the start queries"))?;
    let engine = Libchdb::load(&path)?;
    let line = command_line(&data, &config, ports, &start, &queries)?;
    tracing::info!(http_port = ports.http, tcp_port = ports.tcp, "the ClickHouse engine starts");
    announce(&data, ports.http)?;
    let ended = engine.run(line);
    withdraw(&data)?;
    drop(lock);
    match ended {
        Ok(()) if stop.requested() => Ok(()),
        Ok(()) => Err(EngineError::Returned { message: "nothing (is a port in use?)".into() }),
        Err(message) => Err(EngineError::Returned { message }),
    }
}

fn command_line(
    data: &Path,
    config: &Path,
    ports: Ports,
    start: &File,
    queries: &OwnedFd,
) -> Result<Vec<CString>, EngineError> {
    let with_path =
        |name: &str, path: &Path| [name.as_bytes(), path.as_os_str().as_bytes()].concat();
    let line = [
        b"clickhouse".to_vec(),
        with_path("--path=", data),
        with_path("--config-file=", config),
        b"--listen_host=127.0.0.1".to_vec(),
        // The log's level is taken from the command line only.
        b"--log-level=warning".to_vec(),
        format!("--http_port={}", ports.http).into_bytes(),
        format!("--tcp_port={}", ports.tcp).into_bytes(),
        b"--queries-file".to_vec(),
        format!("/proc/self/fd/{}", start.as_raw_fd()).into_bytes(),
        format!("/proc/self/fd/{}", queries.as_raw_fd()).into_bytes(),
    ];
    line.into_iter()
        .map(|argument| {
            CString::new(argument)
                .map_err(|_| EngineError::NulInArgument { argument: "the data directory" })
        })
        .collect()
}

/// The one way to stop: used by whichever of the watchers is first.
struct Stop {
    /// The write end of the query pipe; gone once a stop was requested.
    keep: Mutex<Option<File>>,
    data: PathBuf,
}

impl Stop {
    fn requested(&self) -> bool {
        self.keep.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Asks the engine to end, once.
    fn request(&self) {
        let taken = self.keep.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut keep) = taken else { return };
        // Before it stops listening; with a client connected, it may end the process by itself.
        if let Err(error) = withdraw(&self.data) {
            tracing::debug!(%error, "the port's file stays");
        }
        if let Err(error) = keep.write_all(STOP) {
            // Closing the pipe ends the engine as well, only without closing the listeners first.
            tracing::debug!(%error, "the engine no longer reads");
        }
    }
}

#[allow(unsafe_code, reason = "the signal mask has no safe interface")]
fn block_stop_signals() -> Result<libc::sigset_t, EngineError> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given; the other calls get that set. All four
    // only touch the memory they are given and this thread's mask.
    let (set, result) = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        let result = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        (set, result)
    };
    if result == 0 {
        Ok(set)
    } else {
        Err(EngineError::system("block signals")(io::Error::from_raw_os_error(result)))
    }
}

#[allow(unsafe_code, reason = "sigwait and _exit have no safe interface")]
fn watch_signals(signals: libc::sigset_t, stop: Arc<Stop>) -> Result<(), EngineError> {
    let wait = move || {
        let mut asked = false;
        loop {
            let mut signal = 0;
            // SAFETY: `signals` is an initialised set that is blocked in every thread.
            let result = unsafe { libc::sigwait(&raw const signals, &raw mut signal) };
            if result != 0 {
                continue;
            }
            if asked {
                // SAFETY: _exit only ends the process: exit() would run the engine's destructors
                // under its running threads. What was acknowledged is already on disk.
                unsafe { libc::_exit(128 + signal) };
            }
            asked = true;
            stop.request();
        }
    };
    spawn("engine-signals", wait)
}

fn watch_parent(stop: Arc<Stop>) -> Result<(), EngineError> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| EngineError::system("ask for the parent's death")(error.into()))?;
    let wait = move || {
        let mut buffer = [0_u8; 64];
        let mut stdin = io::stdin().lock();
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        stop.request();
    };
    spawn("engine-parent", wait)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), EngineError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map(drop).map_err(EngineError::system("start a thread"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<ServeArguments, EngineError> {
        ServeArguments::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_child_is_told_what_its_parent_wants() {
        let settings = EngineSettings {
            library: Some("/opt/lib chdb.so".into()),
            max_memory_bytes: 123_456_789,
            ..EngineSettings::new("/var/lib/o r b i t")
        };
        let ports = Ports { http: 1_234, tcp: 5_678 };
        let parsed = ServeArguments::parse(ServeArguments::for_child(&settings, ports));
        let expected = ServeArguments {
            library: settings.library,
            data: settings.data,
            http_port: ports.http,
            tcp_port: ports.tcp,
            max_memory_bytes: settings.max_memory_bytes,
            exit_with_parent: true,
        };
        assert_eq!(parsed.expect("our own arguments"), expected);
    }

    #[test]
    fn unusable_arguments_are_named() {
        let by_default = parse("--data d").expect("the rest has defaults");
        assert_eq!((by_default.http_port, by_default.tcp_port), (8123, 9000));
        assert!(!by_default.exit_with_parent);
        for (line, named) in [
            ("", "--data"),
            ("--data", "--data"),
            ("--data d --http-port 70000", "--http-port 70000"),
            ("--data d --tcp-port x", "--tcp-port x"),
            ("--data d --password p", "--password"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
