//! What is asked when all is over, and the answers.

use std::process::ExitStatus;

use serde::Serialize;

use crate::generator::Recording;
use crate::ledger::audit::{compare, count_open, expectations};
use crate::ledger::table::Window;
use crate::ledger::{Answer, CheckLine, Expectation, Finding, LedgerVerdict};
use crate::scenario::Scenario;
use crate::stage::{Backlog, Stage};
use crate::{orbit_audit, projection};

use super::{AttackError, Seen};

/// A gateway without room for more events says so.
const JOURNAL_FULL: u16 = 503;

/// Of what `orbit audit` says, this much is shown.
const MAX_SHOWN_CHARS: usize = 2000;

/// What `orbit audit` should find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuditSays {
    /// Nothing.
    Clean,
    /// That the machine went down, and what that may have cost.
    Loss,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was checked.
    pub check: &'static str,
    /// How many things were looked at.
    pub checked: u64,
    /// How many were wrong.
    pub wrong: u64,
}

/// All answers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    /// One line per check.
    pub lines: Vec<Line>,
    /// What is wrong, the first of each kind.
    pub findings: Vec<String>,
}

impl Verdict {
    /// The ledger's lines, to which others are added.
    fn of(ledger: &LedgerVerdict) -> Verdict {
        let line = |line: &CheckLine| Line {
            check: line.check.says(),
            checked: line.checked,
            wrong: line.wrong,
        };
        let says = |finding: &Finding| {
            let id = finding.id.as_deref().map_or_else(String::new, |id| format!("{id}: "));
            format!("ledger: {id}{}", finding.says)
        };
        let lines = ledger.checks.iter().map(line).collect();
        let findings = ledger.findings.iter().map(says).collect();
        Verdict { lines, findings }
    }

    /// Adds a check: how much was looked at, and what was wrong.
    pub(crate) fn add(&mut self, check: &'static str, checked: u64, wrong: Vec<String>) {
        self.lines.push(Line { check, checked, wrong: wrong.len() as u64 });
        self.findings.extend(wrong);
    }

    /// Adds what is asked of the stage itself, whatever the load was.
    pub(crate) async fn add_stage(
        &mut self,
        stage: &mut Stage,
        backlog: Backlog,
        ended: ExitStatus,
        audit: AuditSays,
    ) -> Result<(), AttackError> {
        let projection = projection::compare(&stage.table).await?;
        self.add("the projection equals the rows", projection.groups, projection.differences);
        let (clean, said) = orbit_audit::ask(stage).await?;
        let (check, wrong) = match audit {
            AuditSays::Clean => ("`orbit audit` is clean", (!clean).then_some(said)),
            AuditSays::Loss => {
                let told = !clean && said.contains("power");
                ("`orbit audit` tells of the loss", (!told).then_some(said))
            }
        };
        let shown = |said: String| said.chars().take(MAX_SHOWN_CHARS).collect::<String>();
        let wrong = wrong.map(|said| format!("orbit audit: {}", shown(said)));
        self.add(check, 1, wrong.into_iter().collect());
        let mut wrong = Vec::new();
        if backlog.lost > 0 && audit == AuditSays::Clean {
            wrong.push(format!("the journal says that {} events are lost", backlog.lost));
        }
        if backlog.events > 0 {
            wrong.push(format!("{} events were left in the journal", backlog.events));
        }
        self.add("the journal is empty and whole", 1, wrong);
        // Whether they run now, and whether each of their lives ended as it was told to.
        stage.engine.is_running();
        let mut wrong = [stage.gateway.ended_alone(), stage.engine.ended_alone()].concat();
        if !ended.success() {
            wrong.push(format!("the gateway ended with {ended} when asked to stop"));
        }
        let lives = u64::from(stage.gateway.starts() + stage.engine.starts());
        self.add("processes end only when told to", lives, wrong);
        Ok(())
    }
}

/// Judges a stage whose gateway has drained and ended.
pub(super) async fn judge(
    stage: &mut Stage,
    seen: Seen<'_>,
    backlog: Backlog,
    ended: ExitStatus,
    audit: AuditSays,
) -> Result<Verdict, AttackError> {
    let statuses = unexpected(seen.scenarios, &seen.recordings);
    let answered = seen.recordings.iter().map(|recording| recording.record.whole).sum();
    let (expected, answers) = one_ledger(seen)?;
    let ledger = compare(&stage.table, Window::EVER, expected, answers).await?;
    let mut verdict = Verdict::of(&ledger);
    verdict.add("statuses are expected ones", answered, statuses);
    verdict.add_stage(stage, backlog, ended, audit).await?;
    Ok(verdict)
}

/// What was expected and answered, as one.
fn one_ledger(
    Seen { scenarios, recordings, beside }: Seen<'_>,
) -> Result<(Vec<Expectation>, Vec<Answer>), AttackError> {
    let (mut expected, mut answers) = (Vec::new(), Vec::new());
    for (scenario, recording) in scenarios.iter().zip(recordings) {
        let before = expected.len() as u16;
        let mut more = expectations(scenario)?;
        count_open(&mut more, &recording.record.kinds);
        expected.extend(more);
        let received = recording.record.answers.unwrap_or_default();
        answers.extend(received.into_iter().map(|a| Answer { group: a.group + before, ..a }));
    }
    if let Some((expectation, received)) = beside {
        let group = expected.len() as u16;
        expected.push(expectation);
        answers.extend(received.into_iter().map(|answer| Answer { group, ..answer }));
    }
    Ok((expected, answers))
}

/// Statuses no scenario allows, but for want of room in the journal.
fn unexpected(scenarios: &[Scenario], recordings: &[Recording]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (scenario, recording) in scenarios.iter().zip(recordings) {
        for (kind, record) in scenario.requests.iter().zip(&recording.record.kinds) {
            for (status, cell) in &record.by_status {
                let refused = *status == JOURNAL_FULL && cell.problems == cell.count;
                if !kind.expect.is_empty() && !kind.expect.contains(status) && !refused {
                    let (name, count) = (&kind.name, cell.count);
                    wrong.push(format!("{name}: {count} unexpected answers {status}"));
                }
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_counted_and_said() {
        let mut verdict = Verdict::default();
        verdict.add("apples", 3, Vec::new());
        verdict.add("pears", 7, vec!["a worm".to_owned(), "another".to_owned()]);
        let lines: Vec<_> = verdict.lines.iter().map(|l| (l.check, l.checked, l.wrong)).collect();
        assert_eq!(lines, [("apples", 3, 0), ("pears", 7, 2)]);
        assert_eq!(verdict.findings, ["a worm", "another"]);
    }
}
