//! The notions of time here: monotonic nanoseconds since a base the caller chose, for limits; unix
//! microseconds, for dates.

/// Monotonic nanoseconds since the caller's base (process start, say). Good for 584 years.
///
/// Limits are charged in this time, so that a step of the wall clock can neither forgive a
/// spent limit nor freeze it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(pub u64);

impl Nanos {
    /// One second.
    pub const SECOND: Nanos = Nanos(1_000_000_000);

    /// The instant `nanos` later, at the end of time at the latest.
    #[must_use]
    pub fn plus(self, nanos: u64) -> Nanos {
        Nanos(self.0.saturating_add(nanos))
    }

    /// Nanoseconds from `earlier` to `self`, zero if it is not earlier.
    pub fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One instant on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Monotonic, for limits and durations.
    pub mono: Nanos,
    /// Wall time in unix microseconds, for dates and events.
    pub unix_us: i64,
}
