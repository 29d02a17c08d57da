//! The immutable catalogue a request is decided against, and what stands in it.
//!
//! Everything a request needs is resolved when the snapshot is built: a key leads to its tenant
//! by one look-up, a tenant holds the whole chain of its limits from its own up to its
//! holding's and its plan's. Bucket state is shared with the snapshots before and after.

mod bits;
mod changes;
mod entitlements;
mod guarantee;
mod offers;
mod products;
mod rates;
mod rights;
mod routes;
mod scope;
mod slots;
mod tenants;
mod upstreams;
mod usage;

use std::any::Any;
use std::sync::{Arc, OnceLock};

use hashbrown::HashTable;

pub(crate) use bits::BitSet;
pub use changes::Change;
pub(crate) use changes::Changes;
pub use entitlements::{Activated, Entitlements};
pub(crate) use guarantee::{GUARANTEE, Guarantee};
pub use offers::GrantedBy;
pub use products::{Addon, ApiTier, App, Plan, SupportLevel};
pub use rates::{RatePlace, RateView};
pub(crate) use rights::{Contract, Rights, Shelf, instead};
pub use rights::{Figures, Missing};
pub use routes::{NoRoute, RouteIndex};
pub(crate) use routes::{RouteTable, RouteTableBuilder};
pub(crate) use slots::{Control, EVERYWHERE, Label, QuotaPlace, Slot};
pub(crate) use tenants::COMPOSED;
pub use tenants::{Level, Status, Tenant};
pub use upstreams::{Health, Peer, Protocol, Upstream};
pub use usage::{LimitState, LimitUsage};

use crate::bucket::Bucket;
use crate::dynamic::DynamicBuckets;
use crate::keys::{KeyId, Presented, SecretHash};
use crate::members::Members;
use crate::meters::{Meter, MeterId};

/// A route: which app and upstream a request belongs to, and what it costs.
#[derive(Debug)]
pub struct Route {
    /// Its id.
    pub id: Box<str>,
    /// The app's index.
    pub(crate) app: u32,
    /// The upstream's index in [`Snapshot::upstreams`].
    pub upstream: u32,
    /// The meter it counts on.
    pub meter: Box<str>,
    /// The same, in [`Snapshot::meters`].
    pub meter_id: MeterId,
    /// Further meters, each with a row for every request that has a value; at most
    /// [`MAX_MEASURED`](crate::meters::MAX_MEASURED).
    pub measured: Box<[MeterId]>,
    /// Meters of distinct ones that requests of this route may have members of.
    pub distinct: Box<[MeterId]>,
    /// Every meter that a request of this route may count on, data volume too.
    pub(crate) counts_on: BitSet,
    /// Gauges that requests of this route change, at most
    /// [`MAX_LEVELS`](crate::levels::MAX_LEVELS).
    pub(crate) levels: Box<[MeterId]>,
    /// Units of its own meter that one request is: its cost, or 1 where requests are counted.
    pub(crate) units: u32,
    /// Tokens and metered quantity of one request.
    pub cost: u32,
    /// The least API tier that may use it.
    pub tier: ApiTier,
    /// Index of the feature it needs in [`Snapshot::features`].
    pub(crate) feature: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: KeyId,
    pub(crate) hash: SecretHash,
    pub(crate) disabled: bool,
    pub(crate) tenant: u32,
    pub(crate) own: Box<[Slot]>,
}

/// An immutable catalogue. Cheap to share, never changed; bucket state lives beside it.
pub struct Snapshot {
    pub(crate) version: u64,
    pub(crate) keys: Vec<Entry>,
    pub(crate) key_index: HashTable<u32>,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) tenant_index: HashTable<u32>,
    pub(crate) hasher: foldhash::fast::FixedState,
    /// The instant it was made for, unix microseconds.
    pub(crate) at_us: i64,
    pub(crate) changes: Changes,
    pub(crate) plans: Vec<Plan>,
    /// The places of the versions of each plan.
    pub(crate) plan_versions: Vec<Box<[u32]>>,
    pub(crate) addons: Vec<Addon>,
    /// Names of features.
    pub(crate) features: Vec<Box<str>>,
    pub(crate) apps: Vec<App>,
    pub(crate) routes: Vec<Route>,
    pub(crate) route_table: RouteTable,
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) scopes: Vec<BitSet>,
    /// By id.
    pub(crate) meters: Vec<Meter>,
    /// Data in and data out.
    pub(crate) volume: [MeterId; 2],
    /// Every quota once, by key.
    pub(crate) quotas: Vec<QuotaPlace>,
    pub(crate) labels: Vec<Label>,
    pub(crate) policy_fields: Vec<Box<str>>,
    pub(crate) dynamic: Arc<DynamicBuckets>,
    pub(crate) members: Arc<Members>,
    /// Buckets that take over from ones with other terms; settled right after the swap.
    pub(crate) inherited: Vec<Arc<Bucket>>,
    pub(crate) equipment: OnceLock<Equipment>,
}

/// What a user of this crate keeps beside a snapshot, made once for each.
pub(crate) type Equipment = Box<dyn Any + Send + Sync>;

/// Who is asking: a key of this snapshot and its tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub(crate) key: u32,
    pub(crate) tenant: u32,
}

/// Why a request is nobody's. Every variant is a 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotIdentified {
    /// No key was presented.
    NoKey,
    /// Not of the form of a key, or mistyped.
    Malformed,
    /// No such key, or the wrong secret: not told apart.
    Unknown,
    /// Switched off by the operator.
    Disabled,
}

impl Snapshot {
    /// The number of this catalogue: 1 at start, one more with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What [`Policy::equip`](crate::Policy::equip) made for this snapshot.
    pub fn equipment<T: 'static>(&self) -> Option<&T> {
        self.equipment.get()?.downcast_ref()
    }

    /// Whose key this is. One look-up, one SHA-256, no allocation.
    pub fn identify(&self, key: Option<&[u8]>) -> Result<Caller, NotIdentified> {
        use std::hash::BuildHasher;
        let key = key.ok_or(NotIdentified::NoKey)?;
        let presented = Presented::parse(key).ok_or(NotIdentified::Malformed)?;
        let hash = self.hasher.hash_one(presented.id);
        let found =
            self.key_index.find(hash, |index| self.keys[*index as usize].id == presented.id);
        let index = *found.ok_or(NotIdentified::Unknown)?;
        let entry = &self.keys[index as usize];
        if !presented.matches(&entry.hash) {
            return Err(NotIdentified::Unknown);
        }
        if entry.disabled {
            return Err(NotIdentified::Disabled);
        }
        Ok(Caller { key: index, tenant: entry.tenant })
    }

    /// The route of a request; `path` without the query.
    pub fn route(&self, host: &str, path: &str, method: &str) -> Result<RouteIndex, NoRoute> {
        self.route_table.find(host, path, method)
    }

    /// The members of distinct meters.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// A tenant by its id.
    pub fn tenant(&self, id: &str) -> Option<&Tenant> {
        self.tenant_position(id).map(|index| &self.tenants[index as usize])
    }

    pub(crate) fn tenant_position(&self, id: &str) -> Option<u32> {
        use std::hash::BuildHasher;
        let hash = self.hasher.hash_one(id);
        let same = |index: &u32| &*self.tenants[*index as usize].id == id;
        self.tenant_index.find(hash, same).copied()
    }

    pub(crate) fn key_position(&self, id: KeyId) -> Option<u32> {
        use std::hash::BuildHasher;
        let hash = self.hasher.hash_one(id);
        self.key_index.find(hash, |index| self.keys[*index as usize].id == id).copied()
    }

    /// An app by its id.
    pub fn app(&self, id: &str) -> Option<&App> {
        self.apps.iter().find(|app| &*app.id == id)
    }

    /// The plan a tenant is on, in its version.
    pub fn plan_of(&self, tenant: &Tenant) -> &Plan {
        &self.plans[tenant.rights.plan as usize]
    }

    /// The upstream pools; [`Route::upstream`] is an index into them.
    pub fn upstreams(&self) -> &[Upstream] {
        &self.upstreams
    }

    /// The routes.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Every meter there is, by id; [`MeterId`] is a place among them.
    pub fn meters(&self) -> &[Meter] {
        &self.meters
    }

    /// The meter of this number.
    pub fn meter(&self, id: MeterId) -> &Meter {
        &self.meters[id.0 as usize]
    }

    /// The number of the meter with this id. `None`: nothing defines it and no route counts on it.
    pub fn meter_id(&self, id: &str) -> Option<MeterId> {
        let found = self.meters.binary_search_by(|meter| (*meter.id).cmp(id));
        found.ok().map(|index| MeterId(index as u32))
    }

    /// The meters of body bytes from clients and to them.
    pub fn volume(&self) -> [MeterId; 2] {
        self.volume
    }

    /// Ready-made `RateLimit-Policy` values; see
    /// [`Admission::policy_field`](crate::Admission::policy_field).
    pub fn policy_fields(&self) -> &[Box<str>] {
        &self.policy_fields
    }

    /// How many tenants, keys, plans (each once, however many versions it has), apps and routes
    /// there are.
    pub fn counts(&self) -> [usize; 5] {
        let plans: hashbrown::HashSet<&str> = self.plans.iter().map(|plan| &*plan.id).collect();
        let plans = plans.len();
        [self.tenants.len(), self.keys.len(), plans, self.apps.len(), self.routes.len()]
    }
}
