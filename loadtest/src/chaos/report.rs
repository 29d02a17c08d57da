//! What a chaos run has to say.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::fault::FaultTally;
use crate::generator::Recording;
use crate::scenario::Scenario;
use crate::stage::Stage;

use super::attack::Tally;
use super::schedule::Plan;
use super::verdict::Verdict;

/// The report of a chaos run.
#[derive(Clone, Debug, Serialize)]
pub struct ChaosReport {
    /// Brings the same attacks again.
    pub seed: u64,
    /// How long there was load, seconds.
    pub length_s: f64,
    /// What was done to processes, disk and connections.
    pub attacks: Tally,
    /// What the fault proxy did.
    pub faults: FaultTally,
    /// Whether the journal had a small disk that could be filled.
    pub small_disk: bool,
    /// Starts of the gateway, the first included.
    pub gateway_starts: u32,
    /// Starts of ClickHouse, the first included.
    pub engine_starts: u32,
    /// Requests begun.
    pub requests: u64,
    /// Whole answers, by kind of request and status.
    pub answers: BTreeMap<String, BTreeMap<u16, u64>>,
    /// Requests given up by the client on purpose.
    pub aborted: u64,
    /// Requests without a whole answer, by reason.
    pub failed: BTreeMap<&'static str, u64>,
    /// What came of it.
    pub verdict: Verdict,
    /// What is wrong. Empty: nothing was lost and nothing counted twice.
    pub findings: Vec<String>,
}

impl ChaosReport {
    pub(super) fn new(
        plan: &Plan,
        attacks: Tally,
        stage: &Stage,
        scenarios: &[Scenario],
        recordings: &[Recording],
        small_disk: bool,
        verdict: Verdict,
    ) -> ChaosReport {
        let mut report = ChaosReport {
            seed: plan.seed,
            length_s: plan.length.as_secs_f64(),
            attacks,
            faults: stage.faults.tally(),
            small_disk,
            gateway_starts: stage.gateway.starts(),
            engine_starts: stage.engine.starts(),
            requests: recordings.iter().map(|recording| recording.record.started()).sum(),
            answers: BTreeMap::new(),
            aborted: 0,
            failed: BTreeMap::new(),
            findings: verdict.findings.clone(),
            verdict,
        };
        for (scenario, recording) in scenarios.iter().zip(recordings) {
            for (kind, record) in scenario.requests.iter().zip(&recording.record.kinds) {
                let name = format!("{}: {}", scenario.name, kind.name);
                let by_status = record.by_status.iter().map(|(status, cell)| (*status, cell.count));
                report.answers.insert(name, by_status.collect());
                report.aborted += record.aborted;
                for (failure, count) in &record.failed {
                    *report.failed.entry(failure.name()).or_default() += count;
                }
            }
        }
        for (what, asked, done) in [
            ("the gateway", plan.gateway_kills, attacks.gateway_kills),
            ("ClickHouse", plan.engine_kills, attacks.engine_kills),
        ] {
            if done < asked {
                report.findings.push(format!("{what} was killed {done} times, not {asked}"));
            }
        }
        if !report.answers.values().any(|by_status| by_status.contains_key(&200)) {
            report.findings.push("no request was served: nothing was proved".to_owned());
        }
        report
    }
}

impl Display for ChaosReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "chaos for {:.0} s, seed {}", self.length_s, self.seed)?;
        writeln!(f)?;
        self.attacks(f)?;
        writeln!(f)?;
        self.load(f)?;
        writeln!(f)?;
        writeln!(f, "{:<40}{:>12}{:>10}", "check", "checked", "wrong")?;
        for line in &self.verdict.lines {
            writeln!(f, "{:<40}{:>12}{:>10}", line.check, line.checked, line.wrong)?;
        }
        writeln!(f)?;
        if self.findings.is_empty() {
            return writeln!(f, "verdict: ok, seed {}", self.seed);
        }
        writeln!(f, "verdict: FAILED, seed {}", self.seed)?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "  {finding}"))
    }
}

impl ChaosReport {
    fn attacks(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Tally { gateway_kills, engine_kills, gateway_stops, engine_stops, .. } = self.attacks;
        writeln!(f, "{:<16}{:>8}{:>8}{:>8}", "process", "kills", "stops", "starts")?;
        let starts = self.gateway_starts;
        writeln!(f, "{:<16}{gateway_kills:>8}{gateway_stops:>8}{starts:>8}", "gateway")?;
        let starts = self.engine_starts;
        writeln!(f, "{:<16}{engine_kills:>8}{engine_stops:>8}{starts:>8}", "clickhouse")?;
        let Tally { faults, fills, gateway_starts, slowest_start_ms, .. } = self.attacks;
        writeln!(f, "slowest of {gateway_starts} starts of the gateway: {slowest_start_ms} ms")?;
        let tally = &self.faults;
        writeln!(
            f,
            "{faults} faults between gateway and ClickHouse: of {} connections, {} were reset, \
             {} of them within a request, {} in place of an answer",
            tally.connections, tally.resets, tally.cut, tally.swallowed
        )?;
        if self.small_disk {
            writeln!(f, "the journal's disk was filled {fills} times")
        } else {
            writeln!(f, "the journal's disk was not filled: only root can mount a small one")
        }
    }

    fn load(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let whole: u64 = self.answers.values().flat_map(BTreeMap::values).sum();
        writeln!(
            f,
            "{} requests, {whole} answered whole, {} given up by the client, {} rows",
            self.requests, self.aborted, self.verdict.ledger.rows
        )?;
        for (reason, count) in &self.failed {
            writeln!(f, "  {count} without a whole answer: {reason}")?;
        }
        for (name, by_status) in &self.answers {
            let each: Vec<_> =
                by_status.iter().map(|(status, count)| format!("{status}: {count}")).collect();
            writeln!(f, "  {name:<48} {}", each.join(", "))?;
        }
        Ok(())
    }
}
