//! The manifest against itself: what was shipped follows without gap or overlap, and each plan adds
//! up.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ask::{self, Counts, Facts, Parameters};
use super::gaps::{Gap, Lane, Overlap, Range, Walk, subtract};
use super::losses::{self, Loss};
use super::report::Outcome;
use super::{AuditError, Check, Run};

/// Ranges by lane, inclusive.
type Covers = BTreeMap<Lane, Vec<(u64, u64)>>;

pub(super) async fn run(run: &mut Run<'_>) -> Result<Outcome, AuditError> {
    run.step(Check::Ranges);
    let plans: Counts = run.asker.one(ask::PLANS, &[]).await?;
    let mut outcome = Outcome {
        checked: plans.checked,
        wrong: plans.wrong,
        limited: run.limited_to_window("gaps are looked for within the window only"),
        ..Outcome::default()
    };
    for facts in plans.examples {
        let (kind, text) = judge_plan(&facts);
        outcome.exemplify(kind, text, facts);
    }

    run.step(Check::Ranges);
    // The first event of all is in scope, so every lane's first must be.
    let from_start = run.scope.from_us.is_none();
    let mut walk = Walk::new(from_start, run.asker.settled_us());
    read(run, &[], |range| walk.push(range)).await?;
    for overlap in &walk.overlaps {
        outcome.find("overlap", overlap.text(), overlap.facts());
    }
    let gaps = explain(run, std::mem::take(&mut walk.gaps)).await?;
    for gap in gaps {
        if run.standings.may_fill_before(gap.lane.node, gap.before_us) {
            outcome.notes.push(format!("on its way: {}", gap.text()));
            run.pending.push(gap);
        } else {
            outcome.find("gap", gap.text(), gap.facts());
        }
    }
    outcome.wrong += walk.more_overlaps + walk.more_gaps;
    Ok(outcome)
}

/// What remains of gaps when plans outside the window, plans that have arrived meanwhile, and known
/// losses are taken out.
async fn explain(run: &Run<'_>, gaps: Vec<Gap>) -> Result<Vec<Gap>, AuditError> {
    if gaps.is_empty() {
        return Ok(gaps);
    }
    let lost: Vec<Loss> = losses::all(run).await?;
    let mut covers = Covers::new();
    for loss in lost {
        if let Some(range) = loss.sequences() {
            covers.entry(loss.lane()).or_default().push(range);
        }
    }
    let mut gaps = subtract(&gaps, &covers);
    while !gaps.is_empty() {
        let mut found = Covers::new();
        read(run, &[("near", near(&gaps))], |range| {
            found.entry(range.lane).or_default().push((range.first, range.last));
        })
        .await?;
        gaps = subtract(&gaps, &found);
        if gaps.is_empty() || !run.may_look_again().await {
            break;
        }
    }
    Ok(gaps)
}

/// Gaps as the query takes them.
fn near(gaps: &[Gap]) -> String {
    let one = |gap: &Gap| {
        let Lane { node, epoch, lane } = gap.lane;
        format!("({node},{epoch},{lane},{},{})", gap.first, gap.last)
    };
    format!("[{}]", gaps.iter().map(one).collect::<Vec<_>>().join(","))
}

async fn read(
    run: &Run<'_>,
    parameters: Parameters<'_>,
    mut take: impl FnMut(Range),
) -> Result<(), AuditError> {
    let mut lines = run.asker.lines(ask::RANGES, parameters)?;
    let failed = |error| ask::failed(ask::RANGES, error);
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        take(Range::parse(&line).ok_or_else(|| ask::not_understood(ask::RANGES, &line))?);
    }
    Ok(())
}

/// Which of the three a wrong plan is.
fn judge_plan(facts: &Facts) -> (&'static str, String) {
    let number = |name: &str| facts.get(name).and_then(Value::as_u64).unwrap_or(0);
    let plan = format!("plan {} of node {}", number("plan"), number("node"));
    let (rows, skipped, events) = (number("rows"), number("skipped"), number("events"));
    if number("versions") != 1 {
        return ("plan_differs", format!("{plan}: its batches do not tell the same ranges"));
    }
    if rows + skipped != events {
        let text = format!(
            "{plan}: its batches have {rows} rows and {skipped} were skipped, but its ranges hold \
             {events} events"
        );
        return ("plan_count", text);
    }
    let unexplained = skipped.saturating_sub(number("lost"));
    let text = format!("{plan}: {unexplained} of {skipped} skipped events are no known loss");
    ("unexplained_skip", text)
}

impl Lane {
    fn text(&self) -> String {
        format!("node {} epoch {} lane {}", self.node, self.epoch, self.lane)
    }

    fn facts(&self, rest: Value) -> Facts {
        let mut facts = Facts::new();
        let own = json!({ "node": self.node, "epoch": self.epoch, "lane": self.lane });
        for part in [own, rest] {
            if let Value::Object(part) = part {
                facts.extend(part);
            }
        }
        facts
    }
}

impl Gap {
    fn text(&self) -> String {
        let Self { lane, first, last, .. } = self;
        format!(
            "{}: sequences {first} to {last} ({} events) are in no plan",
            lane.text(),
            self.events()
        )
    }

    fn facts(&self) -> Facts {
        let Self { lane, first, last, before_us } = self;
        let events = self.events();
        lane.facts(json!({
            "first": first, "last": last, "events": events, "before_us": before_us,
        }))
    }
}

impl Overlap {
    fn text(&self) -> String {
        let Self { lane, first, last, plans: (one, other) } = self;
        format!(
            "{}: sequences {first} to {last} are in plan {one} and in plan {other}",
            lane.text()
        )
    }

    fn facts(&self) -> Facts {
        let Self { lane, first, last, plans: (one, other) } = self;
        lane.facts(json!({ "first": first, "last": last, "plans": [one, other] }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(plan: Value) -> (&'static str, String) {
        let Value::Object(facts) = plan else { panic!("an object") };
        judge_plan(&facts)
    }

    #[test]
    fn a_wrong_plan_says_how() {
        let plan = |rows: u64, skipped: u64, versions: u64, lost: u64| {
            json!({ "node": 1, "plan": 7, "rows": rows, "skipped": skipped, "events": 10,
                    "versions": versions, "lost": lost })
        };
        assert_eq!(judge(plan(9, 0, 1, 0)).0, "plan_count");
        assert_eq!(judge(plan(10, 0, 2, 0)).0, "plan_differs");
        let (kind, text) = judge(plan(7, 3, 1, 1));
        assert_eq!(kind, "unexplained_skip");
        assert_eq!(text, "plan 7 of node 1: 2 of 3 skipped events are no known loss");
    }

    #[test]
    fn gaps_are_asked_about_in_one_question() {
        let lane = Lane { node: 1, epoch: 2, lane: 3 };
        let gap = |first, last| Gap { lane, first, last, before_us: 0 };
        assert_eq!(near(&[gap(4, 5), gap(7, 7)]), "[(1,2,3,4,5),(1,2,3,7,7)]");
        assert_eq!(
            gap(4, 5).text(),
            "node 1 epoch 2 lane 3: sequences 4 to 5 (2 events) are in no plan"
        );
    }
}
