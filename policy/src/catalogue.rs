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

use crate::dates::Utc;
use crate::diagnostics::{Diagnostics, Findings};
use crate::documents::{self, Located, Source, Text};
use crate::dynamic::DynamicBuckets;
use crate::levels::Levels;
use crate::snapshot::Snapshot;
use index::Broken;
use limits::Limits;
use quotas::Quotas;

/// Builds the snapshot of `sources` for the instant `at_us` (unix microseconds), or says everything
/// that is wrong with them.
///
/// Bucket state is taken over from `previous` by tenant (or key) and limit name. Quotas count in
/// the memory of `levels`; without it the snapshot can only be judged.
///
/// Nothing that these documents name may turn out wrong at its instant, when nobody looks. Where
/// limits or grants lean on a plan, they are therefore resolved for the instants at which another
/// plan takes its place as well: the next [`FORESEEN`] of them.
pub(crate) fn build(
    sources: &[Source],
    at_us: i64,
    previous: Option<&Snapshot>,
    dynamic: &Arc<DynamicBuckets>,
    levels: Option<&Levels>,
) -> Result<Snapshot, Diagnostics> {
    let (snapshot, mut doubtful_us) = resolve(sources, at_us, previous, dynamic)?;
    doubtful_us.sort_unstable();
    doubtful_us.dedup();
    for later_us in doubtful_us.into_iter().take(FORESEEN) {
        resolve(sources, later_us, None, dynamic).map_err(|mut found| {
            for diagnostic in &mut found.0 {
                diagnostic.message.push_str(&format!(" (from {} on)", Utc(later_us)));
            }
            found
        })?;
    }
    if let Some(levels) = levels {
        quotas::settle(&snapshot, previous, levels);
    }
    Ok(snapshot)
}

/// Instants to come for which documents are resolved beforehand.
const FORESEEN: usize = 32;

/// As [`build`], for the one instant; with the later ones at which something may not resolve.
fn resolve(
    sources: &[Source],
    at_us: i64,
    previous: Option<&Snapshot>,
    dynamic: &Arc<DynamicBuckets>,
) -> Result<(Snapshot, Vec<i64>), Diagnostics> {
    let mut findings = Findings::default();
    let documents = documents::read(sources, &mut findings);
    let broken = Broken::new(&documents.broken);

    let upstreams = edges::Upstreams::build(&documents.upstreams, &mut findings);
    let products = products::Products::build(
        &documents.apps,
        &documents.plans,
        &documents.addons,
        at_us,
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
    quotas.read_plans(&documents.plans, &mut limits.labels, &broken, &mut findings);
    let tenants = tenants::build(
        &documents.tenants,
        &documents.changes,
        at_us,
        &plan_limits,
        &mut limits,
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
    let mut changes = tenants.changes;
    changes.extend(products.plan_ids.beginnings(&documents.plans));
    changes.sort_by(|a, b| (a.at_us, &a.tenant).cmp(&(b.at_us, &b.tenant)));
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
        at_us,
        changes,
        plans: products.plans,
        addons: products.addons,
        features: products.features.into_items(),
        apps: products.apps,
        upstreams: upstreams.upstreams,
        dynamic: Arc::clone(dynamic),
        members: dynamic.members(),
        inherited,
        equipment: std::sync::OnceLock::new(),
    };
    Ok((snapshot, if leans_on_plans(&documents) { tenants.plan_changes_us } else { Vec::new() }))
}

/// Whether a change of plan can make something wrong that was right: a share of the plan's limit, or
/// a grant for its quota.
fn leans_on_plans(documents: &documents::Documents<'_>) -> bool {
    let shares = |tenant: &documents::TenantDoc<'_>| {
        tenant.limits.iter().any(|limit| matches!(limit.kind, documents::LimitKind::Share(_)))
    };
    !documents.grants.is_empty() || documents.tenants.iter().any(shares)
}

#[cfg(all(test, not(loom)))]
mod tests;
