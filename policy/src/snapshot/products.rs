//! What is sold: plans, add-ons and apps, with the words they are described in.

use super::{BitSet, Figures};
use crate::dates::When;
use crate::price::Price;

/// When support answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Whether those who are not on it are told of it.
    pub public: bool,
    /// From when on it is offered, in each tenant's zone. `None`: since ever.
    pub(crate) from: Option<When>,
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
    /// The same, in the order in which they are activated by themselves.
    pub(crate) app_order: Vec<u32>,
    pub(crate) features: BitSet,
}

impl Plan {
    pub(crate) fn figures(&self) -> Figures {
        Figures {
            users: self.users,
            app_count: self.app_count,
            storage_gb: self.storage_gb,
            api_tier: self.api_tier,
            support: self.support,
        }
    }
}

/// An add-on as sold.
#[derive(Debug)]
pub struct Addon {
    /// Its id.
    pub id: Box<str>,
    /// Its name for people.
    pub title: Box<str>,
    /// What it costs, where that is said.
    pub price: Option<Price>,
    /// Support hours at the least, where that is said.
    pub support: Option<SupportLevel>,
    pub(crate) apps: BitSet,
    /// As in [`Plan`].
    pub(crate) app_order: Vec<u32>,
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
