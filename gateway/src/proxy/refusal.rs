//! A refusal on the wire: each reason to its one status, problem and header fields, and counted.

mod entitlement;

use http::StatusCode;
use orbit_policy::decide::{Exhausted, LimitView, Limited};
use orbit_policy::snapshot::{NoRoute, NotIdentified};
use orbit_policy::{Denial, Nanos, Reason};
use serde_json::Value;

use super::Edge;
use super::exchange::Exchange;
use super::fields::{self, RATELIMIT, RATELIMIT_POLICY};
use super::problem::{Problem, QUOTA_EXCEEDED};
use crate::api::words::rfc3339;
use entitlement::Facts;

/// Names of the reasons: metric labels and the `reason` column.
pub fn name(reason: Reason) -> &'static str {
    match reason {
        Reason::NotIdentified(NotIdentified::NoKey) => "no_key",
        Reason::NotIdentified(NotIdentified::Malformed) => "malformed_key",
        Reason::NotIdentified(NotIdentified::Unknown) => "unknown_key",
        Reason::NotIdentified(NotIdentified::Disabled) => "disabled_key",
        Reason::NoRoute(NoRoute::NotFound) => "no_route",
        Reason::NoRoute(NoRoute::MethodNotAllowed) => "method_not_allowed",
        Reason::NoRoute(NoRoute::AmbiguousPath) => "ambiguous_path",
        Reason::Suspended => "suspended",
        Reason::Unpaid => "unpaid",
        Reason::NotEntitled => "not_entitled",
        Reason::AppNotActivated => "app_not_activated",
        Reason::AppLimitExceeded => "app_limit_exceeded",
        Reason::ApiTierTooLow => "api_tier_too_low",
        Reason::FeatureNotIncluded => "feature_not_included",
        Reason::Limited(Limited { concurrency: true, .. }) => "concurrency_limited",
        Reason::Limited(_) => "rate_limited",
        Reason::QuotaExhausted(_) => "quota_exhausted",
    }
}

/// Counts a refusal by policy and makes its answer.
pub fn count(edge: &Edge, ctx: &Exchange, denial: &Denial) -> Problem {
    let problem = answer(denial, ctx.started.mono);
    let reason = name(denial.reason);
    let tenant = denial.tenant();
    edge.refusals.count(
        ctx.started.unix_us,
        tenant.map_or("", |tenant| &tenant.id),
        tenant.map_or("", |tenant| &tenant.path),
        denial.plan_id().unwrap_or_default(),
        denial.app_id().unwrap_or_default(),
        denial.route().map_or("", |route| &route.id),
        reason,
        problem.status().as_u16(),
    );
    edge.refusal_counts.count(tenant.map_or("", |tenant| &tenant.path));
    if let (Reason::QuotaExhausted(Exhausted { limit: 0, .. }), Some(quota)) =
        (denial.reason, denial.limit())
    {
        edge.refusal_counts.ask_in_vain(quota.tenant, quota.name);
    }
    edge.metrics.refused(reason);
    problem
}

/// The answer to an upload whose next piece does not fit into a quota.
pub(super) fn no_room(ctx: &Exchange) -> Option<Problem> {
    ctx.no_room.as_ref().map(|denial| answer(denial, ctx.started.mono))
}

/// Counts such an answer where refusals are looked at as they happen; its row is that of an admitted
/// request.
pub(super) fn count_no_room(edge: &Edge, ctx: &Exchange) {
    let Some(denial) = &ctx.no_room else { return };
    edge.refusal_counts.count(denial.tenant().map_or("", |tenant| &tenant.path));
    edge.metrics.refused(name(denial.reason));
}

/// Counts a refusal before any policy was asked.
pub fn count_unfit(edge: &Edge, ctx: &Exchange, reason: &'static str, status: StatusCode) {
    let status = status.as_u16();
    edge.refusals.count(ctx.started.unix_us, "", "", "", "", "", reason, status);
    edge.metrics.refused(reason);
}

fn answer(denial: &Denial, now: Nanos) -> Problem {
    match denial.reason {
        Reason::NotIdentified(why) => unauthorized(why),
        Reason::NoRoute(NoRoute::NotFound) => {
            let detail = "No route fits this host and path.";
            Problem::new(StatusCode::NOT_FOUND, "no-route", detail)
        }
        Reason::NoRoute(NoRoute::MethodNotAllowed) => {
            let detail = "A route fits this host and path, but not this method.";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
        }
        Reason::NoRoute(NoRoute::AmbiguousPath) => {
            let detail = "The path can be read in more than one way: it has an empty, `.` or `..` segment, `;`, or needless percent-encoding.";
            Problem::new(StatusCode::BAD_REQUEST, "ambiguous-path", detail)
        }
        Reason::Suspended => {
            let detail = "The tenant is suspended. Ask its administrator.";
            Problem::new(StatusCode::FORBIDDEN, "tenant-suspended", detail)
        }
        Reason::Unpaid => {
            let detail = "The tenant has unpaid invoices.";
            Problem::new(StatusCode::PAYMENT_REQUIRED, "tenant-unpaid", detail)
        }
        Reason::NotEntitled => Facts::of(denial).not_entitled(),
        Reason::AppNotActivated => Facts::of(denial).app_not_activated(),
        Reason::AppLimitExceeded => Facts::of(denial).app_limit_exceeded(),
        Reason::ApiTierTooLow => Facts::of(denial).api_tier_too_low(),
        Reason::FeatureNotIncluded => Facts::of(denial).feature_not_included(),
        Reason::Limited(limited) => too_many(denial, &limited, now),
        Reason::QuotaExhausted(exhausted) => used_up(denial, &exhausted, now),
    }
}

/// The answer to a request that is nobody's.
pub(crate) fn unauthorized(why: NotIdentified) -> Problem {
    let (slug, detail) = match why {
        NotIdentified::NoKey => {
            ("key-missing", "Send an API key: `Authorization: Bearer orb_…` or `X-Api-Key`.")
        }
        NotIdentified::Malformed => {
            ("key-malformed", "The API key is not well-formed: check that it is complete.")
        }
        NotIdentified::Unknown => ("key-unknown", "The API key is not known."),
        NotIdentified::Disabled => ("key-disabled", "The API key has been disabled."),
    };
    let challenge = match why {
        NotIdentified::NoKey => "Bearer realm=\"orbit\"",
        _ => "Bearer realm=\"orbit\", error=\"invalid_token\"",
    };
    Problem::new(StatusCode::UNAUTHORIZED, slug, detail).header("WWW-Authenticate", challenge)
}

/// Whether a limit stands at the caller's own tenant. Of those above, whose it is and what others
/// used of it is not said (**S1**, see [`tenant_api`](crate::tenant_api)).
fn is_own(denial: &Denial, limit: LimitView<'_>) -> bool {
    denial.tenant().is_some_and(|tenant| *tenant.id == *limit.tenant)
}

/// A limit in words: `` `team/requests` of team `acme-web` ``.
fn named(denial: &Denial, limit: LimitView<'_>) -> String {
    let LimitView { name, tenant, .. } = limit;
    if is_own(denial, limit) {
        format!("`{name}` of {} `{tenant}`", limit.level.as_str())
    } else {
        format!("`{name}`, which is shared with others,")
    }
}

fn too_many(denial: &Denial, limited: &Limited, now: Nanos) -> Problem {
    let Some(limit) = denial.limit() else {
        unreachable!("a denial by a limit names it");
    };
    let retry_s = retry_s(limited, now);
    let (quota, named) = (limit.quota, named(denial, limit));
    let detail = match retry_s {
        _ if limited.concurrency => format!("{named} allows {quota} requests at a time."),
        Some(seconds) => format!("{named} is used up; there is more in {seconds} s."),
        None => {
            let burst = denial.burst().unwrap_or(quota);
            format!("The request costs more than the burst of {burst} that {named} allows.")
        }
    };
    let problem = exceeded(denial, limit, detail).with("limit", limit.name);
    with_retry(problem, limit, limited, retry_s)
}

fn used_up(denial: &Denial, exhausted: &Exhausted, now: Nanos) -> Problem {
    let (Some(limit), Some((meter, period))) = (denial.limit(), denial.quota()) else {
        unreachable!("a denial by a quota names it");
    };
    let Exhausted { limited, used, limit: allowed, resets_us } = exhausted;
    let named = named(denial, limit);
    let used = is_own(denial, limit).then_some(*used);
    let facts = |detail: String| {
        let problem = exceeded(denial, limit, detail)
            .with("quota", limit.name)
            .with("meter", meter)
            .with("limit", *allowed);
        match used {
            Some(used) => problem.with("used", used),
            None => problem,
        }
    };
    let (Some(period), Some(resets_us)) = (period, resets_us) else {
        // A level has no end: nothing says when there is room.
        let in_use = match used {
            Some(used) => format!("{used} of {allowed} {meter} are in use"),
            None => format!("it has {allowed} {meter}"),
        };
        return facts(format!("{named} has no room for the request: {in_use}."));
    };
    let retry_s = retry_s(limited, now);
    let resets_at = rfc3339(*resets_us);
    let per = period.as_str();
    let detail = match (retry_s, used) {
        (Some(_), Some(used)) => format!(
            "{named} is used up: {used} of {allowed} {meter} in this {per}. It starts anew at {resets_at}."
        ),
        (Some(_), None) => format!(
            "{named} is used up: it has {allowed} {meter} in a {per}. It starts anew at {resets_at}."
        ),
        (None, _) => format!("The request costs more {meter} than {named} allows in a {per}."),
    };
    let problem = facts(detail).with("period", per).with("resets-at", resets_at);
    with_retry(problem, limit, limited, retry_s)
}

/// What every refusal by limits or quotas says.
fn exceeded(denial: &Denial, limit: LimitView<'_>, detail: String) -> Problem {
    let violated: Vec<Value> = denial.violated().map(|limit| limit.name.into()).collect();
    let mut problem = Problem::of_type(StatusCode::TOO_MANY_REQUESTS, QUOTA_EXCEEDED, detail)
        .with("violated-policies", violated)
        .with("level", limit.level.as_str())
        .header(RATELIMIT_POLICY, fields::compose_policy(denial.limits()));
    if is_own(denial, limit) {
        problem = problem.with("tenant", limit.tenant);
    }
    problem
}

/// Seconds until the request would be admitted, rounded up, so never too early. `None`: never.
fn retry_s(limited: &Limited, now: Nanos) -> Option<u64> {
    match limited.ready_at {
        Some(ready_at) => Some(ready_at.since(now).div_ceil(Nanos::SECOND.0).max(1)),
        None => limited.concurrency.then_some(1),
    }
}

fn with_retry(
    problem: Problem,
    limit: LimitView<'_>,
    limited: &Limited,
    retry_s: Option<u64>,
) -> Problem {
    match retry_s {
        None => problem,
        Some(seconds) => {
            let member = fields::limit_member(limit.name, limited.remaining, seconds);
            problem.header(RATELIMIT, member).header("Retry-After", seconds.to_string())
        }
    }
}
