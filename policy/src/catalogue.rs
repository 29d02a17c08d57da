//! Documents to a snapshot: every reference resolved, every mistake found, state carried over.

mod edges;
mod entitle;
mod index;
mod keys;
mod limits;
mod meters;
mod products;
mod quotas;
mod shares;
mod tenants;
mod timeline;
mod versions;

use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::diagnostics::{Diagnostics, Findings};
use crate::documents::{self, Source};
use crate::dynamic::DynamicBuckets;
use crate::levels::Levels;
use crate::snapshot::{Changes, Snapshot};
use index::Broken;
use limits::Limits;
use quotas::Quotas;

/// Builds the snapshot of `sources` for the instant `at_us` (unix microseconds), or says everything
/// that is wrong with them.
///
/// Bucket state is taken over from `previous` by tenant (or key) and limit name. Quotas count in
/// the memory of `levels`; without it the snapshot can only be judged.
///
/// Nothing that these documents name may turn out wrong at an instant to come, when nobody looks:
/// what depends on one is judged for every one of them.
pub(crate) fn build(
    sources: &[Source],
    at_us: i64,
    previous: Option<&Snapshot>,
    dynamic: &Arc<DynamicBuckets>,
    levels: Option<&Levels>,
) -> Result<Snapshot, Diagnostics> {
    let mut findings = Findings::default();
    let snapshot = resolve(sources, at_us, previous, dynamic, &mut findings);
    let snapshot = snapshot.ok_or_else(|| findings.resolve(sources))?;
    if let Some(levels) = levels {
        quotas::settle(&snapshot, previous, levels);
    }
    Ok(snapshot)
}

/// Judges `sources` as [`build`] does, and says what is no mistake, and perhaps not meant.
pub(crate) fn review(
    sources: &[Source],
    at_us: i64,
    dynamic: &Arc<DynamicBuckets>,
) -> Result<(Snapshot, Diagnostics), Diagnostics> {
    let mut findings = Findings::with_doubts();
    match resolve(sources, at_us, None, dynamic, &mut findings) {
        Some(snapshot) => Ok((snapshot, findings.doubts(sources))),
        None => Err(findings.resolve(sources)),
    }
}

/// `None`: there are findings.
fn resolve(
    sources: &[Source],
    at_us: i64,
    previous: Option<&Snapshot>,
    dynamic: &Arc<DynamicBuckets>,
    findings: &mut Findings,
) -> Option<Snapshot> {
    let documents = documents::read(sources, findings);
    let broken = Broken::new(&documents.broken);

    let upstreams = edges::Upstreams::build(&documents.upstreams, findings);
    let products = products::Products::build(
        &documents.apps,
        &documents.plans,
        &documents.addons,
        &broken,
        findings,
    );
    let mut routes =
        edges::Routes::build(&documents.routes, &products, &upstreams, &broken, findings);
    let meters = meters::Meters::build(
        &documents.meters,
        &documents.routes,
        &products,
        &mut routes,
        &broken,
        findings,
    );
    let mut limits = Limits::new(previous, &products, &routes, &broken);
    let plan_limits = limits.of_plans(&documents.plans, findings);
    let mut quotas = Quotas::new(previous, &meters, &documents.grants);
    quotas.read_plans(&documents.plans, &mut limits.labels, &broken, findings);
    let docs = tenants::Docs {
        tenants: &documents.tenants,
        changes: &documents.changes,
        grants: &documents.grants,
    };
    let tenants =
        tenants::build(&docs, at_us, &plan_limits, &mut limits, quotas, &broken, findings);
    let keys = keys::build(&documents.keys, &tenants, &mut limits, &broken, findings);
    if !findings.is_empty() {
        return None;
    }
    let Limits { labels, scopes, inherited, .. } = limits;
    let mut changes = tenants.changes;
    changes.extend(products.plan_ids.beginnings(&documents.plans));
    let changes = Changes::new(changes, |id| tenants.ids.get(id));
    Some(Snapshot {
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
        at_us,
        changes,
        plan_versions: products.plan_ids.groups(),
        plans: products.plans,
        addons: products.addons,
        features: products.features.into_items(),
        apps: products.apps,
        upstreams: upstreams.upstreams,
        dynamic: Arc::clone(dynamic),
        members: dynamic.members(),
        inherited,
        equipment: std::sync::OnceLock::new(),
    })
}

#[cfg(all(test, not(loom)))]
mod tests;
