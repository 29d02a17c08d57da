//! Deliveries on their way: what is due, what came of an attempt, giving up, and once more.

use std::collections::BTreeSet;

use redb::{ReadableTable, Table, WriteTransaction};

use super::tables::{DEAD, DELIVERED, DUE, EVENTS, PENDING, Place, SETTLED, Standing};
use super::{Done, Outbox};

/// A delivery whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The event.
    pub id: String,
    /// When it was recorded, unix microseconds.
    pub recorded_us: i64,
    /// The instant it was due, unix microseconds.
    pub due_us: i64,
    /// What is sent.
    pub body: Vec<u8>,
    /// Attempts so far.
    pub attempts: u32,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Delivered.
    Delivered,
    /// Failed, and to be attempted again.
    Again {
        /// When, unix microseconds.
        at_us: i64,
        /// What it failed with.
        error: String,
    },
    /// Failed, and given up.
    Dead {
        /// What it failed with.
        error: String,
    },
}

/// An attempt that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The delivery as it was due.
    pub due: Due,
    /// What came of it.
    pub outcome: Outcome,
    /// When, unix microseconds.
    pub at_us: i64,
}

/// Which dead deliveries are made once more.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replay<'r> {
    /// Of this event only.
    pub id: Option<&'r str>,
    /// To this webhook only.
    pub webhook: Option<&'r str>,
}

/// What a replay came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Deliveries that are pending again.
    pub deliveries: usize,
    /// Those that stay dead, since nobody knows their webhook.
    pub left: usize,
    /// The webhooks of the former.
    pub webhooks: BTreeSet<String>,
}

impl Outbox {
    /// Deliveries to a webhook whose time has come, at most `most` and none of `under_way`, and
    /// when the next one comes after those.
    pub fn due(
        &self,
        webhook: &str,
        now_us: i64,
        most: usize,
        under_way: &BTreeSet<String>,
    ) -> Done<(Vec<Due>, Option<i64>)> {
        self.store.read(|tables| {
            let events = tables.open_table(EVENTS)?;
            let pending = tables.open_table(PENDING)?;
            let mut found = Vec::new();
            for entry in tables.open_table(DUE)?.range((webhook, i64::MIN, "")..)? {
                let (key, recorded_us) = entry?;
                let ((to, due_us, id), recorded_us) = (key.value(), recorded_us.value());
                if to != webhook {
                    break;
                }
                if under_way.contains(id) {
                    continue;
                }
                if due_us > now_us || found.len() == most {
                    return Ok((found, Some(due_us)));
                }
                let event = events.get(id)?;
                let standing = pending.get((recorded_us, id, webhook))?;
                let (Some(event), Some(standing)) = (event, standing) else {
                    return Err(lost(id));
                };
                let (body, attempts) = (event.value().2.to_vec(), standing.value().0);
                found.push(Due { id: id.to_owned(), recorded_us, due_us, body, attempts });
            }
            Ok((found, None))
        })
    }

    /// Notes what came of attempts to deliver to a webhook.
    pub fn note(&self, webhook: &str, notes: &[Note]) -> Done<()> {
        self.store.write(|tables| {
            let mut deliveries = Deliveries::open(tables)?;
            for Note { due, outcome, at_us } in notes {
                let place = (due.recorded_us, &*due.id, webhook);
                let attempts = due.attempts + 1;
                if deliveries.take(place)?.is_none() {
                    continue;
                }
                match outcome {
                    Outcome::Delivered => deliveries.deliver(place, (attempts, *at_us, ""))?,
                    Outcome::Again { at_us, error } => {
                        deliveries.wait(place, (attempts, *at_us, error))?;
                    }
                    Outcome::Dead { error } => {
                        deliveries.dead.insert(place, (attempts, *at_us, &**error))?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Gives up every pending delivery to a webhook, for a reason. Returns how many.
    pub fn give_up(&self, webhook: &str, reason: &str, now_us: i64) -> Done<usize> {
        self.store.write(|tables| {
            let mut deliveries = Deliveries::open(tables)?;
            let mut given_up = Vec::new();
            for entry in deliveries.due.range((webhook, i64::MIN, "")..)? {
                let (key, recorded_us) = entry?;
                let (to, _, id) = key.value();
                if to != webhook {
                    break;
                }
                given_up.push((recorded_us.value(), id.to_owned()));
            }
            for (recorded_us, id) in &given_up {
                let place = (*recorded_us, &**id, webhook);
                let attempts = deliveries.take(place)?.unwrap_or_default();
                deliveries.dead.insert(place, (attempts, now_us, reason))?;
            }
            Ok(given_up.len())
        })
    }

    /// The webhooks something is pending for.
    pub fn awaited(&self) -> Done<BTreeSet<String>> {
        self.store.read(|tables| {
            let due = tables.open_table(DUE)?;
            let mut webhooks = BTreeSet::new();
            let mut after = String::new();
            while let Some(entry) = due.range((&*after, i64::MIN, "")..)?.next() {
                let webhook = entry?.0.value().0.to_owned();
                // The first text after it.
                after = format!("{webhook}\0");
                webhooks.insert(webhook);
            }
            Ok(webhooks)
        })
    }

    /// Makes dead deliveries pending again, with all attempts before them, where their webhook is
    /// `known`.
    pub fn replay(
        &self,
        which: Replay<'_>,
        known: &dyn Fn(&str) -> bool,
        now_us: i64,
    ) -> Done<Replayed> {
        self.store.write(|tables| {
            let mut deliveries = Deliveries::open(tables)?;
            let mut replayed = Replayed::default();
            let recorded_us = match which.id {
                Some(id) => deliveries.events.get(id)?.map(|event| event.value().0),
                None => None,
            };
            let from: Place<'_> = match (which.id, recorded_us) {
                (None, _) => (i64::MIN, "", ""),
                (Some(id), Some(recorded_us)) => (recorded_us, id, ""),
                (Some(_), None) => return Ok(replayed),
            };
            let mut chosen = Vec::new();
            for entry in deliveries.dead.range(from..)? {
                let (place, _) = entry?;
                let (recorded_us, event, webhook) = place.value();
                if which.id.is_some_and(|id| id != event) {
                    break;
                }
                if which.webhook.is_some_and(|only| only != webhook) {
                    continue;
                }
                if known(webhook) {
                    chosen.push((recorded_us, event.to_owned(), webhook.to_owned()));
                } else {
                    replayed.left += 1;
                }
            }
            for (recorded_us, event, webhook) in &chosen {
                let place = (*recorded_us, &**event, &**webhook);
                deliveries.dead.remove(place)?;
                deliveries.wait(place, (0, now_us, ""))?;
                replayed.webhooks.insert(webhook.clone());
            }
            replayed.deliveries = chosen.len();
            Ok(replayed)
        })
    }

    /// Forgets events recorded before an instant of which nothing is pending or dead, at most
    /// `most` at a time. Returns how many.
    pub fn prune(&self, before_us: i64, most: usize) -> Done<usize> {
        let mut old = Vec::new();
        self.store.read(|tables| {
            for entry in tables.open_table(SETTLED)?.range(..(before_us, ""))?.take(most) {
                let (key, _) = entry?;
                let (recorded_us, id) = key.value();
                old.push((recorded_us, id.to_owned()));
            }
            Ok(())
        })?;
        if old.is_empty() {
            return Ok(0);
        }
        self.store.write(|tables| {
            let mut deliveries = Deliveries::open(tables)?;
            let mut forgotten = 0;
            for (recorded_us, id) in &old {
                // It may have been replayed meanwhile.
                if deliveries.settled.remove((*recorded_us, &**id))?.is_none() {
                    continue;
                }
                deliveries.events.remove(&**id)?;
                let after = format!("{id}\0");
                let of_event = (*recorded_us, &**id, "")..(*recorded_us, &*after, "");
                deliveries.delivered.retain_in(of_event, |_, _| false)?;
                forgotten += 1;
            }
            Ok(forgotten)
        })
    }
}

fn lost(id: &str) -> redb::Error {
    redb::Error::Corrupted(format!("the delivery of `{id}` is due and nothing is known of it"))
}

/// The tables deliveries move between.
struct Deliveries<'t> {
    events: Table<'t, &'static str, (i64, u32, &'static [u8])>,
    pending: Table<'t, Place<'static>, Standing<'static>>,
    dead: Table<'t, Place<'static>, Standing<'static>>,
    delivered: Table<'t, Place<'static>, Standing<'static>>,
    due: Table<'t, (&'static str, i64, &'static str), i64>,
    settled: Table<'t, (i64, &'static str), ()>,
}

impl<'t> Deliveries<'t> {
    fn open(tables: &'t WriteTransaction) -> Result<Deliveries<'t>, redb::Error> {
        Ok(Deliveries {
            events: tables.open_table(EVENTS)?,
            pending: tables.open_table(PENDING)?,
            dead: tables.open_table(DEAD)?,
            delivered: tables.open_table(DELIVERED)?,
            due: tables.open_table(DUE)?,
            settled: tables.open_table(SETTLED)?,
        })
    }

    /// Takes a pending delivery out of where it waits. Its attempts so far; `None`: it is not
    /// pending.
    fn take(&mut self, place: Place<'_>) -> Result<Option<u32>, redb::Error> {
        let (_, id, webhook) = place;
        let Some(standing) = self.pending.remove(place)? else { return Ok(None) };
        let (attempts, due_us, _) = standing.value();
        self.due.remove((webhook, due_us, id))?;
        Ok(Some(attempts))
    }

    /// Makes one pending, to be attempted at the instant its standing says.
    fn wait(&mut self, place: Place<'_>, standing: Standing<'_>) -> Result<(), redb::Error> {
        let (recorded_us, id, webhook) = place;
        self.pending.insert(place, standing)?;
        self.due.insert((webhook, standing.1, id), recorded_us)?;
        Ok(())
    }

    /// One was made; the event is settled with its last.
    fn deliver(&mut self, place: Place<'_>, standing: Standing<'_>) -> Result<(), redb::Error> {
        self.delivered.insert(place, standing)?;
        let (recorded_us, id, _) = place;
        let event = self.events.get(id)?.map(|event| {
            let (_, open, body) = event.value();
            (open, body.to_vec())
        });
        let (open, body) = event.ok_or_else(|| lost(id))?;
        let open = open.saturating_sub(1);
        self.events.insert(id, (recorded_us, open, &*body))?;
        if open == 0 {
            self.settled.insert((recorded_us, id), ())?;
        }
        Ok(())
    }
}
