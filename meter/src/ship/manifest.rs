//! The manifest: what each delivered plan put into ClickHouse; and with it, what is known to be lost.
//!
//! Plans that were delivered meanwhile are listed together, in one insert beside those of the next
//! data: only the cursor waits for it. What is listed is made of the plan and of its rows alone, so
//! a repeat after a crash writes the same again.
//!
//! Guarantees (M3): no cursor passes a plan that is not listed, so the journal never forgets what
//! the manifest does not tell; a loss is there before the batches that have a gap because of it; how
//! far a lane was shipped is told after the batches that say so.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::backoff::Backoff;
use super::ledger::{Ledger, Plan};
use super::locked;
use super::progress::Progress;
use crate::clickhouse::Store;
use crate::clickhouse::native::{Totals, start_of_month};
use crate::clickhouse::proof::{ListedBatch, SequenceRange, ShippedLane};
use crate::clock;
use crate::journal::Loss;

/// A plan of which everything is in the table.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) plan: Plan,
    /// What the table holds, in the order of the plan's batches.
    pub(super) totals: Vec<Totals>,
}

impl Delivered {
    pub(super) fn rows(&self) -> u64 {
        self.totals.iter().map(|totals| totals.rows).sum()
    }

    fn lanes(&self, at_us: i64) -> impl Iterator<Item = ShippedLane> {
        let ranges = self.plan.ranges.iter();
        ranges.map(move |range| ShippedLane {
            lane: range.lane,
            shipped: range.end.sequence,
            at_us,
        })
    }

    fn batches(&self) -> impl Iterator<Item = ListedBatch> {
        let Plan { number, ranges, batches } = &self.plan;
        let read = || ranges.iter().filter(|range| range.start.sequence < range.end.sequence);
        // All of one: see `gather`.
        let node = read().next().map_or(0, |range| range.lane.node);
        let events: u64 = read().map(|range| range.end.sequence - range.start.sequence).sum();
        let skipped = events.saturating_sub(self.rows());
        let ranges: Arc<[SequenceRange]> = read()
            .map(|range| SequenceRange {
                epoch: range.lane.epoch,
                lane: range.lane.lane,
                first: range.start.sequence,
                last: range.end.sequence - 1,
            })
            .collect();
        batches.iter().zip(&self.totals).map(move |(batch, totals)| {
            let mut totals = *totals;
            if totals.rows == 0 {
                // A time of its month, for want of one of its own.
                totals.min_ts_us = start_of_month(batch.month);
                totals.max_ts_us = totals.min_ts_us;
            }
            ListedBatch {
                batch_id: batch.batch_id,
                node,
                plan: *number,
                month: batch.month,
                totals,
                ranges: Arc::clone(&ranges),
                skipped,
            }
        })
    }
}

/// Plans and losses on their way into the manifest, and all that this takes.
pub(super) struct Listing {
    pub(super) store: Store,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) progress: Arc<Progress>,
    pub(super) delivered: Vec<Delivered>,
    pub(super) max_backoff: Duration,
}

/// What was listed.
pub(super) struct Listed {
    pub(super) delivered: Vec<Delivered>,
    pub(super) losses: Vec<Loss>,
    /// When the batches were, unix microseconds.
    pub(super) at_us: i64,
}

impl Listing {
    /// Returns when everything is there: the plans, how far their lanes were shipped with them, and
    /// the losses that were told.
    pub(super) async fn run(self) -> Listed {
        let losses = locked(&self.ledger).losses().to_vec();
        self.insist(|| self.store.note_losses(&losses, clock::unix_us())).await;
        let batches: Vec<_> = self.delivered.iter().flat_map(Delivered::batches).collect();
        let at_us = clock::unix_us();
        self.insist(|| self.store.list_batches(&batches, at_us)).await;
        // After the batches: whoever finds a lane told of finds its plans.
        let lanes: Vec<_> = self.delivered.iter().flat_map(|one| one.lanes(at_us)).collect();
        self.insist(|| self.store.tell_lanes(&lanes)).await;
        Listed { delivered: self.delivered, losses, at_us }
    }

    async fn insist<F, E>(&self, attempt: impl Fn() -> F)
    where
        F: Future<Output = Result<(), E>>,
        E: std::error::Error,
    {
        let mut backoff = Backoff::new(self.max_backoff);
        while let Err(error) = attempt().await {
            self.progress.note_failure(&error);
            tokio::time::sleep(backoff.next()).await;
        }
    }
}
