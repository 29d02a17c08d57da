//! What quotas have counted, kept over a restart and set right by the usage database (**P3**).
//!
//! Counts, and how high levels are, live in mapped files of the state directory, so `kill -9`
//! forgives nothing: the next process goes on with the count of this one, to the unit. What was
//! counted for requests that were never answered is in it, too. Once everything earlier processes
//! recorded is in ClickHouse, [`Reconciler`] sets that part of every count to what ClickHouse has,
//! and goes on to do so for what other nodes count.
//!
//! A power failure may take what was counted in the second before it, until then.

mod readings;
mod reconcile;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::{describe_counter, describe_gauge};
use orbit_meter::counts::Counts;
use orbit_policy::quota::{Memory, begin_process};

use crate::background;
use crate::clock::Clock;

pub use reconcile::{Reconciler, ReconcilerError, Sources};

/// How often counts go to the disk: what a power failure may take.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// The counts of quotas cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum QuotaStateError {
    /// There are files, and they cannot be used.
    #[error("cannot use the counts of quotas in {}", directory.display())]
    Open {
        /// Their directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The thread that brings them to the disk could not be started.
    #[error("cannot start the thread that keeps the counts of quotas")]
    Thread(#[source] io::Error),
}

/// The counts on the disk, and the thread that brings them there. Dropping it does so once more.
pub struct QuotaState {
    counts: Arc<Counts>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl QuotaState {
    /// Opens what earlier processes left in a directory that is there and ours.
    pub fn open(directory: &Path, clock: &Arc<Clock>) -> Result<QuotaState, QuotaStateError> {
        describe_gauge!(
            "orbit_quota_reconciled_timestamp_seconds",
            "When the counts of quotas were last compared with the usage database, unix time."
        );
        describe_counter!(
            "orbit_quota_state_failures_total",
            "Times that the counts of quotas could not be brought to the disk."
        );
        let failed = |source| QuotaStateError::Open { directory: directory.to_owned(), source };
        let (counts, left) =
            Counts::open(directory, "quotas", clock.unix_us(), begin_process).map_err(failed)?;
        let counts = Arc::new(counts);
        if left.keys > 0 {
            tracing::info!(quotas = left.keys, "quotas go on where they were");
        }
        if left.power_failed && left.keys > 0 {
            tracing::warn!(
                "the machine went down: quotas may lack what was counted in the second before, \
                 until the usage database was asked"
            );
        }
        let (stop, stopped) = mpsc::channel();
        let (kept, clock) = (Arc::clone(&counts), Arc::clone(clock));
        let run = move || {
            background::yield_to_traffic();
            let mut failing = false;
            while stopped.recv_timeout(SYNC_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                sync(&kept, &clock, &mut failing);
            }
            sync(&kept, &clock, &mut failing);
        };
        let thread = std::thread::Builder::new().name("quotas".to_owned()).spawn(run);
        let thread = thread.map_err(QuotaStateError::Thread)?;
        Ok(QuotaState { counts, stop: Some(stop), thread: Some(thread) })
    }

    /// For [`PolicySettings`](orbit_policy::PolicySettings).
    pub fn memory(&self) -> Arc<dyn Memory> {
        Arc::<Counts>::clone(&self.counts)
    }
}

impl Drop for QuotaState {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that keeps the counts of quotas panicked");
        }
    }
}

/// A failure is logged when it begins, and counted each time.
fn sync(counts: &Counts, clock: &Clock, failing: &mut bool) {
    match counts.sync(clock.unix_us()) {
        Ok(()) => *failing = false,
        Err(error) => {
            metrics::counter!("orbit_quota_state_failures_total").increment(1);
            if !std::mem::replace(failing, true) {
                tracing::error!(%error, "the counts of quotas could not be brought to the disk");
            }
        }
    }
}
