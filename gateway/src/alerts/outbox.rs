//! What is to be delivered, to whom, and what came of it: a small transactional database.
//!
//! Guarantees: an event is in it, for each of its webhooks, before anybody hears of it, and survives
//! whatever happens then; an event that was ever recorded is never recorded again, so whoever finds
//! the same crossing after a restart may offer it again; a delivery is pending, dead or delivered,
//! and only one of these.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use serde::Serialize;

use super::refusals::Episode;

/// Event by id: when it was recorded (unix microseconds), and its body.
const EVENTS: TableDefinition<'_, &str, (i64, &[u8])> = TableDefinition::new("events");
/// Webhook and event: attempts, the instant of the next (unix microseconds), the last error.
const PENDING: TableDefinition<'_, (&str, &str), (u32, i64, &str)> =
    TableDefinition::new("pending");
/// Webhook and event: attempts, when it was given up, the last error.
const DEAD: TableDefinition<'_, (&str, &str), (u32, i64, &str)> = TableDefinition::new("dead");
/// Webhook and event: attempts, when it was delivered.
const DELIVERED: TableDefinition<'_, (&str, &str), (u32, i64)> = TableDefinition::new("delivered");

/// Path of a tenant that is refused again and again: since when, and the latest minute of it.
const EPISODES: TableDefinition<'_, &str, (i64, i64)> = TableDefinition::new("episodes");

/// The outbox cannot be used.
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

/// A delivery whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The event.
    pub id: String,
    /// What is sent.
    pub body: Vec<u8>,
    /// Attempts so far.
    pub attempts: u32,
}

/// What a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Still to be delivered.
    Pending,
    /// Given up: to be replayed by an operator.
    Dead,
    /// Delivered.
    Delivered,
}

/// A delivery as operators see it.
#[derive(Clone, Debug, Serialize)]
pub struct Delivery {
    /// The event.
    pub id: String,
    /// To whom.
    pub webhook: String,
    /// How it stands.
    pub state: State,
    /// Attempts so far.
    pub attempts: u32,
    /// The instant of the next attempt, of giving up or of delivery, unix microseconds.
    pub at_us: i64,
    /// What the last attempt failed with.
    pub last_error: String,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Pending deliveries.
    pub pending: u64,
    /// Dead ones.
    pub dead: u64,
    /// When the oldest event with a pending delivery was recorded, unix microseconds.
    pub oldest_us: Option<i64>,
}

/// The database.
pub struct Outbox {
    path: PathBuf,
    database: Database,
}

type Done<T> = Result<T, OutboxError>;

impl Outbox {
    /// Opens or makes it. One process at a time.
    pub fn open(path: &Path) -> Done<Outbox> {
        let failed =
            |source: redb::Error| OutboxError { path: path.to_owned(), source: Box::new(source) };
        let database = Database::create(path).map_err(|error| failed(error.into()))?;
        let outbox = Outbox { path: path.to_owned(), database };
        outbox.write(|tables| {
            tables.open_table(EVENTS)?;
            tables.open_table(PENDING)?;
            tables.open_table(DEAD)?;
            tables.open_table(DELIVERED)?;
            tables.open_table(EPISODES)?;
            Ok(())
        })?;
        Ok(outbox)
    }

    /// Records those events that never were. Returns which: places in `events`.
    pub fn record(&self, events: &[Outgoing<'_>], now_us: i64) -> Done<Vec<usize>> {
        self.write(|tables| {
            let mut known = tables.open_table(EVENTS)?;
            let mut pending = tables.open_table(PENDING)?;
            let mut new = Vec::new();
            for (place, event) in events.iter().enumerate() {
                if known.get(event.id)?.is_some() {
                    continue;
                }
                known.insert(event.id, (now_us, event.body))?;
                for webhook in &event.webhooks {
                    pending.insert((*webhook, event.id), (0, now_us, ""))?;
                }
                new.push(place);
            }
            Ok(new)
        })
    }

    /// Deliveries to a webhook whose time has come, at most `most`, and when the next one comes.
    pub fn due(&self, webhook: &str, now_us: i64, most: usize) -> Done<(Vec<Due>, Option<i64>)> {
        self.read(|tables| {
            let events = tables.open_table(EVENTS)?;
            let pending = tables.open_table(PENDING)?;
            let (mut due, mut next_us) = (Vec::new(), None);
            for entry in pending.range((webhook, "")..)? {
                let (key, value) = entry?;
                let ((to, id), (attempts, at_us, _)) = (key.value(), value.value());
                if to != webhook {
                    break;
                }
                if at_us > now_us || due.len() == most {
                    next_us = Some(next_us.map_or(at_us, |next: i64| next.min(at_us)));
                    continue;
                }
                if let Some(event) = events.get(id)? {
                    let body = event.value().1.to_vec();
                    due.push(Due { id: id.to_owned(), body, attempts });
                }
            }
            Ok((due, next_us))
        })
    }

    /// Notes that a delivery was made, with so many attempts.
    pub fn delivered(&self, webhook: &str, id: &str, attempts: u32, now_us: i64) -> Done<()> {
        self.write(|tables| {
            tables.open_table(PENDING)?.remove((webhook, id))?;
            tables.open_table(DELIVERED)?.insert((webhook, id), (attempts, now_us))?;
            Ok(())
        })
    }

    /// Notes that an attempt failed, and when the next one is made; `None`: it is given up.
    pub fn failed(
        &self,
        webhook: &str,
        id: &str,
        attempts: u32,
        next_us: Option<i64>,
        error: &str,
        now_us: i64,
    ) -> Done<()> {
        self.write(|tables| {
            let mut pending = tables.open_table(PENDING)?;
            match next_us {
                Some(next_us) => {
                    pending.insert((webhook, id), (attempts, next_us, error))?;
                }
                None => {
                    pending.remove((webhook, id))?;
                    let mut dead = tables.open_table(DEAD)?;
                    dead.insert((webhook, id), (attempts, now_us, error))?;
                }
            }
            Ok(())
        })
    }

    /// Makes dead deliveries pending again: of one event, of one webhook, or all. Returns how many.
    pub fn replay(&self, id: Option<&str>, webhook: Option<&str>, now_us: i64) -> Done<usize> {
        self.write(|tables| {
            let mut dead = tables.open_table(DEAD)?;
            let mut pending = tables.open_table(PENDING)?;
            let mut chosen = Vec::new();
            for entry in dead.iter()? {
                let (key, _) = entry?;
                let (to, event) = key.value();
                if id.is_none_or(|id| id == event) && webhook.is_none_or(|webhook| webhook == to) {
                    chosen.push((to.to_owned(), event.to_owned()));
                }
            }
            for (to, event) in &chosen {
                dead.remove((&**to, &**event))?;
                pending.insert((&**to, &**event), (0, now_us, ""))?;
            }
            Ok(chosen.len())
        })
    }

    /// Deliveries of one state, or all, at most `most`.
    pub fn list(&self, state: Option<State>, most: usize) -> Done<Vec<Delivery>> {
        let wanted = |which| state.is_none_or(|state| state == which);
        self.read(|tables| {
            let mut list = Vec::new();
            for (which, table) in [(State::Pending, PENDING), (State::Dead, DEAD)] {
                if !wanted(which) {
                    continue;
                }
                for entry in tables.open_table(table)?.iter()?.take(most - list.len()) {
                    let (key, value) = entry?;
                    let (attempts, at_us, error) = value.value();
                    list.push(Delivery::new(key.value(), which, attempts, at_us, error));
                }
            }
            if wanted(State::Delivered) {
                for entry in tables.open_table(DELIVERED)?.iter()?.take(most - list.len()) {
                    let (key, value) = entry?;
                    let (attempts, at_us) = value.value();
                    list.push(Delivery::new(key.value(), State::Delivered, attempts, at_us, ""));
                }
            }
            Ok(list)
        })
    }

    /// How much is in it.
    pub fn depth(&self) -> Done<Depth> {
        self.read(|tables| {
            let events = tables.open_table(EVENTS)?;
            let pending = tables.open_table(PENDING)?;
            let mut oldest_us: Option<i64> = None;
            for entry in pending.iter()? {
                let (key, _) = entry?;
                if let Some(event) = events.get(key.value().1)? {
                    let at_us = event.value().0;
                    oldest_us = Some(oldest_us.map_or(at_us, |oldest| oldest.min(at_us)));
                }
            }
            let dead = tables.open_table(DEAD)?.len()?;
            Ok(Depth { pending: pending.len()?, dead, oldest_us })
        })
    }

    /// The episodes of refusals that went on when they were last kept.
    pub fn episodes(&self) -> Done<BTreeMap<String, Episode>> {
        self.read(|tables| {
            let mut episodes = BTreeMap::new();
            for entry in tables.open_table(EPISODES)?.iter()? {
                let (path, times) = entry?;
                let (began_us, last_us) = times.value();
                episodes.insert(path.value().to_owned(), Episode { began_us, last_us });
            }
            Ok(episodes)
        })
    }

    /// Keeps these episodes and no others.
    pub fn keep_episodes(&self, episodes: &BTreeMap<String, Episode>) -> Done<()> {
        self.write(|tables| {
            let mut kept = tables.open_table(EPISODES)?;
            kept.retain(|path, _| episodes.contains_key(path))?;
            for (path, episode) in episodes {
                kept.insert(&**path, (episode.began_us, episode.last_us))?;
            }
            Ok(())
        })
    }

    /// Whether an event was ever recorded.
    pub fn knows(&self, id: &str) -> Done<bool> {
        self.read(|tables| Ok(tables.open_table(EVENTS)?.get(id)?.is_some()))
    }

    /// Forgets events recorded before an instant, with all that became of them, but for those with a
    /// dead delivery: these wait for an operator. Returns how many.
    pub fn prune(&self, before_us: i64) -> Done<usize> {
        self.write(|tables| {
            let mut events = tables.open_table(EVENTS)?;
            let dead = tables.open_table(DEAD)?;
            let mut kept = BTreeMap::new();
            for entry in dead.iter()? {
                let (key, _) = entry?;
                kept.insert(key.value().1.to_owned(), ());
            }
            let mut old = BTreeMap::new();
            for entry in events.iter()? {
                let (key, value) = entry?;
                if value.value().0 < before_us && !kept.contains_key(key.value()) {
                    old.insert(key.value().to_owned(), ());
                }
            }
            for id in old.keys() {
                events.remove(&**id)?;
            }
            tables.open_table(PENDING)?.retain(|(_, id), _| !old.contains_key(id))?;
            tables.open_table(DELIVERED)?.retain(|(_, id), _| !old.contains_key(id))?;
            Ok(old.len())
        })
    }

    fn write<T>(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Done<T> {
        let changed = || -> Result<T, redb::Error> {
            let tables = self.database.begin_write()?;
            let value = change(&tables)?;
            tables.commit()?;
            Ok(value)
        };
        changed().map_err(|source| self.failed_with(source))
    }

    fn read<T>(
        &self,
        look: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Done<T> {
        let looked = || look(&self.database.begin_read()?);
        looked().map_err(|source| self.failed_with(source))
    }

    fn failed_with(&self, source: redb::Error) -> OutboxError {
        OutboxError { path: self.path.clone(), source: Box::new(source) }
    }
}

impl Delivery {
    fn new((to, id): (&str, &str), state: State, attempts: u32, at_us: i64, error: &str) -> Self {
        let (id, webhook) = (id.to_owned(), to.to_owned());
        Delivery { id, webhook, state, attempts, at_us, last_error: error.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event<'e>(id: &'e str, webhooks: &[&'e str]) -> Outgoing<'e> {
        Outgoing { id, body: b"{}", webhooks: webhooks.to_vec() }
    }

    fn ids(due: &(Vec<Due>, Option<i64>)) -> Vec<&str> {
        due.0.iter().map(|due| &*due.id).collect()
    }

    #[test]
    fn an_event_is_recorded_once_and_found_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("alerts");
        let outbox = Outbox::open(&path).expect("it opens");
        let events = [event("a", &["x", "y"]), event("b", &["x"])];
        assert_eq!(outbox.record(&events, 5).expect("recorded"), [0, 1]);
        drop(outbox);
        let outbox = Outbox::open(&path).expect("it opens again");
        let again = [event("b", &["x"]), event("c", &["x"])];
        assert_eq!(outbox.record(&again, 6).expect("recorded"), [1]);
        assert_eq!(ids(&outbox.due("x", 10, 9).expect("read")), ["a", "b", "c"]);
        assert_eq!(ids(&outbox.due("y", 10, 9).expect("read")), ["a"]);
        assert!(outbox.knows("c").expect("read") && !outbox.knows("d").expect("read"));
    }

    #[test]
    fn deliveries_are_pending_dead_or_delivered() {
        let directory = tempfile::tempdir().expect("a directory");
        let outbox = Outbox::open(&directory.path().join("alerts")).expect("it opens");
        outbox.record(&[event("a", &["x", "xx"]), event("b", &["x"])], 5).expect("recorded");
        outbox.failed("x", "a", 1, Some(50), "500", 6).expect("noted");
        let due = outbox.due("x", 10, 9).expect("read");
        assert_eq!((ids(&due), due.1), (vec!["b"], Some(50)));
        outbox.delivered("x", "b", 1, 7).expect("noted");
        outbox.failed("x", "a", 2, None, "timed out", 60).expect("noted");
        let depth = outbox.depth().expect("read");
        assert_eq!(depth, Depth { pending: 1, dead: 1, oldest_us: Some(5) });
        let dead = outbox.list(Some(State::Dead), 10).expect("read");
        assert_eq!((&*dead[0].id, dead[0].attempts, &*dead[0].last_error), ("a", 2, "timed out"));
        assert_eq!(outbox.list(None, 10).expect("read").len(), 3);
        assert_eq!(outbox.replay(None, Some("xx"), 70).expect("noted"), 0);
        assert_eq!(outbox.replay(Some("a"), None, 70).expect("noted"), 1);
        let due = outbox.due("x", 70, 9).expect("read");
        assert_eq!((ids(&due), due.0[0].attempts), (vec!["a"], 0));
    }

    #[test]
    fn what_is_old_is_forgotten_unless_it_waits_for_somebody() {
        let directory = tempfile::tempdir().expect("a directory");
        let outbox = Outbox::open(&directory.path().join("alerts")).expect("it opens");
        outbox.record(&[event("a", &["x"]), event("b", &["x"])], 5).expect("recorded");
        outbox.record(&[event("c", &["x"])], 50).expect("recorded");
        outbox.failed("x", "a", 9, None, "500", 6).expect("noted");
        assert_eq!(outbox.prune(50).expect("pruned"), 1);
        assert_eq!(outbox.list(None, 10).expect("read").len(), 2);
        assert!(!outbox.knows("b").expect("read"));
    }
}
