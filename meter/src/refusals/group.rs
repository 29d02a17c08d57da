//! A group: what is counted together, how much of it, and its way into the journal.
//!
//! The total is kept twice: here, to be read, and in the group's slot, to survive. Every change
//! reaches the slot before whoever made it goes on. Called under the lock of the group's shard.

use super::key::{Amount, OwnedKey, Sum, Total};
use super::slot::{Left, Note, Slot, next_version};
use super::table::Table;
use crate::journal::{AppendError, Journal};

/// Clock readings of two threads differ by no more; a larger step back is a clock that was set.
const LATE_SECONDS: i64 = 2;

/// A group and its total, from some second on.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: OwnedKey,
    checksum: u32,
    version: u32,
    /// Its slot in the table; `None` while there is no table, and the total is only here.
    pub(super) slot: Option<u32>,
    pub(super) total: Total,
    pub(super) stage: Stage,
}

/// How the total will become an event.
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
    pub(super) fn new(key: OwnedKey, slot: Option<u32>, table: &Table) -> Group {
        let checksum = slot.map_or(0, |slot| table.slot(slot).place(&key));
        let (total, stage) = (Total::NOTHING, Stage::Counting);
        Group { key, checksum, version: 0, slot, total, stage }
    }

    /// The group of a total that an earlier process left, and of which no row was begun.
    pub(super) fn resume(left: Left, slot: u32) -> Group {
        let Left { key, checksum, version, total, note, .. } = left;
        let stage = if note == Note::Waiting { Stage::Waiting } else { Stage::Counting };
        Group { key, checksum, version, slot: Some(slot), total, stage }
    }

    /// There is a slot for it now.
    pub(super) fn settle_in(&mut self, slot: u32, table: &Table) {
        self.checksum = table.slot(slot).place(&self.key);
        self.version = 0;
        self.slot = Some(slot);
        self.set(self.total, table);
        match self.stage {
            Stage::Counting => {}
            Stage::Waiting => table.slot(slot).wait(),
            Stage::Announced => table.slot(slot).announce(),
        }
    }

    /// One more; false when it cannot be said any more how much.
    pub(super) fn add(
        &mut self,
        amount: &Amount,
        second: i64,
        journal: &Journal,
        table: &Table,
    ) -> bool {
        if self.key.sum == Sum::Refused {
            self.roll(second, journal, table);
        }
        let Some(total) = self.total.with(self.key.sum, amount, second) else { return false };
        self.set(total, table);
        true
    }

    /// Journals what was counted of another second. A total without room keeps its own second, and a
    /// refusal whose clock was read just before another's joins the later second.
    fn roll(&mut self, second: i64, journal: &Journal, table: &Table) {
        let counted = self.total.second;
        let is_late = (second + 1..=second + LATE_SECONDS).contains(&counted);
        if counted == second || is_late || self.stage != Stage::Counting {
            return;
        }
        if let Err(error) = self.write(journal, table) {
            tracing::debug!(%error, "a count stays, and what comes joins it");
        }
    }

    /// Before a flush at `current`: whoever meets a full journal waits, and whoever has waited
    /// until there is room is announced. True when the table has to be synced.
    pub(super) fn prepare(&mut self, current: i64, is_full: bool, table: &Table) -> bool {
        if !self.total.is_any {
            return false;
        }
        let stage = match self.stage {
            _ if is_full => Stage::Waiting,
            Stage::Waiting if self.total.second < current => Stage::Announced,
            stage => stage,
        };
        if stage != self.stage {
            self.stage = stage;
            match self.in_table(table) {
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
        may && self.total.is_any && self.total.second < current
    }

    /// Journals the total, if there is one, and starts over.
    pub(super) fn write(&mut self, journal: &Journal, table: &Table) -> Result<(), AppendError> {
        if !self.total.is_any {
            return Ok(());
        }
        let slot = self.in_table(table);
        journal.append_noting(&self.key.key().event(&self.total), |id| {
            if let Some(slot) = slot {
                slot.note(id);
            }
        })?;
        self.set(Total { second: self.total.second, ..Total::NOTHING }, table);
        self.stage = Stage::Counting;
        if let Some(slot) = self.in_table(table) {
            slot.forget_note();
        }
        Ok(())
    }

    fn in_table<'a>(&self, table: &'a Table) -> Option<Slot<'a>> {
        self.slot.map(|slot| table.slot(slot))
    }

    #[inline]
    fn set(&mut self, total: Total, table: &Table) {
        self.total = total;
        self.version = next_version(self.version);
        if let Some(slot) = self.in_table(table) {
            slot.set(self.version, &total, self.checksum);
        }
    }
}
