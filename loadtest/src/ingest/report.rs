//! What a run of events came to, for people and as JSON.

use std::fmt;

use serde::Serialize;

use super::{Counted, IngestRun, Sent};

/// The verdict on a run.
#[derive(Clone, Debug, Serialize)]
pub struct IngestReport {
    seed: u64,
    meter: String,
    tenant: String,
    events: u64,
    acknowledged: u64,
    known_when_acknowledged: u64,
    requests: u64,
    failed_requests: u64,
    unavailable: u64,
    resent_batches: u64,
    wrong_answers: u64,
    rows: Counted,
    /// What is wrong; nothing when each event counted once.
    pub findings: Vec<String>,
}

impl IngestReport {
    /// Of what was sent and what was found.
    pub fn new(run: &IngestRun, sent: &Sent, rows: Counted) -> IngestReport {
        let mut findings = sent.findings.clone();
        if sent.events != run.events {
            findings.push(format!("{} of {} events were acknowledged", sent.events, run.events));
        }
        if !rows.is_clean() {
            let Counted { missing, doubled, strangers, altered, .. } = rows;
            findings.push(format!(
                "rows: {missing} missing, {doubled} doubled, {strangers} of no event, {altered} \
                 altered; {}",
                rows.examples.join(", ")
            ));
        }
        IngestReport {
            seed: run.seed,
            meter: run.meter(),
            tenant: run.tenant.clone(),
            events: run.events,
            acknowledged: sent.events,
            known_when_acknowledged: sent.known,
            requests: sent.requests,
            failed_requests: sent.failed,
            unavailable: sent.unavailable,
            resent_batches: sent.resent,
            wrong_answers: sent.wrong,
            rows,
            findings,
        }
    }
}

impl fmt::Display for IngestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IngestReport { seed, meter, tenant, events, .. } = self;
        writeln!(f, "ingest: {events} events of {tenant} on {meter}, seed {seed}\n")?;
        writeln!(
            f,
            "  sent         {} requests: {} without an answer, {} answered 503, {} batches again \
             after they were acknowledged",
            self.requests, self.failed_requests, self.unavailable, self.resent_batches
        )?;
        writeln!(
            f,
            "  acknowledged {} events, {} of them known by then\n",
            self.acknowledged, self.known_when_acknowledged
        )?;
        let rows = &self.rows;
        writeln!(f, "  {:<34} {:>12} {:>12}  verdict", "check", "expected", "found")?;
        let mut line = |check: &str, expected: i128, found: i128| {
            let verdict = if expected == found { "ok" } else { "WRONG" };
            writeln!(f, "  {check:<34} {expected:>12} {found:>12}  {verdict}")
        };
        let events = i128::from(*events);
        line("events acknowledged", events, self.acknowledged.into())?;
        line("answers that should not be", 0, self.wrong_answers.into())?;
        line("rows", events, rows.rows.into())?;
        line("distinct request ids", events, rows.distinct.into())?;
        line("events without a row", 0, rows.missing.into())?;
        line("rows beyond an event's first", 0, rows.doubled.into())?;
        line("rows of no event", 0, rows.strangers.into())?;
        line("rows with another content", 0, rows.altered.into())?;
        line("sum of quantities, 1e-9", rows.sent_nano, rows.quantity_nano)?;
        for finding in &self.findings {
            writeln!(f, "\n  wrong: {finding}")?;
        }
        let verdict = if self.findings.is_empty() { "each counted once" } else { "FINDINGS" };
        writeln!(f, "\n  {verdict}")
    }
}
