//! What a request says on further meters than its route's own: read as the headers pass, written
//! beside the rows of the exchange (**M1**: in the same lane, before the answer's end leaves).
//!
//! A figure is a row flagged [`Flags::MEASURED`] of the same request id, with its meter and
//! quantity, and no request and no bytes. Figures go with the row that counts the request; body
//! bytes that flow after it go with its parts. What the journal has no room for is summed, as the
//! counting row is, so that quotas and rows agree.
//!
//! Quotas of these meters, and of data volume, are charged for what is written or summed, at the same
//! moment: in whole units, each figure rounded up, so that a quota never lets through what was used. A
//! figure of the largest or latest value uses nothing up.
//!
//! A gauge is changed by answers of 2xx only: an upload that failed stored nothing. Its figures are
//! dated when they are written, as the level changes then; what was reserved for them at quotas
//! becomes part of the level in the same step.
//!
//! Allocates nothing: a request keeps room for as many figures as a route may have meters.

use http::HeaderMap;
use orbit_meter::event::{Event, Flags};
use orbit_meter::refusals::Combine;
use orbit_policy::levels::MAX_LEVELS;
use orbit_policy::meters::MAX_MEASURED;
use orbit_policy::meters::figure::{UNIT_NANO, nano, signed_nano, whole_units};
use orbit_policy::{Admission, Aggregate, Meter, MeterId, MeterValue, Permit};
use pingora::http::{RequestHeader, ResponseHeader};

use super::Edge;
use super::exchange::Exchange;
use super::intake::OUR_PREFIX;

/// Figures from headers, by their place in the route's list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures([Option<i128>; MAX_MEASURED]);

/// Bytes of an exchange: those since its last row, and all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flown {
    pub(super) request: u64,
    pub(super) response: u64,
    pub(super) request_total: u64,
    pub(super) response_total: u64,
}

/// By what the levels of gauges changed, in units of 1e-9.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes {
    at_us: i64,
    of: [Option<(MeterId, i128)>; MAX_LEVELS],
}

/// The meters of the admitted request's route, in the order of its figures.
fn meters(admission: &Admission) -> impl Iterator<Item = &Meter> {
    measured(&admission.permit).map(|(_, meter)| meter)
}

fn measured(permit: &Permit) -> impl Iterator<Item = (MeterId, &Meter)> {
    let snapshot = permit.snapshot();
    permit.route().measured.iter().map(|id| (*id, snapshot.meter(*id)))
}

impl Exchange {
    /// Takes note of what the admitted request's header says.
    pub(super) fn measure_request(&mut self, header: &RequestHeader) {
        let Some(admission) = &self.admission else { return };
        for (figure, meter) in self.figures.0.iter_mut().zip(meters(admission)) {
            if let MeterValue::RequestHeader(name) = &meter.value {
                *figure = read(&header.headers, name, meter);
            }
        }
    }

    /// Takes note of what the upstream's header says. Fields of our own are for us, and taken off.
    pub(super) fn measure_answer(&mut self, response: &mut ResponseHeader) {
        let Some(admission) = &self.admission else { return };
        let mut has_ours = false;
        for (figure, meter) in self.figures.0.iter_mut().zip(meters(admission)) {
            if let MeterValue::ResponseHeader(name) = &meter.value {
                let has = response.headers.contains_key(&**name);
                *figure = if has { read(&response.headers, name, meter) } else { None };
                has_ours |= has && name.starts_with(OUR_PREFIX);
            }
        }
        if !has_ours {
            return;
        }
        // Once all have read them: two meters may read the same.
        for meter in meters(admission) {
            if let MeterValue::ResponseHeader(name) = &meter.value
                && name.starts_with(OUR_PREFIX)
            {
                response.remove_header(&**name);
            }
        }
    }

    /// Writes the figures beside a row that counts the request or, later on, is a part of it; and
    /// charges for them. Returns by what levels changed.
    pub(super) fn write_figures(
        &self,
        edge: &Edge,
        admission: &Admission,
        row: &Event<'_>,
        flown: &Flown,
    ) -> Changes {
        let permit = &admission.permit;
        let charge = |meter, amount| edge.policy.charge(permit, meter, amount, row.ts_us);
        let volume = permit.snapshot().volume().into_iter();
        let both = volume.zip([flown.request, flown.response]);
        both.filter(|(_, bytes)| *bytes > 0).for_each(|(meter, bytes)| charge(meter, bytes));
        let mut changes = Changes::default();
        let mut rooms = changes.of.iter_mut();
        for (figure, (id, meter)) in self.figures.0.iter().zip(measured(permit)) {
            let is_gauge = meter.aggregate == Aggregate::Gauge;
            if is_gauge && !(200..300).contains(&row.status) {
                continue;
            }
            let (cost, counts) = (permit.route().cost, row.requests > 0);
            let said = quantity_nano(meter, *figure, cost, flown, counts);
            let Some(quantity_nano) = said else { continue };
            let ts_us = if is_gauge { edge.clock.unix_us() } else { row.ts_us };
            let event = Event {
                ts_us,
                flags: self.flags.with(Flags::MEASURED),
                requests: 0,
                quantity_nano,
                request_bytes: 0,
                response_bytes: 0,
                duration_us: 0,
                upstream_us: 0,
                meter: &meter.id,
                ..*row
            };
            if edge.journal.append(&event).is_err() {
                edge.metrics.unmeasured.increment(1);
                edge.refusals.count_figure(&event, combined(meter.aggregate));
            }
            if is_gauge {
                changes.at_us = ts_us;
                rooms.next().into_iter().for_each(|room| *room = Some((id, quantity_nano)));
            } else if uses_up(meter.aggregate) {
                charge(id, whole_units(quantity_nano));
            }
        }
        changes
    }

    /// Has levels change by what was written of them.
    pub(super) fn change_levels(&mut self, edge: &Edge, changes: &Changes) {
        let Some(admission) = &mut self.admission else { return };
        for (meter, by_nano) in changes.of.into_iter().flatten() {
            edge.policy.change_level(&mut admission.permit, meter, by_nano, changes.at_us);
        }
    }
}

/// Whether figures of such a meter add up to what is used.
fn uses_up(aggregate: Aggregate) -> bool {
    match aggregate {
        Aggregate::Count | Aggregate::Sum => true,
        Aggregate::Gauge | Aggregate::Max | Aggregate::Last | Aggregate::Distinct => false,
    }
}

/// How figures of such a meter become one.
fn combined(aggregate: Aggregate) -> Combine {
    match aggregate {
        Aggregate::Max => Combine::Max,
        Aggregate::Last => Combine::Last,
        Aggregate::Count | Aggregate::Sum | Aggregate::Gauge | Aggregate::Distinct => Combine::Sum,
    }
}

/// What a row of the meter says; `None`: nothing. `counts`: it is written beside the row that
/// counts the request.
fn quantity_nano(
    meter: &Meter,
    figure: Option<i128>,
    cost: u32,
    flown: &Flown,
    counts: bool,
) -> Option<i128> {
    let (since, total) = match meter.value {
        MeterValue::RequestBytes => (flown.request, flown.request_total),
        MeterValue::ResponseBytes => (flown.response, flown.response_total),
        MeterValue::Cost if meter.aggregate == Aggregate::Count => {
            return counts.then_some(UNIT_NANO);
        }
        MeterValue::Cost => return counts.then_some(i128::from(cost) * UNIT_NANO),
        MeterValue::RequestHeader(_) | MeterValue::ResponseHeader(_) => {
            return figure.filter(|_| counts);
        }
        MeterValue::EndUser | MeterValue::ClientIp | MeterValue::Event => return None,
    };
    // The largest of sums that grow is the last one.
    let bytes = if meter.aggregate == Aggregate::Max { total } else { since };
    (since > 0).then_some(i128::from(bytes) * UNIT_NANO)
}

/// What a field says; a value that says nothing is counted and ignored.
fn read(headers: &HeaderMap, name: &str, meter: &Meter) -> Option<i128> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if meter.aggregate == Aggregate::Count {
        return Some(UNIT_NANO);
    }
    let is_change = meter.aggregate == Aggregate::Gauge;
    let figure = match (values.next(), is_change) {
        (Some(_), _) => None,
        (None, true) => signed_nano(value.as_bytes()),
        (None, false) => nano(value.as_bytes()),
    };
    if figure.is_none() {
        metrics::counter!("orbit_meter_values_invalid_total", "meter" => meter.id.to_string())
            .increment(1);
        tracing::debug!(meter = &*meter.id, field = name, "a meter's value is no decimal number");
    }
    figure
}
