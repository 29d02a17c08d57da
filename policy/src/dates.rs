//! Dates as operators write them, and the calendar they are read in.
//!
//! A date alone is the first instant of that day in the tenant's zone; an RFC 3339 timestamp is the
//! same instant everywhere.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::calendar;

/// A date or an instant, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// A day.
    Day(Date),
    /// Unix microseconds.
    Instant(i64),
}

impl When {
    /// `YYYY-MM-DD`, or an RFC 3339 timestamp with `Z` or an offset.
    pub(crate) fn parse(text: &str) -> Option<When> {
        let digits = |range: std::ops::Range<usize>| {
            text.as_bytes().get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit))
        };
        if text.len() == 10 && digits(0..4) && digits(5..7) && digits(8..10) {
            return text.parse().ok().map(When::Day);
        }
        // The parser takes more than RFC 3339 does: no zone in brackets, no week, no lone hour.
        if !digits(0..4) || text.contains('[') {
            return None;
        }
        text.parse::<Timestamp>().ok().map(|at| When::Instant(at.as_microsecond()))
    }

    /// Unix microseconds.
    pub(crate) fn at_us(self, zone: &TimeZone) -> i64 {
        match self {
            When::Day(date) => start_of_day_us(date, zone),
            When::Instant(at_us) => at_us,
        }
    }

    /// The day of the month, 1 to 31.
    pub(crate) fn day_of_month(self, zone: &TimeZone) -> u8 {
        let date = match self {
            When::Day(date) => date,
            When::Instant(at_us) => date_of(at_us, zone),
        };
        date.day().unsigned_abs()
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::Day(date) => date.fmt(f),
            When::Instant(at_us) => Utc(*at_us).fmt(f),
        }
    }
}

/// An instant as people read it: RFC 3339, UTC, seconds.
pub(crate) struct Utc(pub(crate) i64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_microsecond(self.0) {
            Ok(at) => write!(f, "{at:.0}"),
            Err(_) => write!(f, "{} us", self.0),
        }
    }
}

fn date_of(at_us: i64, zone: &TimeZone) -> Date {
    let at = Timestamp::from_microsecond(at_us).unwrap_or_default();
    zone.to_datetime(at).date()
}

/// The first instant of a day.
fn start_of_day_us(date: Date, zone: &TimeZone) -> i64 {
    calendar::start_of_day_s(date, zone).saturating_mul(1_000_000)
}

/// The first instant of the day numbered `billing_day` of the month of `first`, or of its last day
/// where it has no such day.
fn anchor_us(first: Date, billing_day: u8, zone: &TimeZone) -> i64 {
    let day = billing_day.min(first.days_in_month().unsigned_abs());
    let anchor = first.with().day(day.cast_signed()).build();
    anchor.map_or(i64::MAX, |anchor| start_of_day_us(anchor, zone))
}

/// The end of the billing period that contains `at_us`: the first instant of the next day numbered
/// `billing_day`, or of the last day of a month that has no such day.
pub(crate) fn period_end_us(at_us: i64, billing_day: u8, zone: &TimeZone) -> i64 {
    let first = date_of(at_us, zone).first_of_month();
    let this_us = anchor_us(first, billing_day, zone);
    if this_us > at_us {
        return this_us;
    }
    first.checked_add(1.month()).map_or(i64::MAX, |next| anchor_us(next, billing_day, zone))
}

/// The end of the year of a contract that contains `at_us`: the first instant of the next billing
/// day in the month in which the contract began.
pub(crate) fn year_end_us(at_us: i64, began_us: i64, billing_day: u8, zone: &TimeZone) -> i64 {
    let month = date_of(began_us, zone).month();
    let first = date_of(at_us, zone).first_of_month().with().month(month).build();
    let Ok(first) = first else { return i64::MAX };
    let this_us = anchor_us(first, billing_day, zone);
    if this_us > at_us {
        return this_us;
    }
    first.checked_add(1.year()).map_or(i64::MAX, |next| anchor_us(next, billing_day, zone))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn zone(name: &str) -> TimeZone {
        jiff::tz::TimeZoneDatabase::bundled().get(name).expect("a zone")
    }

    fn us(text: &str) -> i64 {
        match When::parse(text) {
            Some(When::Instant(at_us)) => at_us,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_date_is_the_first_instant_of_its_day_in_the_zone() {
        for (date, name, expected) in [
            ("2026-12-01", "UTC", "2026-12-01T00:00:00Z"),
            ("2026-12-01", "America/Sao_Paulo", "2026-12-01T00:00:00-03:00"),
            // Summer time began at midnight: the day's first instant was 01:00.
            ("2018-11-04", "America/Sao_Paulo", "2018-11-04T01:00:00-02:00"),
            // Half past eleven became half past midnight.
            ("1919-03-31", "America/Toronto", "1919-03-31T00:30:00-04:00"),
            // Midnight came twice: the first one counts.
            ("2026-11-01", "America/Havana", "2026-11-01T00:00:00-04:00"),
            ("2026-03-29", "Europe/Berlin", "2026-03-29T00:00:00+01:00"),
        ] {
            let when = When::parse(date).expect("a date");
            assert_eq!(when.at_us(&zone(name)), us(expected), "{date} in {name}");
        }
    }

    #[test]
    fn what_is_neither_a_date_nor_an_instant_is_not_guessed() {
        for text in ["", "2026-1-1", "2026-02-30", "2026-12-01T10:00:00", "20261201", "tomorrow"] {
            assert_eq!(When::parse(text), None, "{text}");
        }
        assert_eq!(When::parse("1970-01-01T01:00:00+01:00"), Some(When::Instant(0)));
        assert_eq!(Utc(0).to_string(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_billing_period_ends_on_its_day_or_on_the_last_of_the_month() {
        for (at, day, name, end) in [
            ("2026-11-10T12:00:00Z", 1, "UTC", "2026-12-01T00:00:00Z"),
            ("2026-11-10T12:00:00Z", 31, "UTC", "2026-11-30T00:00:00Z"),
            // The first instant of a period belongs to it.
            ("2026-11-30T00:00:00Z", 31, "UTC", "2026-12-31T00:00:00Z"),
            ("2026-11-29T23:59:59Z", 31, "UTC", "2026-11-30T00:00:00Z"),
            ("2027-01-31T00:00:00Z", 31, "UTC", "2027-02-28T00:00:00Z"),
            ("2028-02-01T00:00:00Z", 30, "UTC", "2028-02-29T00:00:00Z"),
            ("2026-12-31T00:00:00Z", 31, "UTC", "2027-01-31T00:00:00Z"),
            // Still the 30th there.
            ("2026-12-31T02:59:59Z", 31, "America/Sao_Paulo", "2026-12-31T03:00:00Z"),
            ("2026-12-31T03:00:00Z", 31, "America/Sao_Paulo", "2027-01-31T03:00:00Z"),
            // Over the end of summer time, and over a midnight that did not exist.
            ("2026-10-20T00:00:00Z", 15, "Europe/Berlin", "2026-11-14T23:00:00Z"),
            ("2018-10-20T00:00:00Z", 4, "America/Sao_Paulo", "2018-11-04T03:00:00Z"),
        ] {
            let end_us = period_end_us(us(at), day, &zone(name));
            assert_eq!(Utc(end_us).to_string(), end, "{at}, day {day}, {name}");
        }
    }

    #[test]
    fn a_year_ends_on_the_billing_day_of_the_month_it_began_in() {
        for (at, began, day, name, end) in [
            ("2026-11-10T00:00:00Z", "2025-03-10T00:00:00Z", 10, "UTC", "2027-03-10T00:00:00Z"),
            ("2026-01-10T00:00:00Z", "2025-03-10T00:00:00Z", 10, "UTC", "2026-03-10T00:00:00Z"),
            // The first instant of a year belongs to it.
            ("2026-03-10T00:00:00Z", "2025-03-10T00:00:00Z", 10, "UTC", "2027-03-10T00:00:00Z"),
            ("2026-03-09T23:59:59Z", "2025-03-10T00:00:00Z", 10, "UTC", "2026-03-10T00:00:00Z"),
            // A leap day has its anniversary on the last of February.
            ("2024-03-01T00:00:00Z", "2024-02-29T00:00:00Z", 29, "UTC", "2025-02-28T00:00:00Z"),
            ("2027-03-01T00:00:00Z", "2024-02-29T00:00:00Z", 29, "UTC", "2028-02-29T00:00:00Z"),
            // Both instants are days in the zone: there it was still March.
            (
                "2026-11-10T00:00:00Z",
                "2025-04-01T02:00:00Z",
                31,
                "America/Sao_Paulo",
                "2027-03-31T03:00:00Z",
            ),
        ] {
            let end_us = year_end_us(us(at), us(began), day, &zone(name));
            assert_eq!(Utc(end_us).to_string(), end, "{at}, since {began}, day {day}, {name}");
        }
    }

    #[test]
    fn the_ends_of_time_do_not_panic() {
        let zone = zone("Pacific/Auckland");
        for text in ["0000-01-01", "9999-12-31"] {
            let at_us = When::parse(text).expect("a date").at_us(&zone);
            period_end_us(at_us, 31, &zone);
        }
        period_end_us(i64::MAX, 31, &zone);
        period_end_us(i64::MIN, 1, &zone);
        year_end_us(i64::MAX, i64::MIN, 31, &zone);
        year_end_us(i64::MIN, i64::MAX, 1, &zone);
    }
}
