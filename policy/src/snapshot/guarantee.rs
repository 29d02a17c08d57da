//! The guarantee of a share: a bucket that secures the limits above instead of refusing.

use std::sync::Arc;

use super::{Control, Slot};
use crate::bucket::{Bucket, Terms};
use crate::quota::{Beyond, Quota};

/// What is guaranteed of the limit a share is of. It never refuses: what it has left secures the
/// limits above, and without that they are asked like any other.
#[derive(Clone, Debug)]
pub(crate) struct Guarantee {
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) terms: Terms,
    /// The limits that are debited without being asked when this has tokens: bit 1 is the next slot
    /// of the chain, and so on. 0: the limit it is of is not on this chain, and it does nothing.
    pub(crate) secures: u64,
}

/// Ends the name of a share's guarantee. Not for names in documents.
pub(crate) const GUARANTEE: &str = ":guarantee";

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
}
