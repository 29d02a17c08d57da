//! What the admin API reads.

use std::path::PathBuf;
use std::sync::Arc;

use orbit_policy::Policy;

use super::policy::status_json;
use super::{Check, Readiness, Token};
use crate::alerts::AlertsHandle;
use crate::clock::Clock;
use crate::reload::{Outcome, Reloads};
use crate::storage::StorageHandle;
use crate::telemetry::Metrics;

/// Everything the admin API reads; it changes nothing but through [`Reloads`].
pub struct AdminState {
    /// What callers must present.
    pub token: Token,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// What `/readyz` shows.
    pub readiness: Arc<Readiness>,
    /// The policy in force.
    pub policy: Arc<Policy>,
    /// Where its documents are.
    pub policy_paths: Vec<PathBuf>,
    /// The one way to replace it.
    pub reloads: Reloads,
    /// Where usage was shipped to.
    pub storage: StorageHandle,
    /// What is told to whom.
    pub alerts: AlertsHandle,
    /// The process's clock.
    pub clock: Arc<Clock>,
}

/// The policy's readiness check. Refused documents are told and do not fail it: the version before
/// them is in force.
pub fn policy_check(reloads: Reloads) -> impl Fn() -> Check + Send + 'static {
    move || {
        let status = reloads.status();
        let ok = !matches!(status.outcome, Outcome::Refused(_));
        Check::informing(ok, status_json(&status))
    }
}
