//! Limits to slots: names and scopes resolved, state taken over from the snapshot before (**P3**).

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::edges::Routes;
use super::index::{Broken, Interner};
use super::products::Products;
use super::shares::{Above, NotShared, Split, shifted};
use crate::bucket::{Bucket, Terms};
use crate::diagnostics::Findings;
use crate::documents::{Each, LimitDoc, LimitKind, PlanDoc, Written};
use crate::dynamic;
use crate::gauge::Gauge;
use crate::snapshot::{
    BitSet, Control, EVERYWHERE, GUARANTEE, Guarantee, Label, Level, Slot, Snapshot,
};

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

/// Where limits stand: a level and, of several projects one below the other, which.
#[derive(Clone, Copy)]
pub(super) struct Rung {
    pub(super) level: Level,
    /// From 1.
    pub(super) number: u8,
}

impl From<Level> for Rung {
    fn from(level: Level) -> Rung {
        Rung { level, number: 1 }
    }
}

impl fmt::Display for Rung {
    /// `team`, or `project-2`: no two rungs of a chain have one name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.level.as_str())?;
        if self.number > 1 { write!(f, "-{}", self.number) } else { Ok(()) }
    }
}

/// A limit with its names resolved, not yet anybody's.
#[derive(Clone, Copy)]
pub(super) struct Resolved {
    label: u32,
    scope: u32,
    level: Level,
    kind: Kind,
    written: Written,
}

#[derive(Clone, Copy)]
enum Kind {
    Rate(Terms),
    Each(Each, Terms),
    /// What it secures: bits are positions of the chain from its own on.
    Guarantee(Terms, u64),
    Concurrent(u32),
}

impl Resolved {
    pub(super) fn label(&self) -> u32 {
        self.label
    }

    /// The rate it holds everybody to together.
    pub(super) fn rate(&self) -> Result<Terms, NotShared> {
        match self.kind {
            Kind::Rate(terms) => Ok(terms),
            Kind::Concurrent(_) => Err(NotShared::InFlight),
            Kind::Each(..) | Kind::Guarantee(..) => Err(NotShared::ForEach),
        }
    }

    /// Its rate as written; of no use where it is no rate limit.
    pub(super) fn written(&self) -> Written {
        self.written
    }
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
    ) -> Vec<Rc<[Resolved]>> {
        let resolve = |plan: &PlanDoc<'_>| {
            let at = format!("plan.{}", plan.id.value);
            self.resolve(&plan.limits, Level::Plan.into(), &at, None, findings).into()
        };
        plans.iter().map(resolve).collect()
    }

    /// Resolves names and scopes; a name that is there twice is a finding. A share, which only
    /// tenants have, becomes two limits: its guarantee and its ceiling.
    pub(super) fn resolve(
        &mut self,
        docs: &[LimitDoc<'_>],
        rung: Rung,
        at: &str,
        mut above: Option<Above<'_>>,
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
            let label = self.label(rung, &doc.name.value);
            let (level, written) = (rung.level, doc.written);
            let one = |scope, kind| Resolved { label, scope, level, kind, written };
            let kind = match (doc.kind, doc.each) {
                (LimitKind::Concurrent { max }, _) => Kind::Concurrent(max),
                (LimitKind::Rate { interval_ns, burst }, None) => {
                    Kind::Rate(Terms { interval_ns, burst })
                }
                (LimitKind::Rate { interval_ns, burst }, Some(each)) => {
                    Kind::Each(each, Terms { interval_ns, burst })
                }
                (LimitKind::Share(share), _) => {
                    let at = format!("{at}.limits[{index}]");
                    let Some(above) = &mut above else {
                        let message = "only a tenant's limit can be a share of one above";
                        findings.add(share.guarantee_at, format!("{at}.guarantee"), message);
                        continue;
                    };
                    let place = (index, label);
                    let split = above.split(doc, share, place, &self.labels, &at, findings);
                    let Some(Split { guarantee, ceiling, secures, scope }) = split else {
                        continue;
                    };
                    let name = format!("{}{GUARANTEE}", doc.name.value);
                    let of_guarantee = self.label(rung, &name);
                    let kind = Kind::Guarantee(guarantee, secures);
                    resolved.push(Resolved { label: of_guarantee, ..one(scope, kind) });
                    resolved.push(one(scope, Kind::Rate(ceiling)));
                    continue;
                }
            };
            let scope = self.scope(doc, at, index, findings);
            resolved.push(one(scope, kind));
        }
        // Until here what is secured was counted from the first limit above.
        let length = resolved.len();
        for (index, limit) in resolved.iter_mut().enumerate() {
            if let Kind::Guarantee(_, secures) = &mut limit.kind {
                *secures = shifted(*secures, length - index);
            }
        }
        resolved
    }

    fn label(&mut self, rung: Rung, name: &str) -> u32 {
        let full = format!("{rung}/{name}").into();
        self.labels.intern(Label { name: name.into(), full })
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
    /// kind (its own, or its plan's). One that is gone may be a new one renamed, unless the owner
    /// has come onto another plan.
    pub(super) fn slots(
        &mut self,
        resolved: &[Resolved],
        owner: Owner<'_>,
        before: &[&Slot],
        may_be_renamed: bool,
    ) -> Vec<Slot> {
        let mut used = vec![false; before.len()];
        let mut found: Vec<Option<usize>> = vec![None; resolved.len()];
        // First by name; then a limit that is new takes over from one that is gone.
        let ways: &[bool] = if may_be_renamed { &[true, false] } else { &[true] };
        for &by_name in ways {
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
            (&slot.control, limit.kind),
            (Control::Bucket { .. }, Kind::Rate(_))
                | (Control::Guarantee(_), Kind::Guarantee(..))
                | (Control::Gauge { .. }, Kind::Concurrent(_))
        );
        if !by_name {
            return same_kind;
        }
        let previous = self.previous.expect("slots before come from a snapshot before");
        same_kind && previous.labels[slot.label as usize].name == self.labels.get(limit.label).name
    }

    fn slot(&mut self, limit: &Resolved, owner: Owner<'_>, before: Option<&Slot>) -> Slot {
        let control = match limit.kind {
            Kind::Concurrent(max) => {
                let gauge = match before.map(|slot| &slot.control) {
                    Some(Control::Gauge { gauge, .. }) => Arc::clone(gauge),
                    _ => Arc::new(Gauge::default()),
                };
                Control::Gauge { gauge, max }
            }
            Kind::Each(each, terms) => {
                let name = &self.labels.get(limit.label).full;
                let limit = dynamic::limit_id(owner.known_as, name);
                Control::Each { each, limit, terms }
            }
            Kind::Rate(terms) => Control::Bucket { bucket: self.bucket(terms, before), terms },
            Kind::Guarantee(terms, secures) => {
                let bucket = self.bucket(terms, before);
                Control::Guarantee(Box::new(Guarantee { bucket, terms, secures }))
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

    pub(super) fn bucket(&mut self, terms: Terms, before: Option<&Slot>) -> Arc<Bucket> {
        match before.and_then(Slot::bucket) {
            Some((bucket, old)) if old == terms => Arc::clone(bucket),
            Some((bucket, old)) => {
                let bucket = Arc::new(Bucket::inherit(Arc::clone(bucket), old, terms));
                self.inherited.push(Arc::clone(&bucket));
                bucket
            }
            None => Arc::new(Bucket::default()),
        }
    }
}
