//! Looking at everything that may be worth an alert, and recording what is.
//!
//! Guarantees: what is found is held until the outbox has it, with what it was found by, in one
//! transaction; the log and the metrics hear of it after that.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge};
use orbit_meter::causes::with_causes;
use orbit_policy::Policy;

use super::AlertsHandle;
use super::capacity::CapacityWatch;
use super::outbox::{Findings, OutboxError, Outgoing};
use super::quotas::{Found, QuotaWatch};
use super::refusals::{RefusalCounts, RefusalWatch, Sustained};
use super::signal::Signal;
use crate::clock::Clock;
use crate::settings;

/// How often quotas are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often rate limits are, in looks.
const RATES_EVERY: u32 = 4;
/// How often the outbox's depth is told, in looks.
const SHOW_EVERY: u32 = 8;
const MINUTE_US: i64 = 60_000_000;
/// Events are kept for so long after everybody has them, and what was told of levels that are gone.
pub(super) const KEPT_US: i64 = 40 * 24 * 60 * MINUTE_US;
/// So many are forgotten in a minute.
const PRUNED: usize = 1_000;
/// Why what is pending for a webhook is given up that the settings do not have.
const REMOVED: &str = "no webhook of this id is in the settings; with one, replay it";

/// Who looks.
pub(super) struct Watch {
    handle: AlertsHandle,
    policy: Arc<Policy>,
    counts: Arc<RefusalCounts>,
    clock: Arc<Clock>,
    sustained: Sustained,
    /// `None` until it is known what was told before.
    watching: Option<Watching>,
    /// The minute that is not looked at yet.
    minute_us: i64,
    looks: u32,
    failing: bool,
    /// Files that had been set aside when everything was kept last.
    set_aside: u32,
    /// Found, and not in the outbox.
    signals: Vec<Signal>,
    findings: Findings,
}

struct Watching {
    quotas: QuotaWatch,
    refusals: RefusalWatch,
    capacity: CapacityWatch,
}

impl Watch {
    pub(super) fn new(
        handle: AlertsHandle,
        settings: &settings::Alerts,
        policy: Arc<Policy>,
        counts: Arc<RefusalCounts>,
        clock: Arc<Clock>,
    ) -> Watch {
        let sustained = Sustained {
            per_minute: settings.refusals_per_minute,
            minutes: settings.refusals_minutes,
        };
        Watch {
            handle,
            policy,
            counts,
            minute_us: clock.unix_us(),
            clock,
            sustained,
            watching: None,
            looks: 0,
            failing: false,
            set_aside: 0,
            signals: Vec::new(),
            findings: Findings::default(),
        }
    }

    /// Looks until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look();
        }
    }

    /// Looks once, and says how that went.
    pub(super) fn look(&mut self) {
        let done = self.find().and_then(|()| self.show());
        let error = done.err().map(|error| with_causes(&error));
        if let Some(error) = &error {
            counter!("orbit_alert_outbox_failures_total").increment(1);
            if !self.failing {
                tracing::error!(error, "alerts cannot be recorded; they wait");
            }
        } else if self.failing {
            tracing::info!("alerts are recorded again");
        }
        self.failing = error.is_some();
        let mut status = self.handle.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.error = error;
        status.set_aside = self.handle.outbox.set_aside();
    }

    fn find(&mut self) -> Result<(), OutboxError> {
        let now = self.clock.read();
        let now_us = now.unix_us;
        if self.watching.is_none() {
            self.begin(now_us)?;
        }
        let Some(watching) = &mut self.watching else { unreachable!("it has begun") };
        let snapshot = self.policy.load();
        let mut found = Found { signals: &mut self.signals, findings: &mut self.findings };
        watching.quotas.look(&snapshot, now_us, &mut found);
        for (tenant, name) in self.counts.take_asked_in_vain() {
            watching.quotas.asked(&snapshot, (&tenant, &name), now_us, &mut found);
        }
        if self.looks.is_multiple_of(RATES_EVERY) {
            watching.capacity.look(&snapshot, now.mono);
        }
        self.looks = self.looks.wrapping_add(1);
        let is_minute_over = now_us - self.minute_us >= MINUTE_US;
        if is_minute_over {
            self.minute_us = now_us;
            watching.refusals.minute(&self.counts, now_us, &mut found);
            watching.capacity.minute(now_us, &mut found);
        }
        // A new file knows nothing of what was told.
        let set_aside = self.handle.outbox.times_set_aside();
        if set_aside != self.set_aside {
            watching.quotas.keep_all(found.findings);
            self.set_aside = set_aside;
        }
        if !self.signals.is_empty() || !self.findings.is_empty() {
            self.record(now_us)?;
        }
        if is_minute_over {
            self.handle.outbox.prune(now_us - KEPT_US, PRUNED)?;
        }
        Ok(())
    }

    /// Reads what was told before.
    fn begin(&mut self, now_us: i64) -> Result<(), OutboxError> {
        let outbox = &self.handle.outbox;
        for webhook in outbox.awaited()?.iter().filter(|id| !self.handle.has_webhook(id)) {
            let given_up = outbox.give_up(webhook, REMOVED, now_us)?;
            tracing::error!(webhook, given_up, "alerts are not delivered: {REMOVED}");
        }
        let episodes = outbox.episodes()?;
        // Whoever was refused before is not known by the minute.
        self.counts.forget();
        self.watching = Some(Watching {
            quotas: QuotaWatch::new(outbox.told()?),
            refusals: RefusalWatch::new(self.sustained, &episodes),
            capacity: CapacityWatch::new(&episodes),
        });
        self.set_aside = outbox.times_set_aside();
        Ok(())
    }

    /// Into the outbox, and what is new there into the log.
    fn record(&mut self, now_us: i64) -> Result<(), OutboxError> {
        let bodies: Vec<Vec<u8>> = self.signals.iter().map(Signal::body).collect();
        let outgoing: Vec<Outgoing<'_>> = self
            .signals
            .iter()
            .zip(&bodies)
            .map(|(signal, body)| {
                let receivers = self.handle.receivers.iter().map(|receiver| &receiver.webhook);
                let wanting = receivers.filter(|webhook| signal.is_for(webhook));
                let webhooks = wanting.map(|webhook| &*webhook.id).collect();
                Outgoing { id: &signal.id, body, webhooks }
            })
            .collect();
        let new = self.handle.outbox.record(&outgoing, &self.findings, now_us)?;
        for place in &new {
            let Signal { id, kind, tenant, data, .. } = &self.signals[*place];
            let kind = kind.as_str();
            let data = serde_json::Value::Object(data.clone());
            tracing::warn!(target: "orbit::alert", id, kind, tenant, %data, "alert");
            counter!("orbit_alerts_total", "type" => kind).increment(1);
        }
        self.signals.clear();
        self.findings = Findings::default();
        if !new.is_empty() {
            self.handle.receivers.iter().for_each(|receiver| receiver.ring());
        }
        Ok(())
    }

    fn show(&mut self) -> Result<(), OutboxError> {
        if !self.looks.is_multiple_of(SHOW_EVERY) {
            return Ok(());
        }
        let depth = self.handle.outbox.depth()?;
        gauge!("orbit_alerts_pending").set(depth.pending as f64);
        gauge!("orbit_alerts_dead").set(depth.dead as f64);
        let now_us = self.clock.unix_us();
        let age_us = depth.oldest_us.map_or(0, |oldest_us| now_us - oldest_us);
        gauge!("orbit_alerts_oldest_pending_seconds").set(age_us as f64 / 1e6);
        self.handle.status.lock().unwrap_or_else(PoisonError::into_inner).depth = depth;
        Ok(())
    }
}
