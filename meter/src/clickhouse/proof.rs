//! What proves that the rows are complete: the manifest of batches, how far each lane was shipped, and
//! the losses that are known.
//!
//! Guarantees: all are keyed by what they are about and hold nothing that depends on how often they
//! are written, so that after an insert without a clear answer, or a crash, the same row is simply
//! written again.

use std::sync::Arc;

use super::native::Totals;
use super::rows::Rows;
use super::store::{Store, StoreError};
use crate::journal::{LaneKey, Loss, LossCause};

/// A part of a lane, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceRange {
    /// The opening.
    pub epoch: u32,
    /// The writer.
    pub lane: u16,
    /// The first sequence.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// A batch whose rows are in ClickHouse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedBatch {
    /// Its id.
    pub batch_id: u64,
    /// The node whose journal it was read from.
    pub node: u32,
    /// The plan it belongs to.
    pub plan: u64,
    /// The partition of its rows, yyyymm.
    pub month: u32,
    /// What the table holds of it.
    pub totals: Totals,
    /// What the plan read.
    pub ranges: Arc<[SequenceRange]>,
    /// Sequences of these ranges that made no row in any batch of the plan.
    pub skipped: u64,
}

/// How far a lane was shipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShippedLane {
    /// Whose.
    pub lane: LaneKey,
    /// The sequence behind the last that is of a listed batch.
    pub shipped: u64,
    /// That batch was listed then or later, unix microseconds.
    pub at_us: i64,
}

impl Store {
    /// Lists batches in `usage_batches`, as of `written_us` (unix microseconds). An error leaves
    /// unknown whether they are listed; listing them again does no harm.
    pub async fn list_batches(
        &self,
        batches: &[ListedBatch],
        written_us: i64,
    ) -> Result<(), StoreError> {
        const COLUMNS: &str = "batch_id, node, plan, month, rows, min_ts, max_ts, requests, \
                               quantity, request_bytes, response_bytes, digest, ranges, skipped, \
                               written_at";
        let mut rows = Rows::default();
        for ListedBatch { batch_id, node, plan, month, totals, ranges, skipped } in batches {
            rows.number(batch_id.to_le_bytes())
                .number(node.to_le_bytes())
                .number(plan.to_le_bytes())
                .number(month.to_le_bytes())
                .number(totals.rows.to_le_bytes())
                .number(totals.min_ts_us.to_le_bytes())
                .number(totals.max_ts_us.to_le_bytes())
                .number(totals.requests.to_le_bytes())
                .number(totals.quantity_nano.to_le_bytes())
                .number(totals.request_bytes.to_le_bytes())
                .number(totals.response_bytes.to_le_bytes())
                .number(totals.digest.to_le_bytes());
            rows.length(ranges.len());
            for SequenceRange { epoch, lane, first, last } in ranges.iter() {
                rows.number(epoch.to_le_bytes())
                    .number(lane.to_le_bytes())
                    .number(first.to_le_bytes())
                    .number(last.to_le_bytes());
            }
            rows.number(skipped.to_le_bytes()).number(milliseconds(written_us));
        }
        self.insert_rows("usage_batches", COLUMNS, rows.into_bytes()).await
    }

    /// Says how far lanes were shipped. Where less was said than before, nothing changes; saying it
    /// again does no harm.
    pub async fn tell_lanes(&self, lanes: &[ShippedLane]) -> Result<(), StoreError> {
        const COLUMNS: &str = "node, epoch, lane, shipped, advanced_at";
        let mut rows = Rows::default();
        for ShippedLane { lane: LaneKey { node, epoch, lane }, shipped, at_us } in lanes {
            rows.number(node.to_le_bytes())
                .number(epoch.to_le_bytes())
                .number(lane.to_le_bytes())
                .number(shipped.to_le_bytes())
                .number(milliseconds(*at_us));
        }
        self.insert_rows("usage_lanes", COLUMNS, rows.into_bytes()).await
    }

    /// Writes losses to `usage_losses`, as of `noted_us` (unix microseconds). An error leaves
    /// unknown whether they are there; writing them again does no harm.
    pub async fn note_losses(&self, losses: &[Loss], noted_us: i64) -> Result<(), StoreError> {
        const COLUMNS: &str = "node, epoch, lane, first_sequence, cause, events, bytes, since_ts, \
                               until_ts, noted_at";
        let mut rows = Rows::default();
        for Loss { lane, first_sequence, events, bytes, cause, since_us, until_us } in losses {
            let cause: i8 = match cause {
                LossCause::Damaged => 1,
                LossCause::Power => 2,
                LossCause::Header => 3,
                LossCause::Uncounted => 4,
            };
            rows.number(lane.node.to_le_bytes())
                .number(lane.epoch.to_le_bytes())
                .number(lane.lane.to_le_bytes())
                .number(first_sequence.to_le_bytes())
                .number(cause.to_le_bytes())
                .number(events.to_le_bytes())
                .number(bytes.to_le_bytes())
                .number(since_us.to_le_bytes())
                .number(until_us.to_le_bytes())
                .number(milliseconds(noted_us));
        }
        self.insert_rows("usage_losses", COLUMNS, rows.into_bytes()).await
    }
}

/// A moment as a column of `DateTime64(3)` holds it.
pub(super) fn milliseconds(us: i64) -> [u8; 8] {
    us.div_euclid(1_000).to_le_bytes()
}
