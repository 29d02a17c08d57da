//! Plan, add-ons, activated apps and overrides to [`Rights`], each combination once.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::edges::Routes;
use super::products::Products;
use super::timeline::Standing;
use crate::documents::Overrides;
use crate::snapshot::{BitSet, Figures, Rights};

pub(super) struct Entitler<'e> {
    products: &'e Products<'e>,
    routes: &'e Routes<'e>,
    /// Tenants on the same terms share them.
    shared: HashMap<Terms, Arc<Rights>, FixedState>,
}

type Terms = (u32, Vec<u32>, Option<Vec<u32>>, Overrides);

impl<'e> Entitler<'e> {
    pub(super) fn new(products: &'e Products<'e>, routes: &'e Routes<'e>) -> Self {
        Entitler { products, routes, shared: HashMap::default() }
    }

    /// The rights of a tenant with a plan of its own: nothing comes from above.
    pub(super) fn with_plan(&mut self, plan: u32, standing: &Standing) -> Arc<Rights> {
        let Standing { addons, apps, overrides, .. } = standing;
        let terms = (plan, addons.clone(), apps.clone(), *overrides);
        if let Some(rights) = self.shared.get(&terms) {
            return Arc::clone(rights);
        }
        let rights = Arc::new(self.make(plan, standing));
        self.shared.insert(terms, Arc::clone(&rights));
        rights
    }

    /// The figures of a plan with what a contract puts in their place.
    pub(super) fn figures(&self, plan: u32, overrides: &Overrides) -> Figures {
        let row = &self.products.plans[plan as usize];
        let figures = Figures {
            users: row.users,
            app_count: row.app_count,
            storage_gb: row.storage_gb,
            api_tier: row.api_tier,
        };
        overridden(figures, overrides)
    }

    fn make(&self, plan: u32, standing: &Standing) -> Rights {
        let row = &self.products.plans[plan as usize];
        let mut rights = Rights {
            plan,
            routes: BitSet::default(),
            granted: row.apps.clone(),
            extra: BitSet::default(),
            activated: Vec::new(),
            over: Vec::new(),
            features: row.features.clone(),
            addons: Vec::new(),
            figures: self.figures(plan, &standing.overrides),
        };
        self.add_addons(&mut rights, &standing.addons);
        rights.activated = if let Some(apps) = &standing.apps {
            distinct(apps.iter().copied())
        } else {
            let of_plan = self.products.plan_apps[plan as usize].iter().copied();
            let of_plan = of_plan.filter(|app| !rights.extra.contains(*app));
            let count = rights.figures.app_count.map_or(usize::MAX, |count| count as usize);
            distinct(distinct(of_plan).into_iter().take(count).chain(self.apps_of(&rights.addons)))
        };
        rights.over = over(&rights, &[]);
        self.open_routes(&mut rights);
        rights
    }

    /// The rights of a tenant that has its plan from above: what its parent has, what it bought
    /// itself, and of its parent's apps those that it activates.
    pub(super) fn below(&self, parent: &Arc<Rights>, standing: &Standing) -> Arc<Rights> {
        let Standing { addons, apps, overrides, .. } = standing;
        if addons.is_empty() && apps.is_none() && *overrides == Overrides::default() {
            return Arc::clone(parent);
        }
        let mut rights = Rights {
            plan: parent.plan,
            routes: BitSet::default(),
            granted: parent.granted.clone(),
            extra: parent.extra.clone(),
            activated: Vec::new(),
            over: Vec::new(),
            features: parent.features.clone(),
            addons: parent.addons.clone(),
            figures: overridden(parent.figures, overrides),
        };
        self.add_addons(&mut rights, addons);
        let bought = self.apps_of(addons);
        rights.activated = if let Some(apps) = apps {
            let there = |app: &u32| parent.activated.contains(app) || bought.contains(app);
            distinct(apps.iter().copied().filter(there))
        } else {
            distinct(parent.activated.iter().copied().chain(bought.iter().copied()))
        };
        let still = |app: &u32| parent.over.contains(app) && !rights.extra.contains(*app);
        let above: Vec<u32> = rights.activated.iter().copied().filter(still).collect();
        // An order of its own decides only under a number of its own.
        let more = if overrides.app_count.is_some() { over(&rights, &above) } else { Vec::new() };
        rights.over = above.into_iter().chain(more).collect();
        self.open_routes(&mut rights);
        Arc::new(rights)
    }

    fn add_addons(&self, rights: &mut Rights, addons: &[u32]) {
        for addon in addons {
            let row = &self.products.addons[*addon as usize];
            rights.granted.extend(&row.apps);
            rights.extra.extend(&row.apps);
            rights.features.extend(&row.features);
            if !rights.addons.contains(addon) {
                rights.addons.push(*addon);
            }
        }
    }

    fn apps_of(&self, addons: &[u32]) -> Vec<u32> {
        let apps = addons.iter().flat_map(|addon| &self.products.addon_apps[*addon as usize]);
        apps.copied().collect()
    }

    fn open_routes(&self, rights: &mut Rights) {
        let mut usable = BitSet::default();
        let granted = |app: &&u32| rights.granted.contains(**app) && !rights.over.contains(app);
        for app in rights.activated.iter().filter(granted) {
            usable.insert(*app);
        }
        for (index, route) in (0..).zip(&self.routes.routes) {
            let has = |feature| rights.features.contains(feature);
            if usable.contains(route.app)
                && route.tier <= rights.figures.api_tier
                && route.feature.is_none_or(has)
            {
                rights.routes.insert(index);
            }
        }
    }
}

fn overridden(figures: Figures, by: &Overrides) -> Figures {
    Figures {
        users: by.users.or(figures.users),
        app_count: by.app_count.or(figures.app_count),
        storage_gb: by.storage_gb.or(figures.storage_gb),
        api_tier: by.api_tier.unwrap_or(figures.api_tier),
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
