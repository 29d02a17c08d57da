//! The members of distinct meters, kept over a restart: no restart forgives them (**P3**).
//!
//! Owns the thread that syncs the files of [`MemberFile`], writes them anew when most of what they
//! hold is over, and frees the sets of windows that have ended. `kill -9` loses nobody who was let
//! in; a power failure takes those of the last second.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::{describe_counter, describe_gauge, gauge};
use orbit_meter::members::{MemberFile, MemberFileError, MemberStatus};
use orbit_policy::Policy;
use orbit_policy::members::{MemberLog, MemberRecord};

use crate::background;
use crate::clock::Clock;

/// Between two syncs: what a power failure takes.
const PAUSE: Duration = Duration::from_secs(1);
/// Pauses between two looks for windows that have ended.
const SWEEP_EVERY: u32 = 60;

/// Members cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Their files cannot be used.
    #[error(transparent)]
    File(#[from] MemberFileError),
    /// The thread could not be started.
    #[error("cannot start the thread that keeps members")]
    Thread(#[source] io::Error),
}

/// The thread; dropping it ends it after a last sync.
pub struct MemberKeeper {
    file: Arc<MemberFile>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Log(Arc<MemberFile>);

impl MemberLog for Log {
    fn append(&self, record: &MemberRecord) {
        self.0.append(record);
    }
}

impl MemberKeeper {
    /// Puts back whom an earlier process had let in, and from now on keeps whom this one lets in.
    ///
    /// To be called before the first request, by the process that holds the lock on `directory`.
    pub fn start(
        directory: &Path,
        policy: &Policy,
        clock: Arc<Clock>,
    ) -> Result<MemberKeeper, MemberError> {
        describe_metrics();
        let members = policy.members();
        let now_us = clock.unix_us();
        let mut restore = |record: &MemberRecord| members.restore(record, now_us);
        let (file, _) = MemberFile::open(directory, &mut restore)?;
        let file = Arc::new(file);
        members.keep(Box::new(Log(Arc::clone(&file))));
        let kept = Arc::clone(&file);
        let (stop, stopped) = mpsc::channel();
        let run = move || {
            background::yield_to_traffic();
            for pause in 0_u32.. {
                if pause.is_multiple_of(SWEEP_EVERY) {
                    gauge!("orbit_members").set(members.sweep(clock.unix_us()) as f64);
                }
                if stopped.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
                let held = || members.sweep(clock.unix_us());
                file.upkeep(held, |visit| members.export(visit));
            }
            if let Err(error) = file.sync() {
                tracing::error!(%error, "the last members are not safe from a power failure");
            }
        };
        let thread = std::thread::Builder::new().name("members".to_owned()).spawn(run);
        let thread = Some(thread.map_err(MemberError::Thread)?);
        Ok(MemberKeeper { file: kept, stop: Some(stop), thread })
    }

    /// Asks how safe members are.
    pub fn status(&self) -> impl Fn() -> MemberStatus + Send + 'static {
        let file = Arc::clone(&self.file);
        move || file.status()
    }
}

impl Drop for MemberKeeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that keeps members panicked");
        }
    }
}

fn describe_metrics() {
    describe_gauge!("orbit_members", "Members of distinct meters held, a sketch as its registers.");
    describe_gauge!("orbit_member_records", "Records of members in the state directory.");
    describe_counter!(
        "orbit_member_log_failures_total",
        "Times that members could not be made safe from a restart."
    );
}
