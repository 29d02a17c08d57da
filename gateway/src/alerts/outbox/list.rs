//! Deliveries as operators see them: page by page, the oldest first.

use std::fmt;
use std::ops::Bound;
use std::str::FromStr;

use redb::TableDefinition;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};
use serde::Serialize;

use super::tables::{DEAD, DELIVERED, PENDING, Place, Standing};
use super::{Done, Outbox};

/// Deliveries that are looked at for one page: with a webhook that has few of very many, a page may
/// be short.
const LOOKED_AT: usize = 100_000;

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

impl State {
    /// Every state, in the order of a list.
    pub const ALL: [State; 3] = [State::Pending, State::Dead, State::Delivered];

    /// The name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Dead => "dead",
            State::Delivered => "delivered",
        }
    }

    fn table(self) -> TableDefinition<'static, Place<'static>, Standing<'static>> {
        match self {
            State::Pending => PENDING,
            State::Dead => DEAD,
            State::Delivered => DELIVERED,
        }
    }
}

/// A delivery as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// How it stands.
    pub state: State,
    /// The event.
    pub id: String,
    /// To whom.
    pub webhook: String,
    /// When its event was recorded, unix microseconds.
    pub recorded_us: i64,
    /// Attempts so far.
    pub attempts: u32,
    /// The instant of the next attempt, of giving up or of delivery, unix microseconds.
    pub at_us: i64,
    /// What the last attempt failed with.
    pub last_error: String,
}

/// Which deliveries are asked for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Of this state only; else state by state.
    pub state: Option<State>,
    /// To this webhook only.
    pub webhook: Option<String>,
    /// Of events recorded since, unix microseconds.
    pub since_us: Option<i64>,
    /// What comes after a place.
    pub after: Option<Cursor>,
    /// At most so many.
    pub most: usize,
}

/// A place in the list: that of one delivery. As text it is what a query goes on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    state: State,
    recorded_us: i64,
    id: String,
    webhook: String,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cursor { state, recorded_us, id, webhook } = self;
        write!(f, "{}:{recorded_us}:{id}:{webhook}", state.as_str())
    }
}

/// A text is no place in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor that an answer gave")]
pub struct NoCursor;

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Cursor, NoCursor> {
        let mut parts = text.splitn(4, ':');
        let mut part = || parts.next().ok_or(NoCursor);
        let (state, recorded_us, id, webhook) = (part()?, part()?, part()?, part()?);
        let state = State::ALL.into_iter().find(|known| known.as_str() == state);
        Ok(Cursor {
            state: state.ok_or(NoCursor)?,
            recorded_us: recorded_us.parse().map_err(|_| NoCursor)?,
            id: id.to_owned(),
            webhook: webhook.to_owned(),
        })
    }
}

/// A page of deliveries.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In the order of states, the oldest of each first.
    pub deliveries: Vec<Delivery>,
    /// Where the next page begins; `None`: this is the last.
    pub next: Option<Cursor>,
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

impl Outbox {
    /// A page of deliveries.
    pub fn list(&self, query: &Query) -> Done<Page> {
        self.store.read(|tables| {
            let mut page = Page::default();
            let (mut left, mut last) = (LOOKED_AT, None);
            let first = query.after.as_ref().map_or(0, |after| after.state as usize);
            let states = State::ALL.into_iter().skip(first);
            for state in states.filter(|state| query.state.is_none_or(|only| only == *state)) {
                add(&mut page, tables, state, query, (&mut left, &mut last))?;
                if page.next.is_some() {
                    break;
                }
            }
            Ok(page)
        })
    }

    /// How much is in it.
    pub fn depth(&self) -> Done<Depth> {
        self.store.read(|tables| {
            let pending = tables.open_table(PENDING)?;
            let oldest_us = pending.first()?.map(|(place, _)| place.value().0);
            let dead = tables.open_table(DEAD)?.len()?;
            Ok(Depth { pending: pending.len()?, dead, oldest_us })
        })
    }
}

fn add(
    page: &mut Page,
    tables: &ReadTransaction,
    state: State,
    query: &Query,
    (left, last): (&mut usize, &mut Option<Cursor>),
) -> Result<(), redb::Error> {
    let table = tables.open_table(state.table())?;
    let since: Place<'_> = (query.since_us.unwrap_or(i64::MIN), "", "");
    let from = match query.after.as_ref().filter(|after| after.state == state) {
        Some(after) => {
            let after: Place<'_> = (after.recorded_us, &after.id, &after.webhook);
            if after < since { Bound::Included(since) } else { Bound::Excluded(after) }
        }
        None => Bound::Included(since),
    };
    for entry in table.range::<Place<'_>>((from, Bound::Unbounded))? {
        let (place, standing) = entry?;
        if page.deliveries.len() == query.most || *left == 0 {
            // There is more, after what was looked at last.
            page.next.clone_from(last);
            return Ok(());
        }
        *left -= 1;
        let ((recorded_us, id, webhook), (attempts, at_us, error)) =
            (place.value(), standing.value());
        let (id, webhook) = (id.to_owned(), webhook.to_owned());
        let is_wanted = query.webhook.as_ref().is_none_or(|only| *only == webhook);
        *last = Some(Cursor { state, recorded_us, id: id.clone(), webhook: webhook.clone() });
        if is_wanted {
            let last_error = error.to_owned();
            let delivery =
                Delivery { state, id, webhook, recorded_us, attempts, at_us, last_error };
            page.deliveries.push(delivery);
        }
    }
    Ok(())
}
