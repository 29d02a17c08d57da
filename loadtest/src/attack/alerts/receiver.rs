//! The receiver of webhooks: a process that is killed, and what it noted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::clock::Clock;
use crate::stage::StageError;
use crate::stage::process::Daemon;

/// The first start installs a package.
const START_LIMIT: Duration = Duration::from_mins(3);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A receiver on a port of its own.
pub(super) struct Receiver {
    pub(super) daemon: Daemon,
    pub(super) port: u16,
    log: PathBuf,
}

/// One delivery as it was noted.
#[derive(Debug, Deserialize)]
pub(super) struct Noted {
    pub(super) id: Option<String>,
    /// `ok`, or how it was refused.
    pub(super) did: String,
    pub(super) body: Option<Value>,
    /// What is wrong with its signature.
    pub(super) wrong: Option<String>,
}

impl Receiver {
    /// Starts `program`; everything of it is in `directory`.
    pub(super) async fn start(
        program: &Path,
        launcher: &Path,
        directory: &Path,
        (port, seed): (u16, u64),
    ) -> Result<Receiver, StageError> {
        let found = |path: &Path| {
            let path = path.to_owned();
            path.canonicalize().map_err(|source| StageError::File { what: "find", path, source })
        };
        let log = directory.join("deliveries.jsonl");
        let secret_file = directory.join("webhook.secret");
        let arguments = [
            ["--port".to_owned(), port.to_string()],
            ["--secret-file".to_owned(), secret_file.display().to_string()],
            ["--log".to_owned(), log.display().to_string()],
            ["--seed".to_owned(), seed.to_string()],
        ];
        let (program, launcher) = (found(program)?, found(launcher)?);
        let said = directory.join("receiver.log");
        let daemon = Daemon::new("receiver", &launcher, &program, arguments.concat(), said);
        let mut receiver = Receiver { daemon, port, log };
        receiver.daemon.start()?;
        receiver.listens().await?;
        Ok(receiver)
    }

    /// Waits until it listens.
    pub(super) async fn listens(&mut self) -> Result<(), StageError> {
        let (clock, name) = (Clock::start(), self.daemon.name());
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if !self.daemon.is_running() {
                let said = self.daemon.last_words();
                return Err(StageError::NotRunning { name, said });
            }
            if Duration::from_nanos(clock.now_ns()) >= START_LIMIT {
                return Err(StageError::Slow { name, what: "listen", limit: START_LIMIT });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Every delivery that was noted, and how many lines are none.
    pub(super) fn noted(&self) -> (Vec<Noted>, u64) {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let (mut noted, mut torn) = (Vec::new(), 0);
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(one) => noted.push(one),
                Err(_) => torn += 1,
            }
        }
        (noted, torn)
    }
}

/// How often each thing was done.
pub(super) fn deeds(noted: &[Noted]) -> BTreeMap<&str, u64> {
    let mut deeds = BTreeMap::new();
    for one in noted {
        *deeds.entry(one.did.as_str()).or_default() += 1;
    }
    deeds
}
