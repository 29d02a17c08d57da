//! How the limits of a tenant stand.

use super::{Control, Level, Slot, Snapshot};
use crate::bucket::{Bucket, Terms};
use crate::time::Nanos;

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
    /// The limits that hold a tenant, narrowest first, and their state. `None`: no such tenant.
    ///
    /// The guarantee of a share stands before it, under the share's name and `:guarantee`. Quotas
    /// are shown by [`quotas_of`](Self::quotas_of).
    pub fn usage(&self, tenant: &str, now: Nanos) -> Option<Vec<LimitUsage>> {
        let tenant = self.tenant(tenant)?;
        Some(self.usage_of(&tenant.chain, now))
    }

    pub(super) fn usage_of(&self, slots: &[Slot], now: Nanos) -> Vec<LimitUsage> {
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
                Control::Quota(_) | Control::Level(_) => return None,
            };
            let level = slot.level;
            let tenant = self.tenants[slot.owner as usize].id.to_string();
            let name = self.labels[slot.label as usize].name.to_string();
            Some(LimitUsage { level, tenant, name, state })
        });
        limits.collect()
    }
}
