//! The shipper's loop: gather, plan, deliver, move the cursor; several plans under way at a time.
//!
//! Reading, encoding and every write to the disk happen on a blocking thread of the runtime, so that
//! the next block is encoded while the last is on its way.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use super::backoff::Backoff;
use super::deliver::{Delivery, Knowledge, persist};
use super::gather::{Gathered, Gatherer, rebuild};
use super::ledger::{Ledger, Plan};
use super::progress::{Progress, Reached};
use super::watermark::Watermarks;
use super::{Control, ShipSettings, blocking, locked};
use crate::clickhouse::{EncodedBlock, Store};
use crate::clock;
use crate::journal::Journal;

/// How often waiting events are looked for: a load of atomics per lane.
const TICK: Duration = Duration::from_millis(25);
/// How often marks are set and gauges published.
const MARK_INTERVAL: Duration = Duration::from_secs(1);
/// Threads read their clocks this much before what they do shows, at most.
const CLOCK_SLACK_US: i64 = 1_000_000;

pub(super) struct Pipeline {
    pub(super) journal: Arc<Journal>,
    pub(super) store: Store,
    pub(super) settings: ShipSettings,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) progress: Arc<Progress>,
    pub(super) control: Arc<Control>,
}

/// A plan with its blocks, ready to be delivered.
type Ready = (Plan, Vec<EncodedBlock>);

/// What the loop keeps in mind.
struct Work {
    /// None while it gathers.
    gatherer: Option<Gatherer>,
    gathering: Option<JoinHandle<(Gatherer, Gathered, Option<Plan>)>>,
    ready: Option<Ready>,
    /// Yield the plan they delivered.
    deliveries: JoinSet<Plan>,
    /// Since when events wait, and since when none could be gathered.
    waiting_since: Option<Instant>,
    watermarks: Watermarks,
    marked_at: Option<Instant>,
}

impl Pipeline {
    /// Ships until told to stop. What is under way then is left to the next start.
    pub(super) async fn run(self) {
        let stopped = self.control.stopped();
        tokio::select! {
            () = stopped => {}
            () = self.ship() => {}
        }
    }

    async fn ship(&self) {
        let (planned, restored_us) = {
            let ledger = locked(&self.ledger);
            (ledger.planned(), ledger.watermark_us())
        };
        let gatherer = Gatherer::new(Arc::clone(&self.journal), self.settings.max_rows, planned);
        let mut work = Work {
            gatherer: Some(gatherer),
            gathering: None,
            ready: None,
            deliveries: JoinSet::new(),
            waiting_since: None,
            watermarks: Watermarks::new(restored_us),
            marked_at: None,
        };
        self.resume(&mut work).await;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.launch(&mut work);
            self.mark(&mut work);
            tokio::select! {
                gathered = joined(&mut work.gathering) => self.planned(&mut work, gathered).await,
                Some(done) = work.deliveries.join_next() => {
                    self.delivered(&mut work, unpanicked(done)).await;
                }
                _ = tick.tick() => {}
                () = self.control.woken() => {}
            }
        }
    }

    /// Takes up the plans of an earlier process: each may or may not have been delivered.
    async fn resume(&self, work: &mut Work) {
        let pending = locked(&self.ledger).pending();
        for plan in pending {
            tracing::info!(plan = plan.number, rows = plan.rows(), "verifying a pending plan");
            let blocks = loop {
                let (journal, plan) = (Arc::clone(&self.journal), plan.clone());
                match blocking(move || rebuild(&journal, &plan)).await {
                    Ok(blocks) => break blocks,
                    Err(error) => {
                        self.progress.note_failure(&error);
                        tokio::time::sleep(self.settings.max_backoff.min(MARK_INTERVAL)).await;
                    }
                }
            };
            self.deliver(work, (plan, blocks), Knowledge::Unknown);
        }
    }

    /// Starts whatever can be started.
    fn launch(&self, work: &mut Work) {
        if work.deliveries.len() < self.settings.max_in_flight
            && let Some(ready) = work.ready.take()
        {
            self.deliver(work, ready, Knowledge::Unsent);
        }
        if work.ready.is_some() || !self.is_due(work) {
            return;
        }
        let Some(mut gatherer) = work.gatherer.take() else { return };
        work.waiting_since = None;
        let ledger = Arc::clone(&self.ledger);
        work.gathering = Some(tokio::task::spawn_blocking(move || {
            let mut gathered = gatherer.gather(|| locked(&ledger).draw_batch_id());
            let plan = register(&mut locked(&ledger), &mut gathered);
            (gatherer, gathered, plan)
        }));
    }

    /// Whether there are enough rows for a block, or some that have waited long enough.
    fn is_due(&self, work: &mut Work) -> bool {
        let Some(gatherer) = &work.gatherer else { return false };
        let waiting = gatherer.waiting();
        if waiting == 0 && !gatherer.has_former() {
            work.waiting_since = None;
            return false;
        }
        let since = *work.waiting_since.get_or_insert_with(Instant::now);
        waiting >= self.settings.max_rows as u64
            || since.elapsed() >= self.settings.max_delay
            || self.control.flushing.load(Ordering::Acquire) > 0
    }

    /// A gathering ended: what it found is made durable, and may then be sent.
    async fn planned(
        &self,
        work: &mut Work,
        (gatherer, gathered, plan): (Gatherer, Gathered, Option<Plan>),
    ) {
        work.gatherer = Some(gatherer);
        if gathered.failures > 0 {
            self.progress.note_failure(&UnreadableLanes(gathered.failures));
        }
        if let Some(plan) = plan {
            persist(&self.ledger, &self.progress, self.settings.max_backoff).await;
            work.ready = Some((plan, gathered.blocks));
        } else if !gathered.ended.is_empty() {
            self.settle().await;
        }
    }

    fn deliver(&self, work: &mut Work, (plan, blocks): Ready, knowledge: Knowledge) {
        let deliveries: Vec<Delivery> = plan
            .batches
            .iter()
            .zip(blocks)
            .map(|(batch, block)| Delivery {
                store: self.store.clone(),
                ledger: Arc::clone(&self.ledger),
                progress: Arc::clone(&self.progress),
                plan: plan.number,
                batch: batch.clone(),
                block,
                knowledge,
                max_backoff: self.settings.max_backoff,
            })
            .collect();
        work.deliveries.spawn(async move {
            for delivery in deliveries {
                delivery.run().await;
            }
            plan
        });
    }

    /// Everything of a plan is in ClickHouse.
    async fn delivered(&self, work: &mut Work, plan: Plan) {
        self.before_forget().await;
        {
            let mut ledger = locked(&self.ledger);
            ledger.complete(plan.number);
            ledger.set_watermark(work.watermarks.overall_us());
        }
        persist(&self.ledger, &self.progress, self.settings.max_backoff).await;
        self.progress.note_shipped(plan.batches.len() as u64, plan.rows());
        self.settle().await;
    }

    /// Has everything else made durable that the cursor's next move relies on.
    async fn before_forget(&self) {
        let Some(before_forget) = self.settings.before_forget.clone() else { return };
        let mut backoff = Backoff::new(self.settings.max_backoff);
        loop {
            let before_forget = Arc::clone(&before_forget);
            match blocking(move || before_forget()).await {
                Ok(()) => return,
                Err(error) => {
                    self.progress.note_failure(&error);
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    /// Lets go of what lies below the durable cursor.
    async fn settle(&self) {
        let ledger = Arc::clone(&self.ledger);
        if let Err(error) = blocking(move || locked(&ledger).settle()).await {
            // The files stay; the next settlement tries again.
            self.progress.note_failure(&error);
        }
        self.control.progressed();
    }

    /// Once a second: how far the lanes are, and the watermark that follows from it.
    fn mark(&self, work: &mut Work) {
        if work.marked_at.is_some_and(|at| at.elapsed() < MARK_INTERVAL) {
            return;
        }
        work.marked_at = Some(Instant::now());
        let now_us = clock::unix_us();
        // Before the lanes are looked at: see `Watermarks::mark`.
        let open_us = self.settings.oldest_open_us.as_ref().and_then(|oldest| oldest());
        let time_us = (now_us - CLOCK_SLACK_US).min(open_us.unwrap_or(i64::MAX));
        let lanes = self.journal.lanes();
        let former_remain = lanes.iter().any(|key| !self.journal.is_live(*key));
        let live = || lanes.iter().copied().filter(|key| self.journal.is_live(*key));
        let written: Vec<_> =
            live().map(|key| (key, self.journal.next_sequence(key).unwrap_or(0))).collect();
        let acknowledged: Vec<_> = live()
            .filter_map(|key| Some((key, self.journal.acknowledged(key)?.sequence)))
            .collect();
        work.watermarks.mark(time_us, &written);
        work.watermarks.advance(&acknowledged, former_remain);
        self.progress.set_reached(Reached {
            overall_us: work.watermarks.overall_us(),
            lanes: work.watermarks.lanes().collect(),
        });
        let (events, bytes) = self.journal.pending();
        self.progress.publish(now_us, work.deliveries.len(), events, bytes);
    }
}

/// Lanes that a gathering could not read; each is logged where it happens.
#[derive(Debug, thiserror::Error)]
#[error("{0} lanes of the journal cannot be read")]
struct UnreadableLanes(u64);

/// Makes a plan of what was gathered; it may be sent once it is persisted.
fn register(ledger: &mut Ledger, gathered: &mut Gathered) -> Option<Plan> {
    let plan = (!gathered.batches.is_empty()).then(|| Plan {
        number: ledger.draw_plan_number(),
        ranges: std::mem::take(&mut gathered.ranges),
        batches: std::mem::take(&mut gathered.batches),
    });
    if let Some(plan) = &plan {
        ledger.register(plan.clone());
    }
    gathered.ended.iter().for_each(|lane| ledger.exhaust(*lane));
    plan
}

/// The outcome of the task, if there is one; else nothing, ever.
async fn joined<T>(task: &mut Option<JoinHandle<T>>) -> T {
    let Some(handle) = task else { return std::future::pending().await };
    let outcome = unpanicked(handle.await);
    *task = None;
    outcome
}

/// A panic in a task is one here: the thread ends, and says so.
pub(super) fn unpanicked<T>(outcome: Result<T, JoinError>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

const _: fn() = || {
    fn is_send<T: Future + Send>(_: impl Fn(Pipeline) -> T) {}
    is_send(Pipeline::run);
};
