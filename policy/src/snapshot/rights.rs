//! What a tenant is entitled to, resolved: one set of routes for the hot path, and beside it
//! everything that a refusal, an operator or the tenant itself wants to know about it.

use std::sync::Arc;

use super::{ApiTier, App, BitSet, Plan, RouteIndex, Snapshot, Status, SupportLevel, Tenant};
use crate::price::Price;

/// What tenants on the same terms share.
#[derive(Debug)]
pub(crate) struct Rights {
    /// Index into [`Snapshot::plans`].
    pub(crate) plan: u32,
    /// The routes that app, API tier and features open: all that the hot path asks.
    pub(crate) routes: BitSet,
    /// Apps that plan and add-ons grant.
    pub(crate) granted: BitSet,
    /// Those of them that add-ons grant: they do not count.
    pub(crate) extra: BitSet,
    /// Activated apps, in order.
    pub(crate) activated: Vec<u32>,
    /// Activated beyond the plan's number of apps.
    pub(crate) over: Vec<u32>,
    pub(crate) features: BitSet,
    /// In the order they were bought, those of the tenants above first.
    pub(crate) addons: Vec<u32>,
    /// The plan's figures with what the tenant's contract puts in their place.
    pub(crate) figures: Figures,
}

/// The numbers of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Active users; `None`: unlimited.
    pub users: Option<u64>,
    /// Activated apps, those of add-ons aside; `None`: unlimited.
    pub app_count: Option<u64>,
    /// Storage in GB (10^9 bytes); `None`: unlimited.
    pub storage_gb: Option<u64>,
    /// API tier.
    pub api_tier: ApiTier,
}

/// An add-on as sold.
#[derive(Debug)]
pub struct Addon {
    /// Its id.
    pub id: Box<str>,
    /// Its name for people.
    pub title: Box<str>,
    /// What it costs, where that is said.
    pub price: Option<Price>,
    pub(crate) apps: BitSet,
    pub(crate) features: BitSet,
}

/// What becomes different at an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Unix microseconds.
    pub at_us: i64,
    /// The tenant; `None`: a plan is offered in another version from then on.
    pub tenant: Option<Box<str>>,
    /// For people: `plan business@2, status active`.
    pub what: Box<str>,
}

/// What a tenant is entitled to at the instant the snapshot was made for.
#[derive(Clone, Debug)]
pub struct Entitlements<'s> {
    /// The plan in force, whose `version` it is.
    pub plan: &'s Plan,
    /// Figures in force.
    pub figures: Figures,
    /// Support hours.
    pub support: SupportLevel,
    /// Add-ons in force, those of the tenants above too.
    pub addons: Vec<&'s Addon>,
    /// Features of the plan and the add-ons.
    pub features: Vec<&'s str>,
    /// Activated apps in order, and whether each is beyond the plan's number of apps.
    pub apps: Vec<Activated<'s>>,
    /// The widest of its own status and its ancestors'.
    pub status: Status,
    /// End of the trial it is on, unix microseconds.
    pub trial_until_us: Option<i64>,
    /// The next change of it or of a tenant above.
    pub next_change: Option<&'s Change>,
}

/// An app that was activated.
#[derive(Clone, Copy, Debug)]
pub struct Activated<'s> {
    /// The app.
    pub app: &'s App,
    /// Whether it is one more than the plan allows.
    pub over_limit: bool,
    /// Whether plan or add-ons grant it.
    pub granted: bool,
}

/// Plans and add-ons that would lift a refusal, by id, in the order of the documents. Of a plan
/// only the version that is offered counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantedBy<'s> {
    /// Plans.
    pub plans: Vec<&'s str>,
    /// Add-ons.
    pub addons: Vec<&'s str>,
}

/// Why a tenant's entitlements do not cover a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Grant,
    Activation,
    Room,
    Tier,
    Feature,
}

impl Rights {
    /// What is missing for a route that is not in `routes`. Allocates nothing.
    pub(crate) fn missing(&self, snapshot: &Snapshot, route: RouteIndex) -> Missing {
        let route = &snapshot.routes[route.0 as usize];
        if !self.granted.contains(route.app) {
            Missing::Grant
        } else if !self.activated.contains(&route.app) {
            Missing::Activation
        } else if self.over.contains(&route.app) {
            Missing::Room
        } else if route.tier > self.figures.api_tier {
            Missing::Tier
        } else {
            Missing::Feature
        }
    }
}

impl Snapshot {
    /// What a tenant of this snapshot is entitled to.
    pub fn entitlements_of(&self, tenant: &Tenant) -> Entitlements<'_> {
        let rights = &tenant.rights;
        let plan = &self.plans[rights.plan as usize];
        let features = (0..).zip(&self.features);
        let has = |(index, _): &(u32, _)| rights.features.contains(*index);
        let activated = |app: &u32| Activated {
            app: &self.apps[*app as usize],
            over_limit: rights.over.contains(app),
            granted: rights.granted.contains(*app),
        };
        Entitlements {
            plan,
            figures: rights.figures,
            support: plan.support,
            addons: rights.addons.iter().map(|index| &self.addons[*index as usize]).collect(),
            features: features.filter(has).map(|(_, name)| &**name).collect(),
            apps: rights.activated.iter().map(activated).collect(),
            status: tenant.status,
            trial_until_us: tenant.trial_until_us,
            next_change: self.next_change_of(tenant),
        }
    }

    /// The activated apps that a tenant cannot use: beyond its number of apps, or granted by
    /// nothing. Not of those that have just what the tenant above has.
    pub fn unusable_apps(&self) -> impl Iterator<Item = (&Tenant, Activated<'_>)> {
        let own = |tenant: &&Tenant| {
            let above = tenant.path.rsplit('/').nth(1).and_then(|id| self.tenant(id));
            above.is_none_or(|above| !Arc::ptr_eq(&above.rights, &tenant.rights))
        };
        self.tenants.iter().filter(own).flat_map(|tenant| {
            let apps = self.entitlements_of(tenant).apps.into_iter();
            apps.filter(|app| app.over_limit || !app.granted).map(move |app| (tenant, app))
        })
    }

    /// The instant this snapshot was made for, unix microseconds.
    pub fn at_us(&self) -> i64 {
        self.at_us
    }

    /// Every change that the documents hold, in order, those that have taken effect too.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The earliest instant after [`at_us`](Self::at_us) at which the same documents resolve
    /// differently, unix microseconds. `None`: never.
    pub fn next_change_us(&self) -> Option<i64> {
        self.upcoming().first().map(|change| change.at_us)
    }

    /// The changes that have not taken effect, in order.
    pub fn upcoming(&self) -> &[Change] {
        let past = self.changes.partition_point(|change| change.at_us <= self.at_us);
        &self.changes[past..]
    }

    fn next_change_of(&self, tenant: &Tenant) -> Option<&Change> {
        let concerns = |change: &&Change| {
            let above = change.tenant.as_deref();
            above.is_some_and(|above| tenant.path.split('/').any(|id| id == above))
        };
        self.upcoming().iter().find(concerns)
    }

    /// What would grant the app of a route: to a tenant that has no grant of it.
    pub(crate) fn grant_app(&self, route: RouteIndex) -> GrantedBy<'_> {
        let app = self.routes[route.0 as usize].app;
        self.offers(|plan| plan.apps.contains(app), |addon| addon.apps.contains(app))
    }

    /// The plans that have room for more apps than `rights`, and the app of the route.
    pub(crate) fn grant_room(&self, rights: &Rights, route: RouteIndex) -> GrantedBy<'_> {
        let app = self.routes[route.0 as usize].app;
        let now = rights.figures.app_count;
        let more =
            |count: Option<u64>| count.is_none_or(|count| now.is_some_and(|now| count > now));
        self.offers(|plan| plan.apps.contains(app) && more(plan.app_count), |_| false)
    }

    /// The plans whose API tier reaches a route.
    pub(crate) fn grant_tier(&self, route: RouteIndex) -> GrantedBy<'_> {
        let tier = self.routes[route.0 as usize].tier;
        self.offers(|plan| plan.api_tier >= tier, |_| false)
    }

    /// What has the feature that a route needs.
    pub(crate) fn grant_feature(&self, route: RouteIndex) -> GrantedBy<'_> {
        let Some(feature) = self.routes[route.0 as usize].feature else {
            return GrantedBy::default();
        };
        self.offers(|p| p.features.contains(feature), |a| a.features.contains(feature))
    }

    fn offers(
        &self,
        plan: impl Fn(&Plan) -> bool,
        addon: impl Fn(&Addon) -> bool,
    ) -> GrantedBy<'_> {
        let plans = self.plans.iter().filter(|p| p.is_offered && plan(p)).map(|p| &*p.id);
        let addons = self.addons.iter().filter(|a| addon(a)).map(|a| &*a.id);
        GrantedBy { plans: plans.collect(), addons: addons.collect() }
    }
}
