//! Checks of the rows alone: doubles, gaps, ingested doubles, parts of long requests.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::ask::{self, Counts, Facts};
use super::gaps::Lane;
use super::report::{Outcome, time};
use super::standing::Standing;
use super::{AuditError, Check, EXAMPLES, Run};

/// Memory that grouping takes for each id, with as much again to spare.
const BYTES_AN_ID: u64 = 128;

/// How many there are.
#[derive(Deserialize)]
struct Events {
    events: u64,
}

/// A lane with doubles or gaps.
#[derive(Clone, Debug, Deserialize)]
struct Broken {
    node: u32,
    epoch: u32,
    lane: u16,
    doubled: u64,
    missing: u64,
    last: u64,
}

impl Broken {
    fn lane(&self) -> Lane {
        Lane { node: self.node, epoch: self.epoch, lane: self.lane }
    }

    /// The kind of damage, the worse first, and a sentence.
    fn judge(&self) -> (&'static str, String) {
        let Self { node, epoch, lane, doubled, missing, last } = self;
        let place = format!("node {node} epoch {epoch} lane {lane}");
        match (doubled, missing) {
            (_, 0) => ("doubled_rows", format!("{place}: {doubled} rows are there twice")),
            (0, _) => (
                "missing_rows",
                format!(
                    "{place}: {missing} sequences up to {last} have no row and are no known loss"
                ),
            ),
            _ => (
                "doubled_rows",
                format!("{place}: {doubled} rows are there twice, {missing} sequences have no row"),
            ),
        }
    }
}

fn broken(facts: &Facts) -> Result<Broken, AuditError> {
    serde_json::from_value(Value::Object(facts.clone()))
        .map_err(|_| ask::not_understood(ask::SEQUENCES, &format!("{facts:?}")))
}

pub(super) async fn sequences(run: &mut Run<'_>) -> Result<Outcome, AuditError> {
    run.step(Check::Sequences);
    let counts: Counts = run.asker.one(ask::SEQUENCES, &[]).await?;
    let mut outcome = Outcome { checked: counts.checked, ..Outcome::default() };
    if run.scope.is_window() || run.scope.tenant.is_some() {
        let what = if run.scope.tenant.is_some() { "one tenant's rows" } else { "a window" };
        outcome.limited = Some(format!("doubles only: {what} cannot show what is missing"));
    }
    let (mut wrong, mut examples) = (counts.wrong, counts.examples);
    // What may be in flight is looked at again, each lane up to where it was.
    while wrong > 0 && wrong <= examples.len() as u64 && run.may_look_again().await {
        let only = examples.iter().map(|facts| {
            let Broken { node, epoch, lane, last, .. } = broken(facts)?;
            Ok(format!("({node},{epoch},{lane},{last})"))
        });
        let only = only.collect::<Result<Vec<_>, AuditError>>()?.join(",");
        let again: Counts = run.asker.one(ask::SEQUENCES, &[("only", format!("[{only}]"))]).await?;
        (wrong, examples) = (again.wrong, again.examples);
    }
    outcome.wrong = wrong;
    let mut pending: BTreeMap<Lane, u64> = BTreeMap::new();
    for gap in &run.pending {
        *pending.entry(gap.lane).or_default() += gap.events();
    }
    for facts in examples {
        let broken = broken(&facts)?;
        let unconfirmed = run.unconfirmed.contains(&broken.node)
            && run.standings.of(broken.node) == Standing::Away;
        let on_its_way = pending.get(&broken.lane()).copied().unwrap_or(0);
        if broken.doubled == 0 && (unconfirmed || broken.missing <= on_its_way) {
            // A note of the checks before says so.
            outcome.wrong -= 1;
        } else {
            let (kind, text) = broken.judge();
            outcome.exemplify(kind, text, facts);
        }
    }
    Ok(outcome)
}

pub(super) async fn ingested(run: &mut Run<'_>) -> Result<Outcome, AuditError> {
    run.step(Check::Ingested);
    let Events { events } = run.asker.one(ask::INGESTED_COUNT, &[]).await?;
    let passes = events.div_ceil(run.asker.max_memory_bytes() / BYTES_AN_ID).max(1);
    let mut all = Counts { checked: 0, wrong: 0, passed_over: 0, examples: Vec::new() };
    for pass in 0..passes {
        let parameters = [("passes", passes.to_string()), ("pass", pass.to_string())];
        let counts: Counts = run.asker.one(ask::INGESTED, &parameters).await?;
        all.checked += counts.checked;
        all.wrong += counts.wrong;
        all.examples.extend(counts.examples);
    }
    let mut outcome = told(all, |facts| {
        let text = format!(
            "the ingested event {} is there {} times, first at {}",
            string(facts, "request_id"),
            number(facts, "rows"),
            time(number(facts, "min_us"))
        );
        ("doubled_event", text)
    });
    outcome.limited = run.limited_to_window("doubles that are both in the window");
    Ok(outcome)
}

pub(super) async fn open_parts(run: &mut Run<'_>) -> Result<Outcome, AuditError> {
    run.step(Check::OpenParts);
    let counts: Counts = run.asker.one(ask::OPEN_PARTS, &[]).await?;
    Ok(told(counts, judge_part))
}

fn judge_part(facts: &Facts) -> (&'static str, String) {
    let number = |name| number(facts, name);
    let row = format!(
        "node {} epoch {} lane {} sequence {}",
        number("node"),
        number("epoch"),
        number("lane"),
        number("sequence")
    );
    let (requests, quantity) = (number("requests"), string(facts, "quantity"));
    if number("flags") & 8 != 0 {
        let text = format!(
            "{row}: a part of a request counts {requests} requests and a quantity of {quantity}"
        );
        ("part_counts", text)
    } else if number("flags") & (32 | 64) != 0 {
        let text =
            format!("{row}: a figure of a further meter counts {requests} requests or bytes");
        ("measured_counts", text)
    } else {
        let text = format!("{row}: stands for one long request and counts {requests}");
        ("open_counts", text)
    }
}

fn told(counts: Counts, judge: impl Fn(&Facts) -> (&'static str, String)) -> Outcome {
    let Counts { checked, wrong, examples, .. } = counts;
    let mut outcome = Outcome { checked, wrong, ..Outcome::default() };
    for facts in examples.into_iter().take(EXAMPLES) {
        let (kind, text) = judge(&facts);
        outcome.exemplify(kind, text, facts);
    }
    outcome
}

fn number(facts: &Facts, name: &str) -> i64 {
    facts.get(name).and_then(Value::as_i64).unwrap_or(0)
}

fn string<'f>(facts: &'f Facts, name: &str) -> &'f str {
    facts.get(name).and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts(value: Value) -> Facts {
        let Value::Object(facts) = value else { panic!("an object") };
        facts
    }

    #[test]
    fn a_lane_says_what_is_wrong_with_it() {
        let judge = |doubled: u64, missing: u64| {
            let row = json!({ "node": 1, "epoch": 2, "lane": 3, "doubled": doubled,
                              "missing": missing, "first": 0, "last": 9, "rows": 10, "lost": 0 });
            broken(&facts(row)).expect("a lane").judge()
        };
        assert_eq!(
            judge(2, 0),
            ("doubled_rows", "node 1 epoch 2 lane 3: 2 rows are there twice".to_owned())
        );
        assert_eq!(judge(0, 1).0, "missing_rows");
        let (kind, text) = judge(1, 1);
        assert_eq!(kind, "doubled_rows");
        assert!(text.ends_with("1 rows are there twice, 1 sequences have no row"), "{text}");
    }

    #[test]
    fn a_part_that_counts_is_told_from_an_opening_that_does_not() {
        let judge = |flags: u8, requests: u32| {
            let row = json!({ "node": 1, "epoch": 2, "lane": 3, "sequence": 4, "flags": flags,
                              "requests": requests, "quantity": "1" });
            judge_part(&facts(row)).0
        };
        assert_eq!(judge(8, 1), "part_counts");
        assert_eq!(judge(16, 0), "open_counts");
        assert_eq!(judge(24, 1), "part_counts");
        assert_eq!(judge(32, 1), "measured_counts");
        assert_eq!(judge(64, 1), "measured_counts");
    }
}
