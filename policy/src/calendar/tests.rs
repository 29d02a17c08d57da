//! Windows against known instants, and against a clock that is read minute by minute.

use jiff::tz::TimeZoneDatabase;

use super::*;
use crate::random::Random;

fn zone(name: &str) -> TimeZone {
    TimeZoneDatabase::bundled().get(name).expect("a zone")
}

fn calendar(name: &str, period: Period, billing_day: u8) -> Calendar {
    Calendar::new(zone(name), period, billing_day)
}

fn instant_us(text: &str, zone: &TimeZone) -> Option<i64> {
    crate::dates::When::parse(text).map(|when| when.at_us(zone))
}

fn us(text: &str) -> i64 {
    instant_us(text, &TimeZone::UTC).expect("an instant")
}

/// Zone, period, billing day, an instant, and start and end of the window around it.
const WINDOWS: &str = "\
UTC Month 1 2026-11-10T12:00:00Z 2026-11-01T00:00:00Z 2026-12-01T00:00:00Z
# Still October there.
America/Sao_Paulo Month 1 2026-11-01T02:59:59Z 2026-10-01T03:00:00Z 2026-11-01T03:00:00Z
# A day of 23 hours, and one of 25.
Europe/Berlin Day 1 2026-03-29T10:00:00Z 2026-03-28T23:00:00Z 2026-03-29T22:00:00Z
Europe/Berlin Day 1 2026-10-25T10:00:00Z 2026-10-24T22:00:00Z 2026-10-25T23:00:00Z
# Midnight did not exist: the day began at one.
America/Sao_Paulo Day 1 2018-11-04T12:00:00Z 2018-11-04T03:00:00Z 2018-11-05T02:00:00Z
# An hour went back over midnight.
America/Sao_Paulo Day 1 2018-02-18T02:30:00Z 2018-02-17T02:00:00Z 2018-02-18T03:00:00Z
# Midnight came twice; the second one is in the middle of the day.
America/Havana Day 1 2018-11-04T05:00:00Z 2018-11-04T04:00:00Z 2018-11-05T05:00:00Z
# A minute past midnight it was a minute past eleven again: that hour is the next day's.
America/St_Johns Day 1 2010-11-07T03:00:00Z 2010-11-07T02:30:00Z 2010-11-08T03:30:00Z
# The 30th was skipped.
Pacific/Apia Day 1 2011-12-30T09:59:59Z 2011-12-29T10:00:00Z 2011-12-30T10:00:00Z
Pacific/Apia Day 1 2011-12-30T10:00:00Z 2011-12-30T10:00:00Z 2011-12-31T10:00:00Z
Asia/Kathmandu Hour 1 2026-05-01T00:00:00Z 2026-04-30T23:15:00Z 2026-05-01T00:15:00Z
# The hour that comes twice is two.
Europe/Berlin Hour 1 2026-10-25T00:30:00Z 2026-10-25T00:00:00Z 2026-10-25T01:00:00Z
Europe/Berlin Hour 1 2026-10-25T01:30:00Z 2026-10-25T01:00:00Z 2026-10-25T02:00:00Z
# Half past one came twice, half past two at two o'clock: both hours last ninety minutes.
Australia/Lord_Howe Hour 1 2026-04-04T15:10:00Z 2026-04-04T14:00:00Z 2026-04-04T15:30:00Z
Australia/Lord_Howe Hour 1 2026-10-03T15:40:00Z 2026-10-03T14:30:00Z 2026-10-03T16:00:00Z
UTC Year 1 2028-02-29T12:00:00Z 2028-01-01T00:00:00Z 2029-01-01T00:00:00Z
# The 31st falls on the last day of shorter months, and comes back.
UTC BillingPeriod 31 2027-02-10T00:00:00Z 2027-01-31T00:00:00Z 2027-02-28T00:00:00Z
UTC BillingPeriod 31 2027-03-10T00:00:00Z 2027-02-28T00:00:00Z 2027-03-31T00:00:00Z
UTC BillingPeriod 31 2028-02-29T00:00:00Z 2028-02-29T00:00:00Z 2028-03-31T00:00:00Z
UTC BillingPeriod 29 2027-12-31T00:00:00Z 2027-12-29T00:00:00Z 2028-01-29T00:00:00Z
";

#[test]
fn windows_follow_the_clocks_of_their_zone() {
    for line in WINDOWS.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, period, day, at, start, end] = fields[..] else { panic!("{line}") };
        let is_it = |known: &Period| format!("{known:?}") == period;
        let period = PERIODS.into_iter().find(is_it).expect("a period");
        let window = calendar(name, period, day.parse().expect("a day")).window(us(at));
        assert_eq!((window.start_us, window.end_us), (us(start), us(end)), "{line}");
    }
}

#[test]
fn a_day_without_a_time_is_its_first_instant_in_the_zone() {
    let sao_paulo = zone("America/Sao_Paulo");
    assert_eq!(instant_us("2018-11-04", &sao_paulo), Some(us("2018-11-04T03:00:00Z")));
    assert_eq!(instant_us("2018-11-04T00:00:00Z", &sao_paulo), Some(us("2018-11-04T00:00:00Z")));
    for wrong in ["2018-02-30", "2018-11-4", "04.11.2018", "tomorrow", ""] {
        assert_eq!(instant_us(wrong, &sao_paulo), None, "{wrong}");
    }
}

#[test]
fn tags_grow_from_window_to_window_and_compare_over_the_turn() {
    assert!(Tag(1).is_after(Tag(4095)) && !Tag(4095).is_after(Tag(1)));
    assert!(!Tag(7).is_after(Tag(7)));
    assert!(Tag(2048).is_after(Tag(1)) && Tag(2049).is_after(Tag(2)));
    assert!(!Tag(2049).is_after(Tag(1)));
}

#[test]
fn a_window_that_is_over_is_found_by_its_tag() {
    for name in ["UTC", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kathmandu"] {
        for period in PERIODS {
            let calendar = calendar(name, period, 31);
            let first = calendar.window(us("2017-12-30T00:00:00Z"));
            let mut window = first;
            for number in 1.. {
                let next = calendar.window(window.end_us);
                assert_eq!(calendar.before(&next), window, "{calendar:?}");
                assert_eq!(calendar.before(&next), window, "the same again");
                // As far back as tags compare.
                let found = calendar.earlier(first.tag, &next);
                assert_eq!(found, Some(first), "{number} of {calendar:?}");
                assert_eq!(calendar.earlier(next.tag, &next), None);
                if number == if period == Period::Year { 60 } else { 900 } {
                    break;
                }
                window = next;
            }
            assert_eq!(calendar.earlier(Tag(0), &window), None, "the tag of no window");
        }
    }
}

#[test]
fn instants_outside_of_what_fits_are_taken_to_its_ends() {
    for period in PERIODS {
        let calendar = calendar("America/Sao_Paulo", period, 31);
        let first = calendar.window(-5_000_000_000_000_000);
        assert_eq!(first, calendar.window(0));
        assert_eq!(calendar.window(i64::MIN), first);
        let last = calendar.window(i64::MAX);
        assert!(last.start_us < last.end_us, "{period:?}");
    }
}

const PERIODS: [Period; 5] =
    [Period::Hour, Period::Day, Period::Month, Period::Year, Period::BillingPeriod];

/// Wherever any zone of the world ever set its clocks, windows follow each other without gap or
/// overlap, and their tags grow.
#[test]
fn windows_of_every_zone_follow_each_other() {
    let zones = TimeZoneDatabase::bundled();
    let mut shifts = 0;
    for name in zones.available() {
        let zone = zones.get(name.as_str()).expect("a zone that is available");
        let from = Timestamp::from_second(86_400 * 400).expect("an instant");
        let until = Timestamp::from_second(4_000_000_000).expect("an instant");
        let calendars = PERIODS.map(|period| Calendar::new(zone.clone(), period, 31));
        for shift in zone.following(from).take_while(|shift| shift.timestamp() < until) {
            shifts += 1;
            let shift_us = shift.timestamp().as_microsecond();
            for calendar in &calendars {
                let mut window = calendar.window(shift_us - 3 * 3_600 * US);
                for _ in 0..6 {
                    let next = calendar.window(window.end_us);
                    assert_eq!(next.start_us, window.end_us, "{name} {calendar:?}");
                    assert!(next.tag.is_after(window.tag), "{name} {calendar:?} {window:?}");
                    assert_eq!(calendar.window(next.end_us - 1), next, "{name} {calendar:?}");
                    assert_eq!(calendar.before(&next), window, "{name} {calendar:?}");
                    window = next;
                }
            }
        }
    }
    assert!(shifts > 10_000, "{shifts}");
}

/// A clock on the wall, read at every minute; knows nothing of calendars but how to count days.
struct Clock {
    zone: TimeZone,
    from_s: i64,
    until_s: i64,
}

/// Year, month and day of a day since 1970-01-01 (Hinnant, `civil_from_days`).
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, of_month)
}

/// What has to grow for a new window to begin, on a day.
fn ordinal(day: i64, period: Period, anchor: i64) -> i64 {
    let (year, month, of_month) = civil(day);
    match period {
        Period::Hour | Period::Day => day,
        Period::Year => year,
        Period::Month => year * 12 + month,
        Period::BillingPeriod => {
            // The next day is another month's first: this one is the last of its own.
            let is_last = civil(day + 1).2 == 1;
            let has_begun = of_month >= anchor || is_last;
            year * 12 + month - i64::from(!has_begun)
        }
    }
}

impl Clock {
    /// The minutes at which windows begin, in order, for each of the periods.
    fn beginnings(&self, periods: &[(Period, i64)]) -> Vec<Vec<i64>> {
        let mut found = vec![Vec::new(); periods.len()];
        let mut latest = vec![i64::MIN; periods.len()];
        let mut latest_day = i64::MIN;
        let offset = |s: i64| i64::from(self.zone.to_offset(timestamp(s)).seconds());
        let mut quarter_s = self.from_s;
        while quarter_s < self.until_s {
            let (first, last) = (offset(quarter_s), offset(quarter_s + 899));
            for at_s in (quarter_s..quarter_s + 900).step_by(60) {
                // Zones set their clocks once in a quarter of an hour at most.
                let offset_s = if first == last { first } else { offset(at_s) };
                let local_s = at_s + offset_s;
                let day = local_s.div_euclid(86_400);
                let is_new_day = day > latest_day;
                latest_day = latest_day.max(day);
                for ((period, anchor), (found, latest)) in
                    periods.iter().zip(found.iter_mut().zip(&mut latest))
                {
                    if *period == Period::Hour {
                        if local_s.rem_euclid(3_600) == 0 {
                            found.push(at_s);
                        }
                    } else if is_new_day {
                        // A day that comes again is not new.
                        let ordinal = ordinal(day, *period, *anchor);
                        if ordinal > *latest {
                            found.push(at_s);
                            *latest = ordinal;
                        }
                    }
                }
            }
            quarter_s += 900;
        }
        // The first was under way already.
        for (found, (period, _)) in found.iter_mut().zip(periods) {
            if *period != Period::Hour {
                found.remove(0);
            }
        }
        found
    }
}

#[test]
fn two_hundred_thousand_windows_are_those_of_a_clock_on_the_wall() {
    let mut random = Random::printed();
    let periods = [
        (Period::Hour, 1),
        (Period::Day, 1),
        (Period::Month, 1),
        (Period::Year, 1),
        (Period::BillingPeriod, 31),
        (Period::BillingPeriod, 30),
        (Period::BillingPeriod, 29),
        (Period::BillingPeriod, 15),
    ];
    // With the end of summer time in Sao Paulo, the day Apia skipped, and leap days.
    let (from_s, until_s) = (us("2010-01-01T00:00:00Z") / US, us("2030-01-01T00:00:00Z") / US);
    let names = [
        "UTC",
        "America/Sao_Paulo",
        "Europe/Berlin",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Asia/Kathmandu",
        "America/St_Johns",
        "America/Havana",
    ];
    let mut cases = 0;
    for name in names {
        let clock = Clock { zone: zone(name), from_s, until_s };
        for ((period, anchor), found) in periods.into_iter().zip(clock.beginnings(&periods)) {
            let calendar = calendar(name, period, anchor as u8);
            let mut at = random.below(found.len() as u64 - 1) as usize;
            for _ in 0..3_200 {
                // Often near the edges, now and then far away.
                at = match random.below(8) {
                    0 => random.below(found.len() as u64 - 1) as usize,
                    1..=3 => (at + 1) % (found.len() - 1),
                    _ => at,
                };
                let (start_us, end_us) = (found[at] * US, found[at + 1] * US);
                let at_us = match random.below(4) {
                    0 => start_us,
                    1 => end_us - 1,
                    _ => start_us + random.below((end_us - start_us) as u64).cast_signed(),
                };
                let window = calendar.window(at_us);
                let shown = (window.start_us, window.end_us);
                assert_eq!(shown, (start_us, end_us), "{name} {period:?} {anchor} at {at_us}");
                cases += 1;
            }
        }
    }
    assert!(cases > 200_000, "{cases}");
}
