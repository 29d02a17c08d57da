//! What the shipper says about itself, and its metrics.

use std::error::Error;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram};

use super::locked;
use crate::causes::with_causes;
use crate::journal::{JournalStatus, LaneKey};

/// Failures in a row are logged at these counts and then every so many.
const LOG_EVERY: u64 = 100;

/// Counters since the shipper started.
pub(super) struct Progress {
    rows: AtomicU64,
    batches: AtomicU64,
    failures: AtomicU64,
    resends: AtomicU64,
    failures_in_a_row: AtomicU64,
    last_error: Mutex<Option<String>>,
    watermark: Mutex<Reached>,
    handles: Handles,
}

/// Watermarks as they were last computed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) overall_us: Option<i64>,
    pub(super) lanes: Vec<(LaneKey, Option<i64>)>,
}

struct Handles {
    rows: Counter,
    batches: Counter,
    failures: Counter,
    resends: Counter,
    in_flight: Gauge,
    lag_events: Gauge,
    lag_bytes: Gauge,
    oldest_age_seconds: Gauge,
    watermark_seconds: Gauge,
    watermark_age_seconds: Gauge,
    batch_rows: Histogram,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Progress {
    pub(super) fn new(overall_us: Option<i64>) -> Progress {
        Progress {
            rows: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            resends: AtomicU64::new(0),
            failures_in_a_row: AtomicU64::new(0),
            last_error: Mutex::new(None),
            watermark: Mutex::new(Reached { overall_us, lanes: Vec::new() }),
            handles: Handles::new(),
        }
    }

    pub(super) fn note_shipped(&self, batches: u64, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.batches.fetch_add(batches, Ordering::Relaxed);
        self.handles.rows.increment(rows);
        self.handles.batches.increment(batches);
        self.handles.batch_rows.record(rows as f64);
        if self.failures_in_a_row.swap(0, Ordering::Relaxed) > 0 {
            *locked(&self.last_error) = None;
            tracing::info!("shipping works again");
        }
    }

    pub(super) fn note_failure(&self, error: &dyn Error) {
        let message = with_causes(error);
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.handles.failures.increment(1);
        let before = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
        if before == 0 || before.is_multiple_of(LOG_EVERY) {
            tracing::warn!(error = message, failures = before + 1, "shipping fails; trying again");
        }
        *locked(&self.last_error) = Some(message);
    }

    pub(super) fn note_resend(&self) {
        self.resends.fetch_add(1, Ordering::Relaxed);
        self.handles.resends.increment(1);
    }

    /// Once a second or so: gauges.
    pub(super) fn publish(&self, now_us: i64, in_flight: usize, journal: &JournalStatus) {
        let handles = &self.handles;
        handles.in_flight.set(in_flight as f64);
        handles.lag_events.set(journal.pending_events as f64);
        handles.lag_bytes.set(journal.pending_bytes as f64);
        let age_us = journal.oldest_pending_ts_us.map_or(0, |oldest_us| now_us - oldest_us);
        handles.oldest_age_seconds.set(age_us.max(0) as f64 / 1e6);
        if let Some(overall_us) = self.reached().overall_us {
            handles.watermark_seconds.set(overall_us as f64 / 1e6);
            handles.watermark_age_seconds.set((now_us - overall_us).max(0) as f64 / 1e6);
        }
    }

    pub(super) fn set_reached(&self, reached: Reached) {
        *locked(&self.watermark) = reached;
    }

    pub(super) fn reached(&self) -> Reached {
        locked(&self.watermark).clone()
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    pub(super) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(super) fn resends(&self) -> u64 {
        self.resends.load(Ordering::Relaxed)
    }

    pub(super) fn last_error(&self) -> Option<String> {
        locked(&self.last_error).clone()
    }
}

impl Handles {
    fn new() -> Handles {
        metrics::describe_counter!("orbit_ship_rows_total", "Rows acknowledged by ClickHouse");
        metrics::describe_counter!("orbit_ship_batches_total", "Batches acknowledged");
        metrics::describe_counter!("orbit_ship_failures_total", "Attempts that failed");
        metrics::describe_counter!("orbit_ship_resends_total", "Blocks sent more than once");
        metrics::describe_gauge!("orbit_ship_in_flight", "Plans being delivered");
        metrics::describe_gauge!("orbit_ship_lag_events", "Events not acknowledged");
        metrics::describe_gauge!("orbit_ship_lag_bytes", "Bytes not acknowledged");
        metrics::describe_gauge!(
            "orbit_ship_oldest_age_seconds",
            "Age of the oldest event not acknowledged, by its event time; 0 when there is none"
        );
        metrics::describe_gauge!(
            "orbit_ship_watermark_seconds",
            "Event time below which everything is acknowledged, unix seconds"
        );
        metrics::describe_gauge!("orbit_ship_watermark_age_seconds", "How far behind it is");
        metrics::describe_histogram!("orbit_ship_plan_rows", "Rows shipped at once");
        Handles {
            rows: metrics::counter!("orbit_ship_rows_total"),
            batches: metrics::counter!("orbit_ship_batches_total"),
            failures: metrics::counter!("orbit_ship_failures_total"),
            resends: metrics::counter!("orbit_ship_resends_total"),
            in_flight: metrics::gauge!("orbit_ship_in_flight"),
            lag_events: metrics::gauge!("orbit_ship_lag_events"),
            lag_bytes: metrics::gauge!("orbit_ship_lag_bytes"),
            oldest_age_seconds: metrics::gauge!("orbit_ship_oldest_age_seconds"),
            watermark_seconds: metrics::gauge!("orbit_ship_watermark_seconds"),
            watermark_age_seconds: metrics::gauge!("orbit_ship_watermark_age_seconds"),
            batch_rows: metrics::histogram!("orbit_ship_plan_rows"),
        }
    }
}
