//! Each batch of the manifest against its rows.

use serde::Deserialize;
use serde_json::Value;

use super::ask::{self, Counts, Facts};
use super::report::Outcome;
use super::{AuditError, Check, Run};

pub(super) async fn run(run: &mut Run<'_>) -> Result<Outcome, AuditError> {
    let mut outcome = Outcome::default();
    let mut passed_over = 0;
    for month in run.months.clone() {
        run.step(Check::Batches);
        let counts: Counts = run.asker.one(ask::BATCHES, &[("month", month.to_string())]).await?;
        outcome.checked += counts.checked;
        outcome.wrong += counts.wrong;
        passed_over += counts.passed_over;
        for facts in counts.examples {
            let compared = Compared::from_facts(&facts)
                .ok_or_else(|| ask::not_understood(ask::BATCHES, &format!("{facts:?}")))?;
            let (kind, text) = compared.judge();
            outcome.exemplify(kind, text, facts);
        }
    }
    if passed_over > 0 {
        outcome.notes.push(format!(
            "{passed_over} batches are past retention: their rows may have left, so they were not \
             compared"
        ));
    }
    Ok(outcome)
}

/// A batch as listed and as found.
#[derive(Debug, Deserialize)]
struct Compared {
    batch_id: String,
    node: u32,
    month: u32,
    rows: u64,
    found_rows: u64,
    found_events: u64,
    found_nodes: Vec<u32>,
}

/// What is compared besides the number of rows: its name and the two facts.
const CONTENT: [(&str, &str, &str); 7] = [
    ("requests", "requests", "found_requests"),
    ("quantity", "quantity", "found_quantity"),
    ("request bytes", "request_bytes", "found_request_bytes"),
    ("response bytes", "response_bytes", "found_response_bytes"),
    ("earliest event", "min_us", "found_min_us"),
    ("latest event", "max_us", "found_max_us"),
    ("digest", "digest", "found_digest"),
];

/// A batch that is wrong, and how its content differs.
struct Judged {
    compared: Compared,
    different: Vec<String>,
}

impl Compared {
    fn from_facts(facts: &Facts) -> Option<Judged> {
        let compared: Compared = serde_json::from_value(Value::Object(facts.clone())).ok()?;
        let mut different = Vec::new();
        for (name, listed, found) in CONTENT {
            let (listed, found) = (facts.get(listed)?, facts.get(found)?);
            if listed != found {
                let time = name.ends_with("event");
                different.push(format!("{name} {}, not {}", said(found, time), said(listed, time)));
            }
        }
        Some(Judged { compared, different })
    }
}

fn said(value: &Value, is_time: bool) -> String {
    match value {
        Value::Number(number) if is_time => {
            number.as_i64().map_or_else(|| number.to_string(), super::report::time)
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Judged {
    /// The kind of damage, the plainest first, and a sentence.
    fn judge(&self) -> (&'static str, String) {
        let Compared { batch_id, node, month, rows, found_rows, found_events, .. } = &self.compared;
        let batch = format!("batch {batch_id} of node {node}, month {month}");
        let doubled = found_rows.saturating_sub(*found_events);
        let stranger = self.compared.found_nodes.iter().find(|found| *found != node);
        if found_events < rows {
            let missing = rows - found_events;
            let text = format!("{batch}: {missing} of {rows} rows are missing");
            return ("missing_rows", also_doubled(text, doubled));
        }
        if found_rows > rows {
            let extra = found_rows - rows;
            let text = format!("{batch}: {extra} rows more than the {rows} of the manifest");
            return ("extra_rows", also_doubled(text, doubled));
        }
        if let Some(stranger) = stranger {
            return ("different_content", format!("{batch}: has rows of node {stranger}"));
        }
        let different = self.different.join("; ");
        ("different_content", format!("{batch}: the content differs: {different}"))
    }
}

fn also_doubled(text: String, doubled: u64) -> String {
    if doubled == 0 { text } else { format!("{text}; {doubled} rows are there twice") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A batch of ten rows as listed, with some facts as found.
    fn judge(found: Value) -> (&'static str, String) {
        let mut facts = json!({
            "batch_id": "7", "node": 1, "month": 202_611, "rows": 10, "found_rows": 10,
            "found_events": 10, "found_nodes": [1], "requests": 10, "found_requests": 10,
            "quantity": "10.5", "found_quantity": "10.5", "request_bytes": 1,
            "found_request_bytes": 1, "response_bytes": 1, "found_response_bytes": 1,
            "min_us": 5, "found_min_us": 5, "max_us": 6, "found_max_us": 6, "digest": "99",
            "found_digest": "99",
        });
        let (Value::Object(facts), Value::Object(found)) = (&mut facts, found) else {
            panic!("objects");
        };
        facts.extend(found);
        Compared::from_facts(facts).expect("every fact").judge()
    }

    #[test]
    fn the_kind_of_damage_is_named() {
        let (kind, text) = judge(json!({"found_rows": 9, "found_events": 9}));
        assert_eq!(kind, "missing_rows");
        assert_eq!(text, "batch 7 of node 1, month 202611: 1 of 10 rows are missing");
        let (kind, text) = judge(json!({"found_rows": 11}));
        assert_eq!(kind, "extra_rows");
        assert!(text.ends_with("1 rows more than the 10 of the manifest; 1 rows are there twice"));
        let (kind, text) = judge(json!({"found_events": 9}));
        assert_eq!(kind, "missing_rows", "one was replaced by a double of another");
        assert!(text.contains("1 of 10 rows are missing; 1 rows are there twice"), "{text}");
        let (kind, text) = judge(json!({"found_quantity": "11.5", "found_digest": "98"}));
        assert_eq!(kind, "different_content");
        assert!(text.ends_with("quantity 11.5, not 10.5; digest 98, not 99"), "{text}");
        let (kind, text) = judge(json!({"found_max_us": 1_000_006}));
        assert_eq!(kind, "different_content");
        assert!(text.contains("latest event 1970-01-01T00:00:01.000006Z, not"), "{text}");
        let (kind, text) = judge(json!({"found_nodes": [1, 2]}));
        assert_eq!(kind, "different_content");
        assert!(text.ends_with("has rows of node 2"), "{text}");
    }
}
