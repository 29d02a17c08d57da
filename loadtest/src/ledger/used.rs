//! What was used, to the unit and the byte: what rows say against what clients sent and received.
//!
//! - `quantities`: a row's quantity is what so many requests of its route cost, and a request that adds
//!   to a further meter has one row of that, which says how much;
//! - `bytes`: the rows of an answer, its parts with it, add up to the bodies sent and received; of an
//!   upgraded connection, whose last bytes a kill may take, in all but one of a hundred;
//! - `members`: as many users have rows as asked.
//!
//! What had no row of its own for want of room is in the sums of its tenant and route. They are drawn
//! upon, and what is left of them in the end can only be of requests without a whole answer.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use super::entry::{Expectation, RequestId, Row};
use super::verdict::{Check, Findings, Place};
use super::{Known, UPGRADED, flag, place_of};

/// Billionths of a unit.
const UNIT_NANO: i128 = 1_000_000_000;

/// Sums of one tenant and route.
#[derive(Debug, Default)]
struct Sum {
    /// Of request bodies and of answers.
    bytes: [u64; 2],
    /// Billionths by meter.
    figures: BTreeMap<String, i128>,
}

/// What rows say that is not one answer's.
#[derive(Debug, Default)]
pub(super) struct Used {
    costs: BTreeMap<String, u64>,
    meters: BTreeSet<String>,
    sums: BTreeMap<Place, Sum>,
    /// Rows of further meters by ids that no whole answer had.
    other_figures: HashMap<(RequestId, String), u32>,
    members: BTreeMap<String, BTreeSet<RequestId>>,
    pub(super) quantities: u64,
    pub(super) answers: u64,
    /// Connections that were upgraded, and those of which rows say fewer bytes than flowed.
    upgraded: u64,
    cut_off: u64,
}

impl Used {
    pub(super) fn new(expectations: &[Expectation]) -> Used {
        let costs = expectations.iter().map(|kind| (kind.route.clone(), kind.cost)).collect();
        let meters = expectations.iter().filter_map(|kind| Some(kind.figure.clone()?.0)).collect();
        Used { costs, meters, ..Used::default() }
    }

    /// A row that counts requests, or is a part of one.
    pub(super) fn counts(&mut self, row: &Row<'_>, findings: &mut Findings) {
        let Some(cost) = self.costs.get(row.route) else { return };
        self.quantities += 1;
        let expected = i128::from(row.requests) * i128::from(*cost) * UNIT_NANO;
        if row.quantity_nano != expected {
            let found = row.quantity_nano;
            findings.add(Check::Quantities, Some(row.id), || {
                format!("its row says {found} billionths, not {expected}")
            });
        }
    }

    /// A row that is a sum of what had no room.
    pub(super) fn sums(&mut self, row: &Row<'_>) {
        let sum = self.sums.entry(place_of(row)).or_default();
        for (sum, bytes) in sum.bytes.iter_mut().zip([row.request_bytes, row.response_bytes]) {
            *sum += bytes;
        }
        if row.flags & flag::MEASURED != 0 {
            *sum.figures.entry(row.meter.to_owned()).or_default() += row.quantity_nano;
        }
    }

    /// A row of a further meter. `expected` is what the answer of its id adds to it.
    pub(super) fn figure(
        &mut self,
        row: &Row<'_>,
        known: Option<(&mut Known, &Expectation)>,
        findings: &mut Findings,
    ) {
        if !self.meters.contains(row.meter) {
            return;
        }
        self.quantities += 1;
        let id = Some(row.id);
        let Some((known, expected)) = known else {
            let rows = self.other_figures.entry((row.id, row.meter.to_owned())).or_default();
            *rows += 1;
            if *rows > 1 {
                let says = || format!("row {rows} of {} of an id not received", row.meter);
                findings.add(Check::Doubles, id, says);
            }
            return;
        };
        known.figures += 1;
        if known.figures > 1 {
            let says = || format!("row {} of {}", known.figures, row.meter);
            return findings.add(Check::Doubles, id, says);
        }
        let found = (row.meter, row.quantity_nano);
        let wanted = expected.figure.as_ref().map(|(meter, nano)| (meter.as_str(), *nano));
        if wanted != Some(found) {
            findings
                .add(Check::Quantities, id, || format!("its row says {found:?}, not {wanted:?}"));
        }
    }

    pub(super) fn member(&mut self, row: &Row<'_>) {
        self.members.entry(row.tenant.to_owned()).or_default().insert(row.id);
    }

    /// An answer whose rows are all read.
    pub(super) fn settle(
        &mut self,
        id: RequestId,
        known: &Known,
        expected: &Expectation,
        findings: &mut Findings,
    ) {
        self.answers += 1;
        self.upgraded += u64::from(known.status == UPGRADED);
        let mut none = Sum::default();
        let place = (expected.tenant.clone(), expected.route.clone());
        let sum = self.sums.get_mut(&place).unwrap_or(&mut none);
        let missing = [0, 1].map(|way| known.bytes[way].checked_sub(known.found_bytes[way]));
        let covered = missing
            .into_iter()
            .zip(&sum.bytes)
            .all(|(missing, sum)| missing.is_some_and(|missing| missing <= *sum));
        if covered {
            let missing = missing.map(Option::unwrap_or_default);
            sum.bytes.iter_mut().zip(missing).for_each(|(sum, missing)| *sum -= missing);
        } else if known.status == UPGRADED && missing.iter().all(Option::is_some) {
            for (sum, missing) in sum.bytes.iter_mut().zip(missing) {
                *sum -= missing.unwrap_or_default().min(*sum);
            }
            self.cut_off += 1;
        } else {
            let (found, bytes, left) = (known.found_bytes, known.bytes, sum.bytes);
            let (tenant, route) = place;
            findings.add(Check::Bytes, Some(id), || {
                format!(
                    "its {} rows say {found:?} bytes to and fro, not {bytes:?}; {left:?} are left \
                     in sums of `{tenant}` on `{route}`",
                    known.rows
                )
            });
        }
        let Some((meter, nano)) = expected.figure.as_ref().filter(|_| known.figures == 0) else {
            return;
        };
        match sum.figures.get_mut(meter) {
            Some(left) if *left >= *nano => *left -= nano,
            _ => findings.add(Check::Quantities, Some(id), || format!("no row of {meter}")),
        }
    }

    /// What is left of sums, and users, when all answers are settled. `answered`: the kinds that had
    /// a whole answer of the upstream's.
    pub(super) fn close(
        &self,
        expectations: &[Expectation],
        answered: &BTreeSet<u16>,
        findings: &mut Findings,
    ) -> u64 {
        let (cut_off, upgraded) = (self.cut_off, self.upgraded);
        if cut_off * 100 > upgraded {
            findings.add(Check::Bytes, None, || {
                format!(
                    "of {cut_off} of {upgraded} upgraded connections rows say fewer bytes than \
                     flowed: more than kills explain"
                )
            });
        }
        for ((tenant, route), sum) in &self.sums {
            let kinds = || {
                expectations.iter().filter(|kind| kind.tenant == *tenant && kind.route == *route)
            };
            if sum.bytes != [0, 0] && kinds().all(|kind| kind.open == 0) {
                let bytes = sum.bytes;
                findings.add(Check::Bytes, None, || {
                    format!("{bytes:?} bytes more of `{tenant}` on `{route}` than went to and fro")
                });
            }
            for (meter, left) in &sum.figures {
                let open = kinds().filter_map(|kind| {
                    let (_, nano) = kind.figure.as_ref().filter(|(figure, _)| figure == meter)?;
                    Some(nano * i128::from(kind.open))
                });
                let open: i128 = open.sum();
                if self.meters.contains(meter) && *left > open {
                    findings.add(Check::Quantities, None, || {
                        format!("{left} billionths more of {meter} of `{tenant}` on `{route}`")
                    });
                }
            }
        }
        self.close_members(expectations, answered, findings)
    }

    fn close_members(
        &self,
        expectations: &[Expectation],
        answered: &BTreeSet<u16>,
        findings: &mut Findings,
    ) -> u64 {
        let naming = expectations.iter().filter(|kind| kind.user.is_some());
        let naming: BTreeSet<&str> = naming.map(|kind| &*kind.tenant).collect();
        let mut users = BTreeMap::<&str, [BTreeSet<&str>; 2]>::new();
        for (number, kind) in expectations.iter().enumerate() {
            if !naming.contains(&*kind.tenant) {
                continue;
            }
            // Whoever does not say who it is, is the user with the empty name.
            let user = kind.user.as_deref().unwrap_or_default();
            let [may, must] = users.entry(&kind.tenant).or_default();
            may.insert(user);
            if answered.contains(&(number as u16)) {
                must.insert(user);
            }
        }
        for (tenant, [may, must]) in &users {
            let found = self.members.get(*tenant).map_or(0, BTreeSet::len);
            if !(must.len()..=may.len()).contains(&found) {
                findings.add(Check::Members, None, || {
                    format!("{found} users of `{tenant}` have rows: {} asked", must.len())
                });
            }
        }
        users.values().map(|[may, _]| may.len() as u64).sum()
    }
}
