//! What makes two answers one group: whose they were, what they were, and on which day; and what a
//! group adds up to.

use crate::event::{EARLIEST_TS_US, Event, Flags, Kind, LATEST_TS_US, Method};

pub(super) const US_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// One unit of quantity in a row's fixed point.
pub(super) const UNIT_NANO: i128 = 1_000_000_000;
/// The strings of a key.
pub(super) const TEXTS: usize = 6;

/// How figures of one meter become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combine {
    /// They are added up.
    Sum,
    /// The largest counts.
    Max,
    /// The latest counts.
    Last,
}

/// What is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Sum {
    /// Requests that were refused, second by second.
    Refused = 1,
    /// Requests that were served while the journal had no room, for as long as it has none, and
    /// bytes of requests that were counted before.
    Unmetered = 2,
    /// What such requests add to a further meter.
    Figure = 3,
    /// The largest of such figures.
    Largest = 4,
    /// The latest of such figures.
    Latest = 5,
    /// A member of a further meter, by its id.
    Member = 6,
}

impl Sum {
    pub(super) fn from_number(number: u8) -> Option<Sum> {
        Some(match number {
            1 => Sum::Refused,
            2 => Sum::Unmetered,
            3 => Sum::Figure,
            4 => Sum::Largest,
            5 => Sum::Latest,
            6 => Sum::Member,
            _ => return None,
        })
    }

    /// Of figures of a further meter.
    pub(super) fn of_figures(combine: Combine) -> Sum {
        match combine {
            Combine::Sum => Sum::Figure,
            Combine::Max => Sum::Largest,
            Combine::Last => Sum::Latest,
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
    /// A member's; zeros of everything else.
    pub(super) id: [u8; 16],
    /// Tenant, path, plan, app, route; then the reason of a refusal, the meter of anything else.
    pub(super) texts: [&'a str; TEXTS],
}

/// What one answer adds to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) requests: u32,
    pub(super) quantity_nano: i128,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
}

/// What a group adds up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Total {
    /// Whether anything was counted.
    pub(super) is_any: bool,
    /// Of the earliest; of a largest or latest figure, its own. Of nothing, when there was something.
    pub(super) second: i64,
    pub(super) requests: u32,
    pub(super) quantity_nano: i128,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
}

impl Amount {
    /// One refusal.
    pub(super) const REFUSAL: Amount =
        Amount { requests: 1, quantity_nano: UNIT_NANO, request_bytes: 0, response_bytes: 0 };

    /// What a row counts.
    pub(super) fn of(event: &Event<'_>) -> Amount {
        let &Event { requests, quantity_nano, request_bytes, response_bytes, .. } = event;
        Amount { requests, quantity_nano, request_bytes, response_bytes }
    }
}

impl Total {
    pub(super) const NOTHING: Total = Total {
        is_any: false,
        second: 0,
        requests: 0,
        quantity_nano: 0,
        request_bytes: 0,
        response_bytes: 0,
    };

    /// The first of a group.
    pub(super) fn first(amount: &Amount, second: i64) -> Total {
        let &Amount { requests, quantity_nano, request_bytes, response_bytes } = amount;
        Total { is_any: true, second, requests, quantity_nano, request_bytes, response_bytes }
    }

    /// With one more; `None` when a row cannot say it any more.
    pub(super) fn with(&self, sum: Sum, amount: &Amount, second: i64) -> Option<Total> {
        if !self.is_any {
            return Some(Total::first(amount, second));
        }
        match sum {
            Sum::Member => return Some(*self),
            Sum::Largest if amount.quantity_nano <= self.quantity_nano => return Some(*self),
            Sum::Latest if second < self.second => return Some(*self),
            Sum::Largest | Sum::Latest => return Some(Total::first(amount, second)),
            Sum::Refused | Sum::Unmetered | Sum::Figure => {}
        }
        let quantity_nano = self.quantity_nano.checked_add(amount.quantity_nano)?;
        Some(Total {
            is_any: true,
            // A refusal joins the second that is counted; whatever waits has the earliest.
            second: if sum == Sum::Refused { self.second } else { self.second.min(second) },
            requests: self.requests.checked_add(amount.requests)?,
            quantity_nano: Some(quantity_nano).filter(|sum| sum.abs() < MOST_NANO)?,
            request_bytes: self.request_bytes.checked_add(amount.request_bytes)?,
            response_bytes: self.response_bytes.checked_add(amount.response_bytes)?,
        })
    }
}

/// Decimal(38, 9) holds what is below.
const MOST_NANO: i128 = 10_i128.pow(38);

impl<'a> Key<'a> {
    /// A wider group for when there is no room for this one: of the same tenant, plan, meter (or
    /// reason) and day. `None` when this is one, or can be none.
    pub(super) fn wider(&self) -> Option<Key<'a>> {
        let [tenant, path, plan, _, _, last] = self.texts;
        let wider = Key { status: 0, texts: [tenant, path, plan, "", "", last], ..*self };
        (self.sum != Sum::Member && wider != *self).then_some(wider)
    }

    /// The row of what this group adds up to.
    pub(super) fn event(&self, total: &Total) -> Event<'a> {
        let [tenant, path, plan, app, route, last] = self.texts;
        let (kind, flags, meter, reason) = match self.sum {
            Sum::Refused => (Kind::Refused, Flags::GATEWAY_MADE, "refusals", last),
            Sum::Unmetered => (Kind::Request, Flags::UNMETERED, last, "unmetered"),
            Sum::Figure | Sum::Largest | Sum::Latest => {
                (Kind::Request, Flags::UNMETERED.with(Flags::MEASURED), last, "unmetered")
            }
            Sum::Member => (Kind::Request, Flags::UNMETERED.with(Flags::MEMBER), last, "unmetered"),
        };
        Event {
            ts_us: total.second * US_PER_SECOND,
            request_id: self.id,
            kind,
            method: Method::Other,
            status: self.status,
            flags,
            requests: total.requests,
            quantity_nano: total.quantity_nano,
            request_bytes: total.request_bytes,
            response_bytes: total.response_bytes,
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
    pub(super) id: [u8; 16],
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
        let &Key { sum, status, day, id, texts } = key;
        let text = texts.concat().into_boxed_str();
        Some(OwnedKey { sum, status, day, id, text, ends })
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
        let &OwnedKey { sum, status, day, id, .. } = self;
        Key { sum, status, day, id, texts }
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

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Amount =
        Amount { requests: 1, quantity_nano: 5, request_bytes: 10, response_bytes: 20 };

    fn total(sum: Sum, amounts: &[(Amount, i64)]) -> Option<Total> {
        let add = |total: Total, (amount, second): &(Amount, i64)| total.with(sum, amount, *second);
        amounts.iter().try_fold(Total::NOTHING, add)
    }

    #[test]
    fn amounts_add_up_as_their_kind_says() {
        let two = Amount { quantity_nano: -7, ..ONE };
        let amounts = [(ONE, 9), (two, 8), (ONE, 10)];
        let of = |sum| total(sum, &amounts).expect("small");
        let sum = Total {
            is_any: true,
            second: 8,
            requests: 3,
            quantity_nano: 3,
            request_bytes: 30,
            response_bytes: 60,
        };
        assert_eq!((of(Sum::Unmetered), of(Sum::Figure)), (sum, sum));
        assert_eq!(of(Sum::Refused), Total { second: 9, ..sum });
        assert_eq!(of(Sum::Largest), Total::first(&ONE, 9));
        assert_eq!(of(Sum::Latest), Total::first(&ONE, 10));
        let member = Total::first(&ONE, 9);
        assert_eq!(of(Sum::Member), member, "it is one, however often it comes");
    }

    #[test]
    fn what_no_row_can_say_is_not_added() {
        let most = Amount { requests: u32::MAX, quantity_nano: MOST_NANO - 1, ..ONE };
        for more in [
            Amount { quantity_nano: 0, ..ONE },
            Amount { requests: 0, ..ONE },
            Amount { requests: 0, quantity_nano: 0, request_bytes: u64::MAX, response_bytes: 0 },
            Amount { requests: 0, quantity_nano: 0, request_bytes: 0, response_bytes: u64::MAX },
        ] {
            assert_eq!(total(Sum::Unmetered, &[(most, 0), (more, 0)]), None, "{more:?}");
        }
    }

    #[test]
    fn a_wider_group_keeps_whose_it_is_and_what_is_counted() {
        let texts = ["web", "acme/web", "gold", "crm", "contacts", "api_calls"];
        let key = Key { sum: Sum::Unmetered, status: 204, day: 7, id: [0; 16], texts };
        let wider = key.wider().expect("there is one");
        let texts = ["web", "acme/web", "gold", "", "", "api_calls"];
        assert_eq!(wider, Key { status: 0, texts, ..key });
        assert_eq!(wider.wider(), None);
        assert_eq!(Key { sum: Sum::Member, ..key }.wider(), None);
    }
}
