//! Limits as clients are shown them.

use std::fmt;

use crate::snapshot::Level;

/// A limit as shown to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitView<'a> {
    /// `team/requests`: unique on a tenant's chain. Of several projects one below the other, the second
    /// has `project-2/requests`.
    pub name: &'a str,
    /// Where it stands.
    pub level: Level,
    /// The tenant it stands at.
    pub tenant: &'a str,
    /// Tokens when full, requests in flight at most, or the limit of a quota.
    pub quota: u64,
    /// Seconds in which an empty bucket fills, or a quota's window (months of 30 days) passes; 0
    /// for a concurrency limit.
    pub window_s: u64,
}

/// One member of a `RateLimit-Policy` list (draft-ietf-httpapi-ratelimit-headers-11).
pub struct PolicyItem<'a> {
    /// The limit's full name.
    pub name: &'a str,
    /// As in [`LimitView`].
    pub quota: u64,
    /// As in [`LimitView`].
    pub window_s: u64,
}

impl fmt::Display for PolicyItem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PolicyItem { name, quota, window_s } = self;
        match window_s {
            0 => write!(f, "\"{name}\";q={quota};qu=\"concurrent-requests\""),
            _ => write!(f, "\"{name}\";q={quota};w={window_s}"),
        }
    }
}

impl<'a> LimitView<'a> {
    /// The limit as a member of `RateLimit-Policy`.
    pub fn policy_item(&self) -> PolicyItem<'a> {
        PolicyItem { name: self.name, quota: self.quota, window_s: self.window_s }
    }
}
