//! A group: what is counted together, how much of it, and its way into the journal.
//!
//! The numbers are kept twice: here, to be read, and in the group's slot, to survive. Every change
//! reaches the slot before whoever made it goes on. Called under the lock of the group's shard.

use super::key::{OwnedKey, Sum};
use super::slot::{Left, Note};
use super::table::Table;
use crate::journal::{AppendError, Journal};

/// Clock readings of two threads differ by no more; a larger step back is a clock that was set.
const LATE_SECONDS: i64 = 2;

/// A group and its count, from some second on.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: OwnedKey,
    checksum: u32,
    /// Its slot in the table; without a table, one of as many permits.
    pub(super) slot: u32,
    pub(super) second: i64,
    pub(super) count: u32,
    pub(super) stage: Stage,
}

/// How the count will become an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// When its second is over.
    Counting,
    /// When there is room: announced first.
    Waiting,
    /// Once the table is synced.
    Announced,
}

impl Group {
    /// A group that has counted nothing, in a slot that is free.
    pub(super) fn new(key: OwnedKey, slot: u32, second: i64, table: Option<&Table>) -> Group {
        let checksum = table.map_or(0, |table| table.slot(slot).place(&key));
        let mut group = Group { key, checksum, slot, second, count: 0, stage: Stage::Counting };
        group.set_second(second, table);
        group
    }

    /// The group of a count that an earlier process left, and of which no row was begun.
    pub(super) fn resume(left: Left, slot: u32) -> Group {
        let Left { key, checksum, second, count, note } = left;
        let stage = if note == Note::Waiting { Stage::Waiting } else { Stage::Counting };
        Group { key, checksum, slot, second, count, stage }
    }

    /// One more; false when it cannot be said any more how many.
    pub(super) fn add(&mut self, second: i64, journal: &Journal, table: Option<&Table>) -> bool {
        match self.key.sum {
            Sum::Refused => self.roll(second, journal, table),
            Sum::Unmetered if self.count == 0 || second < self.second => {
                self.set_second(second, table);
            }
            Sum::Unmetered => {}
        }
        let Some(count) = self.count.checked_add(1) else { return false };
        self.set_count(count, table);
        true
    }

    /// Makes `second` the one that is counted. A count without room keeps its own second, and a
    /// refusal whose clock was read just before another's joins the later second.
    fn roll(&mut self, second: i64, journal: &Journal, table: Option<&Table>) {
        let is_late = (second + 1..=second + LATE_SECONDS).contains(&self.second);
        if self.second == second || is_late || self.stage != Stage::Counting {
            return;
        }
        if self.write(journal, table).is_ok() {
            self.set_second(second, table);
        }
    }

    /// Before a flush at `current`: whoever meets a full journal waits, and whoever has waited
    /// until there is room is announced. True when the table has to be synced.
    pub(super) fn prepare(&mut self, current: i64, is_full: bool, table: Option<&Table>) -> bool {
        if self.count == 0 {
            return false;
        }
        let stage = match self.stage {
            _ if is_full => Stage::Waiting,
            Stage::Waiting if self.second < current => Stage::Announced,
            stage => stage,
        };
        if stage != self.stage {
            self.stage = stage;
            match table.map(|table| table.slot(self.slot)) {
                Some(slot) if stage == Stage::Waiting => slot.wait(),
                Some(slot) => slot.announce(),
                None => {}
            }
        }
        stage != Stage::Counting
    }

    /// Whether a flush at `current` may write the row.
    pub(super) fn is_due(&self, current: i64, is_synced: bool) -> bool {
        let may = match self.stage {
            Stage::Counting => true,
            Stage::Waiting => false,
            Stage::Announced => is_synced,
        };
        may && self.count > 0 && self.second < current
    }

    /// Journals the count, if there is one, and starts over.
    pub(super) fn write(
        &mut self,
        journal: &Journal,
        table: Option<&Table>,
    ) -> Result<(), AppendError> {
        if self.count == 0 {
            return Ok(());
        }
        let slot = table.map(|table| table.slot(self.slot));
        journal.append_noting(&self.key.key().event(self.second, self.count), |id| {
            if let Some(slot) = slot {
                slot.note(id);
            }
        })?;
        self.set_count(0, table);
        self.stage = Stage::Counting;
        if let Some(slot) = slot {
            slot.forget_note();
        }
        Ok(())
    }

    fn set_second(&mut self, second: i64, table: Option<&Table>) {
        self.second = second;
        if let Some(table) = table {
            table.slot(self.slot).set_second(second, self.checksum);
        }
    }

    #[inline]
    fn set_count(&mut self, count: u32, table: Option<&Table>) {
        self.count = count;
        if let Some(table) = table {
            table.slot(self.slot).set_count(count, self.checksum);
        }
    }
}
