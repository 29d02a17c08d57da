//! Every own level and every sum of the process: they outlive the snapshots that use them (**P3**).
//!
//! A level is there once something is known of it. When a snapshot takes the place of another one,
//! levels are first added to the sums that only the new one counts them at, and taken from those that
//! only the old one did once it is out of force: on the way a sum may be too high, never too low.

use std::hash::Hasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::{HashMap, HashSet};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::own::{LevelRead, Own};
use super::{LevelQuota, Sum};
use crate::decide::Permit;
use crate::meters::figure::whole_units;
use crate::meters::{Aggregate, Meter, MeterId};
use crate::policy::Policy;
use crate::quota::{Memory, Reported};
use crate::snapshot::{Control, Slot, Snapshot, Tenant};

/// Tells the keys of levels from those of counts.
const KIND: u8 = 2;

pub(crate) struct Levels {
    memory: Arc<dyn Memory>,
    /// When the process began, unix microseconds.
    since_us: i64,
    own: Mutex<HashMap<u128, Arc<Own>>>,
    sums: Mutex<HashMap<u128, Arc<Sum>>>,
    /// Held while a snapshot takes the place of another one, and while a level is made.
    handing_over: Mutex<()>,
}

fn key(tenant: &str, meter: &str) -> u128 {
    let mut hasher = SipHasher13::new();
    hasher.write_u8(KIND);
    for text in [tenant, meter] {
        hasher.write(text.as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.finish128().as_u128()
}

impl Slot {
    /// The quota of a level that stands here.
    pub(crate) fn level_here(&self) -> Option<&Arc<LevelQuota>> {
        match &self.control {
            Control::Level(quota) => Some(quota),
            _ => None,
        }
    }
}

impl Tenant {
    fn levels(&self) -> impl Iterator<Item = &Arc<LevelQuota>> {
        self.chain.iter().filter_map(Slot::level_here)
    }
}

impl Snapshot {
    /// Where a tenant's own level of a meter is summed.
    fn sums_of(&self, own: &Own) -> Vec<Arc<Sum>> {
        let Some((tenant, meter)) = self.tenant(&own.tenant).zip(self.meter_id(&own.meter)) else {
            return Vec::new();
        };
        let quotas = tenant.levels().filter(|quota| quota.meter == meter);
        quotas.map(|quota| Arc::clone(quota.sum())).collect()
    }

    fn is_gauge(&self, meter: MeterId) -> bool {
        self.meter(meter).aggregate == Aggregate::Gauge
    }
}

impl Levels {
    pub(crate) fn new(memory: Arc<dyn Memory>, since_us: i64) -> Levels {
        let (own, sums) = (Mutex::default(), Mutex::default());
        Levels { memory, since_us, own, sums, handing_over: Mutex::new(()) }
    }

    pub(crate) fn memory(&self) -> &dyn Memory {
        &*self.memory
    }

    fn own(&self) -> MutexGuard<'_, HashMap<u128, Arc<Own>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a quota of a snapshot to be its sum: that of the quota it goes on from, or else the one
    /// of its key.
    pub(crate) fn place(&self, quota: &LevelQuota) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let before = quota.heritage.and_then(|key| sums.remove(&key));
        let sum = sums.entry(quota.key).or_insert_with(|| before.unwrap_or_default());
        quota.put_at(Arc::clone(sum));
    }

    /// What an earlier process left, for the tenants of the first snapshot. Returns the keys it is
    /// kept under.
    pub(crate) fn resume(&self, snapshot: &Snapshot) -> HashSet<u128> {
        let mut found = HashSet::new();
        let is_gauge = |meter: &&Meter| meter.aggregate == Aggregate::Gauge;
        for meter in snapshot.meters.iter().filter(is_gauge) {
            for tenant in &snapshot.tenants {
                let key = key(&tenant.id, &meter.id);
                if let Some(words) = self.memory.find(key) {
                    found.insert(key);
                    let own = Own::new(&tenant.id, &meter.id, Some(words));
                    own.enter(snapshot.sums_of(&own));
                    self.own().insert(key, Arc::new(own));
                }
            }
        }
        found
    }

    /// Puts a snapshot in force, by `swap`.
    pub(crate) fn hand_over(&self, next: &Snapshot, swap: impl FnOnce()) {
        let _turn = self.handing_over.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<Arc<Own>> = self.own().values().map(Arc::clone).collect();
        for own in &all {
            own.enter(next.sums_of(own));
        }
        swap();
        for own in &all {
            own.leave_all_but(&next.sums_of(own));
        }
    }

    /// The level of a tenant, made where there is none yet.
    fn of(&self, policy: &Policy, tenant: &str, meter: &str) -> Arc<Own> {
        let key = key(tenant, meter);
        if let Some(own) = self.own().get(&key) {
            return Arc::clone(own);
        }
        let _turn = self.handing_over.lock().unwrap_or_else(PoisonError::into_inner);
        let current = policy.current();
        let mut all = self.own();
        let own = all.entry(key).or_insert_with(|| {
            let own = Own::new(tenant, meter, self.memory.words(key));
            own.enter(current.sums_of(&own));
            Arc::new(own)
        });
        Arc::clone(own)
    }

    /// Levels for which the memory has no room.
    fn unkept(&self) -> usize {
        self.own().values().filter(|own| !own.is_kept()).count()
    }
}

impl Policy {
    /// A request changed the own level of its tenant by `by_nano` units of 1e-9, by a row that is
    /// dated `at_us` (unix microseconds): of what it had reserved, so much is not on its way any more.
    ///
    /// `meter` is a gauge of [`Permit::snapshot`].
    pub fn change_level(&self, permit: &mut Permit, meter: MeterId, by_nano: i128, at_us: i64) {
        let own = {
            let name = &permit.snapshot().meter(meter).id;
            self.levels().of(self, &permit.tenant().id, name)
        };
        let amount = permit.turned(meter, whole_units(by_nano));
        own.change(by_nano, at_us, permit.reserved_at(meter), amount);
    }

    /// An event says how high the own level of its tenant is, in units of 1e-9. One that is older than
    /// what is known changes nothing. Nothing of a meter that is no gauge.
    pub fn tell_level(&self, tenant: &str, event: &Reported<'_>, level_nano: i128) {
        let current = self.current();
        if current.meter_id(event.meter).is_none_or(|meter| !current.is_gauge(meter)) {
            return;
        }
        let levels = self.levels();
        let own = levels.of(self, tenant, event.meter);
        self.note(own.tell(level_nano, event.at_us, levels.since_us));
    }

    /// What rows say of the own levels of a gauge, by tenant; a tenant that is not among them has no
    /// rows.
    pub fn set_levels(&self, meter: &str, read: &[(String, LevelRead)]) {
        let levels = self.levels();
        let mut rest: HashSet<u128> = levels.own().keys().copied().collect();
        for (tenant, read) in read {
            rest.remove(&key(tenant, meter));
            if self.current().tenant(tenant).is_some() {
                levels.of(self, tenant, meter).read(read);
            }
        }
        let none = LevelRead { level_nano: 0, told_us: None, own_nano: 0 };
        let all: Vec<Arc<Own>> = levels.own().values().map(Arc::clone).collect();
        let of_meter = all.iter().filter(|own| *own.meter == *meter);
        for own in of_meter.filter(|own| rest.contains(&key(&own.tenant, &own.meter))) {
            own.read(&none);
        }
    }

    /// Levels for which the memory had no room: a restart begins with what rows say.
    pub(crate) fn unkept_levels(&self) -> usize {
        self.levels().unkept()
    }
}
