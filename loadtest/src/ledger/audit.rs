//! From a recorded run to the ledger's verdict.

use thiserror::Error;

use crate::generator::{Failure, KindRecord, Recording};
use crate::scenario::Scenario;

use super::table::{Patience, Recorded, Table, TableError, Window};
use super::{Answer, Expectation, Ledger, LedgerVerdict};

/// A request kind whose rows nobody could judge.
#[derive(Debug, Error)]
#[error("request `{kind}` says no {key}: the ledger needs it (\"\" where no row has one)")]
pub struct NoExpectation {
    /// The request kind.
    pub kind: String,
    /// What it lacks.
    pub key: &'static str,
}

/// What the rows of each kind of a scenario must say, `open` still zero.
pub fn expectations(scenario: &Scenario) -> Result<Vec<Expectation>, NoExpectation> {
    let needed = |value: &Option<String>, kind: &str, key| {
        value.clone().ok_or_else(|| NoExpectation { kind: kind.to_owned(), key })
    };
    scenario
        .requests
        .iter()
        .map(|kind| {
            Ok(Expectation {
                tenant: needed(&kind.tenant, &kind.name, "tenant")?,
                app: kind.app.clone(),
                route: needed(&kind.route, &kind.name, "route")?,
                cost: kind.cost,
                figure: kind.figure.clone(),
                user: kind.user.clone(),
                open: 0,
            })
        })
        .collect()
}

/// Waits until ClickHouse has caught up with a run and compares. The recording must have kept its
/// answers; they are taken out of it.
pub async fn audit(
    table: &Table,
    mut expectations: Vec<Expectation>,
    recording: &mut Recording,
    patience: &Patience,
    watch: &mut dyn FnMut(Recorded, u64),
) -> Result<LedgerVerdict, TableError> {
    let window = Window::around(recording.started_unix_us, recording.ended_unix_us);
    let answers = recording.record.answers.take().unwrap_or_default();
    count_open(&mut expectations, &recording.record.kinds);
    let expected = answers.len() as u64;
    table.settled(window, expected, patience, &mut |recorded| watch(recorded, expected)).await?;
    compare(table, window, expectations, answers).await
}

/// Notes how many requests of each kind brought no whole answer and may have a row all the same.
pub(crate) fn count_open(expectations: &mut [Expectation], kinds: &[KindRecord]) {
    for (expected, kind) in expectations.iter_mut().zip(kinds) {
        // What had no connection was never sent.
        let sent = kind.failed.iter().filter(|(failure, _)| **failure != Failure::Connect);
        expected.open += kind.aborted + sent.map(|(_, count)| count).sum::<u64>();
    }
}

/// Compares answers with the rows that are there now.
pub(crate) async fn compare(
    table: &Table,
    window: Window,
    expectations: Vec<Expectation>,
    answers: Vec<Answer>,
) -> Result<LedgerVerdict, TableError> {
    let mut ledger = Ledger::open(expectations, answers);
    table.rows(window, |row| ledger.row(row)).await?;
    for lane in table.lanes(window).await? {
        ledger.lane(&lane);
    }
    Ok(ledger.close())
}
