//! Delivery to one webhook, again and again until it has what is meant for it or is given up.
//!
//! A webhook has a task of its own, so one that is slow or away delays no other, and one event that
//! it is slow to take delays no other event. Delays between attempts grow from 5 s to 14 h (the
//! schedule Standard Webhooks recommends, from `retry_base_ms`) and differ by chance, so that what
//! failed together is not tried together. After the last attempt a delivery is dead until an
//! operator replays it. After a 410 every delivery is, until a replay or a restart lets the webhook
//! be tried again.
//!
//! What came of an attempt is noted before the next one at the same event: while it cannot be (the
//! disk may be full), the event is not sent again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::counter;
use orbit_meter::causes::with_causes;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};

use super::outbox::{Due, Note, Outbox, OutboxError, Outcome};
use super::send::{Sender, Sent};
use crate::clock::Clock;
use crate::settings::Webhook;

/// Delays before each further attempt, in units of the first: 5 s, 30 s, 2 min, 10 min, 30 min, 1
/// h, 2 h, 5 h, 10 h, 14 h.
const DELAYS: [u64; 10] = [1, 6, 24, 120, 360, 720, 1_440, 3_600, 7_200, 10_080];
/// Deliveries under way to one webhook.
const AT_ONCE: usize = 16;
/// How long nothing is looked for while nothing is known to come, or the outbox fails.
const LOOK: Duration = Duration::from_secs(1);
/// Why deliveries to a webhook that wants no more are given up.
const GONE: &str = "the webhook answered 410 Gone; a replay tries it again";

/// A webhook while the process runs.
pub struct Receiver {
    /// Its settings.
    pub webhook: Webhook,
    is_gone: AtomicBool,
    more: Notify,
}

impl Receiver {
    /// A webhook that is tried.
    pub fn new(webhook: &Webhook) -> Arc<Receiver> {
        let (is_gone, more) = (AtomicBool::new(false), Notify::new());
        Arc::new(Receiver { webhook: webhook.clone(), is_gone, more })
    }

    /// Says that there is more to deliver.
    pub fn ring(&self) {
        self.more.notify_one();
    }

    /// Tries it again, though it answered 410.
    pub fn try_again(&self) {
        self.is_gone.store(false, Ordering::Relaxed);
        self.ring();
    }
}

/// What a task works with.
pub struct Courier {
    /// To whom.
    pub receiver: Arc<Receiver>,
    /// What is to be delivered.
    pub outbox: Arc<Outbox>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// Delay before the second attempt, milliseconds.
    pub retry_base_ms: u64,
    /// How long an attempt may take.
    pub timeout: Duration,
}

/// What a courier has in its hands.
#[derive(Default)]
struct Hands {
    attempts: JoinSet<Note>,
    /// Made, and not noted.
    notes: Vec<Note>,
    /// The events of both.
    under_way: BTreeSet<String>,
}

impl Hands {
    fn take(&mut self, ended: Result<Note, JoinError>) {
        // One that panicked is due as before.
        self.notes.extend(ended);
    }
}

impl Courier {
    /// Delivers until it is dropped.
    pub async fn run(self) {
        let sender = Arc::new(Sender::new(&self.receiver.webhook, self.timeout));
        let mut hands = Hands::default();
        let mut failing = false;
        loop {
            let wait = match self.step(&sender, &mut hands) {
                Ok(wait) => {
                    failing = false;
                    wait
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        let (webhook, error) = (&self.receiver.webhook.id, with_causes(&error));
                        tracing::error!(webhook, error, "alerts are not delivered at the moment");
                    }
                    LOOK
                }
            };
            tokio::select! {
                Some(ended) = hands.attempts.join_next() => hands.take(ended),
                () = self.receiver.more.notified(), if !failing => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Notes what ended, and begins what is due. Returns how long to wait for more.
    fn step(&self, sender: &Arc<Sender>, hands: &mut Hands) -> Result<Duration, OutboxError> {
        let webhook = &*self.receiver.webhook.id;
        while let Some(ended) = hands.attempts.try_join_next() {
            hands.take(ended);
        }
        if !hands.notes.is_empty() {
            self.outbox.note(webhook, &hands.notes)?;
            for note in hands.notes.drain(..) {
                tell(webhook, &note);
                hands.under_way.remove(&note.due.id);
            }
        }
        if hands.attempts.is_empty() {
            hands.under_way.clear();
        }
        let now_us = self.clock.unix_us();
        let is_gone = self.receiver.is_gone.load(Ordering::Relaxed);
        let most = if is_gone { 0 } else { AT_ONCE - hands.under_way.len() };
        let (due, next_us) = self.outbox.due(webhook, now_us, most, &hands.under_way)?;
        if is_gone {
            if hands.attempts.is_empty() && next_us.is_some() {
                let given_up = self.outbox.give_up(webhook, GONE, now_us)?;
                tracing::warn!(webhook, given_up, "alerts are not delivered: {GONE}");
            }
            return Ok(LOOK);
        }
        for one in due {
            hands.under_way.insert(one.id.clone());
            hands.attempts.spawn(self.attempt(sender, one));
        }
        // With both hands full, the next thing to happen is that an attempt ends.
        let is_next = next_us.filter(|_| hands.under_way.len() < AT_ONCE);
        let wait_us = is_next.map_or(u64::MAX, |next_us| (next_us - now_us).max(0).unsigned_abs());
        Ok(LOOK.min(Duration::from_micros(wait_us)))
    }

    /// One attempt, and what came of it.
    fn attempt(&self, sender: &Arc<Sender>, due: Due) -> impl Future<Output = Note> + use<> {
        let (sender, clock) = (Arc::clone(sender), Arc::clone(&self.clock));
        let (receiver, retry_base_ms) = (Arc::clone(&self.receiver), self.retry_base_ms);
        async move {
            let sent = sender.send(&due, clock.unix_us() / 1_000_000).await;
            let at_us = clock.unix_us();
            let outcome = match sent {
                Sent::Delivered => Outcome::Delivered,
                Sent::Gone => {
                    receiver.is_gone.store(true, Ordering::Relaxed);
                    Outcome::Dead { error: GONE.to_owned() }
                }
                Sent::Failed(error) => match delay_us(retry_base_ms, due.attempts + 1, random()) {
                    Some(delay_us) => {
                        Outcome::Again { at_us: at_us.saturating_add_unsigned(delay_us), error }
                    }
                    None => Outcome::Dead { error },
                },
            };
            Note { due, outcome, at_us }
        }
    }
}

/// Into the log and the metrics.
fn tell(webhook: &str, note: &Note) {
    let (id, attempts) = (&*note.due.id, note.due.attempts + 1);
    let result = match &note.outcome {
        Outcome::Delivered => "delivered",
        Outcome::Again { error, .. } => {
            tracing::debug!(webhook, id, attempts, error, "an alert was not delivered");
            "failed"
        }
        Outcome::Dead { error } => {
            tracing::error!(webhook, id, attempts, error, "an alert is given up");
            "dead"
        }
    };
    counter!("orbit_alert_attempts_total", "result" => result).increment(1);
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
