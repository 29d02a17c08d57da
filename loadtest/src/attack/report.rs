//! What an attack has to say: what was done, what the load saw, and the verdict.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::generator::Recording;
use crate::scenario::Scenario;

use super::Verdict;

/// Something worth knowing about a run.
#[derive(Clone, Debug, Serialize)]
pub struct Fact {
    /// What it is about.
    pub what: &'static str,
    /// What it is.
    pub is: String,
}

impl Fact {
    pub(super) fn new(what: &'static str, is: impl Into<String>) -> Fact {
        Fact { what, is: is.into() }
    }
}

/// What the clients saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LoadSummary {
    /// Requests begun.
    pub requests: u64,
    /// Whole answers, by kind of request and status.
    pub answers: BTreeMap<String, BTreeMap<u16, u64>>,
    /// Requests given up by the client on purpose.
    pub aborted: u64,
    /// Requests without a whole answer, by reason.
    pub failed: BTreeMap<&'static str, u64>,
}

impl LoadSummary {
    pub(super) fn of(scenarios: &[Scenario], recordings: &[Recording]) -> LoadSummary {
        let mut summary = LoadSummary::default();
        for (scenario, recording) in scenarios.iter().zip(recordings) {
            summary.requests += recording.record.started();
            for (kind, record) in scenario.requests.iter().zip(&recording.record.kinds) {
                let name = format!("{}: {}", scenario.name, kind.name);
                let by_status = record.by_status.iter().map(|(status, cell)| (*status, cell.count));
                summary.answers.insert(name, by_status.collect());
                summary.aborted += record.aborted;
                for (failure, count) in &record.failed {
                    *summary.failed.entry(failure.name()).or_default() += count;
                }
            }
        }
        summary
    }

    /// Whole answers with this status.
    pub(super) fn answered(&self, status: u16) -> u64 {
        self.answers.values().filter_map(|by_status| by_status.get(&status)).sum()
    }

    /// Requests without a whole answer though the client wanted one.
    pub(super) fn failed(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// The report of an attack.
#[derive(Clone, Debug, Serialize)]
pub struct AttackReport {
    /// Which attack.
    pub attack: String,
    /// What was done, and what else is worth knowing.
    pub facts: Vec<Fact>,
    /// What the clients saw.
    pub load: LoadSummary,
    /// What was checked.
    pub verdict: Verdict,
    /// What is wrong. Empty: nothing was lost and nothing counted twice.
    pub findings: Vec<String>,
}

impl AttackReport {
    pub(super) fn new(
        attack: impl Into<String>,
        facts: Vec<Fact>,
        load: LoadSummary,
        verdict: Verdict,
    ) -> AttackReport {
        let mut findings = verdict.findings.clone();
        if load.requests > 0 && load.answered(200) == 0 {
            findings.push("no request was served: nothing was proved".to_owned());
        }
        AttackReport { attack: attack.into(), facts, load, verdict, findings }
    }
}

impl Display for AttackReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "attack: {}", self.attack)?;
        writeln!(f)?;
        for Fact { what, is } in &self.facts {
            writeln!(f, "{what:<28} {is}")?;
        }
        if self.load.requests > 0 {
            writeln!(f)?;
            Display::fmt(&self.load, f)?;
        }
        writeln!(f)?;
        writeln!(f, "{:<40}{:>12}{:>10}", "check", "checked", "wrong")?;
        for line in &self.verdict.lines {
            writeln!(f, "{:<40}{:>12}{:>10}", line.check, line.checked, line.wrong)?;
        }
        writeln!(f)?;
        if self.findings.is_empty() {
            return writeln!(f, "verdict: ok");
        }
        writeln!(f, "verdict: FAILED")?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "  {finding}"))
    }
}

impl Display for LoadSummary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let whole: u64 = self.answers.values().flat_map(BTreeMap::values).sum();
        let (requests, aborted) = (self.requests, self.aborted);
        writeln!(f, "{requests} requests, {whole} answered whole, {aborted} left by the client")?;
        for (reason, count) in &self.failed {
            writeln!(f, "{count} without a whole answer: {reason}")?;
        }
        for (name, by_status) in &self.answers {
            let each: Vec<_> =
                by_status.iter().map(|(status, count)| format!("{status}: {count}")).collect();
            writeln!(f, "  {name:<46} {}", each.join(", "))?;
        }
        Ok(())
    }
}
