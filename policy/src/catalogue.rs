//! Documents to a snapshot: every reference resolved, every mistake found, state carried over.

mod edges;
mod index;
mod keys;
mod limits;
mod meters;
mod products;
mod quotas;
mod shares;
mod tenants;

use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::diagnostics::{Diagnostics, Findings};
use crate::documents::{self, Located, Source, Text};
use crate::dynamic::DynamicBuckets;
use crate::quota::Memory;
use crate::snapshot::Snapshot;
use index::Broken;
use limits::Limits;
use quotas::Quotas;

/// Builds the snapshot of `sources`, or says everything that is wrong with them.
///
/// Bucket state is taken over from `previous` by tenant (or key) and limit name. Quotas count in
/// `memory`; without it the snapshot can only be judged.
pub(crate) fn build(
    sources: &[Source],
    previous: Option<&Snapshot>,
    dynamic: &Arc<DynamicBuckets>,
    memory: Option<&dyn Memory>,
) -> Result<Snapshot, Diagnostics> {
    let mut findings = Findings::default();
    let documents = documents::read(sources, &mut findings);
    let broken = Broken::new(&documents.broken);

    let upstreams = edges::Upstreams::build(&documents.upstreams, &mut findings);
    let products = products::Products::build(
        &documents.apps,
        &documents.plans,
        &documents.addons,
        &broken,
        &mut findings,
    );
    let mut routes =
        edges::Routes::build(&documents.routes, &products, &upstreams, &broken, &mut findings);
    let meters = meters::Meters::build(
        &documents.meters,
        &documents.routes,
        &products,
        &mut routes,
        &broken,
        &mut findings,
    );
    let mut limits = Limits::new(previous, &products, &routes, &broken);
    let plan_limits = limits.of_plans(&documents.plans, &mut findings);
    let mut quotas = Quotas::new(previous, &meters, &documents.grants);
    let plan_quotas = quotas.of_plans(&documents.plans, &mut limits.labels, &broken, &mut findings);
    let tenants = tenants::build(
        &documents.tenants,
        &products,
        &plan_limits,
        &mut limits,
        &plan_quotas,
        &mut quotas,
        &broken,
        &mut findings,
    );
    let keys = keys::build(&documents.keys, &tenants, &mut limits, &broken, &mut findings);
    let is_there = |tenant: &Located<Text<'_>>, findings: &mut Findings| {
        let key = || format!("grant.{}.tenant", tenant.value);
        tenants.ids.refer(tenant, key, &broken, findings).is_some()
    };
    quotas.finish(is_there, &mut findings);
    if !findings.is_empty() {
        return Err(findings.resolve(sources));
    }
    let Limits { labels, scopes, inherited, .. } = limits;
    let snapshot = Snapshot {
        version: previous.map_or(1, |previous| previous.version + 1),
        keys: keys.entries,
        key_index: keys.index,
        quotas: quotas::places(&tenants.tenants),
        tenants: tenants.tenants,
        tenant_index: tenants.table,
        hasher: FixedState::default(),
        labels: labels.into_items(),
        scopes: scopes.into_items(),
        policy_fields: tenants.policy_fields.into_items(),
        meters: meters.meters,
        volume: meters.volume,
        route_table: routes.table,
        routes: routes.routes,
        plans: products.plans,
        apps: products.apps,
        upstreams: upstreams.upstreams,
        dynamic: Arc::clone(dynamic),
        inherited,
        equipment: std::sync::OnceLock::new(),
    };
    if let Some(memory) = memory {
        quotas::settle(&snapshot, previous, memory);
    }
    Ok(snapshot)
}

#[cfg(all(test, not(loom)))]
mod tests;
