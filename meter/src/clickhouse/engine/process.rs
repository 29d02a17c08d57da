//! The parent's side: spawning the engine, knowing when it answers, and ending it.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::files::Passwords;
use super::ports::Ports;
use super::serve::ServeArguments;
use super::{EngineError, EngineSettings, FINANCE_USER, USER};
use crate::clickhouse::ClickHouseSettings;

/// Free ports are only free at the moment they are looked at; this many lost races are retried.
const PORT_ATTEMPTS: usize = 5;
const PROBE_INTERVAL: Duration = Duration::from_millis(10);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of the child's standard error is kept for error messages.
const KEPT_LINES: usize = 40;

/// A running engine. Dropping it ends it at once, as a crash would: what was acknowledged is safe,
/// but [`stop`](Engine::stop) is the polite way.
pub struct Engine {
    ports: Ports,
    passwords: Passwords,
    child: Child,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("pid", &self.child.pid)
            .field("http_port", &self.ports.http)
            .field("tcp_port", &self.ports.tcp)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Spawns `program arguments... --data DIR ...`, which must call [`serve`](super::serve()) with
    /// what follows `arguments`, and waits until it answers. Blocks for as long as
    /// `settings.start_timeout`.
    ///
    /// When a port of `settings` is 0, a port that somebody else took first is replaced by another.
    pub fn start<A: AsRef<OsStr>>(
        settings: &EngineSettings,
        program: &Path,
        arguments: &[A],
    ) -> Result<Self, EngineError> {
        // Without the library the child could only say so on its standard error: say it here.
        super::library::locate(settings.library.as_deref())?;
        let passwords = Passwords::prepare(&settings.data)?;
        let replaceable = settings.http_port == 0 || settings.tcp_port == 0;
        let mut attempt = 1;
        loop {
            let ports = Ports::pick(settings.http_port, settings.tcp_port)
                .map_err(EngineError::system("find a free port"))?;
            let mut command = Command::new(program);
            command.args(arguments).args(ServeArguments::for_child(settings, ports));
            let child = Child::spawn(command, program)?;
            let engine = Self { ports, passwords: passwords.clone(), child };
            match engine.wait_until_ready(settings.start_timeout) {
                Ok(()) => return Ok(engine),
                Err(EngineError::Died { said, .. })
                    if replaceable
                        && attempt < PORT_ATTEMPTS
                        && said.contains("Address already in use") =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How the gateway connects.
    pub fn settings(&self) -> ClickHouseSettings {
        self.passwords.connection(USER, self.ports)
    }

    /// How finance connects: read-only.
    pub fn finance_settings(&self) -> ClickHouseSettings {
        self.passwords.connection(FINANCE_USER, self.ports)
    }

    /// Port of the HTTP interface on 127.0.0.1.
    pub fn http_port(&self) -> u16 {
        self.ports.http
    }

    /// Port of the native interface on 127.0.0.1.
    pub fn tcp_port(&self) -> u16 {
        self.ports.tcp
    }

    /// Process id of the child.
    pub fn pid(&self) -> i32 {
        self.child.pid.as_raw_nonzero().get()
    }

    /// How the engine ended, once it has: the sign to start another one.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child.ending.wait(Duration::ZERO)
    }

    /// Waits at most `timeout` for the engine to end by itself.
    pub fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        self.child.ending.wait(timeout)
    }

    /// The last lines the engine wrote to its standard error.
    pub fn last_words(&self) -> String {
        self.child.said.text()
    }

    /// Stops the engine: listeners first, then running queries. Blocks at most `timeout`, after
    /// which it is killed and the result is an error; acknowledged data is safe either way.
    ///
    /// It takes some 30 ms when no client is connected and up to 5 s when one is, even an idle one:
    /// drop every [`Store`](crate::clickhouse::Store) first, while its runtime still runs.
    pub fn stop(mut self, timeout: Duration) -> Result<(), EngineError> {
        self.child.stdin = None;
        match self.child.ending.wait(timeout) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(EngineError::UncleanStop { status, said: self.child.said.text() }),
            None => Err(EngineError::StopTimedOut { waited: timeout }),
        }
    }

    /// Ends the engine as a crash would (SIGKILL) and waits until it is gone: for tests and fault
    /// injection.
    pub fn kill(self) {
        drop(self);
    }

    fn wait_until_ready(&self, timeout: Duration) -> Result<(), EngineError> {
        let deadline = now() + timeout;
        loop {
            if let Some(status) = self.child.ending.wait(PROBE_INTERVAL) {
                return Err(EngineError::Died { status, said: self.child.said.text() });
            }
            // The second question is for us alone: whoever took the port first may answer /ping.
            if self.ask("/ping").is_ok() && self.ask("/?query=SELECT%201").is_ok() {
                return Ok(());
            }
            if now() >= deadline {
                return Err(EngineError::Silent { waited: timeout, said: self.child.said.text() });
            }
        }
    }

    /// One authenticated GET; an answer other than 200 is an error.
    fn ask(&self, target: &str) -> io::Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.http));
        let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
        stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
        stream.set_write_timeout(Some(PROBE_TIMEOUT))?;
        let request = format!(
            "GET {target} HTTP/1.0\r\nX-ClickHouse-User: {USER}\r\nX-ClickHouse-Key: {}\r\n\r\n",
            self.passwords.orbit
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = [0_u8; 12];
        stream.read_exact(&mut answer)?;
        if answer.ends_with(b" 200") { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
    }
}

/// A spawned process with a thread of its own, the keeper, that spawned it and waits for it.
///
/// The keeper must live as long as the child: the kernel sends the parent-death signal when the
/// *thread* that forked ends, and the thread that calls [`Engine::start`] may well be a short-lived
/// one of a pool.
struct Child {
    pid: Pid,
    /// Refers to this very process, never to a later one with the same number.
    pidfd: OwnedFd,
    /// Held open; the end of it stops the child.
    stdin: Option<ChildStdin>,
    said: Arc<Said>,
    ending: Arc<Ending>,
}

impl Child {
    fn spawn(mut command: Command, program: &Path) -> Result<Self, EngineError> {
        // Its own group: Ctrl-C at a terminal stops us, and we stop the engine when all is shipped.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let ending = Arc::new(Ending::default());
        let said = Arc::new(Said::default());
        let (sender, receiver) = mpsc::sync_channel(1);
        let keeper = {
            let (ending, said) = (Arc::clone(&ending), Arc::clone(&said));
            move || keep(command, &sender, &ending, &said)
        };
        thread::Builder::new()
            .name("engine-keeper".to_owned())
            .spawn(keeper)
            .map_err(EngineError::system("start a thread"))?;
        let spawned = receiver.recv().expect("the keeper reports before it ends");
        let (pid, pidfd, stdin) =
            spawned.map_err(|source| EngineError::Spawn { program: program.to_owned(), source })?;
        Ok(Self { pid, pidfd, stdin: Some(stdin), said, ending })
    }

    fn kill(&mut self) {
        if self.ending.wait(Duration::ZERO).is_none() {
            if let Err(error) = pidfd_send_signal(&self.pidfd, Signal::KILL) {
                tracing::debug!(%error, "the engine was gone already");
            }
            self.ending.wait(Duration::MAX);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

type Spawned = io::Result<(Pid, OwnedFd, ChildStdin)>;

fn keep(mut command: Command, report: &mpsc::SyncSender<Spawned>, ending: &Ending, said: &Said) {
    let mut spawn = || -> io::Result<_> {
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let stdin = child.stdin.take().expect("standard input was asked to be a pipe");
        let stderr = child.stderr.take().expect("standard error was asked to be a pipe");
        Ok((child, stderr, (pid, pidfd, stdin)))
    };
    let (mut child, stderr) = match spawn() {
        Ok((child, stderr, parts)) => {
            if report.send(Ok(parts)).is_err() {
                tracing::debug!("nobody waits for the engine any more");
            }
            (child, stderr)
        }
        Err(error) => {
            if report.send(Err(error)).is_err() {
                tracing::debug!("nobody waits for the engine any more");
            }
            return;
        }
    };
    // Reading first, then reaping: when the ending is known, the last words are complete.
    said.listen(stderr);
    let status = child.wait().expect("a child that was not waited for can be waited for");
    ending.set(status);
}

/// How the child ended, once it has.
#[derive(Default)]
struct Ending {
    status: Mutex<Option<ExitStatus>>,
    known: Condvar,
}

impl Ending {
    fn set(&self, status: ExitStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
        self.known.notify_all();
    }

    fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        let guard = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.known.wait_timeout_while(guard, timeout, |status| status.is_none());
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The end of the child's standard error, each line also logged.
#[derive(Default)]
struct Said {
    lines: Mutex<VecDeque<String>>,
}

impl Said {
    fn listen(&self, stderr: ChildStderr) {
        for line in BufReader::new(stderr).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.trim().is_empty() {
                continue;
            }
            tracing::debug!(target: "orbit::engine", "{line}");
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == KEPT_LINES {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() {
            "nothing".to_owned()
        } else {
            lines.iter().cloned().collect::<Vec<_>>().join("; ")
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a deadline for a process, not a time of an event")]
fn now() -> Instant {
    Instant::now()
}
