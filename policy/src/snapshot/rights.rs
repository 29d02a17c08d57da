//! What a tenant is entitled to: worked out from what it agreed to, what comes from above, and what
//! is sold. One set of routes is all that the hot path asks.
//!
//! Nothing else goes into it, so that a refusal can ask what another plan or one more add-on would
//! come to.

use std::sync::Arc;

use super::{Addon, ApiTier, BitSet, Plan, Route, SupportLevel};
use crate::documents::{Count, OwnFigures};

/// The numbers of a plan, with what add-ons and contracts make of them.
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
    /// Support hours.
    pub support: SupportLevel,
}

/// What a tenant agreed to itself; the rest comes from above.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Contract {
    /// With a plan of its own nothing comes from above.
    pub(crate) plan: Option<u32>,
    pub(crate) addons: Vec<u32>,
    /// Activated apps, in order. `None`: those of the plan, or of the tenant above.
    pub(crate) apps: Option<Vec<u32>>,
    pub(crate) figures: OwnFigures,
    /// In the place of the plan's.
    pub(crate) features: Option<Vec<u32>>,
}

/// What tenants on the same terms share.
#[derive(Debug)]
pub(crate) struct Rights {
    pub(crate) contract: Contract,
    /// What the tenant above has, where the plan is from there.
    pub(crate) above: Option<Arc<Rights>>,
    /// Index into [`Snapshot::plans`](super::Snapshot::plans).
    pub(crate) plan: u32,
    /// The routes that app, API tier and features open.
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
    pub(crate) figures: Figures,
}

/// What is missing for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Neither plan nor add-ons grant the app.
    Grant,
    /// The app is not among those that the tenant, or one above it, has activated.
    Activation,
    /// As many apps are activated as the plan allows.
    Room,
    /// The API tier is too low.
    Tier,
    /// Neither plan nor add-ons have the feature.
    Feature,
}

impl Rights {
    /// Whether everything for a route is there.
    pub(super) fn admit(&self, route: &Route) -> bool {
        self.granted.contains(route.app)
            && self.activated.contains(&route.app)
            && !self.over.contains(&route.app)
            && self.reach(route)
            && self.feature(route)
    }

    /// What is missing first for a route that is not in `routes`. Allocates nothing.
    pub(crate) fn first_missing(&self, route: &Route) -> Missing {
        if !self.granted.contains(route.app) {
            Missing::Grant
        } else if !self.activated.contains(&route.app) {
            Missing::Activation
        } else if self.over.contains(&route.app) {
            Missing::Room
        } else if !self.reach(route) {
            Missing::Tier
        } else {
            Missing::Feature
        }
    }

    pub(super) fn reach(&self, route: &Route) -> bool {
        route.tier <= self.figures.api_tier
    }

    pub(super) fn feature(&self, route: &Route) -> bool {
        route.feature.is_none_or(|feature| self.features.contains(feature))
    }

    /// Whether the tenant, or one above it, lists its apps, and this one is not among them.
    pub(super) fn leave_out(&self, app: u32) -> bool {
        let here = self.contract.apps.as_ref().is_some_and(|apps| !apps.contains(&app));
        here || self.above.as_ref().is_some_and(|above| above.leave_out(app))
    }

    /// Works out the routes that are open.
    pub(crate) fn open(&mut self, routes: &[Route]) {
        let mut usable = BitSet::default();
        let granted = |app: &&u32| self.granted.contains(**app) && !self.over.contains(app);
        for app in self.activated.iter().filter(granted) {
            usable.insert(*app);
        }
        let mut open = BitSet::default();
        for (index, route) in (0..).zip(routes) {
            if usable.contains(route.app) && self.reach(route) && self.feature(route) {
                open.insert(index);
            }
        }
        self.routes = open;
    }
}

/// What a tenant might buy or do.
#[derive(Clone, Copy, Default)]
pub(super) struct Supposed {
    pub(super) plan: Option<u32>,
    pub(super) addon: Option<u32>,
    /// It activates this app, and so do the tenants above it, where they list their own.
    pub(super) app: u32,
}

/// Everything that is sold.
#[derive(Clone, Copy)]
pub(crate) struct Shelf<'s> {
    pub(crate) plans: &'s [Plan],
    pub(crate) addons: &'s [Addon],
}

impl Shelf<'_> {
    /// The rights of a tenant with a plan of its own: nothing comes from above. No route is open
    /// until [`Rights::open`].
    pub(crate) fn with_plan(self, plan: u32, contract: &Contract) -> Rights {
        let row = &self.plans[plan as usize];
        let mut rights = Rights {
            contract: contract.clone(),
            above: None,
            plan,
            routes: BitSet::default(),
            granted: row.apps.clone(),
            extra: BitSet::default(),
            activated: Vec::new(),
            over: Vec::new(),
            features: row.features.clone(),
            addons: Vec::new(),
            figures: instead(row.figures(), &contract.figures),
        };
        if let Some(features) = &contract.features {
            rights.features = features.iter().copied().collect();
        }
        self.add_addons(&mut rights);
        rights.activated = if let Some(apps) = &contract.apps {
            distinct(apps.iter().copied())
        } else {
            let of_plan = row.app_order.iter().copied();
            let of_plan = of_plan.filter(|app| !rights.extra.contains(*app));
            let count = rights.figures.app_count.map_or(usize::MAX, |count| count as usize);
            let bought = self.apps_of(&rights.addons);
            distinct(distinct(of_plan).into_iter().take(count).chain(bought))
        };
        rights.over = over(&rights, &[]);
        rights
    }

    /// The rights of a tenant that has its plan from above: what its parent has, what it bought
    /// itself, and of its parent's apps those that it activates. No route is open until
    /// [`Rights::open`].
    pub(crate) fn below(self, parent: &Arc<Rights>, contract: &Contract) -> Rights {
        let mut rights = Rights {
            contract: contract.clone(),
            above: Some(Arc::clone(parent)),
            plan: parent.plan,
            routes: BitSet::default(),
            granted: parent.granted.clone(),
            extra: parent.extra.clone(),
            activated: Vec::new(),
            over: Vec::new(),
            features: parent.features.clone(),
            addons: parent.addons.clone(),
            figures: instead(parent.figures, &contract.figures),
        };
        if let Some(features) = &contract.features {
            rights.features = features.iter().copied().collect();
            for addon in &parent.addons {
                rights.features.extend(&self.addons[*addon as usize].features);
            }
        }
        self.add_addons(&mut rights);
        let bought = self.apps_of(&contract.addons);
        rights.activated = if let Some(apps) = &contract.apps {
            let there = |app: &u32| parent.activated.contains(app) || bought.contains(app);
            distinct(apps.iter().copied().filter(there))
        } else {
            distinct(parent.activated.iter().copied().chain(bought.iter().copied()))
        };
        let still = |app: &u32| parent.over.contains(app) && !rights.extra.contains(*app);
        let above: Vec<u32> = rights.activated.iter().copied().filter(still).collect();
        // An order of its own decides only under a number of its own.
        let more =
            if contract.figures.app_count.is_some() { over(&rights, &above) } else { Vec::new() };
        rights.over = above.into_iter().chain(more).collect();
        rights
    }

    /// The rights of a tenant with a contract of its own that has these, if it bought something or
    /// activated an app.
    pub(super) fn supposing(self, rights: &Rights, what: Supposed) -> Rights {
        let mut contract = rights.contract.clone();
        contract.addons.extend(what.addon);
        if let Some(apps) = contract.apps.as_mut().filter(|apps| !apps.contains(&what.app)) {
            apps.push(what.app);
        }
        match &rights.above {
            None => self.with_plan(what.plan.unwrap_or(rights.plan), &contract),
            Some(above) => {
                let above = self.supposing(above, Supposed { addon: None, ..what });
                self.below(&Arc::new(above), &contract)
            }
        }
    }

    fn add_addons(self, rights: &mut Rights) {
        for addon in &rights.contract.addons {
            let row = &self.addons[*addon as usize];
            rights.granted.extend(&row.apps);
            rights.extra.extend(&row.apps);
            rights.features.extend(&row.features);
            if !rights.addons.contains(addon) {
                rights.addons.push(*addon);
            }
            let support = &mut rights.figures.support;
            *support = row.support.map_or(*support, |least| least.max(*support));
        }
    }

    fn apps_of(self, addons: &[u32]) -> Vec<u32> {
        let apps = addons.iter().flat_map(|addon| &self.addons[*addon as usize].app_order);
        apps.copied().collect()
    }
}

/// Figures with what stands in their place.
pub(crate) fn instead(figures: Figures, own: &OwnFigures) -> Figures {
    let count = |own: Option<Count>, figure| match own {
        None => figure,
        Some(Count::At(count)) => Some(count),
        Some(Count::Unlimited) => None,
    };
    Figures {
        users: count(own.users, figures.users),
        app_count: count(own.app_count, figures.app_count),
        storage_gb: count(own.storage_gb, figures.storage_gb),
        api_tier: own.api_tier.unwrap_or(figures.api_tier),
        support: own.support.unwrap_or(figures.support),
    }
}

/// The activated apps beyond the number of apps, in order. What add-ons grant does not count, and
/// neither does what nothing grants, or what is `out` already.
fn over(rights: &Rights, out: &[u32]) -> Vec<u32> {
    let of_plan = |app: u32| rights.granted.contains(app) && !rights.extra.contains(app);
    let counted = |app: &&u32| of_plan(**app) && !out.contains(app);
    let count = rights.figures.app_count.map_or(usize::MAX, |count| count as usize);
    rights.activated.iter().filter(counted).skip(count).copied().collect()
}

fn distinct(apps: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut seen = BitSet::default();
    apps.filter(|app| {
        let is_new = !seen.contains(*app);
        seen.insert(*app);
        is_new
    })
    .collect()
}
