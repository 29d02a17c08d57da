//! Plans, add-ons and apps, and which of them grants what.

use super::index::{Broken, Index, Interner};
use super::versions::Versions;
use crate::diagnostics::Findings;
use crate::documents::{AddonDoc, AppDoc, Located, PlanDoc, Text};
use crate::snapshot::{Addon, App, BitSet, Plan, Shelf};

pub(crate) struct Products<'d> {
    pub(super) apps: Vec<App>,
    pub(super) plans: Vec<Plan>,
    pub(super) addons: Vec<Addon>,
    pub(super) app_ids: Index<'d>,
    pub(super) plan_ids: Versions<'d>,
    pub(super) addon_ids: Index<'d>,
    /// Their names.
    pub(super) features: Interner<Box<str>>,
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
        let plan_ids = Versions::build(plans, findings);
        let addon_ids = Index::build("addon", addons.iter().map(|addon| &addon.id), findings);
        let mut listed = |kind: &str, id: &str, list: &[Located<Text<'_>>]| {
            let key = || format!("{kind}.{id}.apps");
            let found = list.iter().filter_map(|app| app_ids.refer(app, key, broken, findings));
            found.collect::<Vec<u32>>()
        };
        let mut features = Interner::new();
        let mut intern = |names: &[Located<Text<'_>>]| -> BitSet {
            names.iter().map(|name| features.intern((*name.value).into())).collect()
        };
        let plan_rows = plans.iter().map(|doc| {
            let app_order = match &doc.apps {
                Some(list) => listed("plan", &doc.id.value, list),
                None => (0..apps.len() as u32).collect(),
            };
            plan(doc, app_order, intern(&doc.features))
        });
        let plan_rows = plan_rows.collect();
        let addon_rows = addons.iter().map(|doc| {
            let app_order = listed("addon", &doc.id.value, &doc.apps);
            Addon {
                id: (*doc.id.value).into(),
                title: owned(doc.title.as_ref(), &doc.id.value),
                price: doc.price.clone(),
                support: doc.support,
                apps: app_order.iter().copied().collect(),
                app_order,
                features: intern(&doc.features),
            }
        });
        let addon_rows = addon_rows.collect();
        Products {
            apps: apps.iter().map(app).collect(),
            plans: plan_rows,
            addons: addon_rows,
            app_ids,
            plan_ids,
            addon_ids,
            features,
        }
    }

    /// What is sold.
    pub(super) fn shelf(&self) -> Shelf<'_> {
        Shelf { plans: &self.plans, addons: &self.addons }
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

fn plan(doc: &PlanDoc<'_>, app_order: Vec<u32>, features: BitSet) -> Plan {
    Plan {
        id: (*doc.id.value).into(),
        version: doc.version.value,
        public: doc.public,
        from: doc.from.as_ref().map(|from| from.value),
        price: doc.price.clone(),
        title: owned(doc.title.as_ref(), &doc.id.value),
        users: doc.users,
        app_count: doc.app_count,
        storage_gb: doc.storage_gb,
        support: doc.support,
        api_tier: doc.api_tier,
        apps: app_order.iter().copied().collect(),
        app_order,
        features,
    }
}
