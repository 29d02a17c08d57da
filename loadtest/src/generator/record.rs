//! What a run has seen: counters, histograms, and the answers the ledger will ask for.
//!
//! One recorder per thread; the threads' recorders are merged at the end. Counters cover the whole
//! run, histograms only what was due after the warm-up.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::ledger::{Answer, RequestId};
use crate::limit::{Decision, LimitRecord};

use super::pace::Slot;

/// The longest latency that is told apart, in microseconds; longer ones count as this.
const MAX_LATENCY_US: u64 = 300_000_000;

/// Why a request brought no whole answer although the client wanted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// No connection.
    Connect,
    /// The connection ended before the response header.
    Closed,
    /// The connection ended inside the answer.
    CutShort,
    /// No whole answer in the scenario's `timeout_s`.
    Timeout,
    /// What came was not HTTP.
    Protocol,
    /// Still waiting when the run ended.
    Unfinished,
}

impl Failure {
    /// The name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Connect => "connect",
            Failure::Closed => "closed before the answer",
            Failure::CutShort => "cut short",
            Failure::Timeout => "timeout",
            Failure::Protocol => "not http",
            Failure::Unfinished => "unfinished at the end",
        }
    }
}

/// How one request ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Whole(Whole),
    /// The client left, as the scenario says.
    Aborted,
    /// It brought no whole answer.
    Failed(Failure),
}

impl Outcome {
    /// What it says about the limit under check.
    fn decision(&self) -> Decision<'_> {
        match self {
            Outcome::Whole(whole) if whole.status == 429 && whole.problem => {
                let named = whole.refusal.as_deref();
                Decision::Refused {
                    level: named.and_then(|refusal| refusal.level.as_deref()),
                    violated: named.map_or(&[], |refusal| &refusal.violated),
                }
            }
            Outcome::Whole(whole) if !whole.problem => Decision::Admitted,
            // The gateway's other answers, and requests without one, say nothing about it.
            _ => Decision::Unknown,
        }
    }
}

/// An answer that was received to its end.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) status: u16,
    pub(super) id: Option<RequestId>,
    /// The content type says the gateway made it (RFC 9457 problem details).
    pub(super) problem: bool,
    pub(super) body_bytes: u64,
    /// Of the request's body.
    pub(super) sent_bytes: u64,
    pub(super) refusal: Option<Box<Refusal>>,
}

impl Whole {
    /// As the ledger has it.
    pub(super) fn answer(&self, group: u16, ended_ns: u64) -> Answer {
        Answer {
            id: self.id,
            group,
            status: self.status,
            gateway_made: self.problem,
            request_bytes: self.sent_bytes,
            response_bytes: self.body_bytes,
            ended_ns,
        }
    }
}

/// The members of a refusal's body that say which limit refused.
#[derive(Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub(super) struct Refusal {
    #[serde(default)]
    pub(super) level: Option<String>,
    #[serde(default, rename = "violated-policies")]
    pub(super) violated: Vec<String>,
}

/// The moments of one request, nanoseconds on the run's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) slot: Slot,
    pub(super) sent_ns: u64,
    pub(super) ended_ns: u64,
}

/// Answers of one kind with one status.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Answers received whole, warm-up included.
    pub count: u64,
    /// Of these, made by the gateway.
    pub problems: u64,
    /// Latency from the moment the request was due, microseconds, without the warm-up.
    pub latency_us: Histogram<u64>,
}

/// Everything about one kind of request.
#[derive(Clone, Debug, Default)]
pub struct KindRecord {
    /// Requests begun.
    pub started: u64,
    /// Whole answers by status.
    pub by_status: BTreeMap<u16, Cell>,
    /// Requests given up by the client on purpose.
    pub aborted: u64,
    /// Requests without a whole answer, by reason.
    pub failed: BTreeMap<Failure, u64>,
    /// Response body bytes of whole answers.
    pub body_bytes: u64,
}

/// Latencies with and without a reload under way, microseconds.
#[derive(Clone, Debug)]
pub struct ReloadLatency {
    /// Requests that touched a reload.
    pub during_us: Histogram<u64>,
    /// All others.
    pub without_us: Histogram<u64>,
}

/// What one thread, or a whole run, has seen.
#[derive(Clone, Debug)]
pub struct Record {
    /// One per kind of the scenario, in its order.
    pub kinds: Vec<KindRecord>,
    /// Latency of all whole answers from the moment they were due, microseconds.
    pub latency_us: Histogram<u64>,
    /// The same from the moment of sending: what a closed loop would have reported.
    pub service_us: Histogram<u64>,
    /// How late requests were sent, microseconds.
    pub lateness_us: Histogram<u64>,
    /// Latencies by reload, when the run was told of reloads.
    pub reload: Option<ReloadLatency>,
    /// The answers, when a ledger will ask for them.
    pub answers: Option<Vec<Answer>>,
    /// What the limit check needs, when there is one.
    pub limit: Option<LimitRecord>,
    /// The same for each kind, when there are shares to check.
    pub shares: Option<Vec<LimitRecord>>,
    /// Requests that have ended in any way.
    pub ended: u64,
    /// Requests that ended with a whole answer.
    pub whole: u64,
    /// Requests due after the warm-up that ended with a whole answer.
    pub measured: u64,
    /// When the last measured answer ended, nanoseconds on the run's clock.
    pub last_measured_ns: u64,
    /// When the first and the last request were sent.
    pub sent_ns: Option<(u64, u64)>,
}

/// What a record keeps beside its counters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    pub(super) kinds: usize,
    pub(super) answers: bool,
    pub(super) limit: bool,
    pub(super) shares: bool,
    pub(super) reload: bool,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("the bounds are in range")
}

impl Record {
    pub(super) fn new(keep: Keep) -> Record {
        let reload = || ReloadLatency { during_us: histogram(), without_us: histogram() };
        Record {
            kinds: vec![KindRecord::default(); keep.kinds],
            latency_us: histogram(),
            service_us: histogram(),
            lateness_us: histogram(),
            reload: keep.reload.then(reload),
            answers: keep.answers.then(Vec::new),
            limit: keep.limit.then(LimitRecord::default),
            shares: keep.shares.then(|| vec![LimitRecord::default(); keep.kinds]),
            ended: 0,
            whole: 0,
            measured: 0,
            last_measured_ns: 0,
            sent_ns: None,
        }
    }

    pub(super) fn sent(&mut self, kind: u16, sent_ns: u64) {
        self.kinds[usize::from(kind)].started += 1;
        let (first, last) = self.sent_ns.get_or_insert((sent_ns, sent_ns));
        (*first, *last) = ((*first).min(sent_ns), (*last).max(sent_ns));
    }

    /// Books the end of a request.
    pub(super) fn ended(&mut self, kind: u16, times: Times, outcome: Outcome, end: Ending) {
        if let (Some(limit), true) = (&mut self.limit, end.limited) {
            limit.add(times.sent_ns, times.ended_ns, outcome.decision());
        }
        if let Some(shares) = &mut self.shares {
            shares[usize::from(kind)].add(times.sent_ns, times.ended_ns, outcome.decision());
        }
        self.ended += 1;
        let record = &mut self.kinds[usize::from(kind)];
        let whole = match outcome {
            Outcome::Aborted => return record.aborted += 1,
            Outcome::Failed(failure) => return *record.failed.entry(failure).or_default() += 1,
            Outcome::Whole(whole) => whole,
        };
        let cell = record.by_status.entry(whole.status).or_insert_with(|| Cell {
            count: 0,
            problems: 0,
            latency_us: histogram(),
        });
        cell.count += 1;
        cell.problems += u64::from(whole.problem);
        record.body_bytes += whole.body_bytes;
        self.whole += 1;
        if let Some(answers) = &mut self.answers {
            answers.push(whole.answer(kind, times.ended_ns));
        }
        if end.warm {
            return;
        }
        self.measured += 1;
        self.last_measured_ns = self.last_measured_ns.max(times.ended_ns);
        let us = |from: u64, to: u64| to.saturating_sub(from) / 1000;
        let latency_us = us(times.slot.due_ns, times.ended_ns);
        cell.latency_us.saturating_record(latency_us);
        self.latency_us.saturating_record(latency_us);
        self.service_us.saturating_record(us(times.sent_ns, times.ended_ns));
        self.lateness_us.saturating_record(us(times.slot.due_ns, times.sent_ns));
        if let Some(reload) = &mut self.reload {
            let side = if end.reloading { &mut reload.during_us } else { &mut reload.without_us };
            side.saturating_record(latency_us);
        }
    }

    /// Books as unfinished what was sent and never ended. Only when nothing runs any more.
    pub(super) fn close(&mut self, limited: &[bool]) {
        for (index, (kind, limited)) in self.kinds.iter_mut().zip(limited).enumerate() {
            let ended = kind.by_status.values().map(|cell| cell.count).sum::<u64>()
                + kind.aborted
                + kind.failed.values().sum::<u64>();
            let unfinished = kind.started.saturating_sub(ended);
            if unfinished > 0 {
                *kind.failed.entry(Failure::Unfinished).or_default() += unfinished;
            }
            if let (Some(limit), true) = (&mut self.limit, *limited) {
                limit.unknown += unfinished;
            }
            if let Some(shares) = &mut self.shares {
                shares[index].unknown += unfinished;
            }
        }
    }

    /// Adds another thread's record of the same run.
    pub(super) fn merge(&mut self, other: Record) {
        let add = |into: &mut Histogram<u64>, from: &Histogram<u64>| {
            into.add(from).expect("all histograms have the same bounds");
        };
        for (into, from) in self.kinds.iter_mut().zip(other.kinds) {
            into.started += from.started;
            into.aborted += from.aborted;
            into.body_bytes += from.body_bytes;
            for (failure, count) in from.failed {
                *into.failed.entry(failure).or_default() += count;
            }
            for (status, cell) in from.by_status {
                match into.by_status.entry(status) {
                    std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(cell)),
                    std::collections::btree_map::Entry::Occupied(mut entry) => {
                        let into = entry.get_mut();
                        into.count += cell.count;
                        into.problems += cell.problems;
                        add(&mut into.latency_us, &cell.latency_us);
                    }
                }
            }
        }
        add(&mut self.latency_us, &other.latency_us);
        add(&mut self.service_us, &other.service_us);
        add(&mut self.lateness_us, &other.lateness_us);
        if let (Some(into), Some(from)) = (&mut self.reload, &other.reload) {
            add(&mut into.during_us, &from.during_us);
            add(&mut into.without_us, &from.without_us);
        }
        if let (Some(into), Some(from)) = (&mut self.answers, other.answers) {
            into.extend(from);
        }
        if let (Some(into), Some(from)) = (&mut self.limit, other.limit) {
            into.merge(from);
        }
        for (into, from) in self.shares.iter_mut().flatten().zip(other.shares.into_iter().flatten())
        {
            into.merge(from);
        }
        self.ended += other.ended;
        self.whole += other.whole;
        self.measured += other.measured;
        self.last_measured_ns = self.last_measured_ns.max(other.last_measured_ns);
        self.sent_ns = match (self.sent_ns, other.sent_ns) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, other) => one.or(other),
        };
    }

    /// Requests begun.
    pub fn started(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.started).sum()
    }

    /// Requests that ended without a whole answer though the client wanted it.
    pub fn failed(&self) -> u64 {
        self.kinds.iter().flat_map(|kind| kind.failed.values()).sum()
    }
}

/// What the caller knows about a request that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    /// It was due in the warm-up.
    pub(super) warm: bool,
    /// A reload was under way when it was sent or when it ended.
    pub(super) reloading: bool,
    /// The limit under check applies to its kind.
    pub(super) limited: bool,
}
