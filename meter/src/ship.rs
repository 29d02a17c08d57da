//! Shipping: from the journal to ClickHouse, every event exactly once.
//!
//! # The way of a batch
//! 1. **gather**: frames below each lane's committed offset are read, earlier epochs first, split by
//!    the month of their event time and encoded, one Native block per month: one block is one part
//!    in one partition, taken by ClickHouse whole or not at all.
//! 2. **plan**: the ranges of frames, and of each batch its id, token, month and number of rows, are
//!    made durable, after the rows themselves are.
//! 3. **deliver**: the block is inserted. After any failure that does not prove that nothing was
//!    written, the table is read by batch id before anything is sent again (`deliver`).
//! 4. **list**: the batch is told in the manifest, beside the delivery of the next (`manifest`).
//! 5. **settle**: the cursor moves, durably, and the journal removes the segments below it.
//!
//! A process that dies anywhere leaves the plan; the next one builds the same blocks from the same
//! ranges, and reads the table before it sends them.
//!
//! # Guarantees
//! - **M2** Every event of the journal is in ClickHouse exactly once in the end, whichever side
//!   dies, whenever. ClickHouse may be away for as long as the journal has room.
//! - **M3** Every sequence of a lane that was shipped is in one plan of the manifest, which tells how
//!   many rows that made and their digest; what makes none, and what the journal lost, is told as a
//!   loss.
//! - The watermark ([`ShipStatus::watermark_us`]) is an event time below which everything is there.
//!
//! The shipper has a thread of its own with a runtime of its own; its blocking work (reading,
//! encoding, syncing) is on that runtime's blocking threads.

mod backoff;
mod deliver;
mod gather;
mod ledger;
mod manifest;
mod noted;
mod pipeline;
mod progress;
mod report;
mod watermark;

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::Notify;

use crate::clickhouse::Store;
use crate::journal::{Journal, LaneKey};
pub use crate::slots::SlotsError;
use ledger::Ledger;
pub(crate) use ledger::shipped;
pub use noted::acknowledged;
use pipeline::Pipeline;
use progress::Progress;

/// What is on its way into the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Now, in unix microseconds, by the clock that dates events; read before `oldest_us` was found.
    pub now_us: i64,
    /// The time, in unix microseconds, of the oldest request or sum that is not journalled yet; `None`
    /// when there is none.
    pub oldest_us: Option<i64>,
}

/// Asks whoever records. Called about once a second.
pub type AskOpen = Arc<dyn Fn() -> Open + Send + Sync>;

/// Called before the journal may forget events that are shipped: whatever else is known of them must
/// be durable when it returns. When it fails it is called again, and nothing is forgotten until then.
pub type BeforeForget = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// How events are shipped.
#[derive(Clone)]
pub struct ShipSettings {
    /// Rows of a block at most; reached under load. ClickHouse makes one part of up to a million.
    pub max_rows: usize,
    /// How long an event waits for others.
    pub max_delay: Duration,
    /// Plans under way at a time. One more is prepared meanwhile.
    pub max_in_flight: usize,
    /// Longest wait between two attempts.
    pub max_backoff: Duration,
    /// How often ClickHouse is told how far this node is.
    pub report_interval: Duration,
    /// What the watermark must not pass besides, and what must not be left when the node says that it
    /// has stopped. Without it, every request is taken to be journalled as soon as it arrives.
    pub open: Option<AskOpen>,
    /// What must be durable before shipped events are forgotten.
    pub before_forget: Option<BeforeForget>,
}

impl Default for ShipSettings {
    fn default() -> ShipSettings {
        ShipSettings {
            max_rows: 250_000,
            max_delay: Duration::from_secs(1),
            max_in_flight: 2,
            max_backoff: Duration::from_secs(10),
            report_interval: Duration::from_secs(5),
            open: None,
            before_forget: None,
        }
    }
}

impl fmt::Debug for ShipSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShipSettings")
            .field("max_rows", &self.max_rows)
            .field("max_delay", &self.max_delay)
            .field("max_in_flight", &self.max_in_flight)
            .field("max_backoff", &self.max_backoff)
            .field("report_interval", &self.report_interval)
            .finish_non_exhaustive()
    }
}

/// Shipping could not start.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// A setting that cannot work.
    #[error("shipping {field} is {value}, must be {must}")]
    Setting {
        /// The setting.
        field: &'static str,
        /// Its value.
        value: usize,
        /// What it must be.
        must: &'static str,
    },
    /// The state's files.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// The state could not be written or followed.
    #[error("shipping state")]
    State {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The state is whole but not ours.
    #[error("shipping state is not understood")]
    Format {
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The state was written by another version.
    #[error("shipping state has version {found}, this program knows {known}")]
    Version {
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// No thread or no runtime.
    #[error("no thread for shipping")]
    Thread {
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A flush or a stop did not see everything shipped in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} events are not in ClickHouse after {after:?}{}", because(last_error.as_ref()))]
pub struct FlushError {
    /// Events of before the call that are still only in the journal.
    pub waiting: u64,
    /// The time there was.
    pub after: Duration,
    /// What failed last, if anything did.
    pub last_error: Option<String>,
}

fn because(error: Option<&String>) -> String {
    error.map_or_else(String::new, |error| format!(": {error}"))
}

/// A moment of the shipper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShipStatus {
    /// Rows acknowledged since the shipper started.
    pub rows: u64,
    /// Batches acknowledged.
    pub batches: u64,
    /// Attempts that failed: inserts, reads, writes of the state.
    pub failures: u64,
    /// Blocks sent more than once.
    pub resends: u64,
    /// What failed last, while it does.
    pub last_error: Option<String>,
    /// Events not acknowledged.
    pub lag_events: u64,
    /// Their bytes.
    pub lag_bytes: u64,
    /// Event time of the oldest of them, unix microseconds.
    pub oldest_pending_ts_us: Option<i64>,
    /// Event time below which everything is acknowledged; `None` while nothing can be said.
    pub watermark_us: Option<i64>,
    /// The same for each lane of this epoch.
    pub lanes: Vec<(LaneKey, Option<i64>)>,
    /// The thread is there.
    pub is_running: bool,
}

/// Ships a journal. See [`Shipper::start`].
#[derive(Debug)]
pub struct Shipper;

impl Shipper {
    /// Reads the shipping state in the journal's directory and starts to ship, on a thread of its
    /// own. One shipper per journal; the store should be used by nobody else, as its connections
    /// belong to the shipper's runtime from then on.
    pub fn start(
        journal: Arc<Journal>,
        store: Store,
        settings: ShipSettings,
    ) -> Result<ShipperHandle, ShipError> {
        let refuse = |field, value, must| Err(ShipError::Setting { field, value, must });
        match settings.max_rows {
            1..=1_000_000 => {}
            value => return refuse("max_rows", value, "1 to 1000000: a block is one part"),
        }
        if !(1..=16).contains(&settings.max_in_flight) {
            return refuse("max_in_flight", settings.max_in_flight, "1 to 16");
        }
        let ledger = Ledger::open(Arc::clone(&journal))?;
        let progress = Arc::new(Progress::new(ledger.watermark_us()));
        let control = Arc::new(Control::default());
        let pipeline = Pipeline {
            journal: Arc::clone(&journal),
            store,
            settings,
            ledger: Arc::new(Mutex::new(ledger)),
            progress: Arc::clone(&progress),
            control: Arc::clone(&control),
        };
        let thread = spawn(pipeline).map_err(|source| ShipError::Thread { source })?;
        Ok(ShipperHandle { journal, progress, control, thread: Mutex::new(Some(thread)) })
    }
}

fn spawn(pipeline: Pipeline) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_name("orbit-ship-work")
        .build()?;
    let control = Arc::clone(&pipeline.control);
    std::thread::Builder::new().name("orbit-ship".to_owned()).spawn(move || {
        // Also when it panics: a flush must not wait for a thread that is gone.
        let _ended = Ended(control);
        runtime.block_on(pipeline.run());
    })
}

/// A running shipper. Dropping it stops at once; what is under way is verified by the next.
#[derive(Debug)]
pub struct ShipperHandle {
    journal: Arc<Journal>,
    progress: Arc<Progress>,
    control: Arc<Control>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl ShipperHandle {
    /// Waits until every event that was journalled before the call is in ClickHouse.
    pub fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        let lanes = self.journal.lanes().into_iter();
        let targets: Vec<(LaneKey, u64)> =
            lanes.filter_map(|key| Some((key, self.journal.next_sequence(key)?))).collect();
        // A former lane counts as shipped when it is retired: its end is known only then.
        let waiting = || -> u64 {
            let left = |&(key, target): &(LaneKey, u64)| {
                let position = self.journal.acknowledged(key)?;
                let left = target.saturating_sub(position.sequence);
                Some(if self.journal.is_live(key) { left } else { left.max(1) })
            };
            targets.iter().filter_map(left).sum()
        };
        self.control.flushing.fetch_add(1, Ordering::AcqRel);
        self.control.wake.notify_one();
        let is_pending = |(): &mut ()| !self.control.has_ended() && waiting() > 0;
        let guard = locked(&self.control.gate);
        let waited = self.control.changed.wait_timeout_while(guard, timeout, is_pending);
        drop(waited);
        self.control.flushing.fetch_sub(1, Ordering::AcqRel);
        match waiting() {
            0 => Ok(()),
            waiting => {
                let last_error = self.progress.last_error();
                Err(FlushError { waiting, after: timeout, last_error })
            }
        }
    }

    /// Flushes, then stops. What did not get through in time stays in the journal; when nothing
    /// does, ClickHouse is told that this node has stopped and holds no watermark back.
    pub fn stop(&self, timeout: Duration) -> Result<(), FlushError> {
        let flushed = self.flush(timeout);
        self.control.flushed.store(flushed.is_ok(), Ordering::Release);
        self.end();
        flushed
    }

    /// How it is going.
    pub fn status(&self) -> ShipStatus {
        let reached = self.progress.reached();
        let journal = self.journal.status();
        ShipStatus {
            rows: self.progress.rows(),
            batches: self.progress.batches(),
            failures: self.progress.failures(),
            resends: self.progress.resends(),
            last_error: self.progress.last_error(),
            lag_events: journal.pending_events,
            lag_bytes: journal.pending_bytes,
            oldest_pending_ts_us: journal.oldest_pending_ts_us,
            watermark_us: reached.overall_us,
            lanes: reached.lanes,
            is_running: !self.control.has_ended(),
        }
    }

    fn end(&self) {
        self.control.stopping.store(true, Ordering::Release);
        self.control.stop.notify_one();
        let Some(thread) = locked(&self.thread).take() else { return };
        if thread.join().is_err() {
            tracing::error!("the shipping thread had panicked");
        }
    }
}

impl Drop for ShipperHandle {
    fn drop(&mut self) {
        self.end();
    }
}

/// What handle and thread tell each other.
#[derive(Debug, Default)]
struct Control {
    stopping: AtomicBool,
    /// Everything was shipped when it was told to stop.
    flushed: AtomicBool,
    ended: AtomicBool,
    stop: Notify,
    /// Callers that wait for everything to be shipped.
    flushing: AtomicUsize,
    wake: Notify,
    gate: Mutex<()>,
    changed: Condvar,
}

impl Control {
    async fn stopped(&self) {
        while !self.stopping.load(Ordering::Acquire) {
            self.stop.notified().await;
        }
    }

    fn is_flushed(&self) -> bool {
        self.flushed.load(Ordering::Acquire)
    }

    async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The cursor moved.
    fn progressed(&self) {
        drop(locked(&self.gate));
        self.changed.notify_all();
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

struct Ended(Arc<Control>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.progressed();
    }
}

/// Runs blocking work beside the runtime's own thread.
fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> {
    let task = tokio::task::spawn_blocking(work);
    async { pipeline::unpanicked(task.await) }
}

/// A panic elsewhere ends the shipper; what these locks guard is read once more at most.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
