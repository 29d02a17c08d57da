//! What is known to be lost. Every loss in scope is a finding.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ask::{self, Facts};
use super::gaps::Lane;
use super::report::{Outcome, time};
use super::{AuditError, Check, Run};
use crate::event::LATEST_TS_US;

/// A row of `usage_losses`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Loss {
    node: u32,
    epoch: u32,
    lane: u16,
    first_sequence: u64,
    cause: Cause,
    events: u64,
    bytes: u64,
    since_us: i64,
    until_us: i64,
    noted_us: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Cause {
    Damaged,
    Power,
    Header,
    Uncounted,
}

impl Loss {
    pub(super) fn lane(&self) -> Lane {
        Lane { node: self.node, epoch: self.epoch, lane: self.lane }
    }

    /// The sequences it is about, both included, when it knows.
    pub(super) fn sequences(&self) -> Option<(u64, u64)> {
        (self.cause == Cause::Damaged && self.events > 0)
            .then(|| (self.first_sequence, self.first_sequence.saturating_add(self.events - 1)))
    }

    fn kind(&self) -> &'static str {
        match self.cause {
            Cause::Damaged => "damaged",
            Cause::Power => "power",
            Cause::Header => "header",
            Cause::Uncounted => "uncounted",
        }
    }

    fn text(&self) -> String {
        let Self { node, epoch, lane, first_sequence, events, bytes, .. } = self;
        let place = format!("node {node} epoch {epoch} lane {lane}");
        let (since, until) = (time(self.since_us), time(self.until_us));
        match self.cause {
            Cause::Damaged => format!(
                "{place}: {events} events from sequence {first_sequence} on ({bytes} bytes) were \
                 damaged in the journal, between {since} and {until}"
            ),
            Cause::Power => format!(
                "{place}: power failed; an unknown number of events, if any, of at most the time \
                 from {since} to {until} was not yet on the disk"
            ),
            Cause::Header => format!(
                "node {node}: file {first_sequence:x} of the journal had lost its header when it was \
                 opened at {until}; nobody can say which events it held"
            ),
            Cause::Uncounted => format!(
                "node {node} epoch {epoch}: at least {events} answers ({bytes} body bytes), from \
                 {since} on, found no place to be counted in"
            ),
        }
    }

    fn facts(&self) -> Facts {
        match serde_json::to_value(self) {
            Ok(Value::Object(facts)) => facts,
            _ => Facts::new(),
        }
    }
}

pub(super) async fn run(run: &mut Run<'_>) -> Result<Outcome, AuditError> {
    run.step(Check::Losses);
    let losses: Vec<Loss> = run.asker.all(ask::LOSSES, &[]).await?;
    let mut outcome = Outcome { checked: losses.len() as u64, ..Outcome::default() };
    if run.scope.tenant.is_some() {
        outcome.limited = Some("losses are not by tenant: these may be anybody's".to_owned());
    }
    for loss in losses {
        outcome.find(loss.kind(), loss.text(), loss.facts());
    }
    Ok(outcome)
}

/// Losses of all times.
pub(super) async fn all(run: &Run<'_>) -> Result<Vec<Loss>, AuditError> {
    let always = [("from_us", "0".to_owned()), ("to_us", LATEST_TS_US.to_string())];
    run.asker.all(ask::LOSSES, &always).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_says_what_is_known() {
        let line = r#"{"node":1,"epoch":2,"lane":3,"first_sequence":10,"cause":"damaged",
            "events":5,"bytes":700,"since_us":1000000,"until_us":2000000,"noted_us":3000000}"#;
        let loss: Loss = serde_json::from_str(line).expect("a row");
        assert_eq!(loss.sequences(), Some((10, 14)));
        assert!(loss.text().starts_with("node 1 epoch 2 lane 3: 5 events from sequence 10 on"));
        let power = Loss { cause: Cause::Power, events: 0, ..loss };
        assert_eq!(power.sequences(), None);
        assert!(power.text().contains("unknown number"), "{}", power.text());
        assert!(power.text().contains("1970-01-01T00:00:01Z to 1970-01-01T00:00:02Z"));
    }
}
