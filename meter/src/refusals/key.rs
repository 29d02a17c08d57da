//! What makes two answers one group: whose they were, what they were, and on which day.

use crate::event::{EARLIEST_TS_US, Event, Flags, Kind, LATEST_TS_US, Method};

pub(super) const US_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// One unit of quantity in a row's fixed point.
pub(super) const UNIT_NANO: i128 = 1_000_000_000;
/// The strings of a key.
pub(super) const TEXTS: usize = 6;

/// What is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Sum {
    /// Requests that were refused, second by second.
    Refused = 1,
    /// Requests that were served while the journal had no room, for as long as it has none.
    Unmetered = 2,
}

impl Sum {
    pub(super) fn from_number(number: u8) -> Option<Sum> {
        match number {
            1 => Some(Sum::Refused),
            2 => Some(Sum::Unmetered),
            _ => None,
        }
    }
}

/// A group's identity. The day keeps a sum that waits for room within one day, and so within one
/// month of an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key<'a> {
    pub(super) sum: Sum,
    pub(super) status: u16,
    /// Days since 1970, UTC.
    pub(super) day: u32,
    /// What one request adds to the meter.
    pub(super) quantity_nano: i128,
    /// Tenant, path, plan, app, route; then the reason of a refusal, the meter of what was served.
    pub(super) texts: [&'a str; TEXTS],
}

impl Key<'_> {
    /// The row that `requests` of this group are, from `second` on.
    pub(super) fn event(&self, second: i64, requests: u32) -> Event<'_> {
        let [tenant, path, plan, app, route, last] = self.texts;
        let (kind, flags, meter, reason) = match self.sum {
            Sum::Refused => (Kind::Refused, Flags::GATEWAY_MADE, "refusals", last),
            Sum::Unmetered => (Kind::Request, Flags::UNMETERED, last, "unmetered"),
        };
        Event {
            ts_us: second * US_PER_SECOND,
            request_id: [0; 16],
            kind,
            method: Method::Other,
            status: self.status,
            flags,
            requests,
            quantity_nano: self.quantity_nano.saturating_mul(i128::from(requests)),
            request_bytes: 0,
            response_bytes: 0,
            duration_us: 0,
            upstream_us: 0,
            tenant,
            path,
            plan,
            key_id: "",
            app,
            route,
            meter,
            reason,
        }
    }
}

/// A key that owns its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnedKey {
    pub(super) sum: Sum,
    pub(super) status: u16,
    pub(super) day: u32,
    pub(super) quantity_nano: i128,
    /// One after the other.
    pub(super) text: Box<str>,
    pub(super) ends: [u16; TEXTS],
}

impl OwnedKey {
    /// The same key; `None` when its text has more than `limit` bytes.
    pub(super) fn new(key: &Key<'_>, limit: usize) -> Option<OwnedKey> {
        let bytes: usize = key.texts.iter().map(|text| text.len()).sum();
        if bytes > limit.min(usize::from(u16::MAX)) {
            return None;
        }
        let mut end = 0;
        let ends = key.texts.map(|text| {
            end += text.len() as u16;
            end
        });
        let &Key { sum, status, day, quantity_nano, texts } = key;
        let text = texts.concat().into_boxed_str();
        Some(OwnedKey { sum, status, day, quantity_nano, text, ends })
    }

    /// Whether the ends divide the text: of bytes from a file, nobody knows before.
    pub(super) fn is_sound(&self) -> bool {
        self.ends.is_sorted()
            && self.ends.iter().all(|&end| self.text.is_char_boundary(end.into()))
            && usize::from(self.ends[TEXTS - 1]) == self.text.len()
    }

    /// Borrowed.
    pub(super) fn key(&self) -> Key<'_> {
        let mut start = 0;
        let texts = self.ends.map(|end| {
            let text = &self.text[start..usize::from(end)];
            start = usize::from(end);
            text
        });
        let &OwnedKey { sum, status, day, quantity_nano, .. } = self;
        Key { sum, status, day, quantity_nano, texts }
    }
}

/// The second of a time, within what a row may carry.
pub(super) fn second_of(us: i64) -> i64 {
    us.clamp(EARLIEST_TS_US, LATEST_TS_US - 1) / US_PER_SECOND
}

/// The day of a second.
pub(super) fn day_of(second: i64) -> u32 {
    (second / SECONDS_PER_DAY) as u32
}
