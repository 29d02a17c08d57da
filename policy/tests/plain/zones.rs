//! Time zones by their rules, and windows by walking through the years a quarter of an hour at a time.

use std::collections::BTreeMap;

use crate::worlds::Random;

pub(crate) const ZONES: [&str; 5] =
    ["UTC", "America/Sao_Paulo", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"];
pub(crate) const PERIODS: [&str; 5] = ["hour", "day", "month", "year", "billing_period"];
/// Billing days that some months do not have, and one that all do.
pub(crate) const ANCHORS: [u8; 4] = [1, 29, 30, 31];

const QUARTER_S: i64 = 15 * 60;
const HOUR_S: i64 = 3_600;
const DAY_S: i64 = 86_400;

/// Days since 1970 of a date of the Gregorian calendar, counted year by year and month by month.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let years: i64 = (1970..year).map(|year| 365 + i64::from(is_leap(year))).sum();
    let months: i64 = (1..month).map(|month| length(year, month)).sum();
    years + months + day - 1
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn length(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(is_leap(year)),
        _ => 31,
    }
}

/// Sunday is 0; the first day of 1970 was a Thursday.
fn weekday(days: i64) -> i64 {
    (days + 4).rem_euclid(7)
}

fn first_sunday(year: i64, month: i64) -> i64 {
    let first = days(year, month, 1);
    first + (7 - weekday(first)) % 7
}

fn last_sunday(year: i64, month: i64) -> i64 {
    let last = days(year, month, length(year, month));
    last - weekday(last)
}

/// When clocks are set, and how far they are ahead of UTC from then on, seconds.
fn shifts(zone: &str) -> Vec<(i64, i64)> {
    let mut shifts = Vec::new();
    match zone {
        "America/Sao_Paulo" => {
            shifts.push((i64::MIN, -3 * HOUR_S));
            // By decree, at midnight, until there was none in 2019.
            for (year, month, day, ahead) in [
                (2014, 10, 19, -2),
                (2015, 2, 22, -3),
                (2015, 10, 18, -2),
                (2016, 2, 21, -3),
                (2016, 10, 16, -2),
                (2017, 2, 19, -3),
                (2017, 10, 15, -2),
                (2018, 2, 18, -3),
                (2018, 11, 4, -2),
                (2019, 2, 17, -3),
            ] {
                let before = if ahead == -2 { 3 } else { 2 };
                shifts.push((days(year, month, day) * DAY_S + before * HOUR_S, ahead * HOUR_S));
            }
        }
        "Europe/Berlin" => {
            shifts.push((i64::MIN, HOUR_S));
            for year in 2014..2021 {
                shifts.push((last_sunday(year, 3) * DAY_S + HOUR_S, 2 * HOUR_S));
                shifts.push((last_sunday(year, 10) * DAY_S + HOUR_S, HOUR_S));
            }
        }
        "Australia/Lord_Howe" => {
            let (summer, winter) = (11 * HOUR_S, 10 * HOUR_S + HOUR_S / 2);
            shifts.push((i64::MIN, summer));
            for year in 2014..2021 {
                shifts.push((first_sunday(year, 4) * DAY_S + 2 * HOUR_S - summer, winter));
                shifts.push((first_sunday(year, 10) * DAY_S + 2 * HOUR_S - winter, summer));
            }
        }
        "Asia/Kathmandu" => shifts.push((i64::MIN, 5 * HOUR_S + 45 * 60)),
        _ => shifts.push((i64::MIN, 0)),
    }
    shifts
}

/// The starts of windows, seconds.
type Starts = Vec<i64>;

/// Every calendar of the test.
pub(crate) struct Zones {
    starts: BTreeMap<(usize, usize, u8), Starts>,
    shifts: Vec<i64>,
}

impl Zones {
    pub(crate) fn new() -> Zones {
        let (from_s, to_s) = (days(2014, 12, 1) * DAY_S, days(2020, 6, 1) * DAY_S);
        let mut starts: BTreeMap<(usize, usize, u8), Starts> = BTreeMap::new();
        let mut all_shifts = Vec::new();
        for (zone, name) in ZONES.iter().enumerate() {
            let shifts = shifts(name);
            all_shifts.extend(
                shifts.iter().map(|(at_s, _)| *at_s).filter(|at_s| (from_s..to_s).contains(at_s)),
            );
            let mut latest: BTreeMap<(usize, u8), i64> = BTreeMap::new();
            let mut date = Date { days: 0, year: 1970, month: 1, day: 1 };
            let mut at_s = from_s;
            while at_s < to_s {
                let ahead = shifts.iter().rev().find(|(since_s, _)| *since_s <= at_s);
                let clock_s = at_s + ahead.expect("the first has no beginning").1;
                date.go_to(clock_s.div_euclid(DAY_S));
                for (period, anchor) in
                    (0..4).map(|period| (period, 1)).chain(ANCHORS.map(|anchor| (4, anchor)))
                {
                    let number = match period {
                        // It begins whenever the clock shows a full hour.
                        0 if clock_s.rem_euclid(HOUR_S) == 0 => at_s,
                        0 => continue,
                        _ => date.number(period, anchor),
                    };
                    let seen = latest.entry((period, anchor)).or_insert(i64::MIN);
                    if number > *seen {
                        *seen = number;
                        starts.entry((zone, period, anchor)).or_default().push(at_s);
                    }
                }
                at_s += QUARTER_S;
            }
        }
        Zones { starts, shifts: all_shifts }
    }

    /// Start and end of the window that contains an instant, and the start of the one before;
    /// microseconds.
    pub(crate) fn window(
        &self,
        (zone, period, anchor): (usize, usize, u8),
        unix_us: i64,
    ) -> (i64, i64, i64) {
        let anchor = if period == 4 { anchor } else { 1 };
        let starts = &self.starts[&(zone, period, anchor)];
        let next = starts.partition_point(|start_s| *start_s * 1_000_000 <= unix_us);
        let at = |place: usize| starts[place] * 1_000_000;
        (at(next - 1), at(next), at(next - 2))
    }

    /// An instant at which something is about to happen: clocks are set, a month or a year ends, or
    /// it is the 29th of February.
    pub(crate) fn instant(&self, random: &mut Random) -> i64 {
        let at_s = match random.below(3) {
            0 => *random.pick(&self.shifts),
            1 => days(2016, 2, 28 + random.below(2).cast_signed()) * DAY_S,
            _ => {
                let (year, month) =
                    (2016 + random.below(3).cast_signed(), 1 + random.below(12).cast_signed());
                days(year, month, length(year, month)) * DAY_S
            }
        };
        // Never so early that the window before began before our years.
        let at_s = at_s.max(days(2016, 2, 1) * DAY_S).min(days(2019, 3, 1) * DAY_S);
        (at_s - random.below(86_400).cast_signed()) * 1_000_000
    }
}

/// A date, carried on day by day.
struct Date {
    days: i64,
    year: i64,
    month: i64,
    day: i64,
}

impl Date {
    fn go_to(&mut self, days: i64) {
        while self.days < days {
            self.days += 1;
            self.day += 1;
            if self.day > length(self.year, self.month) {
                (self.day, self.month) = (1, self.month + 1);
            }
            if self.month > 12 {
                (self.month, self.year) = (1, self.year + 1);
            }
        }
        // A clock that was set back over midnight.
        if self.days > days {
            self.days -= 1;
            self.day -= 1;
            if self.day == 0 {
                (self.month, self.year) =
                    if self.month == 1 { (12, self.year - 1) } else { (self.month - 1, self.year) };
                self.day = length(self.year, self.month);
            }
        }
    }

    /// A number that grows from each window to the next.
    fn number(&self, period: usize, anchor: u8) -> i64 {
        let month = self.year * 12 + self.month;
        match period {
            1 => self.days,
            2 => month,
            3 => self.year,
            _ => {
                let begins = i64::from(anchor).min(length(self.year, self.month));
                if self.day >= begins { month } else { month - 1 }
            }
        }
    }
}
