//! What a request says on further meters than its route's own: read as the headers pass, written
//! beside the rows of the exchange (**M1**: in the same lane, before the answer's end leaves).
//!
//! A figure is a row flagged [`Flags::MEASURED`] of the same request id, with its meter and
//! quantity, and no request and no bytes. Figures go with the row that counts the request; body
//! bytes that flow after it go with its parts. What the journal has no room for is summed, as the
//! counting row is, so that quotas and rows agree.
//!
//! Quotas of these meters, and of data volume, are charged at the same moment: in whole units, each
//! figure rounded up, so that a quota never lets through what was used. A figure of the largest or
//! latest value uses nothing up, and neither does a level that falls.
//!
//! Allocates nothing: a request keeps room for as many figures as a route may have meters.

use http::HeaderMap;
use orbit_meter::event::{Event, Flags};
use orbit_meter::refusals::Combine;
use orbit_policy::meters::MAX_MEASURED;
use orbit_policy::{Admission, Aggregate, Meter, MeterId, MeterValue, Permit};
use pingora::http::{RequestHeader, ResponseHeader};

use super::Edge;
use super::exchange::Exchange;
use super::intake::OUR_PREFIX;

/// One unit of quantity in the journal's fixed point.
pub(super) const UNIT_NANO: i128 = 1_000_000_000;
/// Digits after the point of a quantity.
const SCALE: usize = 9;
/// Digits before it: Decimal(38, 9).
const MAX_WHOLE_DIGITS: usize = 29;

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

    /// Writes the figures beside `row`, which counts the request or, later on, is a part of it; and
    /// charges for them.
    pub(super) fn write_figures(
        &self,
        edge: &Edge,
        admission: &Admission,
        row: &Event<'_>,
        flown: &Flown,
    ) {
        let permit = &admission.permit;
        let counts = row.requests > 0;
        let cost = permit.route().cost;
        for (meter, bytes) in
            permit.snapshot().volume().into_iter().zip([flown.request, flown.response])
        {
            if bytes > 0 {
                permit.charge(meter, bytes);
            }
        }
        for (figure, (id, meter)) in self.figures.0.iter().zip(measured(permit)) {
            let Some(quantity_nano) = quantity_nano(meter, *figure, cost, flown, counts) else {
                continue;
            };
            if uses_up(meter.aggregate) {
                permit.charge(id, whole_units(quantity_nano));
            }
            let event = Event {
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
        }
    }
}

/// Whether figures of such a meter add up to what is used.
fn uses_up(aggregate: Aggregate) -> bool {
    match aggregate {
        Aggregate::Count | Aggregate::Sum | Aggregate::Gauge => true,
        Aggregate::Max | Aggregate::Last | Aggregate::Distinct => false,
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

/// A quantity in whole units, a part of one as one; nothing of one below zero.
pub(crate) fn whole_units(quantity_nano: i128) -> u64 {
    let units = quantity_nano.max(0).unsigned_abs().div_ceil(UNIT_NANO.unsigned_abs());
    u64::try_from(units).unwrap_or(u64::MAX)
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

/// A decimal number such as `12.5`, in units of 1e-9; at most nine digits after the point.
fn nano(text: &[u8]) -> Option<i128> {
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let (whole, fraction) = (parts.next()?, parts.next());
    if whole.is_empty() || fraction.is_some_and(<[u8]>::is_empty) {
        return None;
    }
    let fraction = fraction.unwrap_or_default();
    if whole.len() > MAX_WHOLE_DIGITS || fraction.len() > SCALE {
        return None;
    }
    let zeros = std::iter::repeat_n(&b'0', SCALE - fraction.len());
    whole.iter().chain(fraction).chain(zeros).try_fold(0_i128, |sum, digit| {
        digit.is_ascii_digit().then(|| sum * 10 + i128::from(digit - b'0'))
    })
}

/// The same with a sign: a level may fall.
fn signed_nano(text: &[u8]) -> Option<i128> {
    match text.split_first() {
        Some((b'-', rest)) => nano(rest).map(|nano| -nano),
        Some((b'+', rest)) => nano(rest),
        _ => nano(text),
    }
}

#[cfg(test)]
mod tests {
    use super::{nano, signed_nano, whole_units};

    #[test]
    fn part_of_a_unit_is_charged_as_one() {
        let nano = 1_000_000_000;
        for (quantity, units) in
            [(0, 0), (1, 1), (nano, 1), (nano + 1, 2), (-nano, 0), (i128::MAX, u64::MAX)]
        {
            assert_eq!(whole_units(quantity), units, "{quantity}");
        }
    }

    #[test]
    fn every_digit_of_a_figure_counts() {
        for (text, value) in [
            ("0", 0),
            ("1", 1_000_000_000),
            ("007", 7_000_000_000),
            ("12.5", 12_500_000_000),
            ("0.000000001", 1),
            (
                "99999999999999999999999999999.999999999",
                99_999_999_999_999_999_999_999_999_999_999_999_999,
            ),
        ] {
            assert_eq!(nano(text.as_bytes()), Some(value), "{text}");
            assert_eq!(signed_nano(format!("-{text}").as_bytes()), Some(-value), "-{text}");
        }
        assert_eq!(signed_nano(b"+1.5"), Some(1_500_000_000));
    }

    #[test]
    fn what_is_no_decimal_says_nothing() {
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "0x1",
            "1,5",
            " 1",
            "1.2.3",
            "NaN",
            "0.0000000001",
            "100000000000000000000000000000",
            "\u{661}",
        ] {
            assert_eq!(nano(text.as_bytes()), None, "{text}");
        }
        for text in ["", "-", "--1", "+-1", "-1."] {
            assert_eq!(signed_nano(text.as_bytes()), None, "{text}");
        }
    }
}
