//! Rows of batches that the manifest does not name.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::ask::{self, Facts};
use super::report::{Outcome, time};
use super::standing::{Standing, Standings};
use super::{AuditError, Check, Run};

/// More than this is not an insert in flight.
const MOST_IN_FLIGHT: u64 = 1000;

#[derive(Deserialize)]
struct Look {
    checked: u64,
    wrong: u64,
    /// Nodes; how many batches and rows each has.
    by_node: (Vec<u32>, Vec<u64>, Vec<u64>),
    examples: Vec<Facts>,
}

/// Batches that are there and not listed, of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    batches: u64,
    rows: u64,
}

/// What one look over all months shows.
#[derive(Default)]
struct Unlisted {
    checked: u64,
    batches: u64,
    by_node: BTreeMap<u32, Amount>,
    examples: Vec<Batch>,
}

#[derive(Clone)]
struct Batch {
    id: String,
    node: u32,
    month: u64,
    facts: Facts,
}

impl Unlisted {
    fn take(&mut self, look: Look) -> Result<(), AuditError> {
        self.checked += look.checked;
        self.batches += look.wrong;
        let (nodes, batches, rows) = look.by_node;
        for ((node, batches), rows) in nodes.into_iter().zip(batches).zip(rows) {
            let amount = self.by_node.entry(node).or_default();
            amount.batches += batches;
            amount.rows += rows;
        }
        for facts in look.examples {
            let batch = Batch::from_facts(&facts)
                .ok_or_else(|| ask::not_understood(ask::UNLISTED, &format!("{facts:?}")))?;
            self.examples.push(batch);
        }
        Ok(())
    }

    /// Whether another look may show less.
    fn may_settle(&self, standings: &Standings) -> bool {
        self.batches <= MOST_IN_FLIGHT
            && self.by_node.keys().any(|node| standings.of(*node) == Standing::Live)
    }
}

impl Batch {
    fn from_facts(facts: &Facts) -> Option<Self> {
        Some(Self {
            id: facts.get("batch_id")?.as_str()?.to_owned(),
            node: facts.get("node")?.as_u64()?.try_into().ok()?,
            month: facts.get("month")?.as_u64()?,
            facts: facts.clone(),
        })
    }

    fn text(&self) -> String {
        let number = |name: &str| self.facts.get(name).and_then(Value::as_i64).unwrap_or(0);
        format!(
            "batch {} of node {}, month {}: its {} rows, from {} on, are in no batch that is listed",
            self.id,
            self.node,
            self.month,
            number("rows"),
            time(number("min_us"))
        )
    }
}

pub(super) async fn run(run: &mut Run<'_>) -> Result<Outcome, AuditError> {
    let mut seen = Unlisted::default();
    for month in run.months.clone() {
        run.step(Check::Unlisted);
        seen.take(run.asker.one(ask::UNLISTED, &[("month", month.to_string())]).await?)?;
    }
    let checked = seen.checked;
    while seen.may_settle(&run.standings) && run.may_look_again().await {
        let only: Vec<&str> = seen.examples.iter().map(|batch| batch.id.as_str()).collect();
        let only = format!("[{}]", only.join(","));
        let months: Vec<u64> = seen.examples.iter().map(|batch| batch.month).collect();
        let mut again = Unlisted::default();
        for month in run.months.iter().filter(|month| months.contains(&u64::from(**month))) {
            let parameters = [("month", month.to_string()), ("only", only.clone())];
            again.take(run.asker.one(ask::UNLISTED, &parameters).await?)?;
        }
        seen = again;
    }
    let away = |node: &u32| run.standings.of(*node) == Standing::Away;
    run.unconfirmed = seen.by_node.keys().copied().filter(away).collect();
    Ok(judge(checked, &seen, &run.standings))
}

/// Rows of a node that is away are confirmed when it is back; any other row is nobody's.
fn judge(checked: u64, seen: &Unlisted, standings: &Standings) -> Outcome {
    let mut outcome = Outcome { checked, ..Outcome::default() };
    for (node, Amount { batches, rows }) in &seen.by_node {
        if standings.of(*node) == Standing::Away {
            outcome.notes.push(format!(
                "unconfirmed: {rows} rows of {batches} batches of node {node}, which is away; it \
                 confirms them when it is back"
            ));
        } else {
            outcome.wrong += batches;
        }
    }
    for batch in &seen.examples {
        if standings.of(batch.node) != Standing::Away {
            outcome.exemplify("unlisted_batch", batch.text(), batch.facts.clone());
        }
    }
    outcome
}
