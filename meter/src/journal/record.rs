//! What a journal directory knows of itself: who it is, its latest opening, and losses that nobody
//! else has noted yet.
//!
//! Guarantees: the node number is drawn once; the epoch is raised durably before anything is
//! written under it, so no two openings ever share an event id. Raising it, naming the machine's run
//! it happens in and taking up the losses of the opening before are one durable step: a crash
//! between finding a loss and telling it is not possible. The files have their blocks from the
//! first opening on, so a full disk stops none of this.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{JournalError, Loss, loss};
use crate::boot::{Boot, BootId};
use crate::slots::{Slots, SlotsError};

const NAME: &str = "identity";
const VERSION: u32 = 1;

/// A directory's node number and the epoch of this opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) node: u32,
    pub(super) epoch: u32,
}

/// The durable value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    version: u32,
    /// The directory's random number.
    pub(super) node: u32,
    /// The latest opening.
    pub(super) epoch: u32,
    /// The machine's run it happened in; nothing where that was not known.
    boot: String,
    /// When, unix microseconds.
    pub(super) opened_us: i64,
    /// It ended with everything on the disk.
    pub(super) is_closed: bool,
    /// Not noted by anybody else.
    pub(super) losses: Vec<Loss>,
}

/// The value and its files.
#[derive(Debug)]
pub(super) struct Record {
    directory: PathBuf,
    slots: Slots,
    known: Known,
}

impl Known {
    /// The machine's run of the latest opening.
    pub(super) fn boot(&self) -> Option<BootId> {
        BootId::parse(&self.boot)
    }
}

impl Record {
    /// Reads what is known. A directory without a readable identity becomes a new node, whose ids
    /// cannot collide with anything written before.
    pub(super) fn open(directory: &Path) -> Result<Record, JournalError> {
        let (mut slots, stored) = match Slots::open(directory, NAME) {
            Err(error @ SlotsError::Damaged { .. }) => {
                tracing::error!(%error, "the journal's identity is unreadable; a new node");
                (Slots::renew(directory, NAME)?, None)
            }
            other => other?,
        };
        let known = stored.as_deref().map(|bytes| parse(directory, bytes)).transpose()?;
        let is_new = known.is_none();
        let failed = |source| JournalError::Io { path: directory.join(NAME), source };
        let known = known.map_or_else(fresh, Ok).map_err(failed)?;
        if is_new {
            // Twice, so that neither copy is ever blank again: see `Slots::open`.
            for _ in 0..2 {
                slots.store(&text(&known)).map_err(failed)?;
            }
        }
        Ok(Record { directory: directory.to_owned(), slots, known })
    }

    /// What is known, for one who only looks.
    pub(super) fn peek(directory: &Path) -> Result<Option<Known>, JournalError> {
        let stored = Slots::peek(directory, NAME)?;
        stored.map(|bytes| parse(directory, &bytes)).transpose()
    }

    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { node: self.known.node, epoch: self.known.epoch }
    }

    /// Begins an opening above `seen`, the highest epoch of this node in the directory.
    pub(super) fn raise(
        &mut self,
        seen: u32,
        boot: &Boot,
        opened_us: i64,
        found: &[Loss],
    ) -> Result<(), JournalError> {
        let mut known = self.known.clone();
        known.epoch = known.epoch.max(seen) + 1;
        known.boot = boot.id.map_or_else(String::new, |id| id.to_string());
        known.opened_us = opened_us;
        known.is_closed = false;
        loss::add(&mut known.losses, found.iter().copied());
        let path = self.directory.join(NAME);
        self.store(known).map_err(|source| JournalError::Io { path, source })
    }

    /// The opening ended with everything on the disk.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.store(Known { is_closed: true, ..self.known.clone() })
    }

    /// Keeps a loss, or as how much more it turned out.
    pub(super) fn add(&mut self, loss: Loss) -> io::Result<()> {
        self.change(|known| loss::add(&mut known.losses, [loss]))
    }

    /// Somebody else keeps these now.
    pub(super) fn forget(&mut self, noted: &[Loss]) -> io::Result<()> {
        self.change(|known| loss::remove(&mut known.losses, noted))
    }

    fn change(&mut self, change: impl FnOnce(&mut Known)) -> io::Result<()> {
        let mut known = self.known.clone();
        change(&mut known);
        if known == self.known { Ok(()) } else { self.store(known) }
    }

    fn store(&mut self, known: Known) -> io::Result<()> {
        self.slots.store(&text(&known))?;
        self.known = known;
        Ok(())
    }
}

fn fresh() -> io::Result<Known> {
    Ok(Known {
        version: VERSION,
        node: getrandom::u32().map_err(io::Error::other)?,
        epoch: 0,
        boot: String::new(),
        opened_us: 0,
        is_closed: true,
        losses: Vec::new(),
    })
}

fn text(known: &Known) -> Vec<u8> {
    serde_json::to_vec(known).expect("numbers and strings are always JSON")
}

fn parse(directory: &Path, bytes: &[u8]) -> Result<Known, JournalError> {
    let path = || directory.join(NAME);
    let known: Known = serde_json::from_slice(bytes)
        .map_err(|source| JournalError::Identity { path: path(), source })?;
    match known.version {
        VERSION => Ok(known),
        found => Err(JournalError::Version { path: path(), found, known: VERSION }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LaneKey, LossCause};
    use super::*;

    fn boot(id: u128) -> Boot {
        Boot { id: Some(BootId(id)), began_us: 0 }
    }

    fn open(directory: &Path) -> Record {
        Record::open(directory).expect("usable")
    }

    #[test]
    fn each_opening_raises_the_epoch_of_the_same_node() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut first = open(directory.path());
        first.raise(0, &boot(1), 1, &[]).expect("writable");
        let mut second = open(directory.path());
        assert_eq!((second.known().epoch, second.known().is_closed), (1, false));
        second.raise(9, &boot(2), 2, &[]).expect("writable");
        second.close().expect("writable");
        let third = open(directory.path());
        assert_eq!(third.known().node, first.known().node);
        assert_eq!((third.known().epoch, third.known().is_closed), (10, true));
        assert_eq!((third.known().boot(), third.known().opened_us), (Some(BootId(2)), 2));
    }

    #[test]
    fn an_unreadable_identity_becomes_another_node() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let first = open(directory.path());
        for index in 0..2 {
            let path = directory.path().join(format!("{NAME}.{index}"));
            let mut bytes = std::fs::read(&path).expect("just written");
            bytes[40] ^= 1;
            std::fs::write(&path, bytes).expect("writable");
        }
        let second = open(directory.path());
        assert_ne!(first.known().node, second.known().node);
        assert_eq!(open(directory.path()).known(), second.known());
    }

    #[test]
    fn a_loss_is_kept_once_until_it_is_noted() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let lane = LaneKey { node: 1, epoch: 1, lane: 0 };
        let loss = Loss {
            lane,
            first_sequence: 7,
            events: 0,
            bytes: 0,
            cause: LossCause::Power,
            since_us: 10,
            until_us: 20,
        };
        let torn = Loss { cause: LossCause::Damaged, events: 3, ..loss };
        let mut record = open(directory.path());
        record.raise(0, &boot(1), 1, &[loss, torn]).expect("writable");
        record.raise(0, &boot(1), 1, &[Loss { until_us: 99, ..loss }]).expect("writable");
        assert_eq!(open(directory.path()).known().losses, [loss, torn]);
        record.forget(&[loss]).expect("writable");
        assert_eq!(open(directory.path()).known().losses, [torn]);
        // It grows meanwhile: what is noted is less than what is known.
        let more = Loss { events: 5, ..torn };
        record.add(more).expect("writable");
        record.forget(&[torn]).expect("writable");
        assert_eq!(open(directory.path()).known().losses, [more]);
        record.forget(&[more]).expect("writable");
        assert_eq!(open(directory.path()).known().losses, []);
    }
}
