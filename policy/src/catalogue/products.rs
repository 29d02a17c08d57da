//! Plans, add-ons and apps, and which of them grants what.

use super::index::{Broken, Index, Interner};
use super::versions::Versions;
use crate::diagnostics::Findings;
use crate::documents::{AddonDoc, AppDoc, Located, PlanDoc, Text};
use crate::snapshot::{Addon, App, BitSet, Plan};

pub(crate) struct Products<'d> {
    pub(super) apps: Vec<App>,
    pub(super) plans: Vec<Plan>,
    pub(super) addons: Vec<Addon>,
    pub(super) app_ids: Index<'d>,
    pub(super) plan_ids: Versions<'d>,
    pub(super) addon_ids: Index<'d>,
    /// Apps of each plan and of each add-on, in the order in which they are activated by themselves.
    pub(super) plan_apps: Vec<Vec<u32>>,
    pub(super) addon_apps: Vec<Vec<u32>>,
    /// Their names.
    pub(super) features: Interner<Box<str>>,
}

fn owned(title: Option<&Text<'_>>, id: &str) -> Box<str> {
    title.map_or_else(|| id.into(), |title| (**title).into())
}

fn set(members: &[u32]) -> BitSet {
    let mut set = BitSet::default();
    for member in members {
        set.insert(*member);
    }
    set
}

impl<'d> Products<'d> {
    /// `at_us` decides which version of a plan is offered.
    pub(super) fn build<'i: 'd>(
        apps: &'d [AppDoc<'i>],
        plans: &'d [PlanDoc<'i>],
        addons: &'d [AddonDoc<'i>],
        at_us: i64,
        broken: &Broken<'_>,
        findings: &mut Findings,
    ) -> Self {
        let app_ids = Index::build("app", apps.iter().map(|app| &app.id), findings);
        let plan_ids = Versions::build(plans, findings);
        let addon_ids = Index::build("addon", addons.iter().map(|addon| &addon.id), findings);
        let mut listed = |kind: &str, id: &str, list: &[Located<Text<'_>>]| {
            let key = || format!("{kind}.{id}.apps");
            let found = list.iter().filter_map(|app| app_ids.refer(app, key, broken, findings));
            found.collect::<Vec<u32>>()
        };
        let plan_apps: Vec<_> = plans
            .iter()
            .map(|plan| match &plan.apps {
                Some(list) => listed("plan", &plan.id.value, list),
                None => (0..apps.len() as u32).collect(),
            })
            .collect();
        let addon_apps: Vec<_> =
            addons.iter().map(|addon| listed("addon", &addon.id.value, &addon.apps)).collect();
        let mut features = Interner::new();
        let mut intern = |names: &[Located<Text<'_>>]| {
            set(&names.iter().map(|n| features.intern((*n.value).into())).collect::<Vec<_>>())
        };
        let offered = plan_ids.offered(at_us, plans.len());
        let plan_rows =
            plans.iter().zip(&plan_apps).zip(offered).map(|((doc, apps), is_offered)| {
                plan(doc, is_offered, set(apps), intern(&doc.features))
            });
        let plan_rows = plan_rows.collect();
        let addon_rows = addons.iter().zip(&addon_apps).map(|(doc, apps)| Addon {
            id: (*doc.id.value).into(),
            title: owned(doc.title.as_ref(), &doc.id.value),
            price: doc.price.clone(),
            apps: set(apps),
            features: intern(&doc.features),
        });
        let addon_rows = addon_rows.collect();
        Products {
            apps: apps.iter().map(app).collect(),
            plans: plan_rows,
            addons: addon_rows,
            app_ids,
            plan_ids,
            addon_ids,
            plan_apps,
            addon_apps,
            features,
        }
    }

    /// The number of a feature. One that no plan and no add-on has is a finding.
    pub(super) fn feature(
        &self,
        name: &Located<Text<'_>>,
        key: impl FnOnce() -> String,
        findings: &mut Findings,
    ) -> Option<u32> {
        let found = self.features.find::<str>(&name.value);
        if found.is_none() {
            let message = format!("no plan and no add-on has the feature `{}`", name.value);
            findings.add(name.place, key(), message);
        }
        found
    }
}

fn app(doc: &AppDoc<'_>) -> App {
    let header = doc.end_user_header.as_ref();
    App {
        id: (*doc.id.value).into(),
        title: owned(doc.title.as_ref(), &doc.id.value),
        end_user_header: header.map(|header| header.value.to_ascii_lowercase().into()),
    }
}

fn plan(doc: &PlanDoc<'_>, is_offered: bool, apps: BitSet, features: BitSet) -> Plan {
    Plan {
        id: (*doc.id.value).into(),
        version: doc.version.value,
        is_offered,
        price: doc.price.clone(),
        title: owned(doc.title.as_ref(), &doc.id.value),
        users: doc.users,
        app_count: doc.app_count,
        storage_gb: doc.storage_gb,
        support: doc.support,
        api_tier: doc.api_tier,
        apps,
        features,
    }
}
