//! The ledger: the answers clients received, compared with the rows of `usage_events`, to the unit.
//!
//! - `answers`: every answer received whole has exactly one row, with the tenant, app, route and
//!   status of its request; or the gateway made it, and it is counted with the refusals;
//! - `doubles`: no request id has two rows, whether or not its answer was received;
//! - `others`: rows of other ids are no more than the requests without a whole answer, per tenant
//!   and route;
//! - `parts`: every row that is more of a request counts none itself, and the request it is more of
//!   has its row, or is in a sum;
//! - `refusals`: per tenant, route and status, refused rows add up to the answers the gateway made
//!   and gave no row of their own;
//! - `quantities`, `bytes`, `members`: what was used, see `used`;
//! - `sequences`: every (node, epoch, lane) of the run is dense from 0: count = distinct = last + 1
//!
//! An answer made by the gateway (problem details) may be recorded either way, by a row or in a
//! count, but exactly once: with a row it leaves the count expected of the refusals.
//!
//! Two things are not one row each. What was served while the journal had no room is in sums, per
//! tenant and route, which stand for as many answers without a row. Refusals by a gateway whose
//! journal is full (503) come before anybody is asked who the client is: they name no tenant.
//!
//! Rows come in any order, one at a time; only ids are kept. The comparison knows nothing of where
//! rows come from: [`table`] reads them from ClickHouse, tests make them up.

pub mod audit;
mod decode;
mod entry;
pub mod table;
mod used;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

pub use entry::{Answer, Expectation, Lane, RequestId, Row, RowKind};
pub use verdict::{Check, CheckLine, Finding, GroupLine, LedgerVerdict};

use used::Used;
use verdict::{Findings, Place, groups};

/// The status of a refusal for want of room in the journal.
const JOURNAL_FULL: u16 = 503;

/// The status of a connection that was upgraded. What flows there has no end that a row could come
/// before: of those that flow as the gateway is killed, the last bytes may be in no row.
const UPGRADED: u16 = 101;

/// Bits of a row's flags.
mod flag {
    pub(super) const ABORTED: u8 = 1;
    pub(super) const UNMETERED: u8 = 4;
    pub(super) const PART: u8 = 8;
    /// A figure of a further meter.
    pub(super) const MEASURED: u8 = 32;
    /// A member of one.
    pub(super) const MEMBER: u8 = 64;
}

struct Known {
    kind: u16,
    status: u16,
    gateway_made: bool,
    rows: u32,
    /// It has no row and is in a sum of what was served without room.
    summed: bool,
    /// Of the bodies sent and received, and as rows say.
    bytes: [u64; 2],
    found_bytes: [u64; 2],
    /// Rows of the further meter it adds to.
    figures: u32,
}

/// Where a row is booked.
fn place_of(row: &Row<'_>) -> Place {
    (row.tenant.to_owned(), row.route.to_owned())
}

/// A comparison under way: answers first, then rows, then lanes, then [`Ledger::close`].
pub struct Ledger {
    expectations: Vec<Expectation>,
    known: HashMap<RequestId, Known>,
    /// Rows by ids that no whole answer had.
    others: HashMap<RequestId, u32>,
    /// Rows that are more of a request.
    parts: u64,
    /// What they are more of, and where that is.
    continued: HashMap<RequestId, Place>,
    /// Refusals for want of room beyond those received.
    full_surplus: u64,
    /// Requests in sums of what was served while the journal had no room.
    unmetered: BTreeMap<Place, u64>,
    others_by_place: BTreeMap<Place, u64>,
    refusals_expected: BTreeMap<(Place, u16), u64>,
    refusals_found: BTreeMap<(Place, u16), u64>,
    used: Used,
    /// Kinds with a whole answer of the upstream's.
    served: BTreeSet<u16>,
    answered: BTreeMap<(Place, u16), u64>,
    recorded: BTreeMap<(Place, u16), u64>,
    answers: u64,
    rows: u64,
    marked_aborted: u64,
    lanes: u64,
    findings: Findings,
}

impl Ledger {
    /// Opens the ledger with what the clients received. `group` of each answer indexes
    /// `expectations`.
    pub fn open(expectations: Vec<Expectation>, answers: Vec<Answer>) -> Ledger {
        let mut ledger = Ledger {
            known: HashMap::with_capacity(answers.len()),
            used: Used::new(&expectations),
            served: BTreeSet::new(),
            expectations,
            others: HashMap::new(),
            parts: 0,
            continued: HashMap::new(),
            full_surplus: 0,
            unmetered: BTreeMap::new(),
            others_by_place: BTreeMap::new(),
            refusals_expected: BTreeMap::new(),
            refusals_found: BTreeMap::new(),
            answered: BTreeMap::new(),
            recorded: BTreeMap::new(),
            answers: answers.len() as u64,
            rows: 0,
            marked_aborted: 0,
            lanes: 0,
            findings: Findings::default(),
        };
        let mut answered = BTreeMap::<(u16, u16), u64>::new();
        for answer in answers {
            *answered.entry((answer.group, answer.status)).or_default() += 1;
            ledger.answer(answer);
        }
        for ((kind, status), count) in answered {
            let key = (ledger.place(kind), status / 100);
            *ledger.answered.entry(key).or_default() += count;
        }
        ledger
    }

    fn place(&self, kind: u16) -> Place {
        let expected = &self.expectations[usize::from(kind)];
        (expected.tenant.clone(), expected.route.clone())
    }

    /// Where a refusal of this kind is counted.
    fn refused_at(&self, kind: u16, status: u16) -> Place {
        if status == JOURNAL_FULL { Place::default() } else { self.place(kind) }
    }

    fn answer(&mut self, answer: Answer) {
        let Answer { id, group: kind, status, gateway_made, .. } = answer;
        if !gateway_made {
            self.served.insert(kind);
        }
        match id {
            Some(id) => {
                let bytes = [answer.request_bytes, answer.response_bytes];
                let (found_bytes, figures) = ([0, 0], 0);
                let (rows, summed) = (0, false);
                let fresh =
                    Known { kind, status, gateway_made, rows, summed, bytes, found_bytes, figures };
                if self.known.insert(id, fresh).is_some() {
                    let says = || "two answers had this id".to_owned();
                    self.findings.add(Check::Answers, Some(id), says);
                }
            }
            None if gateway_made => {
                let place = self.refused_at(kind, status);
                *self.refusals_expected.entry((place, status)).or_default() += 1;
            }
            None => {
                let says = || format!("an answer {status} had no X-Request-Id of 128 bits");
                self.findings.add(Check::Answers, None, says);
            }
        }
    }

    /// Books a row.
    pub fn row(&mut self, row: &Row<'_>) {
        self.rows += 1;
        if row.kind == RowKind::Request {
            self.used(row);
        }
        match row.kind {
            RowKind::Other => return,
            RowKind::Refused => {
                let found = self.refusals_found.entry((place_of(row), row.status)).or_default();
                *found += u64::from(row.requests);
            }
            // What a request adds to further meters says nothing of its answer.
            RowKind::Request if row.flags & (flag::MEASURED | flag::MEMBER) != 0 => return,
            RowKind::Request if row.flags & flag::PART != 0 => return self.part(row),
            RowKind::Request if row.flags & flag::UNMETERED != 0 => {
                *self.unmetered.entry(place_of(row)).or_default() += u64::from(row.requests);
            }
            RowKind::Request => self.request_row(row),
        }
        *self.recorded.entry((place_of(row), row.status / 100)).or_default() +=
            u64::from(row.requests);
    }

    /// What the row says of what was used.
    fn used(&mut self, row: &Row<'_>) {
        let Ledger { known, expectations, used, findings, .. } = self;
        let known = known.get_mut(&row.id);
        if row.flags & flag::MEMBER != 0 {
            return used.member(row);
        }
        if row.flags & flag::UNMETERED != 0 {
            used.sums(row);
        } else if row.flags & flag::MEASURED != 0 {
            let known = known.map(|known| {
                let expected = &expectations[usize::from(known.kind)];
                (known, expected)
            });
            used.figure(row, known, findings);
        } else if let Some(known) = known {
            let bytes = [row.request_bytes, row.response_bytes];
            known.found_bytes.iter_mut().zip(bytes).for_each(|(found, more)| *found += more);
        }
        if row.flags & flag::MEASURED == 0 {
            used.counts(row, findings);
        }
    }

    fn part(&mut self, row: &Row<'_>) {
        self.parts += 1;
        self.continued.entry(row.id).or_insert_with(|| place_of(row));
        if row.requests != 0 {
            let says = || format!("a part counts {}", row.requests);
            self.findings.add(Check::Parts, Some(row.id), says);
        }
    }

    fn request_row(&mut self, row: &Row<'_>) {
        let Ledger { known, expectations, others, others_by_place, findings, .. } = self;
        let id = Some(row.id);
        if row.requests != 1 {
            findings.add(Check::Answers, id, || format!("its row counts {}", row.requests));
        }
        let Some(known) = known.get_mut(&row.id) else {
            let rows = others.entry(row.id).or_default();
            *rows += 1;
            if *rows > 1 {
                findings.add(Check::Doubles, id, || format!("row {rows} of an id not received"));
            } else {
                *others_by_place.entry(place_of(row)).or_default() += 1;
            }
            return;
        };
        known.rows += 1;
        if known.rows > 1 {
            return findings.add(Check::Doubles, id, || format!("row {}", known.rows));
        }
        self.marked_aborted += u64::from(row.flags & flag::ABORTED);
        let expected = &expectations[usize::from(known.kind)];
        let mut differs = |what: &str, expected: &str, found: &str| {
            if expected != found {
                let says = || format!("its row says {what} `{found}`, not `{expected}`");
                findings.add(Check::Answers, id, says);
            }
        };
        differs("tenant", &expected.tenant, row.tenant);
        differs("route", &expected.route, row.route);
        if let Some(app) = &expected.app {
            differs("app", app, row.app);
        }
        if known.status != row.status {
            differs("status", &known.status.to_string(), &row.status.to_string());
        }
    }

    /// Books a lane.
    pub fn lane(&mut self, lane: &Lane) {
        self.lanes += 1;
        let Lane { name: (node, epoch, number), rows, distinct, first, last } = *lane;
        if first != 0 || rows != distinct || Some(rows) != last.checked_add(1) {
            self.findings.add(Check::Sequences, None, || {
                format!(
                    "node {node} epoch {epoch} lane {number}: {rows} rows with {distinct} distinct \
                     sequence numbers from {first} to {last}"
                )
            });
        }
    }

    /// Compares what is left and gives the verdict.
    pub fn close(mut self) -> LedgerVerdict {
        self.settle_answers();
        self.settle_parts();
        let members = self.settle_used();
        let surplus = self.settle_refusals();
        for (place, count) in surplus.into_iter().chain(std::mem::take(&mut self.unmetered)) {
            *self.others_by_place.entry(place).or_default() += count;
        }
        self.settle_others();
        let wrong = |check| self.findings.counts.get(&check).copied().unwrap_or(0);
        let refused = self.refusals_expected.values().sum();
        let others = self.others_by_place.values().sum();
        let checks = [
            (Check::Answers, self.answers),
            (Check::Doubles, self.rows),
            (Check::Others, others),
            (Check::Parts, self.parts),
            (Check::Quantities, self.used.quantities),
            (Check::Bytes, self.used.answers),
            (Check::Members, members),
            (Check::Refusals, refused),
            (Check::Sequences, self.lanes),
        ];
        let checks =
            checks.map(|(check, checked)| CheckLine { check, checked, wrong: wrong(check) });
        LedgerVerdict {
            checks: checks.to_vec(),
            groups: groups(&self.answered, &self.recorded),
            findings: self.findings.examples,
            rows: self.rows,
            whole_but_marked_aborted: self.marked_aborted,
        }
    }

    /// What is in sums and is no whole answer's may be what a client left that went on when there was
    /// room again.
    fn settle_parts(&mut self) {
        let mut summed = self.unmetered.clone();
        for (id, place) in &self.continued {
            let counted = self.known.get(id).is_some_and(|known| known.rows > 0 || known.summed);
            if counted || self.others.contains_key(id) {
                continue;
            }
            if let Some(left) = summed.get_mut(place).filter(|left| **left > 0) {
                *left -= 1;
                continue;
            }
            let says = || "more of a request that no row counts".to_owned();
            self.findings.add(Check::Parts, Some(*id), says);
        }
    }

    /// How many users asked.
    fn settle_used(&mut self) -> u64 {
        let Ledger { known, expectations, used, served, findings, .. } = self;
        // What has two rows, or none, is told of already.
        let settled = |known: &Known| !known.gateway_made && (known.rows == 1 || known.summed);
        // Those without an end come last, and have what the others leave of sums.
        for endless in [false, true] {
            let these = |known: &Known| settled(known) && (known.status == UPGRADED) == endless;
            for (id, known) in known.iter().filter(|(_, known)| these(known)) {
                used.settle(*id, known, &expectations[usize::from(known.kind)], findings);
            }
        }
        used.close(expectations, served, findings)
    }

    fn settle_answers(&mut self) {
        let mut counted = BTreeMap::<(u16, u16), u64>::new();
        let Ledger { known, expectations, unmetered, findings, .. } = self;
        for (id, known) in known.iter_mut().filter(|(_, known)| known.rows == 0) {
            let Known { kind, status, gateway_made, .. } = *known;
            if gateway_made {
                *counted.entry((kind, status)).or_default() += 1;
                continue;
            }
            let expected = &expectations[usize::from(kind)];
            let place = (expected.tenant.clone(), expected.route.clone());
            if let Some(left) = unmetered.get_mut(&place).filter(|left| **left > 0) {
                *left -= 1;
                known.summed = true;
                continue;
            }
            let (tenant, route) = place;
            let says = || format!("no row; {tenant} was answered {status} on {route}");
            findings.add(Check::Answers, Some(*id), says);
        }
        for ((kind, status), count) in counted {
            let place = self.refused_at(kind, status);
            *self.refusals_expected.entry((place, status)).or_default() += count;
        }
    }

    /// Refusals recorded beyond those received, by place: a client that left may have been refused.
    fn settle_refusals(&mut self) -> BTreeMap<Place, u64> {
        let mut surplus = BTreeMap::<Place, u64>::new();
        for (key @ (place, status), found) in &self.refusals_found {
            let expected = self.refusals_expected.get(key).copied().unwrap_or(0);
            let more = found.saturating_sub(expected);
            if *status == JOURNAL_FULL && *place == Place::default() {
                self.full_surplus += more;
            } else if more > 0 {
                *surplus.entry(place.clone()).or_default() += more;
            }
        }
        for (key @ ((tenant, route), status), expected) in &self.refusals_expected {
            let found = self.refusals_found.get(key).copied().unwrap_or(0);
            if found < *expected {
                self.findings.add(Check::Refusals, None, || {
                    format!(
                        "{tenant} was refused {expected} times with {status} on {route}: \
                         {found} are recorded"
                    )
                });
            }
        }
        surplus
    }

    fn settle_others(&mut self) {
        let mut open = BTreeMap::<(&str, &str), u64>::new();
        for expected in &self.expectations {
            *open.entry((&expected.tenant, &expected.route)).or_default() += expected.open;
        }
        for ((tenant, route), count) in &self.others_by_place {
            let open = open.get(&(tenant.as_str(), route.as_str())).copied().unwrap_or(0);
            if *count > open {
                self.findings.add(Check::Others, None, || {
                    format!(
                        "{count} more requests of `{tenant}` on `{route}` are recorded than were \
                         answered whole, and only {open} were aborted or failed"
                    )
                });
            }
        }
        // A client of any kind that left may have been refused before it was asked who it is.
        let open: u64 = open.values().sum();
        let others = self.full_surplus + self.others_by_place.values().sum::<u64>();
        if self.full_surplus > 0 && others > open {
            let full = self.full_surplus;
            self.findings.add(Check::Others, None, || {
                format!("{full} more refusals for want of room are recorded than were received")
            });
        }
    }
}

#[cfg(test)]
mod tests;
