//! Alerts: one event for each crossing, delivered until somebody has it.
//!
//! Every quarter of a second all quotas are looked at ([`quotas`]), every second how much rate
//! limits are in use ([`capacity`]), every minute what was refused ([`refusals`]). What is new
//! becomes an event in the [`outbox`], once for all time, and only then a line of the log, a metric
//! and deliveries ([`deliver`], [`send`]) as Standard Webhooks ([`sign`]) to addresses that may be
//! sent to ([`guard`]). Requests do nothing for it but count refusals.
//!
//! Guarantees: a crossing that outlives the process in the counts is told exactly once, whatever
//! dies; a delivery is made at least once, under one id. While the outbox cannot be written, what
//! is found waits for it, and the gateway goes on.

pub mod capacity;
pub mod deliver;
pub mod episodes;
pub mod forecast;
pub mod guard;
pub mod outbox;
pub mod quotas;
pub mod refusals;
pub mod send;
pub mod sign;
pub mod signal;
pub mod told;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::{describe_counter, describe_gauge};
use orbit_policy::Policy;
use tokio::sync::oneshot;

use crate::background;
use crate::clock::Clock;
use crate::settings;
use deliver::{Courier, Receiver};
use outbox::{Depth, Outbox, OutboxError, Replay, Replayed};
use refusals::RefusalCounts;
use watch::Watch;

/// The outbox's file in the state directory.
const FILE: &str = "alerts.redb";

/// The thread; dropping it ends it. What is not delivered by then is after the next start.
pub struct Alerts {
    handle: AlertsHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How alerts are, for readiness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertsStatus {
    /// How many deliveries there are, as of a few seconds ago.
    pub depth: Depth,
    /// Why nothing can be recorded at the moment.
    pub error: Option<String>,
    /// Where a file was put that could not be read.
    pub set_aside: Option<PathBuf>,
}

/// What operators may ask and do.
#[derive(Clone)]
pub struct AlertsHandle {
    /// What is to be delivered.
    pub outbox: Arc<Outbox>,
    receivers: Arc<[Arc<Receiver>]>,
    status: Arc<Mutex<AlertsStatus>>,
}

impl AlertsHandle {
    /// Makes dead deliveries pending again, at once; a webhook that had answered 410 is tried
    /// again.
    pub fn replay(&self, which: Replay<'_>, now_us: i64) -> Result<Replayed, OutboxError> {
        let replayed = self.outbox.replay(which, &|id| self.has_webhook(id), now_us)?;
        for receiver in &*self.receivers {
            if replayed.webhooks.contains(&receiver.webhook.id) {
                receiver.try_again();
            }
        }
        Ok(replayed)
    }

    /// Whether the settings have a webhook of this id.
    pub fn has_webhook(&self, id: &str) -> bool {
        self.receivers.iter().any(|receiver| receiver.webhook.id == id)
    }

    /// How alerts are. Never waits for the disk.
    pub fn status(&self) -> AlertsStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Alerts {
    /// Looks at everything once, with the outbox in the state directory, and starts the thread that
    /// goes on looking and delivers. To be called before anything lets windows pass.
    ///
    /// Fails when there is no thread for it. An outbox that cannot be used is no failure: what is
    /// found waits, and [`AlertsHandle::status`] says so.
    pub fn start(
        directory: &Path,
        settings: &settings::Alerts,
        policy: Arc<Policy>,
        counts: Arc<RefusalCounts>,
        clock: Arc<Clock>,
    ) -> io::Result<Alerts> {
        describe();
        let outbox = Arc::new(Outbox::at(&directory.join(FILE)));
        let receivers = settings.webhook.iter().map(Receiver::new).collect();
        let handle = AlertsHandle { outbox, receivers, status: Arc::default() };
        let couriers: Vec<Courier> = handle
            .receivers
            .iter()
            .map(|receiver| Courier {
                receiver: Arc::clone(receiver),
                outbox: Arc::clone(&handle.outbox),
                clock: Arc::clone(&clock),
                retry_base_ms: settings.retry_base_ms,
                timeout: Duration::from_millis(settings.timeout_ms),
            })
            .collect();
        let mut watch = Watch::new(handle.clone(), settings, policy, counts, clock);
        watch.look();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            background::yield_to_traffic();
            runtime.block_on(async {
                for courier in couriers {
                    tokio::spawn(courier.run());
                }
                tokio::select! {
                    _ = stopped => {}
                    () = watch.run() => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("alerts".to_owned()).spawn(run)?;
        Ok(Alerts { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// For operators.
    pub fn handle(&self) -> AlertsHandle {
        self.handle.clone()
    }
}

impl Drop for Alerts {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that alerts panicked");
        }
    }
}

fn describe() {
    describe_counter!("orbit_alerts_total", "Alerts by type.");
    describe_counter!("orbit_alert_attempts_total", "Attempts to deliver an alert by result.");
    describe_counter!(
        "orbit_alert_outbox_failures_total",
        "Times that alerts could not be read or recorded."
    );
    describe_gauge!("orbit_alerts_pending", "Deliveries of alerts that are not made yet.");
    describe_gauge!("orbit_alerts_dead", "Deliveries of alerts that were given up.");
    describe_gauge!(
        "orbit_alerts_oldest_pending_seconds",
        "How long ago the oldest alert was recorded that is not delivered everywhere."
    );
}
