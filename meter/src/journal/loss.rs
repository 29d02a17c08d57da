//! Events that were answered, or may have been, and are in no journal any more.
//!
//! # What the numbers mean
//! - [`LossCause::Damaged`]: the sequences from `first_sequence` on, `events` of them, were written
//!   and can no longer be read. They were written between `since_us` and `until_us`: since their
//!   segment was made, until it was found out or the next segment was made.
//! - [`LossCause::Power`]: the machine went down before the lane was synced. Everything that had
//!   been appended before `since_us` is there; what was appended from then on, up to the end of the
//!   machine's run, which was before `until_us`, is gone. `first_sequence` is the first that can be
//!   among it. How many there were, nobody knows: `events` and `bytes` are 0.
//! - [`LossCause::Header`]: a segment's header is damaged, so nobody can say which events it holds, or
//!   when they were written. It is of no known opening and lane ([`Loss::NO_LANE`], epoch 0), and
//!   `first_sequence` is the number in the name of its file. If another segment of its lane follows,
//!   the events are also told as damaged.
//! - [`LossCause::Uncounted`]: requests that were answered, or their further usage, found no place to
//!   be counted in: at least `events` rows of this opening with `bytes` body bytes, from `since_us`
//!   on. The number grows as long as the opening lasts.
//!
//! Times are of the appending, which is the end of an answer: the request's own time, the one
//! in its row, is earlier by as long as it took.
//!
//! # Who keeps them
//! A loss found at an opening is durable in the journal's own record before anything on the disk is
//! changed, and is told again at every opening until [`losses_noted`](super::Journal::losses_noted)
//! says that somebody else has it durably. One found while a segment is read is found again, as long
//! as the segment is there: who acknowledges a position notes the losses before it first.

use serde::{Deserialize, Serialize};

use super::LaneKey;

/// Why events are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossCause {
    /// They were written and can no longer be read.
    Damaged,
    /// The machine went down before they were synced, if there were any.
    Power,
    /// Their segment has lost its header.
    Header,
    /// They were never written.
    Uncounted,
}

impl LossCause {
    /// Its name everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            LossCause::Damaged => "damaged",
            LossCause::Power => "power",
            LossCause::Header => "header",
            LossCause::Uncounted => "uncounted",
        }
    }
}

/// A range of a lane that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Whose.
    pub lane: LaneKey,
    /// The first that is missing, or that can be.
    pub first_sequence: u64,
    /// How many are, as far as the writer's own account survived; 0 when nobody knows.
    pub events: u64,
    /// Their bytes, as far as known.
    pub bytes: u64,
    /// Why.
    pub cause: LossCause,
    /// Nothing appended before is part of this loss; unix microseconds.
    pub since_us: i64,
    /// Nothing appended after is part of this loss; unix microseconds.
    pub until_us: i64,
}

impl Loss {
    /// The lane of losses that are of no lane, or of none that is known. No lane has this number: a
    /// journal has at most as many lanes.
    pub const NO_LANE: u16 = u16::MAX;

    /// Two reports of one loss agree in this.
    pub(crate) fn is_of(&self, other: &Loss) -> bool {
        let place = |loss: &Loss| (loss.lane, loss.first_sequence, loss.cause);
        place(self) == place(other)
    }

    /// Says it, once, at the place where it is found.
    pub(crate) fn log(&self) {
        let Loss { lane, first_sequence, events, bytes, cause, since_us, until_us } = self;
        match cause {
            LossCause::Damaged => {
                tracing::error!(
                    ?lane,
                    first_sequence,
                    events,
                    bytes,
                    "journalled events are unreadable"
                );
            }
            LossCause::Power => {
                tracing::error!(
                    ?lane,
                    first_sequence,
                    since_us,
                    until_us,
                    "the machine went down; what was journalled in between is gone"
                );
            }
            LossCause::Header => {
                let file = first_sequence;
                tracing::error!(file, "a segment has lost its header, and its events with it");
            }
            LossCause::Uncounted => {
                tracing::error!(
                    events,
                    bytes,
                    since_us,
                    "usage found no place to be counted in, and is lost"
                );
            }
        }
    }
}

/// Adds what is not known yet, or not as that much.
pub(crate) fn add(known: &mut Vec<Loss>, more: impl IntoIterator<Item = Loss>) {
    for loss in more {
        match known.iter_mut().find(|one| one.is_of(&loss)) {
            Some(one) if one.events < loss.events => *one = loss,
            Some(_) => {}
            None => known.push(loss),
        }
    }
}

/// Removes what is kept elsewhere, as far as it is known there.
pub(crate) fn remove(known: &mut Vec<Loss>, noted: &[Loss]) {
    let is_noted =
        |loss: &Loss| noted.iter().any(|one| one.is_of(loss) && one.events >= loss.events);
    known.retain(|loss| !is_noted(loss));
}
