//! The immutable catalogue a request is decided against, and what stands in it.
//!
//! Everything a request needs is resolved when the snapshot is built: a key leads to its tenant
//! by one look-up, a tenant holds the whole chain of its limits from its own up to its
//! holding's and its plan's. Bucket state is shared with the snapshots before and after.

mod guarantee;
mod rates;
mod rights;
mod routes;
mod scope;

use std::any::Any;
use std::sync::{Arc, OnceLock};

use hashbrown::HashTable;

pub(crate) use guarantee::{GUARANTEE, Guarantee};
pub use rates::{RatePlace, RateView};
pub use rights::{Activated, Addon, Change, Entitlements, Figures, GrantedBy};
pub(crate) use rights::{Missing, Rights};
pub use routes::{NoRoute, RouteIndex};
pub(crate) use routes::{RouteTable, RouteTableBuilder};

use crate::bucket::{Bucket, Terms};
use crate::calendar::Calendar;
use crate::documents::Each;
use crate::dynamic::DynamicBuckets;
use crate::gauge::Gauge;
use crate::keys::{KeyId, Presented, SecretHash};
use crate::members::Members;
use crate::meters::{Meter, MeterId};
use crate::price::Price;
use crate::quota::Quota;
use crate::time::Nanos;

/// Where in the tree a limit stands. From the narrowest to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// One API key.
    Key,
    /// A project of a team.
    Project,
    /// A team.
    Team,
    /// A department.
    Department,
    /// A business unit.
    BusinessUnit,
    /// A subsidiary company.
    Subsidiary,
    /// The holding: a root of the tree.
    Holding,
    /// What the tenant bought.
    Plan,
}

impl Level {
    /// The name in documents, headers and problem bodies.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Key => "key",
            Level::Project => "project",
            Level::Team => "team",
            Level::Department => "department",
            Level::BusinessUnit => "business_unit",
            Level::Subsidiary => "subsidiary",
            Level::Holding => "holding",
            Level::Plan => "plan",
        }
    }
}

/// Whether a tenant is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Served.
    Active,
    /// Not served until it pays: 402.
    Unpaid,
    /// Not served: 403.
    Suspended,
}

impl Status {
    /// The name in documents and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Unpaid => "unpaid",
            Status::Suspended => "suspended",
        }
    }
}

/// When support answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupportLevel {
    /// Eight hours, five days.
    Basic,
    /// Twelve hours, seven days.
    Premium,
    /// Around the clock.
    Enterprise,
}

impl SupportLevel {
    /// The name in documents and answers: hours a day, days a week.
    pub fn as_str(self) -> &'static str {
        match self {
            SupportLevel::Basic => "8/5",
            SupportLevel::Premium => "12/7",
            SupportLevel::Enterprise => "24/7",
        }
    }
}

/// Which part of the APIs a plan opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApiTier {
    /// Basic APIs.
    Basic,
    /// All standard APIs.
    Complete,
    /// All APIs and the premium ones.
    Premium,
}

impl ApiTier {
    /// The name in documents and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            ApiTier::Basic => "basic",
            ApiTier::Complete => "complete",
            ApiTier::Premium => "premium",
        }
    }
}

/// A version of a plan as sold.
#[derive(Debug)]
pub struct Plan {
    /// Its id, the same for all versions.
    pub id: Box<str>,
    /// Which version of it.
    pub version: u32,
    /// Whether it is what somebody would get who came onto the plan now.
    pub is_offered: bool,
    /// What it costs, where that is said.
    pub price: Option<Price>,
    /// Its name for people.
    pub title: Box<str>,
    /// Active users; `None`: unlimited.
    pub users: Option<u64>,
    /// Activated apps; `None`: unlimited.
    pub app_count: Option<u64>,
    /// Storage in GB (10^9 bytes); `None`: unlimited.
    pub storage_gb: Option<u64>,
    /// Support hours.
    pub support: SupportLevel,
    /// API tier.
    pub api_tier: ApiTier,
    pub(crate) apps: BitSet,
    pub(crate) features: BitSet,
}

/// An app: what a tenant is entitled to or not.
#[derive(Debug)]
pub struct App {
    /// Its id.
    pub id: Box<str>,
    /// Its name for people.
    pub title: Box<str>,
    /// The request header that names the end user, lower case.
    pub end_user_header: Option<Box<str>>,
}

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
    /// Tokens and metered quantity of one request.
    pub cost: u32,
    /// The least API tier that may use it.
    pub tier: ApiTier,
    /// Index of the feature it needs in [`Snapshot::features`].
    pub(crate) feature: Option<u32>,
}

/// A named pool of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its id.
    pub id: Box<str>,
    /// Its servers.
    pub peers: Vec<Peer>,
    /// What they speak.
    pub protocol: Protocol,
    /// Whether they speak TLS.
    pub tls: bool,
    /// The server name for TLS; empty: the peer's host.
    pub sni: Box<str>,
    /// Milliseconds to connect.
    pub connect_timeout_ms: u64,
    /// Milliseconds between two reads.
    pub read_timeout_ms: u64,
    /// Milliseconds between two writes.
    pub write_timeout_ms: u64,
    /// Milliseconds an unused connection is kept.
    pub idle_timeout_ms: u64,
    /// Further tries after a failure to connect.
    pub retries: u32,
    /// Active health check; `None`: every peer counts as healthy.
    pub health: Option<Health>,
}

/// What the servers of a pool speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, which gRPC needs: by ALPN over TLS, with prior knowledge without.
    Http2,
}

/// One server of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `HOST:PORT`.
    pub address: Box<str>,
    /// Its share of the requests, relative to its siblings.
    pub weight: u32,
}

/// How a server's health is probed: `GET path`, any 2xx is healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The path to ask.
    pub path: Box<str>,
    /// Milliseconds between probes.
    pub interval_ms: u64,
    /// Milliseconds a probe may take.
    pub timeout_ms: u64,
    /// Successes in a row after which a peer is healthy again.
    pub healthy_after: u32,
    /// Failures in a row after which it is not.
    pub unhealthy_after: u32,
}

/// A node of the tree of tenants.
#[derive(Debug)]
pub struct Tenant {
    /// Its id.
    pub id: Box<str>,
    /// The ids from its root to itself, joined with `/`.
    pub path: Box<str>,
    /// Where it stands.
    pub level: Level,
    /// The widest of its own status and its ancestors'.
    pub status: Status,
    pub(crate) rights: Arc<Rights>,
    /// End of the trial it is on, unix microseconds.
    pub(crate) trial_until_us: Option<i64>,
    pub(crate) chain: Box<[Slot]>,
    /// Its days: a member has a row in each.
    pub(crate) days: Arc<Calendar>,
    /// Whether any of the chain is a guarantee.
    pub(crate) guarantees: bool,
    /// Index of its `RateLimit-Policy` value, or [`COMPOSED`].
    pub(crate) policy_field: u32,
}

impl Tenant {
    /// The id of its root.
    pub fn root(&self) -> &str {
        self.path.split_once('/').map_or(&*self.path, |(root, _)| root)
    }
}

/// The policy field differs by request: it is put together for each.
pub(crate) const COMPOSED: u32 = u32::MAX;

/// One limit of a chain, with its state.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) control: Control,
    /// Index into [`Snapshot::labels`].
    pub(crate) label: u32,
    /// The tenant it stands at.
    pub(crate) owner: u32,
    pub(crate) level: Level,
    /// Index into [`Snapshot::scopes`], or [`EVERYWHERE`].
    pub(crate) scope: u32,
}

pub(crate) const EVERYWHERE: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub(crate) enum Control {
    Bucket {
        bucket: Arc<Bucket>,
        terms: Terms,
    },
    /// Stands right before the ceiling of its share. Boxed: most chains have none, and slots stay
    /// small.
    Guarantee(Box<Guarantee>),
    Gauge {
        gauge: Arc<Gauge>,
        max: u32,
    },
    Each {
        each: Each,
        limit: u64,
        terms: Terms,
    },
    Quota(Arc<Quota>),
}

/// Where a quota stands: a slot of the chain of its owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuotaPlace {
    pub(crate) key: u128,
    pub(crate) owner: u32,
    pub(crate) slot: u8,
}

/// A limit's name: `requests` of level `team` is `team/requests`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Label {
    pub(crate) name: Box<str>,
    pub(crate) full: Box<str>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: KeyId,
    pub(crate) hash: SecretHash,
    pub(crate) disabled: bool,
    pub(crate) tenant: u32,
    pub(crate) own: Box<[Slot]>,
}

/// A set of small numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct BitSet(Vec<u64>);

impl BitSet {
    pub(crate) fn insert(&mut self, index: u32) {
        let word = index as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (index % 64);
    }

    pub(crate) fn extend(&mut self, other: &BitSet) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }

    pub(crate) fn contains(&self, index: u32) -> bool {
        self.0.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }
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
    /// In order of their instants.
    pub(crate) changes: Vec<Change>,
    pub(crate) plans: Vec<Plan>,
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

/// A limit of a tenant as it stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitUsage {
    /// Where it stands.
    pub level: Level,
    /// The tenant it stands at.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// What it measures.
    pub state: LimitState,
}

/// The state of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitState {
    /// A token bucket.
    Rate {
        /// Nanoseconds for one token.
        interval_ns: u64,
        /// Tokens when full.
        burst: u64,
        /// Tokens left.
        remaining: u64,
    },
    /// A concurrency limit.
    Concurrent {
        /// In flight at most.
        max: u32,
        /// In flight now.
        in_flight: u32,
    },
    /// One bucket for each client or user; no single state.
    Each {
        /// Nanoseconds for one token.
        interval_ns: u64,
        /// Tokens when full.
        burst: u64,
    },
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

    /// The limits that hold a tenant, narrowest first, and their state. `None`: no such tenant.
    ///
    /// The guarantee of a share stands before it, under the share's name and `:guarantee`. Quotas
    /// are shown by [`quotas_of`](Self::quotas_of).
    pub fn usage(&self, tenant: &str, now: Nanos) -> Option<Vec<LimitUsage>> {
        let tenant = self.tenant(tenant)?;
        Some(self.usage_of(&tenant.chain, now))
    }

    fn usage_of(&self, slots: &[Slot], now: Nanos) -> Vec<LimitUsage> {
        let rate = |bucket: &Bucket, terms: Terms| LimitState::Rate {
            interval_ns: terms.interval_ns,
            burst: terms.burst,
            remaining: bucket.remaining(terms, now),
        };
        let limits = slots.iter().filter_map(|slot| {
            let state = match &slot.control {
                Control::Bucket { bucket, terms } => rate(bucket, *terms),
                Control::Guarantee(guarantee) => rate(&guarantee.bucket, guarantee.terms),
                Control::Gauge { gauge, max } => {
                    LimitState::Concurrent { max: *max, in_flight: gauge.count() }
                }
                Control::Each { terms, .. } => {
                    LimitState::Each { interval_ns: terms.interval_ns, burst: terms.burst }
                }
                Control::Quota(_) => return None,
            };
            let level = slot.level;
            let tenant = self.tenants[slot.owner as usize].id.to_string();
            let name = self.labels[slot.label as usize].name.to_string();
            Some(LimitUsage { level, tenant, name, state })
        });
        limits.collect()
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
