//! One limit of a chain, with its state, and what names it.

use std::sync::Arc;

use super::{Guarantee, Level};
use crate::bucket::{Bucket, Terms};
use crate::documents::Each;
use crate::gauge::Gauge;
use crate::levels::LevelQuota;
use crate::quota::{Beyond, Quota};

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
    /// A quota of a gauge.
    Level(Arc<LevelQuota>),
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

impl Slot {
    /// The bucket of a limit that is or guarantees a rate.
    pub(crate) fn bucket(&self) -> Option<(&Arc<Bucket>, Terms)> {
        match &self.control {
            Control::Bucket { bucket, terms } => Some((bucket, *terms)),
            Control::Guarantee(guarantee) => Some((&guarantee.bucket, guarantee.terms)),
            // What throttles beyond a quota is a bucket like any other.
            Control::Quota(quota) => match &quota.rules.beyond {
                Beyond::Throttle { bucket, terms } => Some((bucket, *terms)),
                Beyond::Block | Beyond::Bill => None,
            },
            Control::Gauge { .. } | Control::Each { .. } | Control::Level(_) => None,
        }
    }

    /// The quota that stands here.
    pub(crate) fn quota_here(&self) -> Option<&Arc<Quota>> {
        match &self.control {
            Control::Quota(quota) => Some(quota),
            _ => None,
        }
    }

    /// Whether it is part of a share rather than a limit of its own to a client.
    pub(crate) fn is_guarantee(&self) -> bool {
        matches!(self.control, Control::Guarantee(_))
    }

    /// Whether it is told to clients among their limits: a level has neither rate nor window.
    pub(crate) fn is_shown(&self) -> bool {
        !matches!(self.control, Control::Guarantee(_) | Control::Level(_))
    }

    pub(crate) fn terms(&self) -> Option<Terms> {
        match &self.control {
            Control::Bucket { terms, .. } | Control::Each { terms, .. } => Some(*terms),
            Control::Guarantee(guarantee) => Some(guarantee.terms),
            Control::Quota(_) => self.bucket().map(|(_, terms)| terms),
            Control::Gauge { .. } | Control::Level(_) => None,
        }
    }

    /// Tokens when full and seconds to fill; for a concurrency limit its maximum and 0.
    pub(crate) fn quota(&self) -> (u64, u64) {
        match &self.control {
            Control::Bucket { terms, .. } | Control::Each { terms, .. } => {
                (terms.burst, terms.refill_s())
            }
            Control::Guarantee(guarantee) => (guarantee.terms.burst, guarantee.terms.refill_s()),
            Control::Quota(quota) => (quota.rules.limit, quota.period().nominal_s()),
            Control::Gauge { max, .. } => (u64::from(*max), 0),
            Control::Level(quota) => (quota.limit, 0),
        }
    }
}
