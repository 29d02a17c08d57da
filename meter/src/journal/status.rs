//! What an open journal says about itself.

use std::sync::atomic::Ordering;

use super::shared::{Shared, pending_events};

/// A moment of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalStatus {
    /// Bytes of all segment files, spares included.
    pub bytes: u64,
    /// Bytes they may take.
    pub max_bytes: u64,
    /// Segments with events.
    pub segments: u64,
    /// Segments made in advance.
    pub spares: u64,
    /// Segments a writer had to make itself since opening: each cost a request some milliseconds.
    pub inline_segments: u64,
    /// Lanes some thread appends to.
    pub active_lanes: u64,
    /// Lanes of earlier epochs that are not shipped yet.
    pub former_lanes: u64,
    /// Events written since opening.
    pub appended_events: u64,
    /// Events not acknowledged.
    pub pending_events: u64,
    /// Their bytes.
    pub pending_bytes: u64,
    /// Event time of the oldest of them, unix microseconds.
    pub oldest_pending_ts_us: Option<i64>,
    /// Bytes brought to the disk since opening.
    pub synced_bytes: u64,
    /// Everything appended before is on the disk; unix microseconds.
    pub synced_us: i64,
    /// Syncs that failed since opening.
    pub sync_failures: u64,
    /// Events that are known to be lost.
    pub lost_events: u64,
    /// Losses that are known; of some nobody knows how many events they are.
    pub losses: u64,
    /// No room is guaranteed.
    pub is_full: bool,
}

impl Shared {
    /// Everything that needs no reading.
    pub(super) fn status(&self) -> JournalStatus {
        let losses = self.losses();
        let mut status = JournalStatus {
            bytes: self.pool.bytes(),
            max_bytes: self.settings.max_bytes,
            segments: 0,
            spares: self.pool.spares() as u64,
            inline_segments: self.pool.made_inline() as u64,
            active_lanes: self.pool.active() as u64,
            former_lanes: 0,
            appended_events: 0,
            pending_events: 0,
            pending_bytes: 0,
            oldest_pending_ts_us: None,
            synced_bytes: self.synced_bytes.load(Ordering::Relaxed),
            synced_us: self.synced_us.load(Ordering::Relaxed),
            sync_failures: self.sync_failures.load(Ordering::Relaxed),
            lost_events: losses.iter().map(|loss| loss.events).sum(),
            losses: losses.len() as u64,
            is_full: self.pool.is_full(),
        };
        for lane in self.lanes() {
            status.segments += lane.segments().len() as u64;
            status.pending_events += pending_events(&lane);
            status.pending_bytes += lane.pending_bytes();
            if lane.key().epoch == self.identity.epoch && lane.key().node == self.identity.node {
                status.appended_events += lane.next_sequence();
            } else {
                status.former_lanes += 1;
            }
        }
        status
    }
}
