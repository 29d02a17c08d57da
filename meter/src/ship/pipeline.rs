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
use super::manifest::{Delivered, Listed, Listing};
use super::progress::{Progress, Reached};
use super::report::Reporter;
use super::watermark::Watermarks;
use super::{Control, Open, ShipSettings, blocking, locked};
use crate::clickhouse::{EncodedBlock, Store};
use crate::clock;
use crate::journal::Journal;

/// How often waiting events are looked for: a load of atomics per lane.
const TICK: Duration = Duration::from_millis(25);
/// How often marks are set and gauges published.
const MARK_INTERVAL: Duration = Duration::from_secs(1);
/// Threads read their clocks this much before what they do shows, at most.
const CLOCK_SLACK_US: i64 = 1_000_000;
/// Plans that may wait for their place in the manifest. With those in flight, and as many ranges as a
/// plan may have, they fit in the blocks that the state's files have from the start (`slots`).
const MAX_UNLISTED: usize = 8;

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
    deliveries: JoinSet<Delivered>,
    /// To be listed in the manifest, next and now.
    delivered: Vec<Delivered>,
    listing: Option<JoinHandle<Listed>>,
    /// How many are being listed.
    listed: usize,
    /// Since when events wait, and since when none could be gathered.
    waiting_since: Option<Instant>,
    /// More waits than the last plan could take.
    is_behind: bool,
    watermarks: Watermarks,
    marked_at: Option<Instant>,
}

impl Work {
    fn unlisted(&self) -> usize {
        self.delivered.len() + self.listed
    }
}

impl Open {
    /// The event time below which everything is journalled, when it was `now_us` by another clock,
    /// which may have been set since this one was read. Clocks are read up to [`CLOCK_SLACK_US`]
    /// before what is dated by them is journalled.
    fn horizon_us(&self, now_us: i64) -> i64 {
        now_us.min(self.now_us - CLOCK_SLACK_US).min(self.oldest_us.unwrap_or(i64::MAX))
    }
}

impl Pipeline {
    /// Ships until told to stop. What is under way then is left to the next start.
    pub(super) async fn run(self) {
        let (planned, restored_us) = {
            let ledger = locked(&self.ledger);
            (ledger.planned(), ledger.watermark_us())
        };
        let mut reporter = Reporter::new(
            self.store.clone(),
            Arc::clone(&self.journal),
            Arc::clone(&self.ledger),
            self.settings.report_interval,
            restored_us,
        );
        let mut work = Work {
            gatherer: Some(Gatherer::new(
                Arc::clone(&self.journal),
                self.settings.max_rows,
                planned,
            )),
            gathering: None,
            ready: None,
            deliveries: JoinSet::new(),
            delivered: Vec::new(),
            listing: None,
            listed: 0,
            waiting_since: None,
            is_behind: false,
            watermarks: Watermarks::new(restored_us),
            marked_at: None,
        };
        let stopped = self.control.stopped();
        tokio::select! {
            () = stopped => {}
            () = self.ship(&mut work, &mut reporter) => {}
        }
        if self.control.is_flushed() && self.is_empty() {
            self.take_leave(work, reporter).await;
        }
    }

    async fn ship(&self, work: &mut Work, reporter: &mut Reporter) {
        self.resume(work).await;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.launch(work);
            self.mark(work, reporter).await;
            tokio::select! {
                gathered = joined(&mut work.gathering) => self.planned(work, gathered).await,
                Some(done) = work.deliveries.join_next() => {
                    work.delivered.push(unpanicked(done));
                }
                listed = joined(&mut work.listing) => self.listed(work, listed).await,
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
        self.list(work);
        if work.deliveries.len() < self.settings.max_in_flight
            && work.unlisted() < MAX_UNLISTED
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
        work.is_behind
            || waiting >= self.settings.max_rows as u64
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
        work.is_behind = gathered.is_cut;
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
            let mut totals = Vec::with_capacity(deliveries.len());
            for delivery in deliveries {
                totals.push(delivery.run().await);
            }
            Delivered { plan, totals }
        });
    }

    /// Lists what was delivered since the last listing, and losses; one listing at a time.
    fn list(&self, work: &mut Work) {
        if work.listing.is_some()
            || (work.delivered.is_empty() && locked(&self.ledger).losses().is_empty())
        {
            return;
        }
        work.listed = work.delivered.len();
        let listing = Listing {
            store: self.store.clone(),
            ledger: Arc::clone(&self.ledger),
            progress: Arc::clone(&self.progress),
            delivered: std::mem::take(&mut work.delivered),
            max_backoff: self.settings.max_backoff,
        };
        work.listing = Some(tokio::spawn(listing.run()));
    }

    /// Everything of these plans is in ClickHouse and in its manifest.
    async fn listed(&self, work: &mut Work, listed: Listed) {
        let Listed { delivered: plans, losses, at_us } = listed;
        work.listed = 0;
        self.before_forget().await;
        {
            let mut ledger = locked(&self.ledger);
            for delivered in &plans {
                ledger.complete(delivered.plan.number, at_us);
            }
            ledger.forget_losses(&losses);
            ledger.set_watermark(work.watermarks.overall_us());
        }
        persist(&self.ledger, &self.progress, self.settings.max_backoff).await;
        for delivered in &plans {
            self.progress.note_shipped(delivered.plan.batches.len() as u64, delivered.rows());
        }
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

    /// Once a second: how far the lanes are, and the watermark that follows from it; and whether
    /// the journal has lost anything.
    async fn mark(&self, work: &mut Work, reporter: &mut Reporter) {
        if work.marked_at.is_some_and(|at| at.elapsed() < MARK_INTERVAL) {
            return;
        }
        work.marked_at = Some(Instant::now());
        let now_us = clock::unix_us();
        // Before the lanes are looked at: see `Watermarks::mark`.
        let time_us = self.open().horizon_us(now_us - CLOCK_SLACK_US);
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
        let reached = Reached {
            overall_us: work.watermarks.overall_us(),
            lanes: work.watermarks.lanes().collect(),
        };
        reporter.report(now_us, &reached).await;
        self.progress.set_reached(reached);
        let journal = Arc::clone(&self.journal);
        let status = blocking(move || journal.status()).await;
        self.progress.publish(now_us, work.deliveries.len(), &status);
        let has_news = locked(&self.ledger).has_news();
        if has_news {
            persist(&self.ledger, &self.progress, self.settings.max_backoff).await;
        }
    }

    /// What is not journalled yet; without anybody to ask, everything is as soon as it arrives.
    fn open(&self) -> Open {
        let now = || Open { now_us: clock::unix_us(), oldest_us: None };
        self.settings.open.as_ref().map_or_else(now, |open| open())
    }

    /// Whether nothing is left that only this node knows of: not in the journal, nor on its way into
    /// it.
    fn is_empty(&self) -> bool {
        let is_open = self.open().oldest_us.is_some();
        let ledger = locked(&self.ledger);
        !is_open
            && self.journal.pending().0 == 0
            && ledger.pending().is_empty()
            && ledger.losses().is_empty()
            && !ledger.has_news()
    }

    /// The last word of a node that was stopped with everything shipped: nothing it has not shipped
    /// is older than this moment.
    async fn take_leave(&self, work: Work, reporter: Reporter) {
        let now_us = clock::unix_us();
        let horizon_us = self.open().horizon_us(now_us);
        let overall_us = work.watermarks.overall_us().max(Some(horizon_us));
        let lanes = work.watermarks.lanes().map(|(key, _)| (key, overall_us)).collect();
        {
            let ledger = Arc::clone(&self.ledger);
            locked(&ledger).set_watermark(overall_us);
            // Lost, it is only lower after the next start.
            if let Err(error) = blocking(move || locked(&ledger).persist()).await {
                self.progress.note_failure(&error);
            }
        }
        reporter.take_leave(now_us, &Reached { overall_us, lanes }).await;
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
        ledger.note_losses(&gathered.losses);
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
