//! The rows of an exchange: which are written, and when (**M1**).
//!
//! A request is counted by exactly one row: as its answer ends, before the client can have seen
//! the end. An answer that goes on for long must neither hold the watermark nor lose its bytes
//! with a crash: it is counted while it goes on, marked [`Flags::OPEN`], and what flows afterwards
//! is in further rows of the same request id, marked [`Flags::PART`], each with the bytes since
//! the row before. Figures of further meters are rows of their own beside these (`measure`).
//! An upgrade (WebSocket) and a stream of events are counted as their header
//! leaves, any other answer at the first piece that comes [`LONG_ANSWER`] after the request; parts
//! follow as often while something flows, and one at the end. A part with no bytes is not written.
//!
//! A request stays open, which holds the watermark, until its counting row is written. A part is
//! dated when it is written, and open for that moment.

use orbit_meter::event::{Event, Flags, Kind};
use orbit_meter::journal::AppendError;
use orbit_policy::meters::figure::UNIT_NANO;
use orbit_policy::{Admission, Nanos};

use super::Edge;
use super::exchange::Exchange;
use super::measure::Flown;
use super::members;
use crate::settings::OnFull;

/// An answer that takes longer is counted while it goes on, and its bytes are written as often.
pub const LONG_ANSWER: Nanos = Nanos(10 * Nanos::SECOND.0);

/// How far an exchange is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// When its last row was.
    at: Nanos,
    request_bytes: u64,
    response_bytes: u64,
}

impl Exchange {
    /// The answer begins, and has no end in sight: its header must not have left yet.
    pub(super) fn begin(&mut self, edge: &Edge) {
        self.count(edge, edge.clock.now(), Flags::OPEN);
    }

    /// A piece flows, and is in the sums of bytes already.
    pub(super) fn keep_up(&mut self, edge: &Edge) {
        let last = self.written.map_or(self.started.mono, |written| written.at);
        let now = edge.clock.now();
        if now.since(last) < edge.long_answer.0 {
            return;
        }
        if self.written.is_none() {
            self.count(edge, now, Flags::OPEN);
        } else if !edge.journal.is_full() {
            // What room a full journal keeps is for requests that are not counted yet.
            self.part(edge, false);
        }
    }

    /// A piece of the request's body flows: it is written with the answer's end, unless the
    /// request is counted already.
    pub(super) fn request_flows(&mut self, edge: &Edge) {
        if self.written.is_some() {
            self.keep_up(edge);
        }
    }

    /// The answer's end is about to leave, and must not have left. `more_to_come`: of the
    /// request's body.
    pub(super) fn end(&mut self, edge: &Edge, more_to_come: bool) {
        let now = edge.clock.now();
        if self.written.is_some() {
            self.part(edge, true);
        } else {
            self.count(edge, now, if more_to_come { Flags::OPEN } else { Flags::NONE });
        }
        self.over(now, more_to_come);
    }

    /// The exchange is over. What has no row yet did not reach its end.
    pub(super) fn finish(&mut self, edge: &Edge, failed: bool) {
        if self.admission.is_some() {
            if failed {
                self.flags = self.flags.with(Flags::ABORTED);
            }
            self.end(edge, false);
        }
        self.admission = None;
        self.leave_open();
    }

    /// Once: into the metrics, and the permits are given back. Before the end of the answer
    /// leaves, as a client that has seen it may ask again at once. `more_to_come`: of an upload, for
    /// which room stays reserved.
    fn over(&mut self, now: Nanos, more_to_come: bool) {
        let micros = self.micros(now);
        let Some(admission) = &mut self.admission else { return };
        if !self.is_over {
            self.is_over = true;
            admission.permit.release();
            self.shard.answered(self.status, micros);
        }
        if !more_to_come || !(200..300).contains(&self.status) {
            admission.permit.release_levels();
        }
    }

    /// Writes the row that counts the request.
    fn count(&mut self, edge: &Edge, now: Nanos, more: Flags) {
        let Some(admission) = &self.admission else { return };
        let event = Event {
            ts_us: self.started.unix_us,
            flags: self.flags.with(more),
            requests: 1,
            quantity_nano: i128::from(admission.permit.route().cost) * UNIT_NANO,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            upstream_us: self.answered_at.map_or(0, |at| self.micros(at)),
            ..self.blank(admission, now)
        };
        if let Err(error) = edge.journal.append(&event) {
            lost(edge, &event, &error);
        }
        let flown = &self.flown(self.request_bytes, self.response_bytes);
        let changes = self.write_figures(edge, admission, &event, flown);
        members::write(edge, admission, &event);
        self.change_levels(edge, &changes);
        self.written_at(now);
        self.leave_open();
    }

    /// Writes what flowed since the last row, if anything did. A part without room goes into the
    /// next one, if it is not the last.
    fn part(&mut self, edge: &Edge, is_last: bool) {
        let (Some(admission), Some(written)) = (&self.admission, self.written) else { return };
        // A retried request's body passes again.
        let request_bytes = self.request_bytes.saturating_sub(written.request_bytes);
        let response_bytes = self.response_bytes.saturating_sub(written.response_bytes);
        if request_bytes == 0 && response_bytes == 0 {
            return;
        }
        let (place, now) = self.shard.open.enter(|| edge.clock.read());
        let event = Event {
            ts_us: now.unix_us,
            flags: self.flags.with(Flags::PART),
            request_bytes,
            response_bytes,
            ..self.blank(admission, now.mono)
        };
        let appended = edge.journal.append(&event);
        if is_last && let Err(error) = &appended {
            lost(edge, &event, error);
        }
        if is_last || appended.is_ok() {
            let flown = &self.flown(request_bytes, response_bytes);
            let changes = self.write_figures(edge, admission, &event, flown);
            self.change_levels(edge, &changes);
            self.written_at(now.mono);
        }
        self.shard.open.leave(place);
    }

    /// A row with nothing in it but whose it is.
    fn blank<'a>(&'a self, admission: &'a Admission, now: Nanos) -> Event<'a> {
        let permit = &admission.permit;
        let (tenant, route) = (permit.tenant(), permit.route());
        Event {
            ts_us: 0,
            request_id: self.id.0,
            kind: Kind::Request,
            method: self.method,
            status: self.status,
            flags: Flags::NONE,
            requests: 0,
            quantity_nano: 0,
            request_bytes: 0,
            response_bytes: 0,
            duration_us: self.micros(now),
            upstream_us: 0,
            tenant: &tenant.id,
            path: &tenant.path,
            plan: permit.plan_id(),
            key_id: permit.key_id(),
            app: permit.app_id(),
            route: &route.id,
            meter: &route.meter,
            reason: "",
        }
    }

    /// The bytes a row is about.
    fn flown(&self, request: u64, response: u64) -> Flown {
        let (request_total, response_total) = (self.request_bytes, self.response_bytes);
        Flown { request, response, request_total, response_total }
    }

    fn written_at(&mut self, at: Nanos) {
        let (request_bytes, response_bytes) = (self.request_bytes, self.response_bytes);
        self.written = Some(Written { at, request_bytes, response_bytes });
    }

    fn micros(&self, until: Nanos) -> u32 {
        u32::try_from(until.since(self.started.mono) / 1_000).unwrap_or(u32::MAX)
    }
}

/// A row of an admitted request the journal had no room for: the operator chose so, or it is a
/// fault worth a line. It is summed with its like until there is room, as are its figures and members;
/// the request is still open here, so the watermark waits for the sum.
fn lost(edge: &Edge, event: &Event<'_>, error: &AppendError) {
    edge.refusals.count_unmetered(event);
    edge.metrics.unrecorded.increment(1);
    match edge.on_full {
        OnFull::ServeUnmetered => tracing::debug!(%error, "a request was served unmetered"),
        OnFull::Refuse => tracing::error!(%error, "an admitted request could not be recorded"),
    }
}
