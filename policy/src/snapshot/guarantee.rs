//! The guarantee of a share: a bucket that secures the limits above instead of refusing.

use std::sync::Arc;

use crate::bucket::{Bucket, Terms};

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
