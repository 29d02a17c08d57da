//! What limits have spent, kept over a restart: a restart is no amnesty (**P3**).
//!
//! Owns the state directory and the thread that saves to it. A gateway that stops in order leaves
//! its last state, so the next one goes on exactly where it was. `kill -9` and power loss take what
//! was spent since the last save: a quarter of a second, up to a second (and the time of the save)
//! when there are very many buckets. What the next start makes of that is the operator's choice,
//! [`AfterCrash`]: go on from the last save, or with every bucket empty, which admits nobody too
//! much and keeps everybody waiting for the rate of his limit.
//!
//! The key under which clients and end users are hashed is kept in the same file: without the one
//! the other would mean nothing. A state that cannot be read is left out with a line in the log that
//! names the file and says why; then every limit starts full, or empty, as after a crash.

mod files;
mod layout;
mod saver;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use metrics::{describe_counter, describe_gauge};
use orbit_policy::Policy;

use crate::clock::{Clock, Stamp};
use crate::settings::AfterCrash;
use files::{Files, Found};
use layout::Header;
pub use saver::Saver;

#[cfg(test)]
mod tests;

/// The state of limits cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LimitStateError {
    /// The directory cannot be used.
    #[error("limits cannot be kept in {}", directory.display())]
    Directory {
        /// Its directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses the directory.
    #[error("another process keeps its limits in {}", directory.display())]
    InUse {
        /// Its directory.
        directory: PathBuf,
    },
    /// There is a state, and it cannot be read.
    #[error("cannot read the limits in {}", file.display())]
    Read {
        /// Its file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Random(#[source] getrandom::Error),
    /// The thread that saves could not be started.
    #[error("cannot start the thread that saves limits")]
    Thread(#[source] io::Error),
}

/// The state an earlier process left, read and not yet put to use.
pub struct LimitState {
    files: Files,
    hash_key: [u8; 16],
    left: Left,
}

/// What was left.
enum Left {
    /// Nothing: this is the first start.
    Nothing,
    /// Something that cannot be used.
    Damaged,
    /// A state, by a process that ended in order or did not.
    State { header: Header, body: Vec<u8>, closed: bool },
}

impl LimitState {
    /// Reads what is in the directory, and makes it if it is not there. One process at a time.
    ///
    /// Fails when the directory cannot be used. A state that is damaged is no failure.
    pub fn open(directory: &Path) -> Result<LimitState, LimitStateError> {
        let files = Files::open(directory)?;
        let (left, hash_key) = match files.read()? {
            Some(Found { content: Ok((header, body)), closed, .. }) => {
                (Left::State { header, body, closed }, header.hash_key)
            }
            Some(Found { content: Err(damage), file, .. }) => {
                let file = file.display();
                tracing::error!(%file, %damage, "what limits had spent is lost");
                (Left::Damaged, new_hash_key()?)
            }
            None => (Left::Nothing, new_hash_key()?),
        };
        Ok(LimitState { files, hash_key, left })
    }

    /// The key of [`PolicySettings`](orbit_policy::PolicySettings), the same at every start.
    pub fn hash_key(&self) -> [u8; 16] {
        self.hash_key
    }

    /// Takes what was spent from the policy's limits, and starts the thread that saves them.
    ///
    /// To be called before the first request. When this returns, a crash is known as one.
    pub fn resume(
        self,
        policy: Arc<Policy>,
        clock: Arc<Clock>,
        after_crash: AfterCrash,
    ) -> Result<Saver, LimitStateError> {
        describe_metrics();
        let ended_well = match &self.left {
            Left::Nothing => true,
            Left::Damaged => false,
            Left::State { header, body, closed } => {
                restore(&policy, &clock, header, body, *closed);
                *closed
            }
        };
        if !ended_well && after_crash == AfterCrash::Empty {
            policy.start_empty(clock.now());
            tracing::warn!("not stopped in order the last time: every limit starts empty");
        }
        Saver::start(self.files, self.hash_key, policy, clock).map_err(LimitStateError::Thread)
    }
}

fn restore(policy: &Policy, clock: &Clock, header: &Header, body: &[u8], closed: bool) {
    let elapsed_ns = Stamp::take(clock).nanos_since(&header.stamp);
    let now = clock.now();
    let (mut found, mut unknown) = (0, 0);
    let read = layout::each(body, header.now, &mut |record| {
        let restored = policy.restore(record, elapsed_ns, now);
        found += restored.found;
        unknown += restored.unknown;
    });
    // Read once already, when its file was.
    debug_assert!(read.is_ok(), "{read:?}");
    let seconds_ago = elapsed_ns as f64 / 1e9;
    tracing::info!(found, unknown, seconds_ago, closed, "limits go on where they were");
}

fn new_hash_key() -> Result<[u8; 16], LimitStateError> {
    let mut hash_key = [0; 16];
    getrandom::fill(&mut hash_key).map_err(LimitStateError::Random)?;
    Ok(hash_key)
}

fn describe_metrics() {
    describe_gauge!(
        "orbit_limit_state_saved_timestamp_seconds",
        "When what limits have spent was last on the disk, unix time."
    );
    describe_gauge!("orbit_limit_state_buckets", "Buckets on the disk that are not full.");
    describe_counter!(
        "orbit_limit_state_failures_total",
        "Times that what limits have spent could not be saved."
    );
}
