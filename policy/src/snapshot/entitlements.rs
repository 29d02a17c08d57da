//! What a tenant is entitled to, as an operator, the tenant itself or a refusal wants to know it.

use super::{Addon, App, Change, Figures, Plan, Snapshot, Status, Tenant};

/// What a tenant is entitled to at the instant the snapshot was made for.
#[derive(Clone, Debug)]
pub struct Entitlements<'s> {
    /// The plan in force, whose `version` it is.
    pub plan: &'s Plan,
    /// Figures in force.
    pub figures: Figures,
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

impl Snapshot {
    /// What a tenant of this snapshot is entitled to.
    pub fn entitlements_of<'s>(&'s self, tenant: &'s Tenant) -> Entitlements<'s> {
        let rights = &tenant.rights;
        let features = (0..).zip(&self.features);
        let has = |(index, _): &(u32, _)| rights.features.contains(*index);
        Entitlements {
            plan: self.plan_of(tenant),
            figures: rights.figures,
            addons: rights.addons.iter().map(|index| &self.addons[*index as usize]).collect(),
            features: features.filter(has).map(|(_, name)| &**name).collect(),
            apps: self.activated_by(tenant).collect(),
            status: tenant.status,
            trial_until_us: tenant.trial_until_us,
            next_change: self.next_change_of(tenant),
        }
    }

    /// The apps that a tenant has activated, in order.
    pub(crate) fn activated_by<'s>(
        &'s self,
        tenant: &'s Tenant,
    ) -> impl Iterator<Item = Activated<'s>> {
        let rights = &tenant.rights;
        rights.activated.iter().map(|app| Activated {
            app: &self.apps[*app as usize],
            over_limit: rights.over.contains(app),
            granted: rights.granted.contains(*app),
        })
    }

    /// The activated apps that a tenant cannot use: beyond its number of apps, or granted by
    /// nothing. Not of those that have just what the tenant above has.
    pub fn unusable_apps(&self) -> impl Iterator<Item = (&Tenant, Activated<'_>)> {
        let own = self.tenants.iter().filter(|tenant| !tenant.inherits);
        own.flat_map(|tenant| {
            let unusable = |app: &Activated<'_>| app.over_limit || !app.granted;
            self.activated_by(tenant).filter(unusable).map(move |app| (tenant, app))
        })
    }
}
