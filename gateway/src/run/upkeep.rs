//! The small things that must happen every second.
//!
//! Owns one thread that frees the limits of clients that have not been seen for a while, and
//! moves histogram samples into their buckets, so that memory stays bounded whoever asks for what.
//! Events that were dated ahead are charged when they are due, and each minute quotas move on to their
//! current windows.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::{describe_gauge, gauge};
use orbit_policy::Policy;

use crate::clock::Clock;
use crate::telemetry::Metrics;

/// How often it happens.
const INTERVAL: Duration = Duration::from_secs(1);

/// After how many intervals quotas are rolled: a minute.
const ROLL_EVERY: u32 = 60;

/// The thread; dropping it ends it.
pub(super) struct Upkeep {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    pub(super) fn start(
        metrics: Metrics,
        policy: Arc<Policy>,
        clock: Arc<Clock>,
    ) -> io::Result<Upkeep> {
        describe_gauge!("orbit_dynamic_keys", "Client addresses and end users held one by one.");
        let unkept = "Quotas whose count has no room and is forgotten at a restart.";
        describe_gauge!("orbit_quotas_unkept", unkept);
        let (stop, stopped) = mpsc::channel();
        let run = move || {
            let mut beats = 0;
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                gauge!("orbit_dynamic_keys").set(policy.sweep(clock.now()) as f64);
                metrics.upkeep();
                policy.charge_due(clock.unix_us());
                if beats == 0 {
                    policy.roll(clock.unix_us());
                    gauge!("orbit_quotas_unkept").set(policy.unkept_quotas() as f64);
                }
                beats = (beats + 1) % ROLL_EVERY;
            }
        };
        let thread = std::thread::Builder::new().name("upkeep".to_owned()).spawn(run)?;
        Ok(Upkeep { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the upkeep thread panicked");
        }
    }
}
