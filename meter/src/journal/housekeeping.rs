//! The journal's own thread: spares, syncing, gauges.
//!
//! Guarantees: what was committed when a round began is on the disk when it ends, and marked so; or
//! the failure is counted, logged once, and tried again in the next. A round begins `sync_interval`
//! after the end of the last.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use metrics::{Counter, Gauge};

use super::Shared;

/// How long a disk that refused a segment is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the journal is closed.
pub(super) fn run(shared: &Arc<Shared>) {
    let interval = shared.settings.sync_interval;
    let rounds_to_retry = (RETRY.as_micros() / interval.as_micros().max(1)).max(1);
    let mut round = 0;
    while !shared.is_closed() {
        round += 1;
        shared.replenish(round % rounds_to_retry == 0);
        shared.sync();
        shared.publish();
        thread::park_timeout(interval);
    }
}

/// The journal's metrics, looked up once.
pub(super) struct Handles {
    bytes: Gauge,
    max_bytes: Gauge,
    segments: Gauge,
    spares: Gauge,
    lanes: Gauge,
    pending_events: Gauge,
    pending_bytes: Gauge,
    full: Gauge,
    appended: Counter,
    made_inline: Counter,
    synced_bytes: Counter,
    sync_failures: Counter,
    lost: Gauge,
}

impl std::fmt::Debug for Handles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handles")
    }
}

impl Handles {
    pub(super) fn new() -> Handles {
        describe();
        Handles {
            bytes: metrics::gauge!("orbit_journal_bytes"),
            max_bytes: metrics::gauge!("orbit_journal_max_bytes"),
            segments: metrics::gauge!("orbit_journal_segments"),
            spares: metrics::gauge!("orbit_journal_spare_segments"),
            lanes: metrics::gauge!("orbit_journal_active_lanes"),
            pending_events: metrics::gauge!("orbit_journal_pending_events"),
            pending_bytes: metrics::gauge!("orbit_journal_pending_bytes"),
            full: metrics::gauge!("orbit_journal_full"),
            appended: metrics::counter!("orbit_journal_appended_events_total"),
            made_inline: metrics::counter!("orbit_journal_inline_segments_total"),
            synced_bytes: metrics::counter!("orbit_journal_synced_bytes_total"),
            sync_failures: metrics::counter!("orbit_journal_sync_failures_total"),
            lost: metrics::gauge!("orbit_journal_lost_events"),
        }
    }

    pub(super) fn publish(&self, status: &super::JournalStatus) {
        self.bytes.set(status.bytes as f64);
        self.max_bytes.set(status.max_bytes as f64);
        self.segments.set(status.segments as f64);
        self.spares.set(status.spares as f64);
        self.lanes.set(status.active_lanes as f64);
        self.pending_events.set(status.pending_events as f64);
        self.pending_bytes.set(status.pending_bytes as f64);
        self.full.set(if status.is_full { 1.0 } else { 0.0 });
        self.appended.absolute(status.appended_events);
        self.made_inline.absolute(status.inline_segments);
        self.synced_bytes.absolute(status.synced_bytes);
        self.sync_failures.absolute(status.sync_failures);
        self.lost.set(status.lost_events as f64);
    }
}

fn describe() {
    metrics::describe_gauge!("orbit_journal_bytes", "Bytes of segment files");
    metrics::describe_gauge!("orbit_journal_max_bytes", "Bound of the segment files");
    metrics::describe_gauge!("orbit_journal_segments", "Segments with events");
    metrics::describe_gauge!("orbit_journal_spare_segments", "Segments made in advance");
    metrics::describe_gauge!("orbit_journal_active_lanes", "Lanes some thread appends to");
    metrics::describe_gauge!("orbit_journal_pending_events", "Events not in ClickHouse yet");
    metrics::describe_gauge!("orbit_journal_pending_bytes", "Bytes not in ClickHouse yet");
    metrics::describe_gauge!("orbit_journal_full", "1 while no room is guaranteed");
    metrics::describe_counter!("orbit_journal_appended_events_total", "Events written");
    metrics::describe_counter!(
        "orbit_journal_inline_segments_total",
        "Segments a writer had to make itself"
    );
    metrics::describe_counter!("orbit_journal_synced_bytes_total", "Bytes brought to the disk");
    metrics::describe_counter!("orbit_journal_sync_failures_total", "Failed syncs");
    metrics::describe_gauge!(
        "orbit_journal_lost_events",
        "Events that were written and can no longer be read"
    );
}
