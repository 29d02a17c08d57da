//! A quota and a grant as written:
//! `{ name = "api-calls", meter = "api_calls", limit = 1_000_000, per = "month" }`.

use super::fields::{Amount, Fields, Located, Text};
use super::limit::{LimitKind, PERIODS, bucket};
use crate::bucket::Terms;
use crate::calendar::Period;
use crate::diagnostics::Place;
use crate::meters::STORAGE;
use crate::quota::AtLimit;

/// The largest limit, grant or roll-over: what is counted stays far below the end of a count.
const MAX_UNITS: u64 = 1 << 50;
/// The largest threshold: one may lie beyond the limit where what lies beyond is billed.
const MAX_PERCENT: u64 = 1_000;

#[derive(Debug)]
pub(crate) struct QuotaDoc<'i> {
    pub(crate) name: Located<Text<'i>>,
    pub(crate) meter: Located<Text<'i>>,
    pub(crate) limit: u64,
    /// Not of a gauge, and of any other meter: what it is of is known later.
    pub(crate) per: Option<Located<Period>>,
    /// Percent of the limit, in order.
    pub(crate) thresholds: Vec<u16>,
    pub(crate) at_limit: Located<AtLimit>,
    /// The rate beyond the limit, for [`AtLimit::ThrottleTo`].
    pub(crate) throttle: Option<Terms>,
    pub(crate) grace: u64,
    pub(crate) roll_over: Option<Located<u64>>,
    pub(crate) place: Place,
}

/// A one-off addition to a quota of a tenant.
#[derive(Debug)]
pub(crate) struct GrantDoc<'i> {
    pub(crate) tenant: Located<Text<'i>>,
    pub(crate) quota: Located<Text<'i>>,
    pub(crate) amount: u64,
    /// A day in the tenant's zone, or an instant.
    pub(crate) at: Located<Text<'i>>,
}

const WINDOWS: &[(&str, Period)] = &[
    ("hour", Period::Hour),
    ("day", Period::Day),
    ("month", Period::Month),
    ("year", Period::Year),
    ("billing_period", Period::BillingPeriod),
];
const AT_LIMIT: &[(&str, AtLimit)] = &[
    ("block", AtLimit::Block),
    ("allow_and_bill", AtLimit::AllowAndBill),
    ("throttle_to", AtLimit::ThrottleTo),
];

/// The key `quotas` of a plan or tenant.
pub(super) fn quotas<'i>(fields: &mut Fields<'_, 'i, '_>) -> Vec<QuotaDoc<'i>> {
    fields.tables("quotas", QuotaDoc::read).map_or_else(Vec::new, |quotas| quotas.value)
}

impl QuotaDoc<'static> {
    /// What a plan's `users` stands for, but for its limit.
    pub(crate) fn of_users() -> QuotaDoc<'static> {
        QuotaDoc::of_figure("users", "active_users", Some(Period::Month))
    }

    /// What a plan's `storage_gb` stands for, but for its limit.
    pub(crate) fn of_storage() -> QuotaDoc<'static> {
        QuotaDoc::of_figure("storage", STORAGE, None)
    }

    fn of_figure(
        name: &'static str,
        meter: &'static str,
        per: Option<Period>,
    ) -> QuotaDoc<'static> {
        let place = Place { file: 0, byte: 0 };
        let text = |text| Located { value: Text::Borrowed(text), place };
        QuotaDoc {
            name: text(name),
            meter: text(meter),
            limit: 0,
            per: per.map(|value| Located { value, place }),
            thresholds: vec![80, 95],
            at_limit: Located { value: AtLimit::Block, place },
            throttle: None,
            grace: 0,
            roll_over: None,
            place,
        }
    }
}

impl<'i> QuotaDoc<'i> {
    fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let name = fields.id("name");
        let meter = fields.required_text("meter");
        fields.require("limit");
        let limit = fields.integer("limit", 0, MAX_UNITS).map(|limit| limit.value);
        if meter.is_none() {
            fields.require("per");
        }
        let per = fields.word("per", WINDOWS);
        let thresholds = fields.integers("thresholds", 1, MAX_PERCENT).unwrap_or_default();
        if let Some(pair) = thresholds.windows(2).find(|pair| pair[0].value >= pair[1].value) {
            fields.find(pair[1].place, "thresholds", "thresholds go up");
        }
        let place = fields.place;
        let block = Located { value: AtLimit::Block, place };
        let at_limit = fields.word("at_limit", AT_LIMIT).unwrap_or(block);
        let throttle = fields.table("throttle", throttle);
        let grace = fields.amount("grace", MAX_UNITS);
        let roll_over = fields.integer("roll_over", 0, MAX_UNITS);
        match (at_limit.value, &throttle) {
            (AtLimit::ThrottleTo, None) if !fields.has_failed() => {
                let message = "throttle_to needs throttle = { rate = .., per = .., burst = .. }";
                fields.find(place, "throttle", message);
            }
            (AtLimit::Block | AtLimit::AllowAndBill, Some(_)) => {
                let message = "goes with at_limit = \"throttle_to\" only";
                fields.find(place, "throttle", message);
            }
            _ => {}
        }
        if let (AtLimit::AllowAndBill, Some(grace)) = (at_limit.value, &grace) {
            fields.find(grace.place, "grace", "does not go with allow_and_bill, which never ends");
        }
        let clean = fields.finish();
        let (name, meter, limit) = (name?, meter?, limit?);
        let grace = match grace.map(|grace| grace.value) {
            None => 0,
            Some(Amount::Number(units)) => units,
            Some(Amount::Percent(percent)) => limit / 100 * percent + limit % 100 * percent / 100,
        };
        let thresholds = thresholds.iter().map(|threshold| threshold.value as u16).collect();
        clean.then_some(QuotaDoc {
            name,
            meter,
            limit,
            per,
            thresholds,
            at_limit,
            throttle,
            grace,
            roll_over,
            place,
        })
    }
}

fn throttle(mut fields: Fields<'_, '_, '_>) -> Option<Terms> {
    fields.require("rate");
    let rate = fields.integer("rate", 1, u64::from(u32::MAX));
    let per_ns = fields.word("per", PERIODS).map_or(PERIODS[0].1, |per| per.value);
    let burst = fields.integer("burst", 1, u64::from(u32::MAX)).map(|burst| burst.value);
    let kind = rate.and_then(|rate| {
        let burst = burst.unwrap_or(rate.value);
        bucket(&mut fields, &rate, per_ns, burst)
    });
    let clean = fields.finish();
    match kind {
        Some(LimitKind::Rate { interval_ns, burst }) if clean => Some(Terms { interval_ns, burst }),
        _ => None,
    }
}

impl<'i> GrantDoc<'i> {
    pub(super) fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let tenant = fields.required_text("tenant");
        let quota = fields.required_text("quota");
        fields.require("amount");
        let amount = fields.integer("amount", 1, MAX_UNITS).map(|amount| amount.value);
        let at = fields.required_text("at");
        fields.for_people("title");
        let clean = fields.finish();
        let (tenant, quota, amount, at) = (tenant?, quota?, amount?, at?);
        clean.then_some(GrantDoc { tenant, quota, amount, at })
    }
}
