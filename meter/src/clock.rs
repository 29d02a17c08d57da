//! The one place of this crate that reads the wall clock.
//!
//! Everything that decides something takes the time as an argument; only the background threads
//! (housekeeping, shipping, refusals) and file headers ask here.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix microseconds, UTC; 0 for a clock set before 1970.
#[allow(clippy::disallowed_methods, reason = "this is the clock the ban points to")]
pub(crate) fn unix_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |elapsed| i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
}
