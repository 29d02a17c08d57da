//! A server process that is killed and started again.
//!
//! It is started through `loadtest child`, which asks the kernel to kill it when the thread that
//! started it ends and then becomes the server: whatever ends a run, nothing is left behind.
//! What a server says goes to a log file, one for all of its lives.

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::StageError;

/// Of a log, this much is shown when a server ends by itself.
const SHOWN_LOG_BYTES: usize = 1500;

/// SIGABRT.
const ABORTED: i32 = 6;

/// A server and how to start it.
pub struct Daemon {
    name: &'static str,
    launcher: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    log: PathBuf,
    child: Option<Child>,
    starts: u32,
    kills: u32,
    may_abort: bool,
    aborts: u32,
    /// It ended by an abort it is allowed, and was not started since.
    aborted: bool,
    ended_alone: Vec<String>,
}

impl Daemon {
    /// A server that does not run yet. `launcher` is the `loadtest` binary.
    pub fn new(
        name: &'static str,
        launcher: &Path,
        program: &Path,
        arguments: Vec<String>,
        log: PathBuf,
    ) -> Daemon {
        Daemon {
            name,
            launcher: launcher.to_owned(),
            program: program.to_owned(),
            arguments,
            environment: Vec::new(),
            log,
            child: None,
            starts: 0,
            kills: 0,
            may_abort: false,
            aborts: 0,
            aborted: false,
            ended_alone: Vec::new(),
        }
    }

    /// An abort of its own (SIGABRT) is counted like a kill and not held against it.
    pub fn allow_aborts(&mut self) {
        self.may_abort = true;
    }

    /// How often it aborted.
    pub fn aborts(&self) -> u32 {
        self.aborts
    }

    /// Starts it, unless it runs.
    pub fn start(&mut self) -> Result<(), StageError> {
        if self.is_running() {
            return Ok(());
        }
        let unlogged = |source| StageError::File { what: "write", path: self.log.clone(), source };
        let log = OpenOptions::new().create(true).append(true).open(&self.log).map_err(unlogged)?;
        let errors = File::try_clone(&log).map_err(unlogged)?;
        let child = Command::new(&self.launcher)
            .args(["child", "--"])
            .arg(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| StageError::Spawn { name: self.name, source })?;
        self.child = Some(child);
        self.starts += 1;
        self.aborted = false;
        Ok(())
    }

    /// Whether it runs; one that aborted as it is allowed to is started again.
    pub fn keep_running(&mut self) -> Result<bool, StageError> {
        if !self.is_running() && self.aborted {
            self.start()?;
        }
        Ok(self.is_running())
    }

    /// Sets a variable of the environment it is started with next.
    pub fn set(&mut self, name: &'static str, value: String) {
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value));
    }

    /// Adds an argument it is started with next.
    pub fn argue(&mut self, argument: &str) {
        self.arguments.push(argument.to_owned());
    }

    /// Whether it runs. One that ended although nobody ended it is noted.
    pub fn is_running(&mut self) -> bool {
        let Some(child) = &mut self.child else { return false };
        match child.try_wait() {
            Ok(None) => true,
            ended => {
                self.child = None;
                let how = match ended {
                    Ok(Some(status)) if self.may_abort && status.signal() == Some(ABORTED) => {
                        self.aborts += 1;
                        self.aborted = true;
                        return false;
                    }
                    Ok(Some(status)) => status.to_string(),
                    _ => "an unknown status".to_owned(),
                };
                let said = self.last_words();
                self.ended_alone.push(format!("{} ended by itself with {how}: {said}", self.name));
                false
            }
        }
    }

    /// Kills it with SIGKILL; false when it did not run.
    pub async fn kill(&mut self) -> bool {
        if !self.is_running() {
            return false;
        }
        let Some(mut child) = self.child.take() else { return false };
        // It can only have ended meanwhile.
        drop(child.start_kill());
        drop(child.wait().await);
        self.kills += 1;
        true
    }

    /// Sends a signal, if it runs; false when it does not.
    pub fn signal(&mut self, signal: Signal) -> bool {
        if !self.is_running() {
            return false;
        }
        let pid = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// Its process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Ends it with SIGTERM and waits until it has.
    pub async fn stop(&mut self, limit: Duration) -> Result<ExitStatus, StageError> {
        self.signal(Signal::CONT);
        if !self.signal(Signal::TERM) {
            return Err(StageError::NotRunning { name: self.name, said: self.last_words() });
        }
        let name = self.name;
        let Some(child) = &mut self.child else {
            return Err(StageError::NotRunning { name, said: self.last_words() });
        };
        let ended = tokio::time::timeout(limit, child.wait())
            .await
            .map_err(|_| StageError::Slow { name, what: "end after SIGTERM", limit })?
            .map_err(|source| StageError::Spawn { name, source })?;
        self.child = None;
        Ok(ended)
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.starts
    }

    /// How often it was killed.
    pub fn kills(&self) -> u32 {
        self.kills
    }

    /// The times it ended although nobody ended it.
    pub fn ended_alone(&self) -> &[String] {
        &self.ended_alone
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let from = text.len().saturating_sub(SHOWN_LOG_BYTES);
        String::from_utf8_lossy(&text[from..]).trim().to_owned()
    }
}
