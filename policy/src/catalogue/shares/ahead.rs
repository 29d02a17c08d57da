//! Shares of what plans have, at the instants at which tenants will come onto other plans or terms:
//! nothing that is written today may turn out wrong then.
//!
//! Limits of tenants do not depend on plans, so a share of one of them is what it is. A share of a
//! plan's limit, and every share of that share, is worked out again for each instant at which that
//! limit may be another one, and nothing else is.

use std::rc::Rc;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use super::{Made, Shares, Whole, nothing_to_share};
use crate::catalogue::limits::Resolved;
use crate::dates::Utc;
use crate::diagnostics::{Findings, Place};
use crate::documents::{LimitDoc, LimitKind, TenantDoc};
use crate::snapshot::Level;

/// An instant, and the limits that a plan has from then on.
pub(in crate::catalogue) type Then = (i64, Rc<[Resolved]>);

/// What is known of the tree over time.
pub(in crate::catalogue) struct Ahead<'a> {
    pub(in crate::catalogue) docs: &'a [TenantDoc<'a>],
    pub(in crate::catalogue) parents: &'a [Option<u32>],
    /// When each tenant, in the order of the tree, will come onto another plan or other terms, and
    /// the limits it will have from its own plan then.
    pub(in crate::catalogue) changes: &'a [(u32, Vec<Then>)],
    /// Whether a tenant has a plan of its own at an instant.
    pub(in crate::catalogue) has_plan: &'a dyn Fn(u32, i64) -> bool,
    /// The name of a limit by its label.
    pub(in crate::catalogue) name: &'a dyn Fn(u32) -> &'a str,
}

impl Shares {
    /// Findings about shares as they will be after `at_us`.
    pub(in crate::catalogue) fn look_ahead(
        &self,
        ahead: &Ahead<'_>,
        at_us: i64,
        findings: &mut Findings,
    ) {
        let changing = ahead.changes.iter().map(|(tenant, _)| (*tenant, Vec::new()));
        let concerned = self.concerned(ahead, at_us, changing.collect());
        let mut wrong: Vec<(i64, Findings)> = Vec::new();
        for (tenant, changes) in ahead.changes {
            let shares = &concerned[tenant];
            for (at_us, limits) in changes.iter().filter(|_| !shares.is_empty()) {
                let found = self.at(*at_us, *tenant, limits, shares, ahead);
                if !found.is_empty() {
                    wrong.push((*at_us, found));
                }
            }
        }
        // What is wrong from an instant on may be so at later ones, too: once is enough.
        wrong.sort_by_key(|(at_us, _)| *at_us);
        let mut said: HashSet<Place, FixedState> = HashSet::default();
        for (at_us, mut found) in wrong {
            found.retain(|place| said.insert(place));
            findings.extend(found, &format!(" (from {} on)", Utc(at_us)));
        }
    }

    /// The shares that are of a plan's limit, or of a share of one, by the tenants on whose plan that
    /// depends: those of `changing` from the one that has the first share up to the one that has a
    /// plan of its own now.
    fn concerned(
        &self,
        ahead: &Ahead<'_>,
        at_us: i64,
        mut changing: HashMap<u32, Vec<u32>, FixedState>,
    ) -> HashMap<u32, Vec<u32>, FixedState> {
        // By tenant and label: the tenant that has the first share of the plan's limit.
        let mut first: HashMap<(u32, u32), u32, FixedState> = HashMap::default();
        for (share, made) in (0..).zip(&self.made) {
            let holder =
                if made.is_of_plan { Some(made.tenant) } else { first.get(&made.of).copied() };
            let Some(holder) = holder else { continue };
            first.insert((made.tenant, made.label), holder);
            let mut up = Some(holder);
            while let Some(tenant) = up {
                if let Some(shares) = changing.get_mut(&tenant) {
                    shares.push(share);
                }
                let is_last = (ahead.has_plan)(tenant, at_us);
                up = ahead.parents[tenant as usize].filter(|_| !is_last);
            }
        }
        changing
    }

    /// What is wrong with shares of the limits that `buyer`'s own plan has at an instant.
    fn at(
        &self,
        at_us: i64,
        buyer: u32,
        limits: &[Resolved],
        shares: &[u32],
        ahead: &Ahead<'_>,
    ) -> Findings {
        let mut findings = Findings::default();
        let mut wholes: HashMap<(u32, u32), Whole, FixedState> = HashMap::default();
        for share in shares {
            let made = &self.made[*share as usize];
            let doc = &ahead.docs[made.tenant as usize].limits[made.limit];
            let key = |field: &str| made.key(ahead, field);
            let of = if made.is_of_plan {
                let whole = ahead.plan_limit(made, buyer, at_us, limits, doc);
                let whole = match whole {
                    None => continue,
                    Some(Err(message)) => {
                        findings.add(doc.name.place, key("name"), message);
                        continue;
                    }
                    Some(Ok(whole)) => whole,
                };
                let (label, whole) = whole;
                wholes.entry((buyer, label)).or_insert(whole);
                (buyer, label)
            } else {
                made.of
            };
            let LimitKind::Share(share) = doc.kind else { continue };
            let Some(whole) = wholes.get_mut(&of) else { continue };
            if let Some((guarantee, ceiling)) = whole.share(share, &key, &mut findings) {
                let own = Whole::new(ceiling, guarantee, share.per_ns.unwrap_or(whole.per_ns));
                wholes.insert((made.tenant, made.label), own);
            }
        }
        for ((owner, label), whole) in wholes {
            let named = || {
                let id = &ahead.docs[owner as usize].id.value;
                format!("`{}` of `{id}`", (ahead.name)(label))
            };
            whole.check(named, &mut findings);
        }
        findings
    }
}

impl Made {
    fn key(&self, ahead: &Ahead<'_>, field: &str) -> String {
        let id = &ahead.docs[self.tenant as usize].id.value;
        format!("tenant.{id}.limits[{}].{field}", self.limit)
    }
}

impl Ahead<'_> {
    /// The limit that a share of a plan's limit will be of, with its label, where `buyer`'s is the
    /// plan then; or why there is none.
    fn plan_limit(
        &self,
        made: &Made,
        buyer: u32,
        at_us: i64,
        limits: &[Resolved],
        doc: &LimitDoc<'_>,
    ) -> Option<Result<(u32, Whole), String>> {
        let mut up = Some(made.tenant);
        while let Some(tenant) = up.filter(|tenant| !(self.has_plan)(*tenant, at_us)) {
            up = self.parents[tenant as usize];
        }
        if up != Some(buyer) {
            return None;
        }
        let name = &*doc.name.value;
        let of_name = format!("{}/{name}", Level::Plan.as_str());
        let limit = limits.iter().find(|limit| (self.name)(limit.label()) == of_name);
        // A plan of its own stands beside a tenant, not above.
        let Some(limit) = limit.filter(|_| made.tenant != buyer) else {
            return Some(Err(nothing_to_share(name)));
        };
        let whole = limit.rate().map(|terms| Whole::plain(limit.written(), terms));
        Some(whole.map(|whole| (limit.label(), whole)).map_err(|why| why.message(name)))
    }
}
