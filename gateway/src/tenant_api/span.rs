//! The time a question is about: whole hours of the tenant's clocks, half-open, in its own
//! calendar.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use orbit_policy::calendar::{Calendar, Period};

use super::parameters::{Parameters, invalid};
use crate::proxy::problem::Problem;

/// Longest time asked about at once: a year, and the same month of the year before.
pub(super) const MAX_DAYS: i64 = 400;
const HOUR_S: i64 = 3_600;
/// Every zone's hours begin on one.
const QUARTER_S: i64 = 900;
const DAY_S: i64 = 86_400;
/// 1971-01-01 and 2105-01-01, in unix seconds: what the database's hours can hold, with room.
const BOUNDS_S: (i64, i64) = (31_536_000, 4_260_211_200);

/// What the time is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Per {
    Hour,
    Day,
    Month,
    Total,
}

impl Per {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Per::Hour => "hour",
            Per::Day => "day",
            Per::Month => "month",
            Per::Total => "total",
        }
    }
}

/// Where the time starts when the request does not say so.
#[derive(Clone, Copy, Debug)]
pub(super) enum Since {
    /// With the month of its end.
    Month,
    /// A day before its end.
    Day,
}

/// Whole hours, half-open, in unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from_s: i64,
    pub(super) to_s: i64,
}

impl Span {
    /// The hours that `from` and `to` of a request touch; up to now where it does not say.
    pub(super) fn read(
        parameters: &Parameters,
        since: Since,
        zone: &TimeZone,
        now_us: i64,
    ) -> Result<Span, Box<Problem>> {
        let instant = |name| match parameters.get(name) {
            Some(text) => parse(text, zone).map(Some).ok_or_else(|| {
                let form = "is neither a day (2026-11-01) nor an RFC 3339 time \
                            (2026-11-01T00:00:00Z; write `+` as `%2B`)";
                invalid(name, form)
            }),
            None => Ok(None),
        };
        let (from, to) = (instant("from")?, instant("to")?);
        let now = Timestamp::from_microsecond(now_us).unwrap_or_default();
        let until = to.unwrap_or(now);
        let from = match (from, since) {
            (Some(from), _) => from,
            (None, Since::Month) => start_of_month(until, zone),
            (None, Since::Day) => until
                .checked_sub(SignedDuration::from_secs(DAY_S))
                .map_err(|_| invalid("to", "is out of range"))?,
        };
        if from >= until {
            return Err(match to {
                Some(_) => invalid("to", "is not after `from`"),
                None => invalid("from", "is not before now"),
            });
        }
        if from.duration_until(until) > SignedDuration::from_secs(MAX_DAYS * DAY_S) {
            let name = if parameters.get("from").is_some() { "from" } else { "to" };
            return Err(invalid(name, format!("more than {MAX_DAYS} days are asked for")));
        }
        let hours = Calendar::new(zone.clone(), Period::Hour, 1);
        // The hour an instant is in.
        let hour = |at: Timestamp| hours.window(at.as_microsecond());
        let last = until.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(from);
        let (from_us, to_us) = (hour(from).start_us, hour(last).end_us);
        let span = Span { from_s: from_us / 1_000_000, to_s: to_us / 1_000_000 };
        if span.is_sound() { Ok(span) } else { Err(invalid("from", "is not within 1971 to 2104")) }
    }

    /// Whether it may be asked about; what comes back in a cursor is checked like a parameter.
    pub(super) fn is_sound(self) -> bool {
        let Span { from_s, to_s } = self;
        let whole = from_s % QUARTER_S == 0 && to_s % QUARTER_S == 0;
        let within = from_s >= BOUNDS_S.0 && to_s <= BOUNDS_S.1;
        // Both ends may have been moved by up to an hour and a half.
        whole && within && from_s < to_s && to_s - from_s <= MAX_DAYS * DAY_S + 3 * HOUR_S
    }

    /// Whether every hour of it is one of UTC's, by the clocks of a zone.
    pub(super) fn has_whole_hours(self, zone: &TimeZone) -> bool {
        let at = |second| Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        let is_whole = |offset: jiff::tz::Offset| i64::from(offset.seconds()) % HOUR_S == 0;
        let shifts = zone.following(at(self.from_s));
        let mut shifts = shifts.take_while(|shift| shift.timestamp() < at(self.to_s));
        is_whole(zone.to_offset(at(self.from_s))) && shifts.all(|shift| is_whole(shift.offset()))
    }
}

/// Unix seconds as RFC 3339 in UTC.
pub(super) fn rfc3339_s(unix_s: i64) -> String {
    Timestamp::from_second(unix_s).map_or_else(|_| String::new(), |at| at.to_string())
}

/// A day, which starts at midnight in the zone, or an instant with its offset (RFC 3339, 5.6).
fn parse(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    // The shape first: the parser would take more than RFC 3339 has.
    let is = |shape: &str, text: &str| {
        shape.len() == text.len()
            && shape.bytes().zip(text.bytes()).all(|(shape, byte)| match shape {
                b'0' => byte.is_ascii_digit(),
                shape => byte.to_ascii_uppercase() == shape,
            })
    };
    if is("0000-00-00", text) {
        let date: Date = text.parse().ok()?;
        return Some(date.to_zoned(zone.clone()).ok()?.timestamp());
    }
    let (_, rest) = text.split_at_checked(19).filter(|(s, _)| is("0000-00-00T00:00:00", s))?;
    let offset = match rest.strip_prefix('.') {
        Some(fraction) => {
            let offset = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            (offset.len() < fraction.len()).then_some(offset)?
        }
        None => rest,
    };
    let fits = is("Z", offset) || is("+00:00", offset) || is("-00:00", offset);
    // A 13th month is the parser's to refuse.
    if fits { text.to_ascii_uppercase().parse().ok() } else { None }
}

/// Midnight of the first of the month in which the last instant before `until` lies.
fn start_of_month(until: Timestamp, zone: &TimeZone) -> Timestamp {
    let last = until.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(until);
    let first = last.to_zoned(zone.clone()).date().first_of_month();
    first.to_zoned(zone.clone()).map_or(last, |midnight| midnight.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["from", "to"];
    /// 2026-11-23T06:37:00Z.
    const NOW_US: i64 = 1_795_415_820_000_000;

    fn span(query: &str, since: Since, zone: &str) -> Result<(String, String), String> {
        let parameters = Parameters::read(Some(query), KNOWN).ok().expect("readable");
        let zone = TimeZone::get(zone).expect("a zone");
        match Span::read(&parameters, since, &zone, NOW_US) {
            Ok(span) => {
                assert!(span.is_sound(), "{query}");
                Ok((rfc3339_s(span.from_s), rfc3339_s(span.to_s)))
            }
            Err(problem) => Err(problem.detail().to_owned()),
        }
    }

    fn utc(query: &str) -> Result<(String, String), String> {
        span(query, Since::Month, "UTC")
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is compared with what may fail")]
    fn hours(from: &str, to: &str) -> Result<(String, String), String> {
        Ok((from.to_owned(), to.to_owned()))
    }

    #[test]
    fn without_words_it_is_what_is_current() {
        assert_eq!(utc(""), hours("2026-11-01T00:00:00Z", "2026-11-23T07:00:00Z"));
        let day = span("", Since::Day, "UTC");
        assert_eq!(day, hours("2026-11-22T06:00:00Z", "2026-11-23T07:00:00Z"));
        // The month that ends, not the one that begins.
        let october = utc("to=2026-11-01");
        assert_eq!(october, hours("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"));
        let paulista = span("", Since::Month, "America/Sao_Paulo");
        assert_eq!(paulista, hours("2026-11-01T03:00:00Z", "2026-11-23T07:00:00Z"));
    }

    #[test]
    fn the_hours_touched_are_those_asked_for() {
        let exact = utc("from=2026-11-02&to=2026-11-03T12:00:00Z");
        assert_eq!(exact, hours("2026-11-02T00:00:00Z", "2026-11-03T12:00:00Z"));
        let within = utc("from=2026-11-02T10:20:00Z&to=2026-11-02T10:20:00.000001Z");
        assert_eq!(within, hours("2026-11-02T10:00:00Z", "2026-11-02T11:00:00Z"));
        let offset = utc("from=2026-11-02t00:00:00.5-03:00&to=2026-11-02T05:00:00%2B01:00");
        assert_eq!(offset, hours("2026-11-02T03:00:00Z", "2026-11-02T04:00:00Z"));
        let days = span("from=2026-11-02&to=2026-11-03", Since::Day, "Asia/Tokyo");
        assert_eq!(days, hours("2026-11-01T15:00:00Z", "2026-11-02T15:00:00Z"));
        // Where an hour does not begin with one of UTC's, it is the zone's that counts.
        let days = span("from=2026-11-02&to=2026-11-03", Since::Day, "Asia/Kathmandu");
        assert_eq!(days, hours("2026-11-01T18:15:00Z", "2026-11-02T18:15:00Z"));
        let now = span("", Since::Month, "Asia/Kolkata");
        assert_eq!(now, hours("2026-10-31T18:30:00Z", "2026-11-23T07:30:00Z"));
    }

    #[test]
    fn zones_whose_hours_are_not_those_of_utc_are_known() {
        let november = Span { from_s: 1_793_491_200, to_s: 1_796_083_200 };
        let is_whole =
            |name: &str, span: Span| span.has_whole_hours(&TimeZone::get(name).expect("a zone"));
        for name in ["UTC", "America/Sao_Paulo", "Europe/Berlin", "Pacific/Apia"] {
            assert!(is_whole(name, november), "{name}");
        }
        for name in ["Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns"] {
            assert!(!is_whole(name, november), "{name}");
        }
        // Half an hour in winter, and none in summer, which begins in October.
        let day = |from_s| Span { from_s, to_s: from_s + 86_400 };
        assert!(is_whole("Australia/Lord_Howe", day(1_793_491_200)));
        assert!(!is_whole("Australia/Lord_Howe", day(1_782_999_900)));
        assert!(!is_whole("Australia/Lord_Howe", Span { from_s: 1_782_999_900, ..november }));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "yesterday",
            "2026-11-1",
            "2026-13-01",
            "2026-02-29",
            "20261101",
            "2026-11-01T00:00:00",
            "2026-11-01T00:00Z",
            "2026-11-01 00:00:00Z",
            "2026-11-01T00:00:00.Z",
            "2026-11-01T25:00:00Z",
            "2026-11-01T00:00:00%2B0100",
            "2026-11-01T00:00:00 01:00",
            "2026-11-01T00:00:00Z[UTC]",
            "2026-11-01T00:00:00\u{e9}",
            "1793491200",
        ] {
            let refused = utc(&format!("from={}", text.replace(' ', "%20")));
            let detail = refused.expect_err(text);
            assert!(detail.starts_with("The parameter `from`: is neither a day"), "{detail}");
        }
    }

    #[test]
    fn the_order_and_the_length_are_checked() {
        for (query, name) in [
            ("from=2026-11-02&to=2026-11-02", "to"),
            ("from=2026-11-03&to=2026-11-02", "to"),
            ("from=2026-11-24", "from"),
            ("from=2025-01-01", "from"),
            ("from=2025-01-01&to=2026-02-06", "from"),
            ("from=1970-05-01&to=1970-06-01", "from"),
            ("from=2105-05-01&to=2105-06-01", "from"),
            ("from=0000-01-01&to=0000-01-02", "from"),
            ("to=1970-01-01", "from"),
            ("from=9999-12-31&to=9999-12-31T23:59:59Z", "from"),
        ] {
            let detail = utc(query).expect_err(query);
            assert!(detail.starts_with(&format!("The parameter `{name}`: ")), "{query}: {detail}");
        }
        assert!(utc("from=2025-01-01&to=2026-02-05").is_ok(), "400 days");
    }
}
