//! Calendar windows: the hour, day, month, year or billing period an instant falls into, in a
//! time zone.
//!
//! Windows of one calendar follow each other without gap or overlap, whatever the zone does to its
//! clocks. A day, month, year or billing period begins with the first instant at which the clock
//! shows its first midnight or, where that midnight is skipped, anything later; so days have 23, 24
//! or 25 hours, and a day that a zone skips has no window. An hour begins whenever the clock shows
//! a full hour: the hour that comes twice is two windows, and one that is cut in half by a shift of
//! thirty minutes goes on to the next full hour.
//!
//! The window in force is kept in one word, so asking for it again costs two comparisons. Nothing
//! here reads a disk: the zones of the world are compiled in.

use jiff::Timestamp;
use jiff::civil::{Date, date};
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::sync::{AtomicU64, Ordering};

/// Microseconds in a second.
const US: i64 = 1_000_000;

/// How long a calendar's windows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// From one full hour of the clock to the next.
    Hour,
    /// A day.
    Day,
    /// A month.
    Month,
    /// A year.
    Year,
    /// A month that begins on the billing day, or on the last day of a month without that day.
    BillingPeriod,
}

impl Period {
    /// The name in documents and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Period::Hour => "hour",
            Period::Day => "day",
            Period::Month => "month",
            Period::Year => "year",
            Period::BillingPeriod => "billing_period",
        }
    }

    /// Seconds of a plain window of this kind: months of 30 days, years of 365.
    pub fn nominal_s(self) -> u64 {
        match self {
            Period::Hour => 3_600,
            Period::Day => 86_400,
            Period::Month | Period::BillingPeriod => 30 * 86_400,
            Period::Year => 365 * 86_400,
        }
    }

    /// Seconds of which every window has at least one start, and most two: tags count them.
    fn granule_s(self) -> u32 {
        match self {
            Period::Hour => 1_800,
            Period::Day => 43_200,
            Period::Month | Period::BillingPeriod => 14 * 86_400,
            Period::Year => 180 * 86_400,
        }
    }
}

/// One window of a calendar: from `start_us` until before `end_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first instant, unix microseconds.
    pub start_us: i64,
    /// The first instant after it, unix microseconds.
    pub end_us: i64,
    /// Tells windows of one calendar apart.
    pub tag: Tag,
}

impl Window {
    /// Whether the instant lies in it.
    pub fn contains(&self, unix_us: i64) -> bool {
        (self.start_us..self.end_us).contains(&unix_us)
    }
}

/// Twelve bits that grow from each window of a calendar to the next, from 1 to 4095 and on from 1.
/// 0 is the tag of no window.
///
/// Tags compare rightly while less than half of a turn lies between them: 42 days for hours, 2.8
/// years for days, longer for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub u16);

impl Tag {
    /// How many windows have tags of their own.
    const COUNT: u32 = (1 << 12) - 1;

    fn new(start_s: u32, granule_s: u32) -> Tag {
        Tag((start_s / granule_s % Tag::COUNT) as u16 + 1)
    }

    /// Whether the window is a later one than `other`'s.
    pub fn is_after(self, other: Tag) -> bool {
        (1..=Tag::COUNT / 2).contains(&self.ahead_of(other))
    }

    /// By how many tags it is further than `other`.
    fn ahead_of(self, other: Tag) -> u32 {
        (u32::from(self.0) + Tag::COUNT - u32::from(other.0)) % Tag::COUNT
    }
}

/// The windows of a period in a zone. Shared by everything that counts in the same windows.
#[derive(Debug)]
pub struct Calendar {
    zone: TimeZone,
    period: Period,
    /// Day of the month on which windows begin, 1 to 31; 1 but for billing periods.
    anchor: u8,
    /// The window last asked for: start and end in unix seconds, 32 bits each.
    current: AtomicU64,
    /// The start of a window and of the one before it, in the same way.
    last: AtomicU64,
}

impl Calendar {
    /// A calendar; `billing_day` (1 to 31) is of matter to billing periods only.
    pub fn new(zone: TimeZone, period: Period, billing_day: u8) -> Calendar {
        let anchor = if period == Period::BillingPeriod { billing_day.clamp(1, 31) } else { 1 };
        let (current, last) = (AtomicU64::new(0), AtomicU64::new(0));
        Calendar { zone, period, anchor, current, last }
    }

    /// How long its windows are.
    pub fn period(&self) -> Period {
        self.period
    }

    /// Its zone.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The IANA name of its zone.
    pub fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// The day of the month on which its windows begin, 1 to 31; 1 but for billing periods.
    pub fn billing_day(&self) -> u8 {
        self.anchor
    }

    /// The window that contains an instant (unix microseconds; what lies before 1970 counts as
    /// 1970, what lies after 2106 as 2106). Allocates nothing.
    #[inline]
    pub fn window(&self, unix_us: i64) -> Window {
        let at_s = u32::try_from(unix_us.div_euclid(US).max(0)).unwrap_or(u32::MAX);
        let word = self.current.load(Ordering::Relaxed);
        let (start_s, end_s) = ((word >> 32) as u32, word as u32);
        if (start_s..end_s).contains(&at_s) {
            return self.as_window(start_s, end_s);
        }
        self.work_out(at_s, end_s)
    }

    /// The window right before another one of this calendar. Asking for the same again costs one
    /// comparison.
    pub fn before(&self, window: &Window) -> Window {
        let start_s = (window.start_us / US).clamp(1, i64::from(u32::MAX)) as u32;
        let word = self.last.load(Ordering::Relaxed);
        if (word >> 32) as u32 == start_s {
            return self.as_window(word as u32, start_s);
        }
        let (before_s, end_s) = self.bounds(start_s - 1);
        // Windows before earlier ones must not push out the one before the current.
        if u64::from(start_s) > word >> 32 {
            self.last.store(u64::from(start_s) << 32 | u64::from(before_s), Ordering::Relaxed);
        }
        self.as_window(before_s, end_s)
    }

    /// The latest window with this tag that is before `window`, as far back as tags compare
    /// rightly. `None`: there is none.
    pub fn earlier(&self, tag: Tag, window: &Window) -> Option<Window> {
        let before = self.before(window);
        if before.tag == tag {
            return Some(before);
        }
        if tag.0 == 0 || !window.tag.is_after(tag) {
            return None;
        }
        // A window lasts until the end of the granule it starts in, and no other starts there.
        let granule_s = i64::from(self.period.granule_s());
        let granule = window.start_us / US / granule_s - i64::from(window.tag.ahead_of(tag));
        let last_s = u32::try_from((granule + 1) * granule_s - 1).ok()?;
        let (start_s, end_s) = self.bounds(last_s);
        Some(self.as_window(start_s, end_s)).filter(|earlier| earlier.tag == tag)
    }

    #[cold]
    fn work_out(&self, at_s: u32, current_end_s: u32) -> Window {
        let (start_s, end_s) = self.bounds(at_s);
        // Late instants must not push the current window out.
        if start_s >= current_end_s {
            self.current.store(u64::from(start_s) << 32 | u64::from(end_s), Ordering::Relaxed);
        }
        self.as_window(start_s, end_s)
    }

    fn as_window(&self, start_s: u32, end_s: u32) -> Window {
        let tag = Tag::new(start_s, self.period.granule_s());
        Window { start_us: i64::from(start_s) * US, end_us: i64::from(end_s) * US, tag }
    }

    /// Start and end of the window around an instant, unix seconds.
    fn bounds(&self, at_s: u32) -> (u32, u32) {
        let at_s = i64::from(at_s);
        let (start_s, end_s) = match self.period {
            Period::Hour => (self.hour_start(at_s), self.hour_end(at_s)),
            _ => self.days(at_s),
        };
        let within = |s: i64| u32::try_from(s.max(0)).unwrap_or(u32::MAX);
        (within(start_s), within(end_s))
    }

    fn offset_s(&self, at_s: i64) -> i64 {
        i64::from(self.zone.to_offset(timestamp(at_s)).seconds())
    }

    fn hour_start(&self, mut at_s: i64) -> i64 {
        loop {
            let offset_s = self.offset_s(at_s);
            let start_s = at_s - (at_s + offset_s).rem_euclid(3_600);
            let shift = self.zone.preceding(timestamp(at_s + 1)).next();
            match shift.map(|shift| shift.timestamp().as_second()) {
                // The hour began before the clock was set: there it goes on.
                Some(shift_s) if shift_s > start_s => at_s = shift_s - 1,
                _ => return start_s,
            }
        }
    }

    fn hour_end(&self, mut at_s: i64) -> i64 {
        loop {
            let end_s = at_s - (at_s + self.offset_s(at_s)).rem_euclid(3_600) + 3_600;
            let shift = self.zone.following(timestamp(at_s)).next();
            match shift.map(|shift| shift.timestamp().as_second()) {
                Some(shift_s) if shift_s <= end_s => {
                    if (shift_s + self.offset_s(shift_s)).rem_euclid(3_600) == 0 {
                        return shift_s;
                    }
                    at_s = shift_s;
                }
                _ => return end_s,
            }
        }
    }

    /// The window around an instant where windows begin with days.
    fn days(&self, at_s: i64) -> (i64, i64) {
        let today = self.zone.to_datetime(timestamp(at_s)).date();
        let mut first = self.first_day(today);
        let mut start_s = start_of_day_s(first, &self.zone);
        // Not where a clock went back over midnight: there a day comes again that is over.
        loop {
            let next = self.next_first_day(first);
            let end_s = start_of_day_s(next, &self.zone);
            if end_s > at_s || next == first {
                return (start_s, end_s);
            }
            (first, start_s) = (next, end_s);
        }
    }

    /// The day on which the window of a day begins.
    fn first_day(&self, day: Date) -> Date {
        match self.period {
            Period::Hour | Period::Day => day,
            Period::Year => date(day.year(), 1, 1),
            Period::Month | Period::BillingPeriod => {
                let this = self.anchor_day(day.year(), day.month());
                if this <= day {
                    return this;
                }
                match day.month() {
                    1 => self.anchor_day(day.year() - 1, 12),
                    month => self.anchor_day(day.year(), month - 1),
                }
            }
        }
    }

    fn next_first_day(&self, first: Date) -> Date {
        match self.period {
            Period::Hour | Period::Day => first.tomorrow().unwrap_or(first),
            Period::Year => date(first.year() + 1, 1, 1),
            Period::Month | Period::BillingPeriod => match first.month() {
                12 => self.anchor_day(first.year() + 1, 1),
                month => self.anchor_day(first.year(), month + 1),
            },
        }
    }

    fn anchor_day(&self, year: i16, month: i8) -> Date {
        let last = date(year, month, 1).days_in_month();
        date(year, month, last.min(self.anchor.cast_signed()))
    }
}

/// The first instant at which the clock shows midnight of that day or anything later, unix seconds.
pub(crate) fn start_of_day_s(day: Date, zone: &TimeZone) -> i64 {
    let midnight = day.at(0, 0, 0, 0);
    let at = |offset: jiff::tz::Offset| match offset.to_timestamp(midnight) {
        Ok(at) => at.as_second(),
        Err(_) => i64::from(u32::MAX),
    };
    match zone.to_ambiguous_timestamp(midnight).offset() {
        AmbiguousOffset::Unambiguous { offset } => at(offset),
        AmbiguousOffset::Fold { before, .. } => at(before),
        AmbiguousOffset::Gap { after, before } => {
            // Midnight by the clock that was to come lies before the shift.
            let shift = zone.following(timestamp(at(after))).next();
            shift.map_or(at(before), |shift| shift.timestamp().as_second())
        }
    }
}

fn timestamp(at_s: i64) -> Timestamp {
    Timestamp::from_second(at_s).unwrap_or(Timestamp::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests;
