//! What bills are made of, the projection, against the rows.
//!
//! The two are read one after the other, so rows may arrive in between. What differs is compared
//! again with the rows as they are afterwards: an hour that did not change meanwhile is wrong, one
//! that did is read again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::ask::{self, Facts};
use super::report::{Outcome, time};
use super::{AuditError, Check, Run};

/// How often an hour that changes while it is read is read again.
const MOST_READS: usize = 5;
/// The server's error when a query cannot be answered from a projection (PROJECTION_NOT_USED).
const NOT_USED: i32 = 584;

/// An hour, unix seconds, and a meter.
type Key = (i64, String);
/// Rows, requests, quantity, request bytes and response bytes, as the server writes them.
type Sums = BTreeMap<Key, Vec<String>>;

/// What the projection says of a month.
enum Projected {
    Sums(Sums),
    /// There is none that could answer.
    Missing,
}

pub(super) async fn run(run: &mut Run<'_>) -> Result<Outcome, AuditError> {
    let mut outcome = Outcome {
        limited: run.limited_to_window("whole hours that overlap the window"),
        ..Outcome::default()
    };
    let mut moving = 0;
    for month in run.months.clone() {
        run.step(Check::Projection);
        moving += one_month(run, month, &mut outcome).await?;
    }
    if moving > 0 {
        outcome.notes.push(format!(
            "{moving} hours by meter changed each time they were read and were not compared"
        ));
    }
    Ok(outcome)
}

/// Compares a month; returns how many hours by meter would not stand still.
async fn one_month(run: &Run<'_>, month: u32, outcome: &mut Outcome) -> Result<usize, AuditError> {
    let mut rows = read(run, month, "optimize_use_projections", "0").await?;
    outcome.checked += rows.len() as u64;
    let mut open: Option<BTreeSet<Key>> = None;
    for _ in 0..MOST_READS {
        let projection = match projected(run, month).await? {
            Projected::Sums(sums) => sums,
            Projected::Missing if rows.is_empty() => return Ok(0),
            Projected::Missing => {
                let text = format!("month {month}: its rows are in no projection");
                let mut facts = Facts::new();
                facts.insert("month".to_owned(), json!(month));
                outcome.find("no_projection", text, facts);
                return Ok(0);
            }
        };
        let differing = differences(&rows, &projection, open.as_ref());
        if differing.is_empty() {
            return Ok(0);
        }
        let after = read(run, month, "optimize_use_projections", "0").await?;
        let (still, changed): (Vec<Key>, Vec<Key>) =
            differing.into_iter().partition(|key| rows.get(key) == after.get(key));
        for key in still {
            let (text, facts) = told(&key, rows.get(&key), projection.get(&key));
            outcome.find("projection_differs", text, facts);
        }
        if changed.is_empty() {
            return Ok(0);
        }
        open = Some(changed.into_iter().collect());
        rows = after;
    }
    Ok(open.map_or(0, |open| open.len()))
}

/// Where the two do not say the same, of the keys that are open, or of all.
fn differences(rows: &Sums, projection: &Sums, open: Option<&BTreeSet<Key>>) -> BTreeSet<Key> {
    let keys: BTreeSet<&Key> = rows.keys().chain(projection.keys()).collect();
    keys.into_iter()
        .filter(|key| open.is_none_or(|open| open.contains(*key)))
        .filter(|key| rows.get(*key) != projection.get(*key))
        .cloned()
        .collect()
}

async fn read(
    run: &Run<'_>,
    month: u32,
    setting: &'static str,
    value: &str,
) -> Result<Sums, AuditError> {
    let settings = [(setting, value.to_owned())];
    let parameters = [("month", month.to_string())];
    let text = run.asker.text(ask::PROJECTION, &parameters, &settings, "TSV").await?;
    let parse = |line| parse(line).ok_or_else(|| ask::not_understood(ask::PROJECTION, line));
    text.lines().map(parse).collect()
}

async fn projected(run: &Run<'_>, month: u32) -> Result<Projected, AuditError> {
    match read(run, month, "force_optimize_projection", "1").await {
        Ok(sums) => Ok(Projected::Sums(sums)),
        Err(AuditError::Store { source, .. }) if source.code() == Some(NOT_USED) => {
            Ok(Projected::Missing)
        }
        Err(error) => Err(error),
    }
}

fn parse(line: &str) -> Option<(Key, Vec<String>)> {
    let mut fields = line.split('\t');
    let key = (fields.next()?.parse().ok()?, fields.next()?.to_owned());
    let sums: Vec<String> = fields.map(str::to_owned).collect();
    (sums.len() == 5).then_some((key, sums))
}

fn told(
    (hour_s, meter): &Key,
    rows: Option<&Vec<String>>,
    projection: Option<&Vec<String>>,
) -> (String, Facts) {
    const NAMES: [&str; 5] = ["rows", "requests", "quantity", "request bytes", "response bytes"];
    let hour = time(hour_s.saturating_mul(1_000_000));
    let part = |sums: Option<&Vec<String>>, at: usize| {
        sums.and_then(|sums| sums.get(at)).map_or("none", String::as_str).to_owned()
    };
    let mut different = Vec::new();
    let mut facts = Facts::new();
    facts.insert("hour".to_owned(), json!(hour));
    facts.insert("meter".to_owned(), json!(meter));
    for (at, name) in NAMES.into_iter().enumerate() {
        let (of_rows, projected) = (part(rows, at), part(projection, at));
        if of_rows != projected {
            different.push(format!("{name} {projected}, not {of_rows}"));
        }
        facts.insert(format!("{}_of_rows", name.replace(' ', "_")), json!(of_rows));
        facts.insert(format!("{}_of_projection", name.replace(' ', "_")), json!(projected));
    }
    let text = format!("hour {hour}, meter {meter}: the projection says {}", different.join("; "));
    (text, facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(lines: &[&str]) -> Sums {
        lines.iter().map(|line| parse(line).expect("a line")).collect()
    }

    #[test]
    fn hours_differ_by_any_sum_and_by_being_missing() {
        let rows = sums(&[
            "0\tcalls\t1\t1\t1.5\t0\t9",
            "0\tbytes\t1\t1\t7\t0\t9",
            "3600\tcalls\t1\t1\t1\t0\t9",
        ]);
        let projection = sums(&[
            "0\tcalls\t1\t1\t1.6\t0\t9",
            "0\tbytes\t1\t1\t7\t0\t9",
            "7200\tcalls\t1\t1\t1\t0\t9",
        ]);
        let key = |hour: i64| (hour, "calls".to_owned());
        let expected = BTreeSet::from([key(0), key(3600), key(7200)]);
        assert_eq!(differences(&rows, &projection, None), expected);
        let open = BTreeSet::from([key(3600)]);
        assert_eq!(differences(&rows, &projection, Some(&open)), open);
        assert!(differences(&rows, &rows, None).is_empty());
        let (text, facts) = told(&key(0), rows.get(&key(0)), projection.get(&key(0)));
        assert_eq!(
            text,
            "hour 1970-01-01T00:00:00Z, meter calls: the projection says quantity 1.6, not 1.5"
        );
        assert_eq!(facts["quantity_of_projection"], "1.6");
    }

    #[test]
    fn a_line_of_another_form_is_none() {
        for line in ["", "0\tcalls\t1", "x\tcalls\t1\t1\t1\t0\t9", "0\tcalls\t1\t1\t1\t0\t9\t9"] {
            assert!(parse(line).is_none(), "{line}");
        }
    }
}
