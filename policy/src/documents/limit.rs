//! A limit as written: `{ name = "requests", rate = 600, per = "minute", burst = 100 }`.

use super::fields::{Fields, Located, Text};
use super::share::{Share, ShareFields};

/// The fastest rate: below it the emission interval is at least 100 ns and rounding costs < 1 %.
pub(crate) const MAX_PER_SECOND: u64 = 10_000_000;
/// The longest time a burst may take to refill: 400 days.
const MAX_REFILL_NS: u128 = 400 * 86_400 * 1_000_000_000;

#[derive(Debug)]
pub(crate) struct LimitDoc<'i> {
    pub(crate) name: Located<Text<'i>>,
    pub(crate) kind: LimitKind,
    /// A rate limit as written, for shares of it; 0 tokens for any other.
    pub(crate) written: Written,
    pub(crate) each: Option<Each>,
    pub(crate) apps: Option<Vec<Located<Text<'i>>>>,
    pub(crate) routes: Option<Vec<Located<Text<'i>>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitKind {
    /// A token bucket: one token each `interval_ns`, at most `burst` of them.
    Rate { interval_ns: u64, burst: u64 },
    /// At most so many requests in flight.
    Concurrent { max: u32 },
    /// A share of a limit of a tenant above, which decides what it comes to.
    Share(Share),
}

/// A rate before it is rounded to an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) tokens: u64,
    pub(crate) per_ns: u64,
}

/// Whether a limit is one bucket, or one for each of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Each {
    ClientIp,
    EndUser,
}

pub(super) const PERIODS: &[(&str, u64)] = &[
    ("second", 1_000_000_000),
    ("minute", 60_000_000_000),
    ("hour", 3_600_000_000_000),
    ("day", 86_400_000_000_000),
];

impl<'i> LimitDoc<'i> {
    pub(crate) fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let name = fields.id("name");
        let rate = fields.integer("rate", 1, u64::from(u32::MAX));
        let per = fields.word("per", PERIODS);
        let burst = fields.integer("burst", 1, u64::from(u32::MAX));
        let concurrent = fields.integer("concurrent", 1, u64::from(u32::MAX));
        let share = ShareFields::read(&mut fields);
        let each = fields
            .word("each", &[("client_ip", Each::ClientIp), ("end_user", Each::EndUser)])
            .map(|each| each.value);
        let apps = fields.texts("apps");
        let routes = fields.texts("routes");
        let place = fields.place;
        let per_ns = per.as_ref().map(|per| per.value);
        let burst_tokens = burst.as_ref().map(|burst| burst.value);
        let kind = match (&rate, &concurrent) {
            _ if share.is_there() => {
                let narrowed = each.is_some() || apps.is_some() || routes.is_some();
                let stray = [rate.as_ref(), concurrent.as_ref()];
                share.finish(&mut fields, per_ns, burst_tokens, narrowed, stray)
            }
            (Some(rate), None) => {
                let per_ns = per_ns.unwrap_or(PERIODS[0].1);
                bucket(&mut fields, rate, per_ns, burst_tokens.unwrap_or(rate.value))
            }
            (None, Some(max)) => {
                if per.is_some() || burst.is_some() || each.is_some() {
                    fields.find(max.place, "concurrent", "does not go with per, burst or each");
                }
                Some(LimitKind::Concurrent { max: max.value as u32 })
            }
            (Some(_), Some(max)) => {
                fields.find(max.place, "concurrent", "a limit has either rate or concurrent");
                None
            }
            // A rate that is there but wrong has a finding of its own.
            (None, None) if fields.has_failed() => None,
            (None, None) => {
                let message = "a limit needs rate (with per and burst), concurrent or guarantee";
                fields.find(place, "rate", message);
                None
            }
        };
        let clean = fields.finish();
        let (Some(name), Some(kind), true) = (name, kind, clean) else { return None };
        let tokens = rate.map_or(0, |rate| rate.value);
        let written = Written { tokens, per_ns: per_ns.unwrap_or(PERIODS[0].1) };
        Some(LimitDoc { name, kind, written, each, apps, routes })
    }
}

/// Whether a burst refills in the time a limit may take for it.
pub(crate) fn refills(interval_ns: u64, burst: u64) -> bool {
    u128::from(interval_ns) * u128::from(burst) <= MAX_REFILL_NS
}

/// A period's name as it is written in documents.
pub(crate) fn period(per_ns: u64) -> &'static str {
    PERIODS.iter().find(|(_, ns)| *ns == per_ns).map_or("?", |(name, _)| name)
}

pub(super) fn bucket(
    fields: &mut Fields<'_, '_, '_>,
    rate: &Located<u64>,
    per_ns: u64,
    burst: u64,
) -> Option<LimitKind> {
    if u128::from(rate.value) * 1_000_000_000 > u128::from(MAX_PER_SECOND) * u128::from(per_ns) {
        fields.find(rate.place, "rate", format!("is above {MAX_PER_SECOND} per second"));
        return None;
    }
    // Rounded up: an interval a nanosecond too long admits less, one too short would admit more.
    let interval_ns = per_ns.div_ceil(rate.value);
    if !refills(interval_ns, burst) {
        fields.find(rate.place, "rate", "the burst would take more than 400 days to refill");
        return None;
    }
    Some(LimitKind::Rate { interval_ns, burst })
}
