//! The proxy's metric families; handles are made once, a request touches only atomics.
//!
//! | name | kind | labels |
//! |---|---|---|
//! | `orbit_requests_total` | counter | `status`: 1xx to 5xx |
//! | `orbit_request_duration_seconds` | histogram | |
//! | `orbit_refusals_total` | counter | `reason` |
//! | `orbit_events_recorded_total` | counter | |
//! | `orbit_events_unrecorded_total` | counter | |

use std::collections::HashMap;

use metrics::{Counter, Histogram, counter, histogram};

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
    "concurrency_limited",
    "rate_limited",
    "header_too_large",
    "body_too_large",
    "journal_full",
];

/// Handles of the recorder that was installed when they were made.
pub struct Metrics {
    by_class: [Counter; 6],
    duration: Histogram,
    refusals: HashMap<&'static str, Counter>,
    /// Events written.
    pub recorded: Counter,
    /// Admitted requests whose event could not be written.
    pub unrecorded: Counter,
}

impl Metrics {
    /// Makes the handles.
    pub fn new() -> Metrics {
        let class = |class: usize| match class {
            0 => counter!("orbit_requests_total", "status" => "none"),
            class => counter!("orbit_requests_total", "status" => format!("{class}xx")),
        };
        let refusal = |reason: &&'static str| {
            (*reason, counter!("orbit_refusals_total", "reason" => *reason))
        };
        Metrics {
            by_class: std::array::from_fn(class),
            duration: histogram!("orbit_request_duration_seconds"),
            refusals: REASONS.iter().map(refusal).collect(),
            recorded: counter!("orbit_events_recorded_total"),
            unrecorded: counter!("orbit_events_unrecorded_total"),
        }
    }

    /// An admitted request got its answer.
    pub fn answered(&self, status: u16, duration_us: u32) {
        let class = usize::from(status / 100).min(5);
        self.by_class[class].increment(1);
        self.duration.record(f64::from(duration_us) / 1e6);
    }

    /// A request was refused.
    pub fn refused(&self, reason: &'static str) {
        debug_assert!(self.refusals.contains_key(reason), "{reason} is not in REASONS");
        if let Some(counter) = self.refusals.get(reason) {
            counter.increment(1);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}
