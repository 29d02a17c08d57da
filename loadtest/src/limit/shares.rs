//! Whether those who share a limit got what is guaranteed to them, and together no more than it.
//!
//! - *Guaranteed* is judged for each share over the span in which it asked: 98 % of its rate, or of
//!   what it asked for where that was less.
//! - *Borrowed* is judged for all together: 95 % of the limit's rate, or of what was asked for.
//! - *Never more*: the rate over the longest span the decisions can have taken, the limit's burst,
//!   and those of the guarantees.

use serde::Serialize;

use crate::scenario::ExpectedShares;

use super::LimitRecord;

/// Less than this part of what is guaranteed is a finding.
const LEAST_GUARANTEED: f64 = 0.98;
/// Less than this part of the limit that is shared is a finding.
const LEAST_BORROWED: f64 = 0.95;

/// The judgement of one share, or of all together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShareLine {
    /// The request kind, or `all`.
    pub name: String,
    /// Requests per second, as sent.
    pub offered_per_s: f64,
    /// What is guaranteed, or the rate of the limit.
    pub per_s: f64,
    /// Requests let through.
    pub admitted: u64,
    /// The least that must have been.
    pub at_least: f64,
    /// The most that may have been; for all together only.
    pub at_most: Option<f64>,
    /// Requests refused.
    pub refused: u64,
}

/// The judgement of a shared limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SharesVerdict {
    /// Each share in the scenario's order, then all together.
    pub lines: Vec<ShareLine>,
    /// What is wrong; empty: everyone got what is theirs.
    pub findings: Vec<String>,
}

/// Judges a run by the shares it was to find. `records` are those of its request kinds, `names`
/// their names.
pub fn judge_shares(
    expected: &ExpectedShares,
    names: &[&str],
    records: &[LimitRecord],
) -> SharesVerdict {
    let mut verdict = SharesVerdict { lines: Vec::new(), findings: Vec::new() };
    for share in &expected.shares {
        let record = names.iter().zip(records).find(|(name, _)| **name == share.request);
        let Some((_, record)) = record else { continue };
        let line = line(&share.request, record, share.guarantee_per_s, LEAST_GUARANTEED);
        verdict.lines.push(line);
    }
    let mut all = LimitRecord::default();
    for record in records {
        all.merge(record.clone());
    }
    let mut together = line("all", &all, expected.per_s, LEAST_BORROWED);
    let bursts = (expected.burst + expected.guaranteed_burst) as f64;
    let at_most = bursts + expected.per_s * seconds(all.admitted_span);
    together.at_most = Some(at_most);
    verdict.lines.push(together);
    for line in &verdict.lines {
        if (line.admitted as f64) < line.at_least {
            verdict.findings.push(format!(
                "{}: only {} were admitted, at least {:.1} had to be",
                line.name, line.admitted, line.at_least
            ));
        }
    }
    if all.admitted as f64 > at_most {
        verdict.findings.push(format!("{} were admitted: at most {at_most:.1}", all.admitted));
    }
    if all.refused == 0 {
        verdict.findings.push("nobody was refused: the limit was never reached".to_owned());
    }
    if all.unknown > 0 {
        let unknown = all.unknown;
        verdict.findings.push(format!("{unknown} requests ended without telling their decision"));
    }
    verdict
}

fn line(name: &str, record: &LimitRecord, per_s: f64, least: f64) -> ShareLine {
    let offered = record.admitted + record.refused + record.unknown;
    let offered_s = seconds(record.offered);
    ShareLine {
        name: name.to_owned(),
        offered_per_s: offered as f64 / offered_s.max(1e-9),
        per_s,
        admitted: record.admitted,
        at_least: least * (per_s * offered_s).min(offered as f64),
        at_most: None,
        refused: record.refused,
    }
}

fn seconds(span: Option<(u64, u64)>) -> f64 {
    span.map_or(0.0, |(first, last)| last.saturating_sub(first) as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::ExpectedShare;

    const SPAN: Option<(u64, u64)> = Some((0, 30_000_000_000));

    fn expected() -> ExpectedShares {
        let share = |request: &str, guarantee_per_s| ExpectedShare {
            request: request.to_owned(),
            guarantee_per_s,
        };
        ExpectedShares {
            per_s: 100.0,
            burst: 10,
            guaranteed_burst: 10,
            shares: vec![share("half", 50.0), share("greedy", 50.0)],
        }
    }

    fn findings(half: (u64, u64), greedy: (u64, u64)) -> Vec<String> {
        let record = |(admitted, refused)| LimitRecord {
            offered: SPAN,
            admitted_span: SPAN,
            admitted,
            refused,
            ..LimitRecord::default()
        };
        let records = [record(half), record(greedy)];
        judge_shares(&expected(), &["half", "greedy"], &records).findings
    }

    #[test]
    fn what_is_guaranteed_and_the_bound_are_right_to_the_request() {
        assert_eq!(findings((1_500, 300), (1_500, 5_000)), [""; 0]);
        assert_eq!(findings((1_470, 300), (1_550, 5_000)), [""; 0]);
        assert!(findings((1_469, 300), (1_550, 5_000))[0].starts_with("half: only 1469"));
        assert_eq!(findings((1_500, 300), (1_520, 5_000)), [""; 0]);
        assert!(findings((1_500, 300), (1_521, 5_000))[0].starts_with("3021 were admitted"));
    }

    #[test]
    fn who_asks_for_less_is_owed_no_more_and_the_rest_must_be_borrowed() {
        assert_eq!(findings((300, 0), (2_700, 5_000)), [""; 0]);
        assert!(findings((300, 0), (2_549, 5_000))[0].starts_with("all: only 2849"));
        assert!(findings((300, 0), (600, 0))[0].starts_with("nobody was refused"));
    }
}
