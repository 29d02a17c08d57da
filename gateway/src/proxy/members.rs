//! Rows of members: once a day for each tenant that a member of a distinct meter used.
//!
//! A member's row is flagged [`Flags::MEMBER`], its request id is the member's id, and it says 1 of
//! the meter; how many different ids there are is the figure, for any part of the tree and any days.
//! It is written with the row that counts the request (**M1**), whatever came of the request after it
//! was admitted. A request that let its member into a quota's set has one in any case, so the set and
//! the rows of its window agree. A row more than needed counts nothing: what is remembered of the rows
//! that are written may be lost, and is with every start.

use orbit_meter::event::{Event, Flags};
use orbit_policy::Admission;
use orbit_policy::meters::figure::UNIT_NANO;

use super::Edge;

/// Writes the members of a request beside `row`, which counts it.
pub(super) fn write(edge: &Edge, admission: &Admission, row: &Event<'_>) {
    let permit = &admission.permit;
    let written = permit.snapshot().members().written();
    for member in permit.members() {
        if !member.is_new && written.has(member.row) {
            continue;
        }
        let event = Event {
            request_id: member.id,
            flags: Flags::MEMBER,
            requests: 0,
            quantity_nano: UNIT_NANO,
            request_bytes: 0,
            response_bytes: 0,
            duration_us: 0,
            upstream_us: 0,
            meter: &member.meter.id,
            ..*row
        };
        if edge.journal.append(&event).is_err() {
            edge.refusals.count_unmetered(&event);
        }
        written.note(member.row);
    }
}
