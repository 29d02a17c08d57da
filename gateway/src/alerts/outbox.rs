//! What is to be delivered, to whom, and what came of it: a small transactional database.
//!
//! Guarantees:
//! - An event is in it, for each of its webhooks, before anybody hears of it, in one transaction
//!   with what it was found by ([`Findings`]): whatever dies, it is told, and never told again.
//! - A delivery is pending, dead or delivered, and only one of these. None is forgotten before it
//!   was delivered: what is pending or dead stays until it is.
//! - A call that fails changes nothing, and the next one may succeed ([`file`]).

mod deliveries;
mod file;
mod list;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use redb::ReadableTable;

pub use deliveries::{Due, Note, Outcome, Replay, Replayed};
pub use list::{Cursor, Delivery, Depth, Page, Query, State};

use super::episodes::Episode;
use super::told::Told;
use file::Store;
use tables::{DUE, EPISODES, EVENTS, PENDING, SETTLED, TOLD};

/// The outbox cannot be used at the moment.
#[derive(Debug, thiserror::Error)]
#[error("the outbox of alerts, {}", path.display())]
pub struct OutboxError {
    /// Its file.
    pub path: PathBuf,
    /// What is wrong.
    pub source: Box<redb::Error>,
}

/// An event and who gets it.
#[derive(Clone, Debug)]
pub struct Outgoing<'e> {
    /// Its id, the same whenever the same thing is found again.
    pub id: &'e str,
    /// What is sent.
    pub body: &'e [u8],
    /// Ids of webhooks.
    pub webhooks: Vec<&'e str>,
}

/// What watching came to, to be kept with the events it found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What was told of quotas that changed.
    pub told: BTreeMap<u128, Told>,
    /// Quotas of which nothing is to be known any more.
    pub forgotten: Vec<u128>,
    /// Episodes that began, went on, or (`None`) are over.
    pub episodes: BTreeMap<String, Option<Episode>>,
}

impl Findings {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty() && self.forgotten.is_empty() && self.episodes.is_empty()
    }
}

/// The database.
pub struct Outbox {
    store: Store,
}

type Done<T> = Result<T, OutboxError>;

impl Outbox {
    /// The outbox in this file, which is opened, or made, when it is first asked for something. One
    /// process at a time.
    pub fn at(path: &Path) -> Outbox {
        Outbox { store: Store::at(path) }
    }

    /// Where a file was put that could not be read; `None`: all could be.
    pub fn set_aside(&self) -> Option<PathBuf> {
        self.store.set_aside().file
    }

    /// How often a file could not be read, and one that knows nothing took its place.
    pub fn times_set_aside(&self) -> u32 {
        self.store.set_aside().times
    }

    /// Keeps what was found, and records those events that never were. Returns which: places in
    /// `events`.
    pub fn record(
        &self,
        events: &[Outgoing<'_>],
        findings: &Findings,
        now_us: i64,
    ) -> Done<Vec<usize>> {
        self.store.write(|tables| {
            let mut known = tables.open_table(EVENTS)?;
            let mut pending = tables.open_table(PENDING)?;
            let mut due = tables.open_table(DUE)?;
            let mut settled = tables.open_table(SETTLED)?;
            let mut new = Vec::new();
            for (place, event) in events.iter().enumerate() {
                if known.get(event.id)?.is_some() {
                    continue;
                }
                let open = event.webhooks.len() as u32;
                known.insert(event.id, (now_us, open, event.body))?;
                for webhook in &event.webhooks {
                    pending.insert((now_us, event.id, *webhook), (0, now_us, ""))?;
                    due.insert((*webhook, now_us, event.id), now_us)?;
                }
                if open == 0 {
                    settled.insert((now_us, event.id), ())?;
                }
                new.push(place);
            }
            keep(tables, findings)?;
            Ok(new)
        })
    }

    /// What was told of quotas.
    pub fn told(&self) -> Done<HashMap<u128, Told>> {
        self.store.read(|tables| {
            let mut told = HashMap::new();
            for entry in tables.open_table(TOLD)?.iter()? {
                let (key, text) = entry?;
                let of_quota = Told::parse(text.value()).map_err(|error| {
                    redb::Error::Corrupted(format!("what was told of a quota: {error}"))
                })?;
                told.insert(key.value(), of_quota);
            }
            Ok(told)
        })
    }

    /// The episodes that went on when they were last kept.
    pub fn episodes(&self) -> Done<BTreeMap<String, Episode>> {
        self.store.read(|tables| {
            let mut episodes = BTreeMap::new();
            for entry in tables.open_table(EPISODES)?.iter()? {
                let (name, times) = entry?;
                let (began_us, last_us) = times.value();
                episodes.insert(name.value().to_owned(), Episode { began_us, last_us });
            }
            Ok(episodes)
        })
    }

    /// Whether an event is known: recorded, and not [pruned](Self::prune).
    pub fn knows(&self, id: &str) -> Done<bool> {
        self.store.read(|tables| Ok(tables.open_table(EVENTS)?.get(id)?.is_some()))
    }
}

fn keep(tables: &redb::WriteTransaction, findings: &Findings) -> Result<(), redb::Error> {
    let mut told = tables.open_table(TOLD)?;
    for key in &findings.forgotten {
        told.remove(key)?;
    }
    for (key, of_quota) in &findings.told {
        told.insert(key, &*of_quota.text())?;
    }
    let mut episodes = tables.open_table(EPISODES)?;
    for (name, episode) in &findings.episodes {
        match episode {
            Some(Episode { began_us, last_us }) => {
                episodes.insert(&**name, (*began_us, *last_us))?;
            }
            None => {
                episodes.remove(&**name)?;
            }
        }
    }
    Ok(())
}
