//! The one path by which policy documents come into force: read -> validate -> swap.
//!
//! Owns the thread that does it, whoever asked: a change on disk, SIGHUP, an operator's `apply`, or
//! the instant at which the documents in force say something else (the very same documents then).
//! Guarantees (P4) that bad documents change nothing and say why: in the log, in a metric and in
//! [`Status`], while the policy in force goes on. Documents that read the same as those in force
//! are not a new version. Triggers that come while a reload runs are answered by one more, not by
//! many.

mod schedule;
mod sources;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, gauge, histogram};
use orbit_policy::{Applied, Diagnostic, Diagnostics, Policy, PolicySettings, Source, Summary};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch as latest};

use crate::background;
use crate::clock::Clock;
use schedule::Schedule;
pub use sources::{Fingerprint, read};

#[cfg(test)]
mod tests;

/// Most diagnostics of one refusal that are logged; the admin API has all of them.
const LOGGED_DIAGNOSTICS: usize = 50;
/// How long the disk must be quiet before a change is read: editors and rsync write in bursts.
const QUIET: Duration = Duration::from_millis(100);
/// A disk that is never quiet is read this often all the same.
const NEVER_QUIET: Duration = Duration::from_secs(2);
/// `apply` calls waiting at a time; more are refused at once.
const WAITING_CALLS: usize = 64;

/// Who asked for a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The process started.
    Start,
    /// A file below the policy paths changed.
    Watch,
    /// SIGHUP.
    Hangup,
    /// An operator's call.
    Apply,
    /// The documents in force name this instant.
    Schedule,
}

impl Cause {
    /// A word for logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Start => "start",
            Cause::Watch => "watch",
            Cause::Hangup => "sighup",
            Cause::Apply => "apply",
            Cause::Schedule => "schedule",
        }
    }
}

/// What one reload came to.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// A new version is in force.
    Applied,
    /// The documents read the same as those in force.
    Unchanged,
    /// The documents are wrong in these places; the version in force stayed.
    Refused(Arc<Vec<Diagnostic>>),
}

impl Outcome {
    /// The metric label, also in answers.
    pub fn as_str(&self) -> &'static str {
        match self {
            Outcome::Applied => "ok",
            Outcome::Unchanged => "unchanged",
            Outcome::Refused(_) => "refused",
        }
    }
}

/// The policy in force and the last attempt to replace it.
#[derive(Debug, Clone)]
pub struct Status {
    /// Version in force, from 1, one more at each change.
    pub version: u64,
    /// What the documents in force were, in short.
    pub fingerprint: Fingerprint,
    /// What is in them.
    pub summary: Summary,
    /// When the version in force was loaded, unix microseconds.
    pub loaded_at_us: i64,
    /// When the documents in force say something else, unix microseconds.
    pub next_change_us: Option<i64>,
    /// When the last attempt ended, unix microseconds.
    pub attempted_at_us: i64,
    /// Who asked for the last attempt.
    pub cause: Cause,
    /// What the last attempt came to.
    pub outcome: Outcome,
}

/// Loads the documents for the first time.
///
/// Fails with every diagnostic; there is nothing to fall back on yet.
pub fn start_policy(
    paths: &[PathBuf],
    settings: &PolicySettings,
    clock: &Clock,
) -> Result<(Arc<Policy>, Loaded), Diagnostics> {
    let sources = read(paths).map_err(Diagnostics)?;
    let now_us = clock.unix_us();
    let policy = Policy::new(&sources, settings, now_us)?;
    let snapshot = policy.load();
    schedule::log_history(&snapshot);
    let status = Status {
        version: snapshot.version(),
        fingerprint: Fingerprint::of(&sources),
        summary: Summary::of(&snapshot),
        loaded_at_us: now_us,
        next_change_us: snapshot.next_change_us(),
        attempted_at_us: now_us,
        cause: Cause::Start,
        outcome: Outcome::Applied,
    };
    let schedule = Schedule::of(&snapshot, sources);
    Ok((Arc::new(policy), Loaded { status, schedule }))
}

/// What was loaded for the first time, for the [`Reloader`] to go on from.
pub struct Loaded {
    status: Status,
    schedule: Schedule,
}

/// A handle to ask for reloads and see how they went. Cheap to clone.
#[derive(Clone)]
pub struct Reloads {
    status: latest::Receiver<Arc<Status>>,
    calls: mpsc::Sender<Call>,
}

/// An operator's call and where its answer goes.
type Call = oneshot::Sender<Arc<Status>>;

/// An `apply` could not be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Too many calls are waiting.
    #[error("{WAITING_CALLS} calls are already waiting for a reload")]
    Busy,
    /// The process is stopping.
    #[error("the process is stopping")]
    Stopping,
}

impl Reloads {
    /// The version in force and the last attempt.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.borrow())
    }

    /// Waits until the status is as wanted, and returns it.
    pub async fn wait_for(
        &mut self,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Arc<Status>, ApplyError> {
        let status = self.status.wait_for(|status| wanted(status)).await;
        status.map(|status| Arc::clone(&status)).map_err(|_| ApplyError::Stopping)
    }

    /// Reads the documents again and returns the status after that.
    pub async fn apply(&self) -> Result<Arc<Status>, ApplyError> {
        let (answer, answered) = oneshot::channel();
        self.calls.try_send(answer).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ApplyError::Busy,
            mpsc::error::TrySendError::Closed(_) => ApplyError::Stopping,
        })?;
        answered.await.map_err(|_| ApplyError::Stopping)
    }
}

/// The reload thread; dropping it stops it after the reload that is running.
pub struct Reloader {
    reloads: Reloads,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reloader {
    /// Starts the thread. It listens to SIGHUP and, if asked to, to the file system.
    ///
    /// Fails when the thread or its signal handler cannot be made. A watch that cannot be set up
    /// (the system's limit on watches, say) is logged and the other triggers still work.
    pub fn start(
        policy: Arc<Policy>,
        loaded: Loaded,
        paths: Vec<PathBuf>,
        watched: bool,
        clock: Arc<Clock>,
    ) -> io::Result<Reloader> {
        describe_metrics();
        let Loaded { status: started, schedule } = loaded;
        observe(&started);
        let (calls, called) = mpsc::channel(WAITING_CALLS);
        let (stop, stopped) = oneshot::channel();
        let (status, seen) = latest::channel(Arc::new(started));
        let reloads = Reloads { status: seen, calls };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let hangups = {
            let _guard = runtime.enter();
            signal(SignalKind::hangup())?
        };
        let changed = Arc::new(Notify::new());
        let watch = watched.then(|| watch::Watch::new(&paths, Arc::clone(&changed)));
        let worker = Worker { policy, status, paths, clock, watch, schedule };
        let thread = std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
            background::yield_to_traffic();
            runtime.block_on(worker.run(called, changed, hangups, stopped));
        })?;
        Ok(Reloader { reloads, stop: Some(stop), thread: Some(thread) })
    }

    /// A handle for others.
    pub fn handle(&self) -> Reloads {
        self.reloads.clone()
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the reload thread panicked");
        }
    }
}

/// What the reload thread owns.
struct Worker {
    policy: Arc<Policy>,
    status: latest::Sender<Arc<Status>>,
    paths: Vec<PathBuf>,
    clock: Arc<Clock>,
    watch: Option<watch::Watch>,
    schedule: Schedule,
}

impl Worker {
    async fn run(
        mut self,
        mut called: mpsc::Receiver<Call>,
        changed: Arc<Notify>,
        mut hangups: tokio::signal::unix::Signal,
        mut stopped: oneshot::Receiver<()>,
    ) {
        loop {
            let mut callers = Vec::new();
            let cause = tokio::select! {
                biased;
                _ = &mut stopped => return,
                call = called.recv() => {
                    callers.extend(call);
                    Cause::Apply
                }
                hangup = hangups.recv() => {
                    if hangup.is_none() {
                        return;
                    }
                    Cause::Hangup
                }
                () = changed.notified() => {
                    settle(&changed).await;
                    Cause::Watch
                }
                () = self.schedule.due(&self.clock) => Cause::Schedule,
            };
            // Every call that is here by now is answered by a reload that starts after it.
            while let Ok(call) = called.try_recv() {
                callers.push(call);
            }
            let status = self.reload(cause);
            for caller in callers {
                // A caller that has gone away needs no answer.
                drop(caller.send(Arc::clone(&status)));
            }
            if let Some(watch) = &mut self.watch {
                watch.renew(&self.paths);
            }
        }
    }

    /// Reads, validates and swaps; never fails, says what happened.
    fn reload(&mut self, cause: Cause) -> Arc<Status> {
        let began = self.clock.now();
        let mut status = Status::clone(&self.status.borrow());
        status.cause = cause;
        let sources = match cause {
            Cause::Schedule => Ok(self.schedule.sources()),
            Cause::Start | Cause::Watch | Cause::Hangup | Cause::Apply => read(&self.paths),
        };
        status.outcome = match sources {
            Err(diagnostics) => Outcome::Refused(Arc::new(diagnostics)),
            Ok(sources) => self.judge(sources, &mut status),
        };
        status.attempted_at_us = self.clock.unix_us();
        if matches!(status.outcome, Outcome::Applied) {
            status.loaded_at_us = status.attempted_at_us;
        }
        let took = Duration::from_nanos(self.clock.now().since(began));
        log(&status, took);
        observe(&status);
        counter!("orbit_policy_reloads_total", "result" => status.outcome.as_str()).increment(1);
        histogram!("orbit_policy_reload_seconds").record(took.as_secs_f64());
        let status = Arc::new(status);
        self.status.send_replace(Arc::clone(&status));
        status
    }

    /// Applies documents that differ from those in force, and notes what is in force then.
    fn judge(&mut self, sources: Vec<Source>, status: &mut Status) -> Outcome {
        let fingerprint = Fingerprint::of(&sources);
        if status.cause != Cause::Schedule && fingerprint == status.fingerprint {
            return Outcome::Unchanged;
        }
        let before = self.policy.load();
        match self.policy.apply(&sources, || self.clock.read()) {
            Ok(Applied { version, summary }) => {
                let snapshot = self.policy.load();
                schedule::log_effect(&before, &snapshot);
                self.schedule.follow(&snapshot, sources);
                status.version = version;
                status.summary = summary;
                status.fingerprint = fingerprint;
                status.next_change_us = snapshot.next_change_us();
                Outcome::Applied
            }
            Err(Diagnostics(diagnostics)) => Outcome::Refused(Arc::new(diagnostics)),
        }
    }
}

/// Waits until nothing has changed for [`QUIET`], for [`NEVER_QUIET`] at most.
async fn settle(changed: &Notify) {
    let quiet = async { while tokio::time::timeout(QUIET, changed.notified()).await.is_ok() {} };
    // Either way it is time to read.
    drop(tokio::time::timeout(NEVER_QUIET, quiet).await);
}

fn log(status: &Status, took: Duration) {
    let cause = status.cause.as_str();
    let took_ms = took.as_millis() as u64;
    let Status { version, summary: Summary { tenants, keys, .. }, .. } = *status;
    match &status.outcome {
        Outcome::Applied => {
            tracing::info!(cause, version, tenants, keys, took_ms, "policy applied");
        }
        Outcome::Unchanged => tracing::info!(cause, version, took_ms, "policy unchanged"),
        Outcome::Refused(diagnostics) => {
            let mistakes = diagnostics.len();
            tracing::error!(cause, version, mistakes, "policy refused; the version in force stays");
            for diagnostic in diagnostics.iter().take(LOGGED_DIAGNOSTICS) {
                tracing::error!("{diagnostic}");
            }
            if let Some(more) = mistakes.checked_sub(LOGGED_DIAGNOSTICS).filter(|more| *more > 0) {
                tracing::error!("and {more} more mistakes");
            }
        }
    }
}

fn describe_metrics() {
    describe_counter!("orbit_policy_reloads_total", "Attempts to load the policy, by result.");
    describe_gauge!("orbit_policy_version", "Version of the policy in force.");
    describe_gauge!("orbit_policy_tenants", "Tenants in force.");
    describe_gauge!("orbit_policy_keys", "Keys in force.");
    describe_gauge!("orbit_policy_refused", "1 while the last attempt was refused, else 0.");
    // A series exists from the start, so that an alert on its increase sees the first one.
    for result in ["ok", "unchanged", "refused"] {
        counter!("orbit_policy_reloads_total", "result" => result).increment(0);
    }
}

fn observe(status: &Status) {
    gauge!("orbit_policy_version").set(status.version as f64);
    gauge!("orbit_policy_tenants").set(status.summary.tenants as f64);
    gauge!("orbit_policy_keys").set(status.summary.keys as f64);
    let refused = matches!(status.outcome, Outcome::Refused(_));
    gauge!("orbit_policy_refused").set(f64::from(u8::from(refused)));
}
