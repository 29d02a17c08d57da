//! What quotas count, set right by what is in ClickHouse.
//!
//! A count is what this process counted itself and a base: what is dated before it began to, which
//! earlier processes of this node and other nodes did. The base is exact once it is read from rows,
//! which can be done as soon as all rows it is about were shipped. It may go down then: requests that
//! were in flight when a process died were counted and never answered, and have no row. The same
//! holds for levels of gauges. Rows are read again whenever other nodes have written some, so that a
//! quota is shared by all nodes, each of which lags behind the others by what they ship and an
//! interval; when policy changes; when a window begins; and when something was counted in a base.
//!
//! Owns one thread of low priority. Guarantees that ClickHouse spends at most a twentieth of its
//! time on it, that what cannot be read changes nothing and keeps nothing else from being read, and
//! that it does not hold up the end of the process.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::gauge;
use orbit_meter::causes::with_causes;
use orbit_meter::clickhouse::Store;
use orbit_meter::clickhouse::consumption::{self, ConsumptionError, Process};
use orbit_meter::journal::{Journal, LaneKey};
use orbit_meter::ship::ShipperHandle;
use orbit_policy::{Nanos, Policy};
use tokio::sync::oneshot;

use super::readings::{self, Reading, Wanted};
use crate::background;
use crate::clock::Clock;
use crate::storage::{StorageError, StorageHandle};

/// How often what must come first is looked for.
const LOOK: Duration = Duration::from_millis(500);
/// Between two readings of the same, and between two looks for rows of other nodes.
const INTERVAL: Duration = Duration::from_secs(10);
/// All readings together take so many times longer to come again than they take.
const INTERVAL_PER_READING: u64 = 20;

/// Reconciliation could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ReconcilerError {
    /// The database's settings cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no thread for it.
    #[error("cannot start the thread that reconciles quotas")]
    Thread(#[from] io::Error),
}

/// What it works with.
#[derive(Clone)]
pub struct Sources {
    /// The policy in force.
    pub policy: Arc<Policy>,
    /// Whose rows are this process's.
    pub journal: Arc<Journal>,
    /// How far they are shipped.
    pub shipper: Arc<ShipperHandle>,
    /// The database.
    pub storage: StorageHandle,
    /// The clock.
    pub clock: Arc<Clock>,
}

/// The thread; dropping it ends it.
pub struct Reconciler {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reconciler {
    /// Begins as soon as the database can be reached and earlier processes' rows are in it.
    pub fn start(sources: Sources) -> Result<Reconciler, ReconcilerError> {
        let store = sources.storage.store()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let mut work = Work { sources, store, others: None, done: BTreeMap::new(), failing: false };
        let run = move || {
            background::yield_to_traffic();
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = work.run() => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("reconcile".to_owned()).spawn(run)?;
        Ok(Reconciler { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reconciles quotas panicked");
        }
    }
}

struct Work {
    sources: Sources,
    store: Store,
    /// What stands for other nodes' rows, and when that was asked for.
    others: Option<(u64, Nanos)>,
    done: BTreeMap<Reading, Done>,
    failing: bool,
}

/// When something was read last, and what it was then.
#[derive(Clone, Copy)]
struct Done {
    of: Option<Version>,
    began: Nanos,
    took: Duration,
}

/// What is read anew when it changes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    others: u64,
    policy: u64,
    late: u64,
}

impl Version {
    /// What of it is of matter to a reading.
    fn of(self, reading: &Reading) -> Version {
        Version { late: if reading.is_of_own_rows() { self.late } else { 0 }, ..self }
    }
}

/// A moment up to which everything this process recorded is shipped before rows are read.
struct Moment {
    wanted: Wanted,
    late: u64,
    lanes: Vec<(LaneKey, u64)>,
}

impl Work {
    async fn run(&mut self) {
        let mut moment = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let status = self.sources.storage.status();
            if !(status.reachable && status.migrated && self.is_all_shipped()) {
                continue;
            }
            // Bases as they were before rows were waited for: what is added to them from here on may
            // have none yet.
            let then = moment.take().unwrap_or_else(|| self.moment());
            if !self.is_shipped(&then) {
                moment = Some(then);
                continue;
            }
            if let Err(error) = self.read(&then).await {
                self.failed(&error);
            }
        }
    }

    /// Whether nothing of earlier processes is on its way.
    fn is_all_shipped(&self) -> bool {
        let journal = &self.sources.journal;
        journal.lanes().into_iter().all(|key| journal.is_live(key))
    }

    fn moment(&self) -> Moment {
        let Sources { policy, journal, clock, .. } = &self.sources;
        let late = policy.late_counts();
        let wanted = Wanted::now(policy, clock.unix_us());
        let lanes = journal.lanes().into_iter();
        let lanes = lanes.filter_map(|key| Some((key, journal.next_sequence(key)?))).collect();
        Moment { wanted, late, lanes }
    }

    fn is_shipped(&self, moment: &Moment) -> bool {
        moment.lanes.iter().all(|(key, sequence)| {
            let acknowledged = self.sources.journal.acknowledged(*key);
            acknowledged.is_none_or(|position| position.sequence >= *sequence)
        })
    }

    async fn read(&mut self, moment: &Moment) -> Result<(), ConsumptionError> {
        let version = Version {
            others: self.others_mark().await?,
            policy: self.sources.policy.load().version(),
            late: moment.late,
        };
        let readings = &moment.wanted.readings;
        self.done.retain(|reading, _| readings.contains_key(reading));
        let mut due: Vec<&Reading> =
            readings.keys().filter(|reading| self.is_due(reading, version)).collect();
        // What takes long comes last.
        due.sort_by_key(|reading| (self.took(reading), reading.length_us()));
        for reading in due {
            self.read_one(reading, moment, version).await;
        }
        let is_current = |reading: &Reading| {
            self.done.get(reading).is_some_and(|done| done.of == Some(version.of(reading)))
        };
        if readings.keys().all(is_current) {
            let unix_us = self.sources.clock.unix_us();
            gauge!("orbit_quota_reconciled_timestamp_seconds").set(unix_us as f64 / 1e6);
            self.failing = false;
        }
        Ok(())
    }

    async fn read_one(&mut self, reading: &Reading, moment: &Moment, version: Version) {
        let Sources { policy, journal, clock, .. } = &self.sources;
        let (node, epoch) = (journal.node(), journal.epoch());
        let quotas = &moment.wanted.readings[reading];
        let began = clock.now();
        let process = Process { node, epoch };
        let result = readings::read(policy, &self.store, process, reading, quotas).await;
        let took = Duration::from_nanos(clock.now().since(began));
        let of = result.is_ok().then_some(version.of(reading));
        self.done.insert(reading.clone(), Done { of, began, took });
        if let Err(error) = result {
            self.failed(&error);
        }
    }

    /// A number that stands for the rows of other nodes.
    async fn others_mark(&mut self) -> Result<u64, ConsumptionError> {
        let now = self.sources.clock.now();
        if let Some((mark, at)) = self.others
            && Duration::from_nanos(now.since(at)) < INTERVAL
        {
            return Ok(mark);
        }
        let mark = consumption::others_mark(&self.store, self.sources.journal.node()).await?;
        self.others = Some((mark, now));
        Ok(mark)
    }

    /// Whether it is to be read, and its turn has come.
    fn is_due(&self, reading: &Reading, version: Version) -> bool {
        let watermark_us = self.sources.shipper.status().watermark_us;
        if reading.needs_us() > 0 && watermark_us.is_none_or(|us| us < reading.needs_us()) {
            return false;
        }
        let Some(done) = self.done.get(reading) else { return true };
        let passed = Duration::from_nanos(self.sources.clock.now().since(done.began));
        // Each so much slower as there are others: together they keep to their share.
        let share = INTERVAL_PER_READING * self.done.len() as u64;
        let pause = done.took.saturating_mul(u32::try_from(share).unwrap_or(u32::MAX));
        done.of != Some(version.of(reading)) && passed >= INTERVAL.max(pause)
    }

    fn took(&self, reading: &Reading) -> Duration {
        self.done.get(reading).map_or(Duration::ZERO, |done| done.took)
    }

    /// Logged when it begins.
    fn failed(&mut self, error: &ConsumptionError) {
        if !std::mem::replace(&mut self.failing, true) {
            let error = with_causes(error);
            tracing::warn!(error, "quotas were not compared with the usage database");
        }
    }
}
