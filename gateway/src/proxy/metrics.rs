//! The proxy's metric families. A request counts on its own thread's cache lines; once a second
//! the sums go to the recorder.
//!
//! | name | kind | labels |
//! |---|---|---|
//! | `orbit_requests_total` | counter | `status`: 1xx to 5xx |
//! | `orbit_request_duration_seconds` | histogram | |
//! | `orbit_refusals_total` | counter | `reason` |
//! | `orbit_events_unrecorded_total` | counter | |
//! | `orbit_meter_values_unwritten_total` | counter | |
//! | `orbit_meter_values_invalid_total` | counter | `meter`, as configured |

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crossbeam::utils::CachePadded;
use metrics::{Counter, Histogram, counter, histogram};

use super::Edge;
use super::open::OpenRequests;
use crate::server::thread_number;
use crate::telemetry::SECONDS_BUCKETS;

/// Every reason a request can be refused for.
const REASONS: &[&str] = &[
    "no_key",
    "malformed_key",
    "unknown_key",
    "disabled_key",
    "no_route",
    "method_not_allowed",
    "ambiguous_path",
    "suspended",
    "unpaid",
    "not_entitled",
    "app_not_activated",
    "app_limit_exceeded",
    "api_tier_too_low",
    "feature_not_included",
    "concurrency_limited",
    "rate_limited",
    "quota_exhausted",
    "header_too_large",
    "body_too_large",
    "journal_full",
];

/// Shards of what each request counts: more than threads on most machines.
const SHARDS: usize = 32;

/// What one thread has counted; kept on cache lines of its own, so that counting costs no other
/// thread anything.
#[derive(Default)]
pub struct Shard {
    /// Requests being served that this thread began.
    pub in_flight: AtomicUsize,
    /// Those of them that have no row yet.
    pub open: OpenRequests,
    edge: OnceLock<Weak<Edge>>,
    by_class: [AtomicU64; 6],
    /// Answers and their microseconds by bucket of [`SECONDS_BUCKETS`], the last one open.
    durations: [(AtomicU64, AtomicU64); SECONDS_BUCKETS.len() + 1],
}

/// The proxy's counters.
pub struct Metrics {
    shards: Vec<Arc<CachePadded<Shard>>>,
    /// Answers and microseconds by bucket, as last brought to the recorder.
    published: Mutex<[(u64, u64); SECONDS_BUCKETS.len() + 1]>,
    by_class: [Counter; 6],
    duration: Histogram,
    refusals: HashMap<&'static str, Counter>,
    /// Rows of admitted requests that were summed, for want of room in the journal.
    pub unrecorded: Counter,
    /// Figures on further meters that were.
    pub unmeasured: Counter,
}

impl Metrics {
    /// Makes the handles, of the recorder that is installed now.
    pub fn new() -> Metrics {
        let class = |class: usize| match class {
            0 => counter!("orbit_requests_total", "status" => "none"),
            class => counter!("orbit_requests_total", "status" => format!("{class}xx")),
        };
        let refusal = |reason: &&'static str| {
            (*reason, counter!("orbit_refusals_total", "reason" => *reason))
        };
        Metrics {
            shards: (0..SHARDS).map(|_| Arc::default()).collect(),
            published: Mutex::default(),
            by_class: std::array::from_fn(class),
            duration: histogram!("orbit_request_duration_seconds"),
            refusals: REASONS.iter().map(refusal).collect(),
            unrecorded: counter!("orbit_events_unrecorded_total"),
            unmeasured: counter!("orbit_meter_values_unwritten_total"),
        }
    }

    /// Tells every shard which edge it counts for.
    pub fn belong_to(&self, edge: &Arc<Edge>) {
        for shard in &self.shards {
            shard.edge.get_or_init(|| Arc::downgrade(edge));
        }
    }

    /// The calling thread's shard.
    pub fn shard(&self) -> &Arc<CachePadded<Shard>> {
        &self.shards[thread_number() as usize % SHARDS]
    }

    /// Requests being served.
    pub fn in_flight(&self) -> usize {
        let count = |shard: &Arc<CachePadded<Shard>>| shard.in_flight.load(Ordering::Acquire);
        self.shards.iter().map(count).fold(0, usize::wrapping_add)
    }

    /// When the oldest request arrived that has no row yet, to the second, unix microseconds:
    /// nothing from then on may be taken for complete.
    pub fn oldest_open_us(&self) -> Option<i64> {
        self.shards.iter().filter_map(|shard| shard.open.oldest_us()).min()
    }

    /// A request was refused.
    pub fn refused(&self, reason: &'static str) {
        debug_assert!(self.refusals.contains_key(reason), "{reason} is not in REASONS");
        if let Some(counter) = self.refusals.get(reason) {
            counter.increment(1);
        }
    }

    /// Brings what the threads have counted to the recorder; called every second.
    pub fn publish(&self) {
        let mut before = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: &dyn Fn(&Shard) -> &AtomicU64| {
            self.shards.iter().map(|shard| of(shard).load(Ordering::Relaxed)).sum::<u64>()
        };
        for (class, counter) in self.by_class.iter().enumerate() {
            counter.absolute(sum(&|shard| &shard.by_class[class]));
        }
        for (bucket, (count_before, us_before)) in before.iter_mut().enumerate() {
            let count = sum(&|shard| &shard.durations[bucket].0);
            let us = sum(&|shard| &shard.durations[bucket].1);
            let (new, new_us) = (count - *count_before, us.saturating_sub(*us_before));
            if new > 0 {
                // The mean lies within the bucket, so bucket and sum both come out right.
                let mean = new_us as f64 / new as f64 / 1e6;
                self.duration.record_many(mean, new as usize);
                (*count_before, *us_before) = (count, us);
            }
        }
    }
}

impl Shard {
    /// The edge, while it is there. A request that holds a shard need not hold the edge, whose
    /// count of holders every thread would write.
    pub fn edge(&self) -> Option<Arc<Edge>> {
        self.edge.get()?.upgrade()
    }

    /// An admitted request got its answer.
    pub fn answered(&self, status: u16, duration_us: u32) {
        let class = usize::from(status / 100).min(5);
        self.by_class[class].fetch_add(1, Ordering::Relaxed);
        let seconds = f64::from(duration_us) / 1e6;
        let bucket = SECONDS_BUCKETS.partition_point(|bound| *bound < seconds);
        let (count, us) = &self.durations[bucket];
        us.fetch_add(u64::from(duration_us), Ordering::Relaxed);
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}
