//! How the gateway's own interfaces write what the policy knows.

use jiff::Timestamp;

/// Unix microseconds as RFC 3339 in UTC, to the millisecond; empty when out of range.
pub(crate) fn rfc3339(unix_us: i64) -> String {
    Timestamp::from_microsecond(unix_us).map_or_else(|_| String::new(), |at| format!("{at:.3}"))
}

/// Tokens per second of a bucket that gains one every `interval_ns`. Never 0.
pub(crate) fn per_second(interval_ns: u64) -> f64 {
    // The interval was rounded up to whole nanoseconds: four digits give the rate as written.
    let rounded = (1e13 / interval_ns.max(1) as f64).round() / 1e4;
    // Below one a second that would leave too little of it.
    if rounded >= 1.0 { rounded } else { 1e9 / interval_ns as f64 }
}

#[cfg(test)]
mod tests {
    use super::per_second;

    #[test]
    #[expect(clippy::float_cmp, reason = "as written, to the last bit")]
    fn rates_are_as_written_and_never_nothing() {
        assert_eq!(per_second(1_000_000_000 / 60 + 1), 60.0);
        assert_eq!(per_second(10_000), 100_000.0);
        assert_eq!(per_second(2_000_000_000), 0.5);
        assert_eq!(per_second(86_400_000_000_000) * 86_400.0, 1.0);
        assert!(per_second(0) > 0.0 && per_second(u64::MAX) > 0.0);
    }
}
