//! The events of one request: judged, then counted; and what is answered.

use axum::http::StatusCode;
use metrics::counter;
use orbit_meter::ingest::{RecordError, Recorded};
use orbit_meter::journal::AppendError;
use orbit_policy::meters::figure::whole_units;
use orbit_policy::quota::Reported;
use orbit_policy::{Aggregate, Snapshot};
use serde_json::{Value, json};

use super::IngestState;
use super::request::{Envelope, Sent};
use super::usage::{Reason, Refusal, Usage, request_id, usage};
use crate::api::Problem;
use crate::proxy::problem::REDUCED_CAPACITY;

/// When a sender may try again after the journal had no room.
const RETRY_AFTER_S: u32 = 5;
/// Of an id, as much is repeated in an answer.
const MAX_SHOWN_CHARS: usize = 128;

/// What became of a request's events.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) accepted: u64,
    pub(super) duplicates: u64,
    pub(super) rejected: Vec<Value>,
}

enum Judged<'a> {
    /// Counted before: whatever else is wrong by now, that is a success.
    Known,
    New(Usage<'a>),
}

impl Taken {
    /// The body of a success.
    pub(super) fn body(self) -> Value {
        let Taken { accepted, duplicates, rejected } = self;
        json!({ "accepted": accepted, "duplicates": duplicates, "rejected": rejected })
    }

    /// Nothing of the request is kept.
    fn refused(self, detail: String) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY)
            .detail(detail)
            .member("accepted", 0)
            .member("duplicates", self.duplicates)
            .member("rejected", self.rejected)
    }

    fn reject(&mut self, index: usize, sent: &Sent<'_>, refusal: &Refusal) {
        let id = sent.as_ref().ok().and_then(|event| event.id.as_deref());
        let id = id.map(|id| id.chars().take(MAX_SHOWN_CHARS).collect::<String>());
        self.rejected.push(json!({
            "index": index,
            "id": id,
            "reason": refusal.reason.as_str(),
            "detail": refusal.detail,
        }));
    }

    fn publish(&self) {
        let count = |result, events| {
            if events > 0 {
                counter!("orbit_ingest_events_total", "result" => result).increment(events);
            }
        };
        count("accepted", self.accepted);
        count("duplicate", self.duplicates);
        count("rejected", self.rejected.len() as u64);
    }
}

/// Counts the events. Strictly: all of them or, if one is wrong, none.
///
/// Every event is judged before the first is counted. When the journal has no room in the middle,
/// what was counted stays so and the answer is 503: sent again, it is found to be.
pub(super) fn take(
    state: &IngestState,
    events: &[Sent<'_>],
    strict: bool,
    now_us: i64,
) -> Result<Taken, Problem> {
    let snapshot = state.policy.load();
    let mut taken = Taken::default();
    let mut new = Vec::with_capacity(events.len());
    for (index, sent) in events.iter().enumerate() {
        match judge(state, &snapshot, sent, now_us) {
            Ok(Judged::Known) => taken.duplicates += 1,
            Ok(Judged::New(usage)) => new.push(usage),
            Err(refusal) => taken.reject(index, sent, &refusal),
        }
    }
    let bad = taken.rejected.len();
    if bad > 0 && (strict || bad == events.len()) {
        counter!("orbit_ingest_events_total", "result" => "rejected").increment(bad as u64);
        let kept = if strict { "; none is kept, as strict handling asks" } else { "" };
        let detail = format!("{bad} of {} events cannot be counted{kept}", events.len());
        return Err(taken.refused(detail));
    }
    for usage in &new {
        match record(state, usage, now_us) {
            Ok(Recorded::New(_)) => {
                charge(state, &snapshot, usage, now_us);
                taken.accepted += 1;
            }
            Ok(Recorded::Duplicate) => taken.duplicates += 1,
            Err(error) => {
                taken.publish();
                return Err(unrecorded(&error, &taken));
            }
        }
    }
    taken.publish();
    Ok(taken)
}

/// Counts one event; `kill -9` in the middle leaves a member that is counted again, which is the
/// same member.
fn record(state: &IngestState, usage: &Usage<'_>, now_us: i64) -> Result<Recorded, RecordError> {
    if let Some(member) = usage.member() {
        state.journal.append(&member)?;
    }
    state.index.record(&usage.event(), now_us)
}

/// Tells quotas what an event reports: what was used, how high a level is, who was seen.
fn charge(state: &IngestState, snapshot: &Snapshot, usage: &Usage<'_>, now_us: i64) {
    let event = usage.event();
    let (path, plan, meter) = (event.path, event.plan, event.meter);
    let told = &Reported { path, plan, meter, at_us: event.ts_us };
    let policy = &state.policy;
    match snapshot.meter_id(meter).map(|id| snapshot.meter(id).aggregate) {
        Some(Aggregate::Sum | Aggregate::Count) => {
            policy.charge_event(told, whole_units(event.quantity_nano), now_us);
        }
        Some(Aggregate::Gauge) => policy.tell_level(event.tenant, told, event.quantity_nano),
        Some(Aggregate::Max | Aggregate::Last | Aggregate::Distinct) | None => {}
    }
    if let Some(member) = usage.member() {
        policy.charge_member(told, &member.request_id, now_us);
    }
}

/// The journal has no room for events.
pub(super) fn no_room() -> Problem {
    Problem::of_type(StatusCode::SERVICE_UNAVAILABLE, REDUCED_CAPACITY)
        .detail("there is no room for events now; send the same request again")
        .retry_after(RETRY_AFTER_S)
}

fn judge<'a>(
    state: &IngestState,
    snapshot: &'a Snapshot,
    sent: &'a Sent<'a>,
    now_us: i64,
) -> Result<Judged<'a>, Refusal> {
    let event: &'a Envelope<'a> = match sent {
        Ok(event) => event,
        Err(error) => return Err(Refusal::new(Reason::Malformed, error.to_string())),
    };
    let request_id = request_id(event)?;
    if state.index.contains(request_id) {
        return Ok(Judged::Known);
    }
    usage(request_id, event, snapshot, &state.bounds, now_us).map(Judged::New)
}

/// An event could not be kept, for a reason that is not the sender's.
fn unrecorded(error: &RecordError, taken: &Taken) -> Problem {
    match error {
        RecordError::Append(AppendError::Full | AppendError::Closed) => {}
        RecordError::Append(AppendError::Row(_) | AppendError::TooLarge { .. })
        | RecordError::Index(_) => {
            let error = orbit_meter::causes::with_causes(error);
            tracing::error!(error, "an ingested event could not be kept");
        }
    }
    let kept = taken.accepted + taken.duplicates;
    no_room().detail(format!(
        "there is no room for more events now; {kept} of these are kept and will not be counted \
         again: send the same request again"
    ))
}
