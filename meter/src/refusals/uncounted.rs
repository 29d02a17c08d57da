//! What found no place to be counted in: a loss, and told as one.
//!
//! Guarantees: that something was lost is durable before the first call returns that lost it; how much,
//! a flush later. So a process that dies at once has told too small a number and never none.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::key::{Amount, US_PER_SECOND};
use crate::clock;
use crate::journal::{Journal, LaneKey, Loss, LossCause};

/// Rows and bytes of this opening that are lost.
#[derive(Debug)]
pub(super) struct Uncounted {
    journal: Arc<Journal>,
    rows: AtomicU64,
    bytes: AtomicU64,
    /// The earliest of them, unix microseconds.
    since_us: AtomicI64,
    /// Rows that are told of.
    told: AtomicU64,
}

impl Uncounted {
    pub(super) fn new(journal: Arc<Journal>) -> Uncounted {
        Uncounted {
            journal,
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            since_us: AtomicI64::new(i64::MAX),
            told: AtomicU64::new(0),
        }
    }

    /// A row that is in no journal and no sum.
    #[cold]
    pub(super) fn note(&self, amount: &Amount, second: i64) {
        let bytes = amount.request_bytes.saturating_add(amount.response_bytes);
        self.add(1, bytes, second.saturating_mul(US_PER_SECOND));
    }

    /// Counts that an earlier process left and nobody can read.
    pub(super) fn note_damaged(&self, counts: u64) {
        if counts > 0 {
            self.add(counts, 0, 0);
        }
    }

    fn add(&self, rows: u64, bytes: u64, since_us: i64) {
        metrics::counter!("orbit_refusals_uncounted_total").increment(rows);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.since_us.fetch_min(since_us, Ordering::Relaxed);
        if self.rows.fetch_add(rows, Ordering::Relaxed) == 0 {
            self.tell();
        }
    }

    /// Tells what is not told yet.
    pub(super) fn tell(&self) {
        let rows = self.rows();
        let told = self.told.swap(rows, Ordering::Relaxed);
        if told == rows {
            return;
        }
        let (node, epoch) = (self.journal.node(), self.journal.epoch());
        let loss = Loss {
            lane: LaneKey { node, epoch, lane: Loss::NO_LANE },
            first_sequence: 0,
            events: rows,
            bytes: self.bytes.load(Ordering::Relaxed),
            cause: LossCause::Uncounted,
            since_us: self.since_us.load(Ordering::Relaxed),
            until_us: clock::unix_us(),
        };
        if told == 0 {
            loss.log();
        }
        if let Err(error) = self.journal.tell_loss(loss) {
            tracing::error!(%error, "a loss could not be noted, and is known to this process alone");
            // To be tried again.
            self.told.store(told, Ordering::Relaxed);
        }
    }

    /// Rows that are lost.
    pub(super) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}
