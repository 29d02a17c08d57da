//! A limit as written: `{ name = "requests", rate = 600, per = "minute", burst = 100 }`.

use super::fields::{Fields, Located, Text};

/// The fastest rate: below it the emission interval is at least 100 ns and rounding costs < 1 %.
pub(crate) const MAX_PER_SECOND: u64 = 10_000_000;
/// The longest time a burst may take to refill: 400 days.
const MAX_REFILL_NS: u128 = 400 * 86_400 * 1_000_000_000;

#[derive(Debug)]
pub(crate) struct LimitDoc<'i> {
    pub(crate) name: Located<Text<'i>>,
    pub(crate) kind: LimitKind,
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
}

/// Whether a limit is one bucket, or one for each of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Each {
    ClientIp,
    EndUser,
}

const PERIODS: &[(&str, u64)] = &[
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
        let each = fields
            .word("each", &[("client_ip", Each::ClientIp), ("end_user", Each::EndUser)])
            .map(|each| each.value);
        let apps = fields.texts("apps");
        let routes = fields.texts("routes");
        let place = fields.place;
        let kind = match (rate, concurrent) {
            (Some(rate), None) => {
                let per = per.map_or(PERIODS[0].1, |per| per.value);
                let burst = burst.map_or(rate.value, |burst| burst.value);
                bucket(&mut fields, &rate, per, burst)
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
                fields.find(place, "rate", "a limit needs rate (with per and burst) or concurrent");
                None
            }
        };
        let clean = fields.finish();
        let (Some(name), Some(kind), true) = (name, kind, clean) else { return None };
        Some(LimitDoc { name, kind, each, apps, routes })
    }
}

fn bucket(
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
    if u128::from(interval_ns) * u128::from(burst) > MAX_REFILL_NS {
        fields.find(rate.place, "rate", "the burst would take more than 400 days to refill");
        return None;
    }
    Some(LimitKind::Rate { interval_ns, burst })
}
