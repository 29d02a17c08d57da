//! The ends of lanes: what a node says it has shipped against the manifest.
//!
//! Gaps show between two ranges. What is missing at the end of a lane, or with a whole opening, shows
//! only to one who knows how far the lane went: a database that was restored from an older backup
//! looks whole.

use serde_json::Value;

use super::ask::{self, Counts, Facts};
use super::report::Outcome;
use super::{AuditError, Check, EXAMPLES, Run};

pub(super) async fn run(run: &mut Run<'_>) -> Result<Outcome, AuditError> {
    run.step(Check::Lanes);
    let mut counts: Counts = run.asker.one(ask::LANES, &[]).await?;
    // A lane is told of after its batches; the two may be read in another order.
    while counts.wrong > 0 && run.may_look_again().await {
        let again: Counts = run.asker.one(ask::LANES, &[]).await?;
        let is_moving = again.wrong != counts.wrong || again.examples != counts.examples;
        counts = again;
        if !is_moving {
            break;
        }
    }
    let mut outcome = Outcome {
        checked: counts.checked,
        wrong: counts.wrong,
        limited: run.limited_to_window("lanes that were shipped from within the window"),
        ..Outcome::default()
    };
    for facts in counts.examples.into_iter().take(EXAMPLES) {
        let (kind, text) = judge(&facts);
        outcome.exemplify(kind, text, facts);
    }
    Ok(outcome)
}

fn judge(facts: &Facts) -> (&'static str, String) {
    let number = |name: &str| facts.get(name).and_then(Value::as_u64).unwrap_or(0);
    let (listed, shipped) = (number("listed"), number("shipped"));
    let place =
        format!("node {} epoch {} lane {}", number("node"), number("epoch"), number("lane"));
    if listed == 0 {
        let text = format!("{place}: all {shipped} events were shipped, and are in no plan");
        return ("missing_lane", text);
    }
    let (last, missing) = (shipped - 1, shipped - listed);
    let text = format!(
        "{place}: sequences {listed} to {last} ({missing} events) were shipped, and are in no plan"
    );
    ("missing_end", text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_end_is_told_from_all_of_a_lane() {
        let told = |listed: u64| {
            let facts = json!({ "node": 1, "epoch": 2, "lane": 3, "listed": listed, "shipped": 9 });
            let Value::Object(facts) = facts else { panic!("an object") };
            judge(&facts)
        };
        assert_eq!(told(0).0, "missing_lane");
        let (kind, text) = told(7);
        assert_eq!(kind, "missing_end");
        assert!(text.starts_with("node 1 epoch 2 lane 3: sequences 7 to 8 (2 events)"), "{text}");
    }
}
