//! Whether this process should get traffic, and what stands behind the answer.
//!
//! Owns the set of checks, each registered by the part it is about. Guarantees that asking never
//! waits: a check reads state that is kept anyway.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::Value;

/// What one part says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Whether it works as it should.
    pub ok: bool,
    /// Whether the process is not ready while it does not.
    #[serde(skip)]
    pub required: bool,
    /// Facts for the operator: no secrets, bounded.
    #[serde(flatten)]
    pub detail: Value,
}

impl Check {
    /// A part whose failure is told, but does not take the process out of rotation.
    pub fn informing(ok: bool, detail: Value) -> Check {
        Check { ok, required: false, detail }
    }

    /// A part without which no request should be sent here.
    pub fn required(ok: bool, detail: Value) -> Check {
        Check { ok, required: true, detail }
    }
}

/// The checks of this process, and whether it is draining.
#[derive(Default)]
pub struct Readiness {
    draining: AtomicBool,
    checks: Mutex<BTreeMap<&'static str, ReadCheck>>,
}

/// Reads one part's state.
type ReadCheck = Box<dyn Fn() -> Check + Send>;

/// The answer of `/readyz`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) ready: bool,
    pub(super) draining: bool,
    pub(super) checks: BTreeMap<&'static str, Check>,
}

impl Readiness {
    /// Ready, with nothing to check yet.
    pub fn new() -> Readiness {
        Readiness::default()
    }

    /// Adds a check, or replaces the one of that name. `detail` must be a JSON object. It is called
    /// at every `/readyz` and must not block.
    pub fn register(&self, name: &'static str, check: impl Fn() -> Check + Send + 'static) {
        self.lock().insert(name, Box::new(check));
    }

    /// From now on the process is not ready: it finishes what it has and stops.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether [`drain`](Self::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Asks every check.
    pub(super) fn report(&self) -> Report {
        let checks: BTreeMap<_, _> =
            self.lock().iter().map(|(name, check)| (*name, check())).collect();
        let draining = self.is_draining();
        let ready = !draining && checks.values().all(|check| check.ok || !check.required);
        Report { ready, draining, checks }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, ReadCheck>> {
        // A check that panicked left the map itself whole.
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_required_parts_take_the_process_out() {
        let readiness = Readiness::new();
        assert!(readiness.report().ready);
        readiness.register("clickhouse", || Check::informing(false, json!({ "lag_s": 90 })));
        assert!(readiness.report().ready);
        readiness.register("journal", || Check::required(false, json!({ "full": true })));
        assert!(!readiness.report().ready);
        readiness.register("journal", || Check::required(true, json!({ "full": false })));
        assert!(readiness.report().ready);
        readiness.drain();
        let report = readiness.report();
        assert!(!report.ready && report.draining);
        assert_eq!(
            serde_json::to_value(&report).expect("JSON"),
            json!({
                "ready": false,
                "draining": true,
                "checks": {
                    "clickhouse": { "ok": false, "lag_s": 90 },
                    "journal": { "ok": true, "full": false },
                },
            })
        );
    }
}
