//! What a run has to say: numbers per kind and status, and a verdict.
//!
//! The same report is written as text for people and as JSON for machines. It holds labels and
//! counts, never a key.

mod text;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cpu::CpuUse;
use crate::generator::{KindRecord, MeasuredCpu, Recording, ReloadLatency};
use crate::ledger::LedgerVerdict;
use crate::limit::{LimitVerdict, SharesVerdict, judge, judge_shares};
use crate::reload::ReloadOutcome;
use crate::scenario::{Rate, RequestKind, Scenario};
use crate::target::Target;

/// Quantiles of a latency, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Values.
    pub count: u64,
    /// The median.
    pub p50_us: u64,
    /// 90 % are at most this.
    pub p90_us: u64,
    /// 99 %.
    pub p99_us: u64,
    /// 99.9 %.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Latency {
    /// The quantiles of a histogram of microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        Latency {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        }
    }
}

/// Answers of one kind with one status.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// The status.
    pub status: u16,
    /// Whole answers, warm-up included.
    pub count: u64,
    /// Of these, made by the gateway.
    pub gateway_made: u64,
    /// From when they were due, without the warm-up.
    pub latency: Latency,
}

/// One kind of request.
#[derive(Clone, Debug, Serialize)]
pub struct KindReport {
    /// Its name.
    pub name: String,
    /// Requests begun.
    pub started: u64,
    /// Given up by the client on purpose.
    pub aborted: u64,
    /// Without a whole answer, by reason.
    pub failed: BTreeMap<&'static str, u64>,
    /// Body bytes of whole answers.
    pub body_bytes: u64,
    /// Whole answers by status.
    pub answers: Vec<StatusReport>,
}

/// CPU time per whole answer, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CpuReport {
    /// Whole answers in the measured part.
    pub answers: u64,
    /// The measured processes.
    pub used: CpuUse,
    /// Their time per answer.
    pub us_per_answer: f64,
    /// The generator's own time per answer.
    pub generator_us_per_answer: f64,
}

impl CpuReport {
    /// Time per answer from a measurement.
    pub fn of(measured: &MeasuredCpu) -> CpuReport {
        let per_answer = |used: &CpuUse| used.total_s * 1e6 / measured.answers.max(1) as f64;
        CpuReport {
            answers: measured.answers,
            used: measured.target,
            us_per_answer: per_answer(&measured.target),
            generator_us_per_answer: per_answer(&measured.generator),
        }
    }
}

/// Reloads and their cost.
#[derive(Clone, Debug, Serialize)]
pub struct ReloadReport {
    /// What was done.
    pub outcome: ReloadOutcome,
    /// Latency of requests that touched a reload.
    pub during: Latency,
    /// Latency of the others.
    pub without: Latency,
    /// p99 during over p99 without.
    pub p99_ratio: f64,
}

/// A whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// Where it went.
    pub target: String,
    /// Per second, as planned; absent in a closed loop.
    pub planned_per_s: Option<f64>,
    /// Per second, from the first to the last request sent.
    pub sent_per_s: f64,
    /// Whole answers per second in the measured part.
    pub answered_per_s: f64,
    /// Length of the measured part, seconds.
    pub measured_s: f64,
    /// Requests begun.
    pub started: u64,
    /// Requests answered whole.
    pub whole: u64,
    /// Requests that were due and never sent.
    pub unsent: u64,
    /// All whole answers, from when they were due.
    pub latency: Latency,
    /// The same from when they were sent: what a closed loop would have reported.
    pub service: Latency,
    /// How late requests were sent.
    pub lateness: Latency,
    /// Per kind, in the scenario's order.
    pub kinds: Vec<KindReport>,
    /// CPU per answer, when processes were named.
    pub cpu: Option<CpuReport>,
    /// The limit's verdict, when one was expected.
    pub limit: Option<LimitVerdict>,
    /// The shares' verdict, when some were expected.
    pub shares: Option<SharesVerdict>,
    /// The ledger's verdict, when it was asked.
    pub ledger: Option<LedgerVerdict>,
    /// Reloads, when there were any.
    pub reload: Option<ReloadReport>,
    /// What is wrong. Empty: the run was as it should be.
    pub findings: Vec<String>,
}

impl Report {
    /// Sums up a run.
    pub fn new(scenario: &Scenario, target: &Target, recording: &Recording) -> Report {
        let record = &recording.record;
        let per_second = |count: u64, seconds: f64| count as f64 / seconds.max(1e-9);
        let measured_s = recording.measured.as_secs_f64();
        let limit = scenario.expect_limit.as_ref().zip(record.limit.as_ref());
        let names: Vec<_> = scenario.requests.iter().map(|kind| &*kind.name).collect();
        let shares = scenario.expect_shares.as_ref().zip(record.shares.as_ref());
        let mut report = Report {
            scenario: scenario.name.clone(),
            target: target.to_string(),
            planned_per_s: match scenario.rate {
                Rate::PerSecond(rate) => Some(rate),
                Rate::Max => None,
            },
            // So many intervals lie between the first and the last.
            sent_per_s: per_second(
                record.started().saturating_sub(1),
                recording.sending.as_secs_f64(),
            ),
            answered_per_s: per_second(record.measured, measured_s),
            measured_s,
            started: record.started(),
            whole: record.whole,
            unsent: recording.unsent,
            latency: Latency::of(&record.latency_us),
            service: Latency::of(&record.service_us),
            lateness: Latency::of(&record.lateness_us),
            kinds: scenario.requests.iter().zip(&record.kinds).map(|(s, r)| kind(s, r)).collect(),
            cpu: recording.cpu.as_ref().map(CpuReport::of),
            limit: limit.map(|(expected, record)| judge(expected, record)),
            shares: shares.map(|(expected, records)| judge_shares(expected, &names, records)),
            ledger: None,
            reload: None,
            findings: Vec::new(),
        };
        report.findings = report.judge_answers(scenario);
        let limit = report.limit.iter().flat_map(|limit| &limit.findings);
        let limit: Vec<_> = limit.map(|says| format!("limit: {says}")).collect();
        report.findings.extend(limit);
        let shares = report.shares.iter().flat_map(|shares| &shares.findings);
        let shares: Vec<_> = shares.map(|says| format!("shares: {says}")).collect();
        report.findings.extend(shares);
        report
    }

    /// Adds the ledger's verdict.
    #[must_use]
    pub fn with_ledger(mut self, verdict: LedgerVerdict) -> Report {
        let wrong: u64 = verdict.checks.iter().map(|line| line.wrong).sum();
        if wrong > 0 {
            self.findings.push(format!("ledger: {wrong} differences"));
        }
        self.ledger = Some(verdict);
        self
    }

    /// Adds the reloads. `max_ratio` bounds p99 during reloads over p99 without.
    #[must_use]
    pub fn with_reloads(
        mut self,
        outcome: ReloadOutcome,
        latency: &ReloadLatency,
        max_ratio: f64,
    ) -> Report {
        let (during, without) = (Latency::of(&latency.during_us), Latency::of(&latency.without_us));
        let p99_ratio = during.p99_us as f64 / without.p99_us.max(1) as f64;
        let ReloadOutcome { planned, effective, .. } = outcome;
        if effective < planned {
            self.findings.push(format!("reload: {effective} of {planned} reloads took effect"));
        }
        if let Some(error) = &outcome.error {
            self.findings.push(format!("reload: {error}"));
        }
        if during.count == 0 || without.count == 0 {
            self.findings.push("reload: nothing to compare: no answers on one side".to_owned());
        } else if p99_ratio > max_ratio {
            self.findings.push(format!(
                "reload: p99 during reloads is {p99_ratio:.2} times that without: over {max_ratio}"
            ));
        }
        self.reload = Some(ReloadReport { outcome, during, without, p99_ratio });
        self
    }

    /// Statuses and failures that the scenario does not allow.
    fn judge_answers(&self, scenario: &Scenario) -> Vec<String> {
        let mut findings = Vec::new();
        for (expected, seen) in scenario.requests.iter().zip(&self.kinds) {
            let allowed = |status| expected.expect.is_empty() || expected.expect.contains(&status);
            for answer in seen.answers.iter().filter(|answer| !allowed(answer.status)) {
                findings.push(format!(
                    "{}: {} answers {}, which the scenario does not expect",
                    seen.name, answer.count, answer.status
                ));
            }
            for (reason, count) in seen.failed.iter().filter(|_| !expected.may_fail) {
                findings.push(format!("{}: {count} requests failed: {reason}", seen.name));
            }
        }
        if self.unsent > 0 {
            findings.push(format!(
                "{} requests were due and never sent: the percentiles lack them",
                self.unsent
            ));
        }
        if self.whole == 0 && scenario.requests.iter().any(|kind| !kind.may_fail) {
            let aborts = self.kinds.iter().all(|kind| kind.aborted == kind.started);
            if !aborts {
                findings.push("no request was answered whole".to_owned());
            }
        }
        findings
    }
}

fn kind(scenario: &RequestKind, record: &KindRecord) -> KindReport {
    let answer = |(status, cell): (&u16, &crate::generator::Cell)| StatusReport {
        status: *status,
        count: cell.count,
        gateway_made: cell.problems,
        latency: Latency::of(&cell.latency_us),
    };
    KindReport {
        name: scenario.name.clone(),
        started: record.started,
        aborted: record.aborted,
        failed: record.failed.iter().map(|(failure, count)| (failure.name(), *count)).collect(),
        body_bytes: record.body_bytes,
        answers: record.by_status.iter().map(answer).collect(),
    }
}
