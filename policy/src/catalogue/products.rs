//! Plans, add-ons and apps, and which of them grants what.

use super::index::{Broken, Index};
use crate::diagnostics::Findings;
use crate::documents::{AddonDoc, AppDoc, Located, PlanDoc, Text};
use crate::snapshot::{App, BitSet, Plan};

pub(crate) struct Products<'d> {
    pub(super) apps: Vec<App>,
    pub(super) plans: Vec<Plan>,
    pub(super) app_ids: Index<'d>,
    pub(super) plan_ids: Index<'d>,
    pub(super) addon_ids: Index<'d>,
    /// Apps of each plan and of each add-on.
    pub(super) plan_apps: Vec<BitSet>,
    pub(super) addon_apps: Vec<BitSet>,
}

fn owned(title: Option<&Text<'_>>, id: &str) -> Box<str> {
    title.map_or_else(|| id.into(), |title| (**title).into())
}

impl<'d> Products<'d> {
    pub(super) fn build<'i: 'd>(
        apps: &'d [AppDoc<'i>],
        plans: &'d [PlanDoc<'i>],
        addons: &'d [AddonDoc<'i>],
        broken: &Broken<'_>,
        findings: &mut Findings,
    ) -> Self {
        let app_ids = Index::build("app", apps.iter().map(|app| &app.id), findings);
        let plan_ids = Index::build("plan", plans.iter().map(|plan| &plan.id), findings);
        let addon_ids = Index::build("addon", addons.iter().map(|addon| &addon.id), findings);
        let mut set = |kind: &str, id: &str, list: &[Located<Text<'_>>]| {
            let mut set = BitSet::default();
            for app in list {
                let key = || format!("{kind}.{id}.apps");
                if let Some(index) = app_ids.refer(app, key, broken, findings) {
                    set.insert(index);
                }
            }
            set
        };
        let all = || {
            (0..apps.len() as u32).fold(BitSet::default(), |mut set, app| {
                set.insert(app);
                set
            })
        };
        let plan_apps: Vec<_> = plans
            .iter()
            .map(|plan| {
                plan.apps.as_ref().map_or_else(all, |list| set("plan", &plan.id.value, list))
            })
            .collect();
        let addon_apps: Vec<_> =
            addons.iter().map(|addon| set("addon", &addon.id.value, &addon.apps)).collect();
        let apps = (0..).zip(apps).map(|(index, app)| App {
            id: (*app.id.value).into(),
            title: owned(app.title.as_ref(), &app.id.value),
            end_user_header: app
                .end_user_header
                .as_ref()
                .map(|header| header.value.to_ascii_lowercase().into()),
            granted_by: granted_by(index, plans, &plan_apps, addons, &addon_apps),
        });
        let apps = apps.collect();
        let plans = plans.iter().map(|plan| Plan {
            id: (*plan.id.value).into(),
            title: owned(plan.title.as_ref(), &plan.id.value),
            users: plan.users,
            app_count: plan.app_count,
            storage_gb: plan.storage_gb,
            support: plan.support,
            api_tier: plan.api_tier,
        });
        let plans = plans.collect();
        Products { apps, plans, app_ids, plan_ids, addon_ids, plan_apps, addon_apps }
    }
}

/// `plan business, plan enterprise, add-on advanced-ai`, or `nothing`.
fn granted_by(
    app: u32,
    plans: &[PlanDoc<'_>],
    plan_apps: &[BitSet],
    addons: &[AddonDoc<'_>],
    addon_apps: &[BitSet],
) -> Box<str> {
    let plans = plans.iter().zip(plan_apps).map(|(plan, apps)| ("plan", &plan.id.value, apps));
    let addons = addons.iter().zip(addon_apps).map(|(a, apps)| ("add-on", &a.id.value, apps));
    let grants: Vec<_> = plans
        .chain(addons)
        .filter(|(_, _, apps)| apps.contains(app))
        .map(|(kind, id, _)| format!("{kind} {id}"))
        .collect();
    if grants.is_empty() { "nothing".into() } else { grants.join(", ").into() }
}
