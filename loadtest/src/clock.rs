//! The one place of this crate that reads the time.
//!
//! Everything else counts nanoseconds since the start of a run: one monotonic reading per event,
//! and one wall-clock reading per run to translate them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A monotonic clock with a known place in wall-clock time. Copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    origin_unix_us: i64,
}

impl Clock {
    /// A clock that reads zero now.
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn start() -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { origin: Instant::now(), origin_unix_us: unix.as_micros() as i64 }
    }

    /// Nanoseconds since the origin.
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now_ns(&self) -> u64 {
        Instant::now().duration_since(self.origin).as_nanos() as u64
    }

    /// The moment `at_ns` as microseconds since the Unix epoch, UTC.
    pub fn unix_us(&self, at_ns: u64) -> i64 {
        self.origin_unix_us + (at_ns / 1000).cast_signed()
    }

    /// The moment `at_ns` as an [`Instant`], for timers.
    pub fn instant(&self, at_ns: u64) -> Instant {
        self.origin + Duration::from_nanos(at_ns)
    }
}
