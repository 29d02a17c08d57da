//! The tree of tenants: parents first, each with the whole chain of its limits.

mod doubts;
mod grow;
mod outlook;
mod sold;

use std::hash::BuildHasher;
use std::rc::Rc;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};

use super::entitle::Entitler;
use super::index::{Broken, Index, Interner};
use super::limits::{Limits, Resolved};
use super::quotas::Quotas;
use super::shares::Shares;
use super::timeline::Timelines;
use crate::diagnostics::Findings;
use crate::documents::{ChangeDoc, GrantDoc, Located, TenantDoc, Text};
use crate::snapshot::{Change, Tenant};
use grow::Grower;

/// Levels of tenants from a root to a leaf at most.
const MAX_DEPTH: usize = 8;

/// Everything that documents say of tenants.
pub(super) struct Docs<'d, 'i> {
    pub(super) tenants: &'d [TenantDoc<'i>],
    pub(super) changes: &'d [ChangeDoc<'i>],
    pub(super) grants: &'d [GrantDoc<'i>],
}

pub(super) struct Tenants<'d> {
    pub(super) tenants: Vec<Tenant>,
    pub(super) table: HashTable<u32>,
    pub(super) ids: Index<'d>,
    pub(super) policy_fields: Interner<Box<str>>,
    /// The most limits each will have on its chain, on whichever plan it will be.
    pub(super) longest: Vec<usize>,
    pub(super) changes: Vec<Change>,
}

/// `at_us` is the instant for which the tree is grown.
pub(super) fn build<'d, 'i: 'd, 'b>(
    docs: &Docs<'d, 'i>,
    at_us: i64,
    plan_limits: &[Rc<[Resolved]>],
    limits: &mut Limits<'b>,
    mut quotas: Quotas<'b, 'd>,
    broken: &Broken<'_>,
    findings: &mut Findings,
) -> Tenants<'d> {
    let tenants = docs.tenants;
    let ids = Index::build("tenant", tenants.iter().map(|doc| &doc.id), findings);
    let parents: Vec<Option<u32>> = tenants
        .iter()
        .map(|doc| {
            let key = || format!("tenant.{}.parent", doc.id.value);
            doc.parent.as_ref().and_then(|parent| ids.refer(parent, key, broken, findings))
        })
        .collect();
    let order = order(tenants, &parents, findings);
    let (products, routes) = (limits.products, limits.routes);
    let mut grower = Grower {
        docs: tenants,
        parents: &parents,
        at_us,
        timelines: Timelines::new(docs.changes, &ids, at_us, products, broken, findings),
        entitler: Entitler::new(products, routes),
        plan_limits,
        limits,
        quotas: &mut quotas,
        broken,
        findings,
        grown: (0..tenants.len()).map(|_| None).collect(),
        policy_fields: Interner::new(),
        shares: Shares::default(),
        terms: HashMap::default(),
        ahead: Vec::new(),
    };
    for index in order {
        grower.grow(index);
    }
    grower.look_ahead();
    grower.doubt_shares();
    grower.judge(docs.grants, &ids);
    let Grower { grown, policy_fields, timelines, terms, .. } = grower;
    let changes = timelines.finish();
    let is_there = |tenant: &Located<Text<'_>>, findings: &mut Findings| {
        let key = || format!("grant.{}.tenant", tenant.value);
        let found = ids.refer(tenant, key, broken, findings);
        // Those that change were judged at the instants of their grants.
        found.is_some_and(|tenant| !terms.contains_key(&tenant))
    };
    quotas.finish(is_there, findings);
    // Where a tenant is missing there is a finding, and no snapshot is made of this.
    let grown = grown.into_iter().flatten();
    let (tenants, longest): (Vec<Tenant>, _) =
        grown.map(|grown| (grown.tenant, grown.longest)).unzip();
    let hasher = FixedState::default();
    let mut table = HashTable::with_capacity(tenants.len());
    for (index, tenant) in (0..).zip(&tenants) {
        let rehash = |index: &u32| hasher.hash_one(&*tenants[*index as usize].id);
        table.insert_unique(hasher.hash_one(&*tenant.id), index, rehash);
    }
    Tenants { tenants, table, ids, policy_fields, longest, changes }
}

/// Parents before children. A cycle is one finding, at its first tenant, that spells it out.
fn order(docs: &[TenantDoc<'_>], parents: &[Option<u32>], findings: &mut Findings) -> Vec<u32> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnPath,
        Done,
    }
    let mut marks = vec![Mark::New; docs.len()];
    let mut order = Vec::with_capacity(docs.len());
    let mut path = Vec::new();
    for start in 0..docs.len() as u32 {
        let mut at = Some(start);
        while let Some(index) = at.filter(|index| marks[*index as usize] == Mark::New) {
            marks[index as usize] = Mark::OnPath;
            path.push(index);
            at = parents[index as usize];
        }
        if let Some(closing) = at.filter(|index| marks[*index as usize] == Mark::OnPath) {
            let from = path.iter().position(|index| *index == closing).unwrap_or_default();
            let mut names: Vec<_> =
                path[from..].iter().map(|index| &*docs[*index as usize].id.value).collect();
            names.push(names[0]);
            let doc = &docs[closing as usize];
            let place = doc.parent.as_ref().map_or(doc.id.place, |parent| parent.place);
            let key = format!("tenant.{}.parent", doc.id.value);
            findings.add(place, key, format!("a cycle in the tree: {}", names.join(" -> ")));
        }
        for index in path.drain(..).rev() {
            marks[index as usize] = Mark::Done;
            order.push(index);
        }
    }
    order
}
