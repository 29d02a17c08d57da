//! What an earlier process left in the table, slot by slot: still to be written, or written.
//!
//! | left in the slot | same run of the machine | after another |
//! |---|---|---|
//! | waiting | to be written | to be written |
//! | no note, or announced | to be written | dropped |
//! | a row the journal holds | written: nothing | dropped |
//! | a row it does not hold | to be written | dropped |
//!
//! After a power failure, slots and journal are each as they were at some moment before. A count is
//! written when its second is over without waiting for the disk, so its slot may well be older than
//! its row: dropped, never doubled. One that waits is announced on the disk before it is written,
//! so while it waits there it was not.

use super::group::Group;
use super::slot::{Note, Slot};
use super::table::Table;
use crate::event::EventId;

/// The table's content.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) groups: Vec<Group>,
    /// Slots without a count, the first ones last.
    pub(super) free: Vec<u32>,
    tally: Tally,
}

/// Requests by what becomes of them.
#[derive(Debug, Default)]
struct Tally {
    kept: u64,
    written: u64,
    dropped: u64,
    damaged_slots: u64,
}

/// Settles every slot. Dying in it is harmless: what was settled is found settled, and the rest is
/// as it was, for nothing is shipped before it is done.
pub(super) fn recover(table: &Table, same_run: bool, holds: impl Fn(EventId) -> bool) -> Recovered {
    let mut recovered = Recovered::default();
    let tally = &mut recovered.tally;
    for index in (0..table.slots() as u32).rev() {
        let slot = table.slot(index);
        match slot.read() {
            Ok(Some(left)) => {
                let requests = u64::from(left.count);
                let is_written = matches!(left.note, Note::Row(id) if holds(id));
                let is_believed = same_run || left.note == Note::Waiting;
                if is_believed && !is_written {
                    if left.note != Note::Waiting {
                        slot.forget_note();
                    }
                    tally.kept += requests;
                    recovered.groups.push(Group::resume(left, index));
                    continue;
                }
                *if is_written { &mut tally.written } else { &mut tally.dropped } += requests;
            }
            Ok(None) => {}
            Err(_) => tally.damaged_slots += 1,
        }
        empty(slot);
        recovered.free.push(index);
    }
    recovered.tally.log();
    recovered
}

/// The count goes first: without a note it would be believed.
fn empty(slot: Slot<'_>) {
    slot.clear_count();
    slot.forget_note();
}

impl Tally {
    fn log(&self) {
        let &Tally { kept, written, dropped, damaged_slots } = self;
        if kept + written > 0 {
            tracing::info!(kept, written, "counts of an earlier process were found");
        }
        if dropped > 0 {
            tracing::warn!(
                requests = dropped,
                "the machine went down: refusals counted in its last second or two are dropped"
            );
        }
        if damaged_slots > 0 {
            tracing::error!(damaged_slots, "damaged counts of refusals are dropped");
        }
    }
}
