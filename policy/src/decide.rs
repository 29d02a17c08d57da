//! The decision on one request: identify, route, then admit along the whole chain of limits.
//!
//! A chain is walked twice. The first walk only looks, from the narrowest level to the widest;
//! if any level would refuse, nothing has been touched (**P2**) and the answer knows the longest
//! wait of all of them. The second walk takes. Should another request have taken the last token
//! in between, what was taken here is put back, bucket by bucket, to the exact word it was.
//!
//! No allocation, no lock (but the shard lock of per-client limits), no formatting.

mod chain;
mod denial;
mod levels;
mod named;
mod newcomers;
mod refusals;
mod secured;
mod view;

use std::net::IpAddr;
use std::sync::Arc;

use crate::snapshot::{
    COMPOSED, Caller, Missing, NoRoute, NotIdentified, Route, RouteIndex, Slot, Snapshot, Status,
    Tenant,
};
use crate::time::Nanos;
use chain::{Chain, Walk};
pub use denial::Denial;
pub use levels::Body;
use levels::{Held, Rises};
pub use named::MemberOf;
use named::Named;
pub use view::{LimitView, PolicyItem};

/// More limits than this on one chain are refused at validation.
pub(crate) const MAX_CHAIN: usize = 64;

/// A request as the policy sees it.
pub struct Call<'a> {
    /// The API key as presented.
    pub key: Option<&'a [u8]>,
    /// Host, with or without a port.
    pub host: &'a str,
    /// Path without the query.
    pub path: &'a str,
    /// Method, upper case.
    pub method: &'a str,
    /// The client's address.
    pub client: IpAddr,
    /// Its body.
    pub body: Body,
    /// A request header by its lower-case name; asked only where an app names its end users, or a
    /// meter a header.
    pub header: &'a dyn Fn(&str) -> Option<&'a [u8]>,
    /// The one reading of the clock for this request.
    pub now: Nanos,
    /// The same instant as unix microseconds: calendar windows depend on it.
    pub unix_us: i64,
}

/// The answer to a [`Call`].
pub enum Decision {
    /// Forward it.
    Admit(Admission),
    /// Refuse it.
    Deny(Denial),
}

/// An admitted request. Dropping it gives its concurrency permits back.
pub struct Admission {
    /// Who, where, and the permits.
    pub permit: Permit,
    standing: Option<Standing>,
}

/// The limit nearest to its end.
#[derive(Clone, Copy, Debug)]
struct Standing {
    slot: u8,
    remaining: u64,
    /// Whether it is the rate to which a quota throttles.
    throttled: bool,
}

/// What a request holds while it is in flight.
pub struct Permit {
    snapshot: Arc<Snapshot>,
    caller: Caller,
    route: RouteIndex,
    entered: u64,
    held: Held,
    named: Named,
    unix_us: i64,
}

/// Why a request is refused. Closed: it is the metric's label, and each maps to one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// 401.
    NotIdentified(NotIdentified),
    /// 404, 405 or 400.
    NoRoute(NoRoute),
    /// 403.
    Suspended,
    /// 402.
    Unpaid,
    /// 403: neither plan nor add-ons grant the app.
    NotEntitled,
    /// 403: plan or add-ons grant the app, and it is not activated.
    AppNotActivated,
    /// 403: the app is activated beyond the plan's number of apps.
    AppLimitExceeded,
    /// 403: the route needs a higher API tier than the plan has.
    ApiTierTooLow,
    /// 403: the route needs a feature that neither plan nor add-ons have.
    FeatureNotIncluded,
    /// 429.
    Limited(Limited),
    /// 429: a quota is used up, and of all that refuse it holds longest.
    QuotaExhausted(Exhausted),
}

/// Which limits refused, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    slot: u8,
    violated: u64,
    /// Tokens left at the limit that refused, fewer than the request costs.
    pub remaining: u64,
    /// The earliest instant at which the same request would be admitted by every limit if
    /// nothing else is taken; `None` when that is not known (a concurrency limit) or never.
    pub ready_at: Option<Nanos>,
    /// Whether it is a concurrency limit.
    pub concurrency: bool,
    /// Whether the request costs more than the limit's burst, and so can never be admitted.
    pub never: bool,
}

/// A quota that is used up, in units of its meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// Which refused, and until when.
    pub limited: Limited,
    /// What was used in the window.
    pub used: u64,
    /// What may be used in it, with grants and what was rolled over, without grace.
    pub limit: u64,
    /// The end of the window, unix microseconds; `None`: it is of a level, which has no end.
    pub resets_us: Option<i64>,
}

impl Reason {
    fn limited(&self) -> Option<&Limited> {
        match self {
            Reason::Limited(limited) | Reason::QuotaExhausted(Exhausted { limited, .. }) => {
                Some(limited)
            }
            _ => None,
        }
    }
}

impl Snapshot {
    /// Decides a request. `None`: this snapshot is no longer in force, ask the newer one.
    pub fn decide(self: &Arc<Self>, call: &Call<'_>) -> Option<Decision> {
        let caller = match self.identify(call.key) {
            Ok(caller) => caller,
            Err(why) => return Some(self.deny(None, None, Reason::NotIdentified(why), call)),
        };
        let route = match self.route(call.host, call.path, call.method) {
            Ok(route) => route,
            Err(why) => return Some(self.deny(Some(caller), None, Reason::NoRoute(why), call)),
        };
        self.admit(caller, route, call)
    }

    /// The part of [`decide`](Self::decide) after identity and route.
    pub fn admit(
        self: &Arc<Self>,
        caller: Caller,
        route: RouteIndex,
        call: &Call<'_>,
    ) -> Option<Decision> {
        let tenant = &self.tenants[caller.tenant as usize];
        let rule = &self.routes[route.0 as usize];
        let deny = |reason| Some(self.deny(Some(caller), Some(route), reason, call));
        match tenant.status {
            Status::Active => {}
            Status::Suspended => return deny(Reason::Suspended),
            Status::Unpaid => return deny(Reason::Unpaid),
        }
        if !tenant.rights.routes.contains(route.0) {
            return deny(match tenant.rights.first_missing(rule) {
                Missing::Grant => Reason::NotEntitled,
                Missing::Activation => Reason::AppNotActivated,
                Missing::Room => Reason::AppLimitExceeded,
                Missing::Tier => Reason::ApiTierTooLow,
                Missing::Feature => Reason::FeatureNotIncluded,
            });
        }
        let mut named = Named::read(self, tenant, rule, call);
        let rises = Rises::read(self, rule, call);
        let chain = Chain::new(self, caller, route, call, (&named, &rises));
        match chain.walk() {
            Walk::Admitted { entered, nearest, throttled, new } => {
                named.set_new(new);
                let held = rises.held();
                let (snapshot, unix_us) = (Arc::clone(self), call.unix_us);
                let permit = Permit { snapshot, caller, route, entered, held, named, unix_us };
                let standing = nearest.map(|(slot, remaining)| {
                    let throttled = throttled >> slot & 1 == 1;
                    Standing { slot, remaining, throttled }
                });
                Some(Decision::Admit(Admission { permit, standing }))
            }
            Walk::Refused(reason) => deny(reason),
            Walk::Stale => None,
        }
    }

    fn deny(
        self: &Arc<Self>,
        caller: Option<Caller>,
        route: Option<RouteIndex>,
        reason: Reason,
        call: &Call<'_>,
    ) -> Decision {
        let (snapshot, unix_us) = (Arc::clone(self), call.unix_us);
        Decision::Deny(Denial { snapshot, caller, route, reason, unix_us })
    }

    fn slot(&self, caller: Caller, index: u8) -> &Slot {
        let own = &self.keys[caller.key as usize].own;
        let chain = &self.tenants[caller.tenant as usize].chain;
        own.iter().chain(&**chain).nth(index.into()).expect("slots are named by this snapshot")
    }

    fn view(&self, slot: &Slot) -> LimitView<'_> {
        let (quota, window_s) = slot.quota();
        LimitView {
            name: &self.labels[slot.label as usize].full,
            level: slot.level,
            tenant: &self.tenants[slot.owner as usize].id,
            quota,
            window_s,
        }
    }

    fn views(&self, caller: Caller, route: RouteIndex) -> impl Iterator<Item = LimitView<'_>> {
        let own = &self.keys[caller.key as usize].own;
        let chain = &self.tenants[caller.tenant as usize].chain;
        let applies = move |slot: &&Slot| self.applies(slot, route) && slot.is_shown();
        own.iter().chain(&**chain).filter(applies).map(|slot| self.view(slot))
    }
}

impl Permit {
    /// The tenant.
    pub fn tenant(&self) -> &Tenant {
        &self.snapshot.tenants[self.caller.tenant as usize]
    }

    /// The id of the key that was used.
    pub fn key_id(&self) -> &str {
        self.snapshot.keys[self.caller.key as usize].id.as_str()
    }

    /// The plan's id.
    pub fn plan_id(&self) -> &str {
        &self.snapshot.plan_of(self.tenant()).id
    }

    /// The route.
    pub fn route(&self) -> &Route {
        &self.snapshot.routes[self.route.0 as usize]
    }

    /// The app's id.
    pub fn app_id(&self) -> &str {
        &self.snapshot.apps[self.route().app as usize].id
    }

    /// Everybody the request is to the distinct meters of its route.
    pub fn members(&self) -> impl Iterator<Item = MemberOf<'_>> {
        self.named.each(&self.snapshot, self.tenant(), self.route(), self.unix_us)
    }

    /// The snapshot that admitted the request.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}

impl Permit {
    /// Gives the concurrency permits back; the rest stays readable. Does nothing the second time.
    /// What is reserved of levels is given back by [`release_levels`](Self::release_levels).
    pub fn release(&mut self) {
        let entered = std::mem::take(&mut self.entered);
        if entered != 0 {
            chain::leave(&self.snapshot, self.caller, entered);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release();
        self.release_levels();
    }
}

impl Admission {
    /// The limit nearest to its end, what is left of it, and in how many seconds there is more
    /// (the time of one token, rounded up; of a quota, what is left of its window). `None`: no rate
    /// limit and no quota applies.
    pub fn nearest(&self) -> Option<(LimitView<'_>, u64, u64)> {
        let Standing { slot, remaining, throttled } = self.standing?;
        let snapshot = &self.permit.snapshot;
        let slot = snapshot.slot(self.permit.caller, slot);
        let seconds = match slot.quota_here() {
            Some(quota) if !throttled => quota.seconds_left(self.permit.unix_us),
            _ => slot.terms().map_or(1, |t| t.interval_ns.div_ceil(Nanos::SECOND.0)),
        };
        Some((snapshot.view(slot), remaining, seconds))
    }

    /// Which of [`Snapshot::policy_fields`] lists the limits of this request; `None`: put it
    /// together from [`limits`](Self::limits).
    pub fn policy_field(&self) -> Option<usize> {
        let permit = &self.permit;
        let own = &permit.snapshot.keys[permit.caller.key as usize].own;
        let field = permit.tenant().policy_field;
        (own.is_empty() && field != COMPOSED).then_some(field as usize)
    }

    /// The limits that held this request, narrowest first.
    pub fn limits(&self) -> impl Iterator<Item = LimitView<'_>> {
        self.permit.snapshot.views(self.permit.caller, self.permit.route)
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
pub(crate) mod tests;
