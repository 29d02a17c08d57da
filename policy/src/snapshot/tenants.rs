//! A node of the tree: where it stands, whether it is served, and what holds it.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::{Rights, Slot};
use crate::calendar::Calendar;

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
    /// Whether its plan is its own, and not from above.
    pub(crate) has_own_plan: bool,
    /// Whether they are just those of the tenant above.
    pub(crate) inherits: bool,
    /// End of the trial it is on, unix microseconds.
    pub(crate) trial_until_us: Option<i64>,
    pub(crate) chain: Box<[Slot]>,
    /// Its days, and those of the tenants above it in other zones: a member has a row in each, so that
    /// everybody's windows find it.
    pub(crate) days: Arc<[Arc<Calendar>]>,
    /// Whether any of the chain is a guarantee.
    pub(crate) guarantees: bool,
    /// Index of its `RateLimit-Policy` value, or [`COMPOSED`].
    pub(crate) policy_field: u32,
}

impl Tenant {
    /// Its time zone, that of its own days, which come first: its days and months are those of its
    /// clocks.
    pub fn zone(&self) -> &TimeZone {
        self.days[0].zone()
    }

    /// The id of its root.
    pub fn root(&self) -> &str {
        self.path.split_once('/').map_or(&*self.path, |(root, _)| root)
    }
}

/// The policy field differs by request: it is put together for each.
pub(crate) const COMPOSED: u32 = u32::MAX;
