//! What an earlier process left in the table, slot by slot: still to be written, or written.
//!
//! | left in the slot | same run of the machine | after another |
//! |---|---|---|
//! | waiting | to be written | to be written |
//! | no note, or announced | to be written | dropped |
//! | a row the journal holds | written: nothing | dropped |
//! | a row it does not hold | to be written | dropped |
//!
//! After a power failure, slots and journal are each as they were at some moment before. A total is
//! written when its second is over without waiting for the disk, so its slot may well be older than
//! its row: dropped, never doubled. One that waits is announced on the disk before it is written,
//! so while it waits there it was not.

use super::group::Group;
use super::key::Total;
use super::slot::{Note, Slot, next_version};
use super::table::Table;
use crate::event::EventId;

/// The table's content.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) groups: Vec<Group>,
    /// Slots without a total, the first ones last.
    pub(super) free: Vec<u32>,
    pub(super) tally: Tally,
}

/// Requests by what becomes of them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    kept: u64,
    written: u64,
    dropped: u64,
    /// Totals, or the last that was added to one, that nobody can read although the machine ran on.
    pub(super) damaged: u64,
}

/// Settles every slot; `same_run` are the files that were used in this run of the machine. Dying in it
/// is harmless: what was settled is found settled, and the rest is as it was, for nothing is shipped
/// before it is done.
pub(super) fn recover(
    table: &Table,
    same_run: &[u32],
    holds: impl Fn(EventId) -> bool,
) -> Recovered {
    let mut recovered = Recovered::default();
    let tally = &mut recovered.tally;
    for number in table.files().rev() {
        let same_run = same_run.contains(&number);
        for index in table.slots_of(number).rev() {
            let slot = table.slot(index);
            match slot.read() {
                Ok(Some(left)) => {
                    let requests = u64::from(left.total.requests);
                    let is_written = matches!(left.note, Note::Row(id) if holds(id));
                    let is_believed = same_run || left.note == Note::Waiting;
                    if is_believed && !is_written {
                        tally.damaged += u64::from(same_run && left.is_behind);
                        if left.note != Note::Waiting {
                            slot.forget_note();
                        }
                        tally.kept += requests;
                        recovered.groups.push(Group::resume(left, index));
                        continue;
                    }
                    *if is_written { &mut tally.written } else { &mut tally.dropped } += requests;
                    // Without a note it would be believed.
                    slot.set(next_version(left.version), &Total::NOTHING, left.checksum);
                    slot.forget_note();
                }
                Ok(None) => slot.forget_note(),
                Err(_) => {
                    tally.damaged += u64::from(same_run);
                    empty(slot);
                }
            }
            recovered.free.push(index);
        }
    }
    recovered.tally.log();
    recovered
}

fn empty(slot: Slot<'_>) {
    slot.wipe();
    slot.forget_note();
}

impl Tally {
    fn log(&self) {
        let &Tally { kept, written, dropped, damaged } = self;
        if kept + written > 0 {
            tracing::info!(kept, written, "counts of an earlier process were found");
        }
        if dropped > 0 {
            tracing::warn!(
                requests = dropped,
                "the machine went down: refusals counted in its last second or two are dropped"
            );
        }
        if damaged > 0 {
            tracing::error!(damaged, "damaged counts are dropped");
        }
    }
}
