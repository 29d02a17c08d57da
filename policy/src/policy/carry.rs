//! What is spent, carried from one process to the next: a restart is no amnesty (**P3**).
//!
//! [`Policy::export`] shows what every limit has spent as [`Record`]s that name their limits in
//! words, and [`Policy::restore`] puts them into the policy of another process, which may have been
//! started with other documents. The result is that of a process that was paused and then reloaded:
//! what came back in the meantime came back at the old rate, what is left is owed in tokens, and a
//! renamed limit takes over as it does in a reload. Restoring only ever takes away, so it may be
//! repeated, and does no harm to a limit that is in use already.
//!
//! Neither call keeps requests from being decided: a bucket is read and raised by one atomic
//! operation, a dynamic one under the lock of its small shard.

use std::sync::PoisonError;

use super::Policy;
use crate::bucket::Debt;
use crate::decide::MAX_CHAIN;
use crate::dynamic::Subject;
use crate::keys::KeyId;
use crate::snapshot::{GUARANTEE, Level, Slot, Snapshot, Tenant};
use crate::time::Nanos;

#[cfg(all(test, not(loom)))]
mod tests;

/// No bucket takes longer to fill (400 days, as documents are checked): what happened before is of
/// no consequence.
const MAX_REFILL_NS: i64 = 400 * 86_400 * 1_000_000_000;

/// Whose limits they are. The same limit is found again by its owner and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner<'a> {
    /// Limits of a tenant's own, by the tenant's id.
    Tenant(&'a str),
    /// Limits of the plan a tenant bought.
    Plan {
        /// The tenant's id.
        tenant: &'a str,
        /// The plan's id, of whichever version.
        plan: &'a str,
    },
    /// Limits of a key, by the key's id.
    Key(&'a str),
}

/// What one limit has spent. Each kind of limit that remembers has its variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// A token bucket.
    Tokens(Debt),
}

/// A limit of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held<'a> {
    /// Its name among the owner's.
    pub name: &'a str,
    /// What is spent, nothing included.
    pub spent: Spent,
}

/// One piece of what is carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// All limits of an owner that has spent something at one of them, in their order: with the
    /// names of all it can be told which of them disappeared.
    Limits {
        /// Whose they are.
        owner: Owner<'a>,
        /// The limits, as many as a chain has at most.
        limits: &'a [Held<'a>],
    },
    /// A bucket of a client address or end user at one limit.
    Dynamic {
        /// Limit and client, hashed under [`PolicySettings::hash_key`](super::PolicySettings).
        subject: u128,
        /// What is spent.
        debt: Debt,
    },
    /// Every client and end user had nothing left so many nanoseconds ago; see
    /// [`Policy::start_empty`].
    Emptied {
        /// How long ago.
        ago_ns: u64,
    },
}

/// What [`Policy::restore`] came to, in buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Found again.
    pub found: usize,
    /// With something spent, but nobody's any more: owner or limit are gone.
    pub unknown: usize,
}

impl Policy {
    /// Shows everything that is spent and has not come back at `now`.
    ///
    /// A reload that is ready waits while this runs, so `visit` should only take notes.
    pub fn export(&self, now: Nanos, visit: &mut dyn FnMut(&Record<'_>)) {
        let _turn = self.handing_over.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.current.load();
        let mut limits = Vec::with_capacity(MAX_CHAIN);
        for (index, tenant) in (0..).zip(&snapshot.tenants) {
            let plan = &snapshot.plan_of(tenant).id;
            let of_plan = Owner::Plan { tenant: &tenant.id, plan };
            for owner in [Owner::Tenant(&tenant.id), of_plan] {
                let slots = slots_of(owner, index, tenant);
                snapshot.export_limits(owner, slots, now, &mut limits, visit);
            }
        }
        for entry in snapshot.keys.iter().filter(|entry| !entry.own.is_empty()) {
            let owner = Owner::Key(entry.id.as_str());
            snapshot.export_limits(owner, entry.own.iter(), now, &mut limits, visit);
        }
        let dynamic = &snapshot.dynamic;
        if let Some(emptied_at) = dynamic.emptied_at() {
            let ago_ns = now.0.saturating_add_signed(emptied_at.saturating_neg());
            visit(&Record::Emptied { ago_ns });
        }
        dynamic.export(now, |Subject(subject), debt| visit(&Record::Dynamic { subject, debt }));
    }

    /// Takes what `record` says was spent `elapsed_ns` before `now` from the same limits here.
    ///
    /// A limit that has less left already stays as it is.
    pub fn restore(&self, record: &Record<'_>, elapsed_ns: u64, now: Nanos) -> Restored {
        let _turn = self.handing_over.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.current.load();
        match *record {
            Record::Limits { owner, limits } => {
                let limits = &limits[..limits.len().min(MAX_CHAIN)];
                snapshot.restore_limits(owner, limits, elapsed_ns, now)
            }
            Record::Dynamic { subject, debt } => {
                let debt = debt.after(elapsed_ns);
                if !debt.is_none() {
                    snapshot.dynamic.raise(Subject(subject), debt, now);
                }
                Restored { found: 1, unknown: 0 }
            }
            Record::Emptied { ago_ns } => {
                let ago_ns = i64::try_from(ago_ns.saturating_add(elapsed_ns)).unwrap_or(i64::MAX);
                if ago_ns < MAX_REFILL_NS {
                    snapshot.dynamic.empty_at(now.0.cast_signed().saturating_sub(ago_ns));
                }
                Restored::default()
            }
        }
    }

    /// Takes everything from every bucket, so that it is full again only after its whole time: for
    /// a process that cannot know what was spent before it. Clients and end users that are not held
    /// yet start with what comes back from now on.
    pub fn start_empty(&self, now: Nanos) {
        let _turn = self.handing_over.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.current.load();
        let chains = snapshot.tenants.iter().map(|tenant| &*tenant.chain);
        let owned = snapshot.keys.iter().map(|entry| &*entry.own);
        for slot in chains.chain(owned).flatten() {
            if let Some((bucket, terms)) = slot.bucket() {
                let ahead_ns = terms.tolerance_ns();
                bucket.raise(terms, Debt { terms, ahead_ns, arrears_ns: 0 }, now);
            }
        }
        snapshot.dynamic.empty_at(now.0.cast_signed());
    }
}

/// A tenant's own slots, or those of the plan it bought; not those it shares with tenants above.
fn slots_of<'s>(
    owner: Owner<'_>,
    index: u32,
    tenant: &'s Tenant,
) -> impl Iterator<Item = &'s Slot> {
    let of_plan = matches!(owner, Owner::Plan { .. });
    let here = move |slot: &&Slot| slot.owner == index && (slot.level == Level::Plan) == of_plan;
    tenant.chain.iter().filter(here)
}

impl Snapshot {
    fn export_limits<'s>(
        &'s self,
        owner: Owner<'s>,
        slots: impl Iterator<Item = &'s Slot>,
        now: Nanos,
        limits: &mut Vec<Held<'s>>,
        visit: &mut dyn FnMut(&Record<'_>),
    ) {
        limits.clear();
        let mut owes = false;
        for slot in slots {
            if let Some((bucket, terms)) = slot.bucket() {
                let debt = bucket.debt(terms, now);
                owes |= !debt.is_none();
                let spent = Spent::Tokens(debt);
                limits.push(Held { name: &self.labels[slot.label as usize].name, spent });
            }
        }
        if owes {
            visit(&Record::Limits { owner, limits });
        }
    }

    fn restore_limits(
        &self,
        owner: Owner<'_>,
        limits: &[Held<'_>],
        elapsed_ns: u64,
        now: Nanos,
    ) -> Restored {
        let remembers = |slot: &&Slot| slot.bucket().is_some();
        let found = match owner {
            Owner::Tenant(id) | Owner::Plan { tenant: id, .. } => {
                self.tenant_position(id).map(|index| {
                    let tenant = &self.tenants[index as usize];
                    slots_of(owner, index, tenant).filter(remembers).collect()
                })
            }
            Owner::Key(id) => {
                let key = KeyId::parse(id.as_bytes()).and_then(|id| self.key_position(id));
                key.map(|index| self.keys[index as usize].own.iter().filter(remembers).collect())
            }
        };
        let slots: Vec<&Slot> = found.unwrap_or_default();
        let may_be_renamed = match owner {
            Owner::Plan { tenant, plan } => {
                self.tenant(tenant).is_some_and(|tenant| *self.plan_of(tenant).id == *plan)
            }
            Owner::Tenant(_) | Owner::Key(_) => true,
        };
        let mut restored = Restored::default();
        for (held, slot) in limits.iter().zip(self.same(limits, &slots, may_be_renamed)) {
            let Spent::Tokens(debt) = held.spent;
            match slot.and_then(Slot::bucket) {
                Some((bucket, terms)) => {
                    bucket.raise(terms, debt.after(elapsed_ns), now);
                    restored.found += 1;
                }
                None => restored.unknown += usize::from(!debt.is_none()),
            }
        }
        restored
    }

    /// The slot each limit goes on as: the one of its name; then, as in a reload, one that is new
    /// goes on where another one of its kind is gone, if it may be that one renamed.
    fn same<'s>(
        &self,
        limits: &[Held<'_>],
        slots: &[&'s Slot],
        may_be_renamed: bool,
    ) -> Vec<Option<&'s Slot>> {
        let name = |slot: &Slot| &*self.labels[slot.label as usize].name;
        let by_name =
            limits.iter().map(|held| slots.iter().copied().find(|slot| name(slot) == held.name));
        let mut same: Vec<_> = by_name.collect();
        if !may_be_renamed {
            return same;
        }
        for guarantees in [false, true] {
            let is_new = |slot: &&Slot| {
                slot.is_guarantee() == guarantees
                    && limits.iter().all(|held| held.name != name(slot))
            };
            let mut new = slots.iter().copied().filter(is_new);
            let gone = same.iter_mut().zip(limits).filter(|(slot, held)| {
                slot.is_none() && held.name.ends_with(GUARANTEE) == guarantees
            });
            gone.for_each(|(slot, _)| *slot = new.next());
        }
        same
    }
}
