//! Quotas as they stand now, counted by this gateway to the last request.

use orbit_policy::quota::QuotaView;
use serde::Serialize;

use super::View;
use crate::api::words::rfc3339;

/// One quota in its current window. Amounts are units of its meter.
#[derive(Debug, Default, Serialize)]
pub(super) struct Quota {
    pub(super) name: String,
    pub(super) level: &'static str,
    /// Where it stands; not for those above the key's own tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tenant: Option<String>,
    pub(super) meter: String,
    /// As the rest of its window: not of a level, which lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) period: Option<&'static str>,
    /// The zone of its calendar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) zone: Option<String>,
    /// When its window began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<String>,
    /// When it starts anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<String>,
    pub(super) limit: u64,
    /// Granted in this window on top of the limit.
    pub(super) granted: u64,
    /// Rolled over from the window before on top of the limit.
    pub(super) rolled_over: u64,
    /// What may be used beyond all of that before `at_limit` happens.
    pub(super) grace: u64,
    /// What everybody whom it holds has used; not for those above the key's own tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) used: Option<u64>,
    /// Limit, grants and what was rolled over, without what is used.
    pub(super) remaining: u64,
    /// Percentages at which somebody is told; as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thresholds: Option<Vec<u16>>,
    pub(super) at_limit: &'static str,
}

/// Every quota that holds the chosen tenant, narrowest first.
pub(super) fn standing(view: &View) -> Vec<Quota> {
    let quotas = view.snapshot.quotas_of(&view.tenant, view.at.unix_us).unwrap_or_default();
    quotas.iter().map(|quota| describe(view, quota)).collect()
}

fn describe(view: &View, quota: &QuotaView<'_>) -> Quota {
    let seen = view.snapshot.within(view.own(), quota.tenant).is_some();
    let window = quota.window;
    Quota {
        name: quota.name.to_owned(),
        level: quota.level.as_str(),
        tenant: seen.then(|| quota.tenant.to_owned()),
        meter: quota.meter.to_owned(),
        period: window.map(|window| window.period.as_str()),
        zone: window.map(|window| window.zone.to_owned()),
        from: window.map(|window| rfc3339(window.start_us)),
        to: window.map(|window| rfc3339(window.end_us)),
        limit: quota.limit,
        granted: window.map_or(0, |window| window.granted),
        rolled_over: window.map_or(0, |window| window.rolled_over),
        grace: quota.grace,
        used: seen.then_some(quota.used),
        remaining: quota.remaining(),
        thresholds: seen.then(|| quota.thresholds.to_vec()),
        at_limit: quota.at_limit.as_str(),
    }
}
