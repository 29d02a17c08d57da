//! What the documents change at instants of their own, and whom that concerns.

use super::{Snapshot, Tenant};

/// What becomes different at an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Unix microseconds.
    pub at_us: i64,
    /// The tenant; `None`: a plan is offered in another version from then on.
    pub tenant: Option<Box<str>>,
    /// For people: `plan business@2, status active`.
    pub what: Box<str>,
}

/// Every change that documents hold.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// In order of their instants.
    all: Vec<Change>,
    /// A tenant and its place among `all`, in order: a tenant's own are found without the others.
    of_tenants: Vec<(u32, u32)>,
}

impl Changes {
    /// `position` finds a tenant by its id.
    pub(crate) fn new(mut all: Vec<Change>, position: impl Fn(&str) -> Option<u32>) -> Changes {
        all.sort_by(|a, b| (a.at_us, &a.tenant).cmp(&(b.at_us, &b.tenant)));
        let tenant = |change: &Change| position(change.tenant.as_deref()?);
        let mut of_tenants: Vec<(u32, u32)> =
            all.iter().zip(0..).filter_map(|(change, at)| Some((tenant(change)?, at))).collect();
        of_tenants.sort_unstable();
        Changes { all, of_tenants }
    }

    /// How many have taken effect at an instant.
    fn past(&self, at_us: i64) -> usize {
        self.all.partition_point(|change| change.at_us <= at_us)
    }

    /// The place of a tenant's first change from `past` on.
    fn next_of(&self, tenant: u32, past: usize) -> Option<usize> {
        let first =
            self.of_tenants.partition_point(|(of, at)| (*of, *at as usize) < (tenant, past));
        let (of, at) = self.of_tenants.get(first)?;
        (*of == tenant).then_some(*at as usize)
    }
}

impl Snapshot {
    /// The instant this snapshot was made for, unix microseconds.
    pub fn at_us(&self) -> i64 {
        self.at_us
    }

    /// Every change that the documents hold, in order, those that have taken effect too.
    pub fn changes(&self) -> &[Change] {
        &self.changes.all
    }

    /// The earliest instant after [`at_us`](Self::at_us) at which the same documents resolve
    /// differently, unix microseconds. `None`: never.
    pub fn next_change_us(&self) -> Option<i64> {
        self.upcoming().first().map(|change| change.at_us)
    }

    /// The changes that have not taken effect, in order.
    pub fn upcoming(&self) -> &[Change] {
        &self.changes.all[self.changes.past(self.at_us)..]
    }

    /// The next change of a tenant or of one above it.
    pub(super) fn next_change_of(&self, tenant: &Tenant) -> Option<&Change> {
        let past = self.changes.past(self.at_us);
        let up = tenant.path.split('/').filter_map(|id| self.tenant_position(id));
        let next = up.filter_map(|tenant| self.changes.next_of(tenant, past)).min();
        next.map(|at| &self.changes.all[at])
    }
}
