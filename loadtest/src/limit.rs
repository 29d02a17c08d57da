//! Whether a limit was met exactly.
//!
//! With a token bucket of `burst` that fills at `rate`, no more than `burst + rate x t` requests
//! are admitted in any span of `t`. The decisions themselves are inside the gateway; from outside
//! each is known to lie between the sending of its request and the end of its answer. So:
//!
//! - *never more* is judged over the longest span the decisions can have taken, from the first
//!   admitted request's sending to the last admitted answer's end. Exceeding even that proves that
//!   the limit was passed;
//! - *not less* is judged over the span in which requests were offered, from the first sending to
//!   the last. Ending it at the last *admitted* request would excuse one that stops admitting.

mod shares;

use std::collections::BTreeMap;

use serde::Serialize;

pub use shares::{ShareLine, SharesVerdict, judge_shares};

use crate::scenario::ExpectedLimit;

/// Less than this share of what the limit allows is a finding.
const LEAST_SHARE: f64 = 0.99;

/// What one run has seen of the requests under a limit. Times in nanoseconds on the run's clock.
#[derive(Clone, Debug, Default)]
pub struct LimitRecord {
    offered: Option<(u64, u64)>,
    admitted_span: Option<(u64, u64)>,
    admitted: u64,
    refused: u64,
    levels: BTreeMap<String, u64>,
    policies: BTreeMap<String, u64>,
    /// Refusals whose body lists no policy.
    unnamed: u64,
    /// Requests for which nobody can say whether they were admitted.
    pub(crate) unknown: u64,
}

/// What a request under the limit met.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Decision<'a> {
    /// The upstream answered.
    Admitted,
    /// 429 with problem details, and what their body names.
    Refused { level: Option<&'a str>, violated: &'a [String] },
    /// Nobody can say.
    Unknown,
}

impl LimitRecord {
    pub(crate) fn add(&mut self, sent_ns: u64, ended_ns: u64, decision: Decision<'_>) {
        widen(&mut self.offered, sent_ns, sent_ns);
        match decision {
            Decision::Refused { level, violated } => {
                self.refused += 1;
                *self.levels.entry(level.unwrap_or("(none)").to_owned()).or_default() += 1;
                self.unnamed += u64::from(violated.is_empty());
                for policy in violated {
                    *self.policies.entry(policy.clone()).or_default() += 1;
                }
            }
            Decision::Admitted => {
                self.admitted += 1;
                widen(&mut self.admitted_span, sent_ns, ended_ns);
            }
            Decision::Unknown => self.unknown += 1,
        }
    }

    pub(crate) fn merge(&mut self, other: LimitRecord) {
        for (into, from) in
            [(&mut self.offered, other.offered), (&mut self.admitted_span, other.admitted_span)]
        {
            if let Some((first, last)) = from {
                widen(into, first, last);
            }
        }
        self.admitted += other.admitted;
        self.refused += other.refused;
        self.unnamed += other.unnamed;
        self.unknown += other.unknown;
        for (into, from) in [(&mut self.levels, other.levels), (&mut self.policies, other.policies)]
        {
            for (name, count) in from {
                *into.entry(name).or_default() += count;
            }
        }
    }
}

fn widen(span: &mut Option<(u64, u64)>, from: u64, to: u64) {
    let (first, last) = span.get_or_insert((from, to));
    (*first, *last) = ((*first).min(from), (*last).max(to));
}

/// The judgement of a limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitVerdict {
    /// Requests the limit let through.
    pub admitted: u64,
    /// The most it may have let through.
    pub at_most: f64,
    /// The least it must have let through.
    pub at_least: f64,
    /// From the first admitted request's sending to the last admitted answer's end, seconds.
    pub admitted_s: f64,
    /// From the first to the last request's sending, seconds.
    pub offered_s: f64,
    /// Requests refused.
    pub refused: u64,
    /// Refusals by the level their body names.
    pub refused_by_level: BTreeMap<String, u64>,
    /// Refusals by the policies their body lists.
    pub violated_policies: BTreeMap<String, u64>,
    /// What is wrong; empty: the limit was met.
    pub findings: Vec<String>,
}

/// Judges a run by the limit it was to meet.
pub fn judge(limit: &ExpectedLimit, record: &LimitRecord) -> LimitVerdict {
    let seconds = |span: Option<(u64, u64)>| {
        span.map_or(0.0, |(first, last)| last.saturating_sub(first) as f64 / 1e9)
    };
    let (admitted_s, offered_s) = (seconds(record.admitted_span), seconds(record.offered));
    let allowed = |span_s: f64| limit.burst as f64 + limit.rate / limit.per_s * span_s;
    let at_most = allowed(admitted_s);
    // Tokens are whole: a small limit may end a moment before its next one.
    let at_least = (LEAST_SHARE * allowed(offered_s)).min(allowed(offered_s).floor() - 1.0);
    let mut findings = Vec::new();
    let admitted = record.admitted as f64;
    if admitted > at_most {
        findings.push(format!(
            "{} were admitted in {admitted_s:.3} s: at most {at_most:.1} may be",
            record.admitted
        ));
    }
    let offered = (record.admitted + record.refused + record.unknown) as f64;
    if offered < allowed(offered_s) {
        findings.push(format!(
            "only {offered} requests in {offered_s:.3} s: the limit of {:.1} was never reached",
            allowed(offered_s)
        ));
    } else if admitted < at_least {
        findings.push(format!(
            "only {} were admitted of the {:.1} that {offered_s:.3} s allow: under 99 %",
            record.admitted,
            allowed(offered_s)
        ));
    }
    for (level, count) in record.levels.iter().filter(|(level, _)| **level != limit.level) {
        findings.push(format!("{count} refusals name the level {level}, not {}", limit.level));
    }
    if record.unnamed > 0 {
        findings.push(format!("{} refusals list no violated policy", record.unnamed));
    }
    if let Some(policy) = &limit.policy {
        let named = record.policies.get(policy).copied().unwrap_or(0);
        if named != record.refused {
            let others = record.refused.saturating_sub(named);
            findings.push(format!("{others} refusals do not list the policy {policy}"));
        }
    }
    if record.unknown > 0 {
        findings.push(format!(
            "{} requests ended without telling whether they were admitted",
            record.unknown
        ));
    }
    LimitVerdict {
        admitted: record.admitted,
        at_most,
        at_least,
        admitted_s,
        offered_s,
        refused: record.refused,
        refused_by_level: record.levels.clone(),
        violated_policies: record.policies.clone(),
        findings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn limit() -> ExpectedLimit {
        ExpectedLimit {
            rate: 100.0,
            per_s: 1.0,
            burst: 50,
            level: "team".to_owned(),
            policy: Some("team-rps".to_owned()),
            requests: Vec::new(),
        }
    }

    /// Ten seconds at 300 per second of which `admitted` were let through.
    fn record(admitted: u64) -> LimitRecord {
        let refused = 3000 - admitted;
        LimitRecord {
            offered: Some((0, 10 * SECOND_NS)),
            admitted_span: Some((0, 10 * SECOND_NS)),
            admitted,
            refused,
            levels: BTreeMap::from([("team".to_owned(), refused)]),
            policies: BTreeMap::from([("team-rps".to_owned(), refused)]),
            unnamed: 0,
            unknown: 0,
        }
    }

    #[test]
    fn exactly_the_limit_is_right_and_one_more_is_not() {
        assert_eq!(judge(&limit(), &record(1050)).findings, [""; 0]);
        assert_eq!(judge(&limit(), &record(1051)).findings.len(), 1);
    }

    #[test]
    fn ninety_nine_percent_is_the_least() {
        assert_eq!(judge(&limit(), &record(1040)).findings, [""; 0]);
        assert_eq!(judge(&limit(), &record(1039)).findings.len(), 1);
    }

    #[test]
    fn a_gateway_that_stops_admitting_is_found() {
        let mut stopped = record(550);
        stopped.admitted_span = Some((0, 5 * SECOND_NS));
        let verdict = judge(&limit(), &stopped);
        assert!(verdict.findings[0].starts_with("only 550 were admitted"), "{verdict:?}");
    }

    #[test]
    fn a_refilled_bucket_is_found() {
        let verdict = judge(&limit(), &record(1100));
        assert!(verdict.findings[0].starts_with("1100 were admitted"), "{verdict:?}");
    }

    #[test]
    fn too_little_offered_proves_nothing_and_says_so() {
        let mut idle = record(1000);
        (idle.refused, idle.levels, idle.policies) = (0, BTreeMap::new(), BTreeMap::new());
        assert!(judge(&limit(), &idle).findings[0].contains("never reached"));
    }

    #[test]
    fn the_wrong_level_or_policy_or_none_is_found() {
        let mut wrong = record(1050);
        wrong.levels = BTreeMap::from([("team".to_owned(), 1949), ("plan".to_owned(), 1)]);
        wrong.policies = BTreeMap::from([("team-rps".to_owned(), 1949)]);
        (wrong.unnamed, wrong.unknown) = (1, 2);
        let findings = judge(&limit(), &wrong).findings;
        assert_eq!(findings.len(), 4, "{findings:?}");
    }
}
