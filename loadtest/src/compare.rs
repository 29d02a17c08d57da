//! Two servers side by side: alternating rounds of one scenario, CPU per answer, medians.
//!
//! Alternating, because the machine's mood changes over minutes: what hits one round of A hits the
//! neighbouring round of B as well.

use std::fmt;

use serde::Serialize;

use crate::generator::{Progress, Run, RunError, run};
use crate::keys::Keys;
use crate::report::{CpuReport, Report};
use crate::scenario::Scenario;
use crate::target::Target;

/// One of the two servers.
#[derive(Clone, Debug)]
pub struct Side {
    /// Its address.
    pub target: Target,
    /// Its processes.
    pub pids: Vec<u32>,
}

/// What one round of one side measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// CPU time per whole answer, user and system, microseconds.
    pub cpu_us: f64,
    /// Whole answers per second.
    pub answered_per_s: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
}

/// The outcome of all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The scenario.
    pub scenario: String,
    /// The rounds of A and of B, in order.
    pub rounds: Vec<[Measure; 2]>,
    /// The medians of A and of B, each figure for itself.
    pub medians: [Measure; 2],
    /// Median CPU per answer of A over that of B.
    pub cpu_ratio: f64,
    /// What is wrong. Empty: the comparison is as it should be.
    pub findings: Vec<String>,
}

/// Makes the rounds. With `max_ratio`, a higher ratio is a finding.
pub fn compare(
    scenario: &Scenario,
    keys: &Keys,
    sides: &[Side; 2],
    rounds: u32,
    max_ratio: Option<f64>,
    watch: &mut dyn FnMut(&str, &Progress),
) -> Result<Comparison, RunError> {
    let mut measured = Vec::new();
    let mut findings = Vec::new();
    for round in 1..=rounds {
        let mut pair = Vec::new();
        for (name, side) in ["A", "B"].iter().zip(sides) {
            let (target, pids) = (&side.target, &side.pids[..]);
            let plan = Run { scenario, target, keys, pids, keep_answers: false, reloading: None };
            let title = format!("{name} {round}/{rounds}");
            let recording = run(&plan, &mut |progress| watch(&title, progress))?;
            let report = Report::new(scenario, target, &recording);
            findings.extend(report.findings.iter().map(|says| format!("{title}: {says}")));
            pair.push(measure(&report));
        }
        measured.push([pair[0], pair[1]]);
    }
    let medians = [0, 1].map(|side| median_of(&measured, side));
    let cpu_ratio = medians[0].cpu_us / medians[1].cpu_us;
    // A ratio that is not a number is none that is allowed.
    let allowed = |most: &f64| cpu_ratio <= *most;
    if let Some(most) = max_ratio.filter(|most| !allowed(most)) {
        findings.push(format!("A needs {cpu_ratio:.3} times the CPU of B: over {most}"));
    }
    Ok(Comparison {
        scenario: scenario.name.clone(),
        rounds: measured,
        medians,
        cpu_ratio,
        findings,
    })
}

fn measure(report: &Report) -> Measure {
    Measure {
        cpu_us: report.cpu.as_ref().map_or(f64::NAN, |cpu: &CpuReport| cpu.us_per_answer),
        answered_per_s: report.answered_per_s,
        p50_us: report.latency.p50_us as f64,
        p99_us: report.latency.p99_us as f64,
    }
}

fn median_of(rounds: &[[Measure; 2]], side: usize) -> Measure {
    let median_by = |figure: fn(&Measure) -> f64| {
        median(rounds.iter().map(|round| figure(&round[side])).collect())
    };
    Measure {
        cpu_us: median_by(|m| m.cpu_us),
        answered_per_s: median_by(|m| m.answered_per_s),
        p50_us: median_by(|m| m.p50_us),
        p99_us: median_by(|m| m.p99_us),
    }
}

/// The middle value, or the mean of the two middle ones; not a number when there is none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle)) {
        (_, None) => f64::NAN,
        (1, Some(value)) => *value,
        (_, Some(value)) => f64::midpoint(values[middle - 1], *value),
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: alternating rounds, CPU (user + system) per whole answer", self.scenario)?;
        writeln!(f)?;
        let head = ["us CPU", "answers/s", "p50 ms", "p99 ms"];
        write!(f, "{:<10}", "")?;
        for side in ["A", "B"] {
            for title in head {
                write!(f, "{:>13}", format!("{side} {title}"))?;
            }
        }
        writeln!(f, "{:>9}", "A/B CPU")?;
        let line = |f: &mut fmt::Formatter<'_>, name: &str, pair: &[Measure; 2]| {
            write!(f, "{name:<10}")?;
            for Measure { cpu_us, answered_per_s, p50_us, p99_us } in pair {
                let (p50_ms, p99_ms) = (p50_us / 1000.0, p99_us / 1000.0);
                write!(f, "{cpu_us:>13.2}{answered_per_s:>13.0}{p50_ms:>13.3}{p99_ms:>13.3}")?;
            }
            writeln!(f, "{:>9.3}", pair[0].cpu_us / pair[1].cpu_us)
        };
        for (number, pair) in (1..).zip(&self.rounds) {
            line(f, &format!("round {number}"), pair)?;
        }
        line(f, "median", &self.medians)?;
        writeln!(f)?;
        if self.findings.is_empty() {
            return writeln!(f, "verdict: ok");
        }
        writeln!(f, "verdict: FAILED")?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "  {finding}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
        assert!(median(Vec::new()).is_nan());
    }
}
