//! What counts at a quota: the one definition, for what a gateway counts while it runs and for what
//! is read back from rows.
//!
//! A quota stands at a tenant, is of a meter, and has windows. Its count in a window is what the
//! rows of `usage_events` dated in that window add up to, of which
//!
//! 1. **whose**: those whose path leads through the tenant. A row keeps its path, so an id keeps what
//!    was used below it whatever stands above it or below it now: who moves away leaves what it used
//!    at the old parent, and brings nothing to the new one. A quota of a *plan* is shared by those who
//!    have the plan from the tenant: rows of whoever has a plan of its own now, or is below one that
//!    has, are left out. A tenant that is gone had its plan from above if the row says the plan that
//!    is above now;
//! 2. **what**: those that are no refusals and no members (but for distinct meters), in amounts of
//!
//!    | meter | a row counts |
//!    |---|---|
//!    | `data_in`, `data_out` | its body bytes; and an event on the meter its quantity |
//!    | count | of those on the meter: the requests it stands for, or 1 as a figure of another row |
//!    | sum | of those on the meter: its quantity, in whole units, rounded up |
//!    | distinct | of members' rows on the meter: how many different ones there are |
//!    | gauge | see [`levels`](crate::levels): a level has no window |
//!
//! A part (of a long answer) stands for no request and has no quantity, only bytes. A sum of what the
//! journal had no room for is a row like the rows it stands for, dated at the first of them; as a
//! figure of a count it is as many as its quantity says.
//!
//! A running gateway debits a request at the quotas of its route's own meter as it is admitted, and
//! counts all else in the window its row is dated in, once the row is written. So a request that is
//! decided a moment after its window has passed counts in the next one, and one that was in flight
//! when the process died counts without a row, until the rows have been read. From what moment on a
//! process counts at a quota by itself is [`since`](crate::quota::WindowView::since_us): rows of its
//! own dated before, rows of earlier processes and rows of other nodes are its base, which is read
//! (`meter/src/clickhouse/queries/consumption.sql`, `gateway/src/quota_state/reconcile.rs`).

use crate::meters::{Aggregate, DATA_IN, DATA_OUT, Meter};
use crate::snapshot::{Level, Slot, Snapshot};

/// What of rows a quota counts, by its meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counting {
    /// How many values there are.
    Values,
    /// Quantities in whole units.
    Units,
    /// Body bytes from clients, and the quantities of events.
    DataIn,
    /// Body bytes to clients, and the quantities of events.
    DataOut,
    /// How many different members there are.
    Members,
}

/// What rows of one path, plan and meter add up to, each in whole units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Requests they stand for, and figures of other rows.
    pub values: u64,
    /// Quantities, each rounded up.
    pub units: u64,
    /// Body bytes from clients.
    pub request_bytes: u64,
    /// Body bytes to clients.
    pub response_bytes: u64,
}

impl Counting {
    /// How a meter's rows count; `None`: what does not add up has no windows to be counted in.
    pub fn of(meter: &Meter) -> Option<Counting> {
        match (&*meter.id, meter.aggregate) {
            (DATA_IN, _) => Some(Counting::DataIn),
            (DATA_OUT, _) => Some(Counting::DataOut),
            (_, Aggregate::Count) => Some(Counting::Values),
            (_, Aggregate::Sum) => Some(Counting::Units),
            (_, Aggregate::Distinct) => Some(Counting::Members),
            (_, Aggregate::Max | Aggregate::Last | Aggregate::Gauge) => None,
        }
    }

    /// What rows count at a quota; `is_on_meter`: they are on the quota's meter.
    pub fn count(self, sums: &Sums, is_on_meter: bool) -> u64 {
        let if_on_meter = |count: u64| if is_on_meter { count } else { 0 };
        match self {
            Counting::Values => if_on_meter(sums.values),
            Counting::Units => if_on_meter(sums.units),
            Counting::DataIn => sums.request_bytes.saturating_add(if_on_meter(sums.units)),
            Counting::DataOut => sums.response_bytes.saturating_add(if_on_meter(sums.units)),
            Counting::Members => 0,
        }
    }
}

impl Snapshot {
    /// Shows the slots that hold whatever is on this path, narrowest first: the *whose* of what
    /// counts. `plan` is the one the row says.
    pub(crate) fn each_slot_at<'s>(
        &'s self,
        path: &str,
        plan: &str,
        mut visit: impl FnMut(&'s Slot),
    ) {
        let (mut has_plan_from_above, mut is_below_one_gone) = (true, false);
        for id in path.rsplit('/') {
            let Some(index) = self.tenant_position(id) else {
                is_below_one_gone = true;
                continue;
            };
            let tenant = &self.tenants[index as usize];
            let is_same_plan = || !is_below_one_gone || *self.plan_of(tenant).id == *plan;
            for slot in tenant.chain.iter().filter(|slot| slot.owner == index) {
                if slot.level != Level::Plan || has_plan_from_above && is_same_plan() {
                    visit(slot);
                }
            }
            has_plan_from_above &= !tenant.has_own_plan;
        }
    }

    /// Shows what rows of this path, plan and meter count at each quota that counts them: the quota's
    /// key and the amount.
    pub fn each_count(
        &self,
        (path, plan, meter): (&str, &str, &str),
        sums: &Sums,
        visit: &mut dyn FnMut(u128, u64),
    ) {
        let meter = self.meter_id(meter);
        self.each_slot_at(path, plan, |slot| {
            let Some(quota) = slot.quota_here() else { return };
            let is_on_meter = Some(quota.rules.meter) == meter;
            let amount = quota.rules.counting.count(sums, is_on_meter);
            if amount > 0 {
                visit(quota.key, amount);
            }
        });
    }
}
