//! Alerts: one event for each crossing, delivered until somebody has it.
//!
//! Every quarter of a second all quotas are looked at ([`quotas`]), every minute what was refused
//! ([`refusals`]). What is new becomes an event in the [`outbox`], once for all time, and only then
//! a line of the log, a metric and deliveries ([`deliver`], [`send`]) as Standard Webhooks ([`sign`])
//! to addresses that may be sent to ([`guard`]). Requests do nothing for it but count refusals.
//!
//! Guarantees: a crossing that outlives the process in the counts is told exactly once, whatever
//! dies; a delivery is made at least once, under one id.

pub mod deliver;
pub mod guard;
pub mod outbox;
pub mod quotas;
pub mod refusals;
pub mod send;
pub mod sign;
pub mod signal;

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, gauge};
use orbit_meter::causes::with_causes;
use orbit_policy::Policy;
use tokio::sync::{Notify, oneshot};

use crate::background;
use crate::clock::Clock;
use crate::settings;
use deliver::Courier;
use outbox::{Outbox, OutboxError, Outgoing};
use quotas::QuotaWatch;
use refusals::{RefusalCounts, RefusalWatch, Sustained};
use signal::Signal;

/// The outbox's file in the state directory.
const FILE: &str = "alerts.redb";
/// How often quotas are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often the outbox's depth is told, in looks.
const SHOW_EVERY: u32 = 8;
const MINUTE_US: i64 = 60_000_000;
/// What was told longer ago is forgotten.
const KEPT_US: i64 = 40 * 24 * 60 * MINUTE_US;

/// Alerts could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AlertsError {
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// There is no thread for them.
    #[error("cannot start the thread that alerts")]
    Thread(#[from] io::Error),
}

/// The thread; dropping it ends it. What is not delivered by then is after the next start.
pub struct Alerts {
    outbox: Arc<Outbox>,
    more: Arc<Notify>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What operators may ask and do.
#[derive(Clone)]
pub struct AlertsHandle {
    /// What is to be delivered.
    pub outbox: Arc<Outbox>,
    more: Arc<Notify>,
}

impl AlertsHandle {
    /// Makes dead deliveries pending again, at once. Returns how many.
    pub fn replay(
        &self,
        id: Option<&str>,
        webhook: Option<&str>,
        now_us: i64,
    ) -> Result<usize, OutboxError> {
        let replayed = self.outbox.replay(id, webhook, now_us)?;
        self.more.notify_waiters();
        Ok(replayed)
    }
}

impl Alerts {
    /// Opens the outbox in the state directory and starts looking and delivering.
    pub fn start(
        directory: &Path,
        settings: &settings::Alerts,
        policy: Arc<Policy>,
        refusals: Arc<RefusalCounts>,
        clock: Arc<Clock>,
    ) -> Result<Alerts, AlertsError> {
        describe();
        let outbox = Arc::new(Outbox::open(&directory.join(FILE))?);
        let more = Arc::new(Notify::new());
        let sustained = Sustained {
            per_minute: settings.refusals_per_minute,
            minutes: settings.refusals_minutes,
        };
        let watch = Watch {
            outbox: Arc::clone(&outbox),
            more: Arc::clone(&more),
            webhooks: settings.webhook.clone(),
            quotas: QuotaWatch::default(),
            refusals: RefusalWatch::new(sustained, outbox.episodes()?),
            counts: refusals,
            minute_us: clock.unix_us(),
            version: 0,
            policy,
            clock: Arc::clone(&clock),
            looks: 0,
            unrecorded: Vec::new(),
        };
        let couriers: Vec<Courier> = settings
            .webhook
            .iter()
            .map(|webhook| Courier {
                webhook: webhook.clone(),
                outbox: Arc::clone(&outbox),
                more: Arc::clone(&more),
                clock: Arc::clone(&clock),
                retry_base_ms: settings.retry_base_ms,
            })
            .collect();
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
        Ok(Alerts { outbox, more, stop: Some(stop), thread: Some(thread) })
    }

    /// For operators.
    pub fn handle(&self) -> AlertsHandle {
        AlertsHandle { outbox: Arc::clone(&self.outbox), more: Arc::clone(&self.more) }
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
    describe_gauge!("orbit_alerts_pending", "Deliveries of alerts that are not made yet.");
    describe_gauge!("orbit_alerts_dead", "Deliveries of alerts that were given up.");
    describe_gauge!(
        "orbit_alerts_oldest_pending_seconds",
        "How long ago the oldest alert was recorded that is not delivered everywhere."
    );
}

/// What the looking owns.
struct Watch {
    outbox: Arc<Outbox>,
    more: Arc<Notify>,
    webhooks: Vec<settings::Webhook>,
    policy: Arc<Policy>,
    counts: Arc<RefusalCounts>,
    clock: Arc<Clock>,
    quotas: QuotaWatch,
    refusals: RefusalWatch,
    /// The minute that is not looked at yet.
    minute_us: i64,
    /// The policy's version when quotas that are gone were last forgotten.
    version: u64,
    looks: u32,
    /// Found, and not in the outbox: the disk may be full.
    unrecorded: Vec<Signal>,
}

impl Watch {
    async fn run(mut self) {
        let mut failing = false;
        loop {
            match self.look() {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    let error = with_causes(&error);
                    tracing::error!(error, "alerts cannot be recorded; they wait");
                }
                Err(_) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn look(&mut self) -> Result<(), OutboxError> {
        let now_us = self.clock.unix_us();
        let found = &mut self.unrecorded;
        let quotas = &mut self.quotas;
        let version = self.policy.load().version();
        if self.version != version {
            self.version = version;
            let mut there = HashSet::new();
            self.policy.each_quota(now_us, &mut |view| _ = there.insert(view.key));
            quotas.retain(|key| there.contains(&key));
        }
        self.policy.each_quota(now_us, &mut |view| quotas.look(view, now_us, found));
        let is_minute_over = now_us - self.minute_us >= MINUTE_US;
        if is_minute_over {
            self.minute_us = now_us;
            if self.refusals.look(&self.counts, now_us, found) {
                self.outbox.keep_episodes(self.refusals.episodes())?;
            }
            self.outbox.prune(now_us - KEPT_US)?;
        }
        if !self.unrecorded.is_empty() {
            self.record(now_us)?;
        }
        self.looks = (self.looks + 1) % SHOW_EVERY;
        if self.looks == 0 {
            self.show(now_us)?;
        }
        Ok(())
    }

    /// Into the outbox, and what is new there into the log.
    fn record(&mut self, now_us: i64) -> Result<(), OutboxError> {
        let bodies: Vec<Vec<u8>> = self.unrecorded.iter().map(Signal::body).collect();
        let outgoing: Vec<Outgoing<'_>> = self
            .unrecorded
            .iter()
            .zip(&bodies)
            .map(|(signal, body)| {
                let wanting = self.webhooks.iter().filter(|webhook| webhook.wants(signal));
                let webhooks = wanting.map(|webhook| &*webhook.id).collect();
                Outgoing { id: &signal.id, body, webhooks }
            })
            .collect();
        let new = self.outbox.record(&outgoing, now_us)?;
        for place in &new {
            let Signal { id, kind, tenant, data, .. } = &self.unrecorded[*place];
            let kind = kind.as_str();
            let data = serde_json::Value::Object(data.clone());
            tracing::warn!(target: "orbit::alert", id, kind, tenant, %data, "alert");
            counter!("orbit_alerts_total", "type" => kind).increment(1);
        }
        self.unrecorded.clear();
        if !new.is_empty() {
            self.more.notify_waiters();
        }
        Ok(())
    }

    fn show(&self, now_us: i64) -> Result<(), OutboxError> {
        let depth = self.outbox.depth()?;
        gauge!("orbit_alerts_pending").set(depth.pending as f64);
        gauge!("orbit_alerts_dead").set(depth.dead as f64);
        let age_us = depth.oldest_us.map_or(0, |oldest_us| now_us - oldest_us);
        gauge!("orbit_alerts_oldest_pending_seconds").set(age_us as f64 / 1e6);
        Ok(())
    }
}
