//! A refused request, and everything that can be said of the refusal.

use std::sync::Arc;

use super::{LimitView, MAX_CHAIN, Reason};
use crate::calendar::Period;
use crate::snapshot::{Caller, Figures, GrantedBy, Missing, Route, RouteIndex, Snapshot, Tenant};

/// A refused request.
pub struct Denial {
    pub(super) snapshot: Arc<Snapshot>,
    /// Whose request it was, where that is known.
    pub caller: Option<Caller>,
    /// Its route, where that is known.
    pub route: Option<RouteIndex>,
    /// Why.
    pub reason: Reason,
    pub(super) unix_us: i64,
}

impl Denial {
    /// The tenant, where it is known.
    pub fn tenant(&self) -> Option<&Tenant> {
        self.caller.map(|caller| &self.snapshot.tenants[caller.tenant as usize])
    }

    /// The id of the key that was used, where it is known.
    pub fn key_id(&self) -> Option<&str> {
        self.caller.map(|caller| self.snapshot.keys[caller.key as usize].id.as_str())
    }

    /// The plan's id, where the tenant is known.
    pub fn plan_id(&self) -> Option<&str> {
        self.tenant().map(|tenant| &*self.snapshot.plan_of(tenant).id)
    }

    /// The route, where it is known.
    pub fn route(&self) -> Option<&Route> {
        self.route.map(|route| &self.snapshot.routes[route.0 as usize])
    }

    /// The app's id, where the route is known.
    pub fn app_id(&self) -> Option<&str> {
        self.route().map(|route| &*self.snapshot.apps[route.app as usize].id)
    }

    /// The plans and add-ons of which each by itself would lift the refusal, where a tenant is not
    /// entitled.
    pub fn granted_by(&self) -> GrantedBy<'_> {
        let known = self.entitlement();
        known.map_or_else(GrantedBy::default, |(tenant, route)| {
            self.snapshot.granted_by(tenant, route, self.unix_us)
        })
    }

    /// Everything that the tenant lacks for the route, what is most basic first, where it is not
    /// entitled.
    pub fn missing(&self) -> Vec<Missing> {
        let known = self.entitlement();
        known.map_or_else(Vec::new, |(tenant, route)| self.snapshot.missing(tenant, route))
    }

    /// Tenant and route, where the tenant is not entitled to it.
    fn entitlement(&self) -> Option<(&Tenant, RouteIndex)> {
        match self.reason {
            Reason::NotEntitled
            | Reason::AppNotActivated
            | Reason::AppLimitExceeded
            | Reason::ApiTierTooLow
            | Reason::FeatureNotIncluded => self.tenant().zip(self.route),
            Reason::NotIdentified(_)
            | Reason::NoRoute(_)
            | Reason::Suspended
            | Reason::Unpaid
            | Reason::Limited(_)
            | Reason::QuotaExhausted(_) => None,
        }
    }

    /// The figures of the tenant's plan and contract, where it is known.
    pub fn figures(&self) -> Option<Figures> {
        self.tenant().map(|tenant| tenant.rights.figures)
    }

    /// The ids of the apps that the tenant has activated, in order.
    pub fn activated(&self) -> impl Iterator<Item = &str> {
        let apps = self.tenant().into_iter().flat_map(|tenant| self.snapshot.activated_by(tenant));
        apps.map(|activated| &*activated.app.id)
    }

    /// The feature that the route needs.
    pub fn feature(&self) -> Option<&str> {
        let feature = self.route()?.feature?;
        Some(&self.snapshot.features[feature as usize])
    }

    /// The limit or quota that holds longest, if one refused.
    pub fn limit(&self) -> Option<LimitView<'_>> {
        let (limited, caller) = self.reason.limited().zip(self.caller)?;
        Some(self.snapshot.view(self.snapshot.slot(caller, limited.slot)))
    }

    /// Tokens when full of the bucket that refused: a limit's, or the one a quota throttles to.
    pub fn burst(&self) -> Option<u64> {
        let (limited, caller) = self.reason.limited().zip(self.caller)?;
        Some(self.snapshot.slot(caller, limited.slot).terms()?.burst)
    }

    /// The meter and period of the quota that holds longest, if one refused or throttles; a level has
    /// no period.
    pub fn quota(&self) -> Option<(&str, Option<Period>)> {
        let (limited, caller) = self.reason.limited().zip(self.caller)?;
        let slot = self.snapshot.slot(caller, limited.slot);
        let (meter, period) = match (slot.quota_here(), slot.level_here()) {
            (Some(quota), _) => (quota.rules.meter, Some(quota.period())),
            (None, level) => (level?.meter, None),
        };
        Some((&self.snapshot.meter(meter).id, period))
    }

    /// Every limit and quota that would have refused, narrowest first.
    pub fn violated(&self) -> impl Iterator<Item = LimitView<'_>> {
        let (mask, caller) = match (self.reason.limited(), self.caller) {
            (Some(limited), Some(caller)) => (limited.violated, Some(caller)),
            _ => (0, None),
        };
        (0..MAX_CHAIN as u8).filter(move |index| mask >> index & 1 == 1).filter_map(move |index| {
            caller.map(|caller| self.snapshot.view(self.snapshot.slot(caller, index)))
        })
    }

    /// The limits that hold such a request, narrowest first; none where it is nobody's.
    pub fn limits(&self) -> impl Iterator<Item = LimitView<'_>> {
        let known = self.caller.zip(self.route);
        known.into_iter().flat_map(|(caller, route)| self.snapshot.views(caller, route))
    }
}
