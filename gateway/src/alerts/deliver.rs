//! Delivery to one webhook, again and again until it has what is meant for it or is given up.
//!
//! A webhook has a task of its own, so one that is slow or away delays no other. Delays between
//! attempts grow from 5 s to 14 h (the schedule Standard Webhooks recommends, from `retry_base_ms`)
//! and differ by chance, so that what failed together is not tried together. After the last attempt
//! a delivery is dead until an operator replays it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::counter;
use orbit_meter::causes::with_causes;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::outbox::{Due, Outbox, OutboxError};
use super::send::{Sender, Sent};
use crate::clock::Clock;
use crate::settings::Webhook;

/// Delays before each further attempt, in units of the first: 5 s, 30 s, 2 min, 10 min, 30 min, 1 h,
/// 2 h, 5 h, 10 h, 14 h.
const DELAYS: [u64; 10] = [1, 6, 24, 120, 360, 720, 1_440, 3_600, 7_200, 10_080];
/// Deliveries under way to one webhook.
const AT_ONCE: usize = 16;
/// How long nothing is looked for while nothing is known to come.
const LOOK: Duration = Duration::from_secs(1);

/// What a task works with.
pub struct Courier {
    /// To whom.
    pub webhook: Webhook,
    /// What is to be delivered.
    pub outbox: Arc<Outbox>,
    /// Rings when there is more.
    pub more: Arc<Notify>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// Delay before the second attempt, milliseconds.
    pub retry_base_ms: u64,
}

impl Courier {
    /// Delivers until it is dropped.
    pub async fn run(self) {
        let sender = Arc::new(Sender::new(&self.webhook));
        let gone = Arc::new(AtomicBool::new(false));
        while !gone.load(Ordering::Relaxed) {
            let wait = match self.round(&sender, &gone).await {
                Ok(wait) => wait,
                Err(error) => {
                    let error = with_causes(&error);
                    tracing::error!(error, "alerts are not delivered at the moment");
                    LOOK
                }
            };
            tokio::select! {
                () = self.more.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        let webhook = &self.webhook.id;
        tracing::warn!(webhook, "the webhook answered 410: it gets nothing more until a restart");
    }

    /// Makes one attempt at everything that is due. Returns how long to wait for more.
    async fn round(
        &self,
        sender: &Arc<Sender>,
        gone: &Arc<AtomicBool>,
    ) -> Result<Duration, OutboxError> {
        loop {
            let now_us = self.clock.unix_us();
            let (due, next_us) = self.outbox.due(&self.webhook.id, now_us, AT_ONCE)?;
            if due.is_empty() {
                let wait_us = next_us.map_or(u64::MAX, |next_us| next_us.abs_diff(now_us));
                return Ok(LOOK.min(Duration::from_micros(wait_us)));
            }
            let mut attempts = JoinSet::new();
            for one in due {
                let (sender, timestamp_s) = (Arc::clone(sender), now_us / 1_000_000);
                attempts.spawn(async move {
                    let sent = sender.send(&one, timestamp_s).await;
                    (one, sent)
                });
            }
            while let Some(ended) = attempts.join_next().await {
                let Ok((due, sent)) = ended else { continue };
                if matches!(sent, Sent::Gone) {
                    gone.store(true, Ordering::Relaxed);
                }
                self.note(&due, sent)?;
            }
            if gone.load(Ordering::Relaxed) {
                return Ok(Duration::ZERO);
            }
        }
    }

    fn note(&self, due: &Due, sent: Sent) -> Result<(), OutboxError> {
        let (webhook, id, attempts) = (&*self.webhook.id, &*due.id, due.attempts + 1);
        let now_us = self.clock.unix_us();
        let result = match sent {
            Sent::Delivered => {
                self.outbox.delivered(webhook, id, attempts, now_us)?;
                "delivered"
            }
            Sent::Gone => {
                self.outbox.failed(webhook, id, attempts, None, "answered 410 Gone", now_us)?;
                "dead"
            }
            Sent::Failed(error) => {
                let delay_us = delay_us(self.retry_base_ms, attempts, random());
                let next_us = delay_us.map(|delay_us| now_us.saturating_add_unsigned(delay_us));
                self.outbox.failed(webhook, id, attempts, next_us, &error, now_us)?;
                match next_us {
                    Some(_) => {
                        tracing::debug!(webhook, id, attempts, error, "an alert was not delivered");
                        "failed"
                    }
                    None => {
                        tracing::error!(webhook, id, attempts, error, "an alert is given up");
                        "dead"
                    }
                }
            }
        };
        counter!("orbit_alert_attempts_total", "result" => result).increment(1);
        Ok(())
    }
}

/// Before the next attempt, after so many; `None`: there is none. `chance` makes it between 0.8 and
/// 1.2 times as long.
fn delay_us(base_ms: u64, attempts: u32, chance: u8) -> Option<u64> {
    let factor = DELAYS.get(attempts.checked_sub(1)? as usize)?;
    let delay_us = base_ms.saturating_mul(1_000).saturating_mul(*factor);
    Some(delay_us / 1_000 * (800 + u64::from(chance) * 400 / 255))
}

fn random() -> u8 {
    let mut byte = [128];
    // Without randomness delays do not differ, which is no reason not to wait.
    match getrandom::fill(&mut byte) {
        Ok(()) => byte[0],
        Err(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_half_a_day_and_end() {
        let middle = |attempts| delay_us(5_000, attempts, 128);
        assert!(middle(1).is_some_and(|us| (4_900_000..5_100_000).contains(&us)));
        assert_eq!(delay_us(5_000, 1, 0), Some(4_000_000));
        assert_eq!(delay_us(5_000, 1, 255), Some(6_000_000));
        let hours = middle(10).map(|us| us / 3_600_000_000);
        assert_eq!((hours, middle(11), delay_us(5_000, 0, 0)), (Some(14), None, None));
        assert!((1..10).all(|attempts| middle(attempts) < middle(attempts + 1)));
    }
}
