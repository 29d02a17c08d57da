//! Limits to slots: names and scopes resolved, state taken over from the snapshot before (**P3**).

use std::sync::Arc;

use super::edges::Routes;
use super::index::{Broken, Interner};
use super::products::Products;
use crate::bucket::{Bucket, Terms};
use crate::diagnostics::Findings;
use crate::documents::{LimitDoc, LimitKind, PlanDoc};
use crate::dynamic;
use crate::gauge::Gauge;
use crate::snapshot::{BitSet, Control, EVERYWHERE, Label, Level, Slot, Snapshot};

/// Everything that making slots needs and leaves behind.
pub(crate) struct Limits<'b> {
    pub(super) previous: Option<&'b Snapshot>,
    pub(super) products: &'b Products<'b>,
    pub(super) routes: &'b Routes<'b>,
    broken: &'b Broken<'b>,
    pub(super) labels: Interner<Label>,
    pub(super) scopes: Interner<BitSet>,
    pub(super) inherited: Vec<Arc<Bucket>>,
}

/// A limit with its names resolved, not yet anybody's.
#[derive(Clone, Copy)]
pub(super) struct Resolved {
    label: u32,
    scope: u32,
    level: Level,
    kind: LimitKind,
    each: Option<crate::documents::Each>,
}

/// Whose limit it is.
#[derive(Clone, Copy)]
pub(super) struct Owner<'o> {
    pub(super) tenant: u32,
    /// What it is known by across reloads: the id of the tenant or key.
    pub(super) known_as: &'o str,
}

impl<'b> Limits<'b> {
    pub(super) fn new(
        previous: Option<&'b Snapshot>,
        products: &'b Products<'b>,
        routes: &'b Routes<'b>,
        broken: &'b Broken<'b>,
    ) -> Self {
        let (labels, scopes) = (Interner::new(), Interner::new());
        Limits { previous, products, routes, broken, labels, scopes, inherited: Vec::new() }
    }

    /// The limits of every plan.
    pub(super) fn of_plans(
        &mut self,
        plans: &[PlanDoc<'_>],
        findings: &mut Findings,
    ) -> Vec<Vec<Resolved>> {
        let resolve = |plan: &PlanDoc<'_>| {
            let at = format!("plan.{}", plan.id.value);
            self.resolve(&plan.limits, Level::Plan, &at, findings)
        };
        plans.iter().map(resolve).collect()
    }

    /// Resolves names and scopes; a name that is there twice is a finding.
    pub(super) fn resolve(
        &mut self,
        docs: &[LimitDoc<'_>],
        level: Level,
        at: &str,
        findings: &mut Findings,
    ) -> Vec<Resolved> {
        let mut resolved = Vec::with_capacity(docs.len());
        for (index, doc) in docs.iter().enumerate() {
            let same = |other: &&LimitDoc<'_>| other.name.value == doc.name.value;
            if let Some(first) = docs[..index].iter().find(same) {
                let key = format!("{at}.limits[{index}].name");
                findings.add_with(
                    doc.name.place,
                    key,
                    "the name is taken already, at",
                    first.name.place,
                );
            }
            let scope = self.scope(doc, at, index, findings);
            let full = format!("{}/{}", level.as_str(), doc.name.value).into();
            let label = self.labels.intern(Label { name: (*doc.name.value).into(), full });
            resolved.push(Resolved { label, scope, level, kind: doc.kind, each: doc.each });
        }
        resolved
    }

    fn scope(
        &mut self,
        doc: &LimitDoc<'_>,
        at: &str,
        index: usize,
        findings: &mut Findings,
    ) -> u32 {
        if doc.apps.is_none() && doc.routes.is_none() {
            return EVERYWHERE;
        }
        let key = |field: &str| format!("{at}.limits[{index}].{field}");
        let mut set = BitSet::default();
        for app in doc.apps.iter().flatten() {
            let found = self.products.app_ids.refer(app, || key("apps"), self.broken, findings);
            if let Some(app) = found {
                self.routes.of_app(app, &mut set);
            }
        }
        for route in doc.routes.iter().flatten() {
            let found = self.routes.ids.refer(route, || key("routes"), self.broken, findings);
            if let Some(route) = found {
                set.insert(route);
            }
        }
        self.scopes.intern(set)
    }

    /// Slots of one owner. `before` are the owner's slots of the snapshot before, of the same
    /// kind (its own, or its plan's).
    pub(super) fn slots(
        &mut self,
        resolved: &[Resolved],
        owner: Owner<'_>,
        before: &[&Slot],
    ) -> Vec<Slot> {
        let mut used = vec![false; before.len()];
        let mut found: Vec<Option<usize>> = vec![None; resolved.len()];
        // First by name; then a limit that is new takes over from one that is gone.
        for by_name in [true, false] {
            for (limit, found) in resolved.iter().zip(&mut found).filter(|(_, f)| f.is_none()) {
                let fits = |(index, slot): &(usize, &&Slot)| {
                    !used[*index] && self.fits(limit, slot, by_name)
                };
                *found = before.iter().enumerate().find(fits).map(|(index, _)| index);
                if let Some(index) = *found {
                    used[index] = true;
                }
            }
        }
        let pairs = resolved.iter().zip(found);
        pairs.map(|(limit, found)| self.slot(limit, owner, found.map(|i| before[i]))).collect()
    }

    fn fits(&self, limit: &Resolved, slot: &Slot, by_name: bool) -> bool {
        let same_kind = matches!(
            (&slot.control, limit.kind, limit.each),
            (Control::Bucket { .. }, LimitKind::Rate { .. }, None)
                | (Control::Gauge { .. }, LimitKind::Concurrent { .. }, _)
        );
        if !by_name {
            return same_kind;
        }
        let previous = self.previous.expect("slots before come from a snapshot before");
        same_kind && previous.labels[slot.label as usize].name == self.labels.get(limit.label).name
    }

    fn slot(&mut self, limit: &Resolved, owner: Owner<'_>, before: Option<&Slot>) -> Slot {
        let control = match (limit.kind, limit.each) {
            (LimitKind::Concurrent { max }, _) => {
                let gauge = match before.map(|slot| &slot.control) {
                    Some(Control::Gauge { gauge, .. }) => Arc::clone(gauge),
                    _ => Arc::new(Gauge::default()),
                };
                Control::Gauge { gauge, max }
            }
            (LimitKind::Rate { interval_ns, burst }, Some(each)) => {
                let name = &self.labels.get(limit.label).full;
                let limit = dynamic::limit_id(owner.known_as, name);
                Control::Each { each, limit, terms: Terms { interval_ns, burst } }
            }
            (LimitKind::Rate { interval_ns, burst }, None) => {
                let terms = Terms { interval_ns, burst };
                Control::Bucket { bucket: self.bucket(terms, before), terms }
            }
        };
        Slot {
            control,
            label: limit.label,
            owner: owner.tenant,
            level: limit.level,
            scope: limit.scope,
        }
    }

    fn bucket(&mut self, terms: Terms, before: Option<&Slot>) -> Arc<Bucket> {
        match before.map(|slot| &slot.control) {
            Some(Control::Bucket { bucket, terms: old }) if *old == terms => Arc::clone(bucket),
            Some(Control::Bucket { bucket, terms: old }) => {
                let bucket = Arc::new(Bucket::inherit(Arc::clone(bucket), *old, terms));
                self.inherited.push(Arc::clone(&bucket));
                bucket
            }
            _ => Arc::new(Bucket::default()),
        }
    }
}
