//! What an audit says, with stable names: the same for people and programs.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::ask::Facts;
use super::standing::Standings;
use super::{EXAMPLES, Scope};

/// A question that an audit asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Each batch's rows are as the manifest says.
    Batches,
    /// Every row is of a batch of the manifest.
    Unlisted,
    /// What was shipped follows without gap or overlap.
    Ranges,
    /// Everything that a node says it has shipped was.
    Lanes,
    /// No event is there twice, and none is missing between two others.
    Sequences,
    /// No ingested event is there twice.
    Ingested,
    /// What bills are made of is what the rows say.
    Projection,
    /// Parts of long requests count nothing twice.
    OpenParts,
    /// What is known to be lost.
    Losses,
}

impl Check {
    /// All, in the order they are asked.
    pub const ALL: [Check; 9] = [
        Check::Batches,
        Check::Unlisted,
        Check::Ranges,
        Check::Lanes,
        Check::Sequences,
        Check::Ingested,
        Check::Projection,
        Check::OpenParts,
        Check::Losses,
    ];

    /// Its name in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Check::Batches => "batches",
            Check::Unlisted => "unlisted",
            Check::Ranges => "ranges",
            Check::Lanes => "lanes",
            Check::Sequences => "sequences",
            Check::Ingested => "ingested",
            Check::Projection => "projection",
            Check::OpenParts => "open_parts",
            Check::Losses => "losses",
        }
    }

    /// What [`CheckReport::checked`] counts.
    pub fn unit(self) -> &'static str {
        match self {
            Check::Batches => "batches",
            Check::Ranges => "plans",
            Check::Lanes => "lanes",
            Check::Projection => "hours by meter",
            Check::Unlisted | Check::Sequences | Check::Ingested | Check::OpenParts => "rows",
            Check::Losses => "losses",
        }
    }

    /// What is true when nothing is wrong.
    pub fn claim(self) -> &'static str {
        match self {
            Check::Batches => {
                "rows, sums, times and digest of each batch are those of the manifest"
            }
            Check::Unlisted => "every row is of a batch of the manifest",
            Check::Ranges => "what was shipped follows without gap or overlap",
            Check::Lanes => "what nodes say they have shipped is in the manifest",
            Check::Sequences => "no event is there twice, none is missing in between",
            Check::Ingested => "no ingested event is there twice",
            Check::Projection => "the projection says what the rows say",
            Check::OpenParts => "parts of long requests count nothing twice",
            Check::Losses => "nothing is known to be lost",
        }
    }

    /// Whether it is asked month by month.
    pub(super) fn is_by_month(self) -> bool {
        matches!(self, Check::Batches | Check::Unlisted | Check::Projection)
    }
}

/// The outcome in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing was found.
    Clean,
    /// Something was.
    Findings,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The kind, a stable name within its check.
    pub kind: &'static str,
    /// For people.
    pub text: String,
    /// The numbers behind it; ids and digests of 64 bits are text.
    pub facts: Facts,
}

impl Finding {
    pub(super) fn new(kind: &'static str, text: String, facts: Facts) -> Self {
        Self { kind, text, facts: with_times(facts) }
    }
}

/// What a check found, before it is put in words.
pub(super) struct Outcome {
    pub(super) asked: bool,
    pub(super) checked: u64,
    pub(super) wrong: u64,
    pub(super) findings: Vec<Finding>,
    pub(super) notes: Vec<String>,
    pub(super) limited: Option<String>,
}

impl Default for Outcome {
    fn default() -> Self {
        let (findings, notes) = (Vec::new(), Vec::new());
        Self { asked: true, checked: 0, wrong: 0, findings, notes, limited: None }
    }
}

impl Outcome {
    /// Takes a finding in, and keeps it as an example while there is room.
    pub(super) fn find(&mut self, kind: &'static str, text: String, facts: Facts) {
        self.wrong += 1;
        self.exemplify(kind, text, facts);
    }

    /// An example of what is counted already.
    pub(super) fn exemplify(&mut self, kind: &'static str, text: String, facts: Facts) {
        if self.findings.len() < EXAMPLES {
            self.findings.push(Finding::new(kind, text, facts));
        }
    }
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckReport {
    /// Which.
    pub check: Check,
    /// Whether it was asked at all.
    pub asked: bool,
    /// What this scope keeps it from saying.
    pub limited: Option<String>,
    /// How many things were looked at.
    pub checked: u64,
    /// What they are.
    pub unit: &'static str,
    /// How many of its findings there are, exactly.
    pub wrong: u64,
    /// Some of them, at most [`EXAMPLES`].
    pub findings: Vec<Finding>,
    /// What is not wrong and should be known.
    pub notes: Vec<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl CheckReport {
    pub(super) fn new(check: Check, outcome: Outcome, took_ms: u64) -> Self {
        let Outcome { asked, checked, wrong, findings, notes, limited } = outcome;
        let unit = check.unit();
        Self { check, asked, limited, checked, unit, wrong, findings, notes, took_ms }
    }
}

/// What was audited; times as RFC 3339 in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScopeReport {
    /// First event time.
    pub from: Option<String>,
    /// First event time after it.
    pub to: Option<String>,
    /// The tenant, with those below it.
    pub tenant: Option<String>,
}

/// How far all nodes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WatermarkReport {
    /// Event time below which all is there, unless findings say otherwise; none while some node
    /// cannot say.
    pub time: Option<String>,
    /// How old that is, in seconds.
    pub age_s: Option<i64>,
    /// The node that holds it there.
    pub held_by: Option<u32>,
    /// What it means for this report.
    pub claim: String,
    /// Every node that ever spoke.
    pub nodes: Vec<NodeStanding>,
}

/// How far one node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStanding {
    /// The node.
    pub node: u32,
    /// The machine's name.
    pub host: String,
    /// `running`, `stopped` or `retired`.
    pub state: &'static str,
    /// Whether it should speak and does not.
    pub away: bool,
    /// When it last spoke.
    pub updated: String,
    /// Event time below which all of it is there.
    pub watermark: Option<String>,
    /// How old that is, in seconds.
    pub age_s: Option<i64>,
    /// Events it said it still had to ship.
    pub backlog_events: u64,
    /// The same lane by lane.
    pub lanes: Vec<LaneStanding>,
}

/// How far one lane is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaneStanding {
    /// The run of the gateway.
    pub epoch: u32,
    /// The writer.
    pub lane: u16,
    /// Event time below which all of it is there.
    pub watermark: Option<String>,
}

/// What an audit says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// In one word.
    pub verdict: Verdict,
    /// How many findings there are, exactly. One damage may be found by several checks.
    pub findings: u64,
    /// When it began, by the server's clock.
    pub asked_at: String,
    /// What was audited.
    pub scope: ScopeReport,
    /// Every check.
    pub checks: Vec<CheckReport>,
    /// How far everybody is.
    pub watermark: WatermarkReport,
}

impl Report {
    pub(super) fn new(
        scope: &Scope,
        now_us: i64,
        checks: Vec<CheckReport>,
        standings: &Standings,
    ) -> Self {
        let findings = checks.iter().map(|check| check.wrong).sum();
        Self {
            verdict: if findings == 0 { Verdict::Clean } else { Verdict::Findings },
            findings,
            asked_at: time(now_us),
            scope: ScopeReport {
                from: scope.from_us.map(time),
                to: scope.to_us.map(time),
                tenant: scope.tenant.clone(),
            },
            checks,
            watermark: standings.report(scope, now_us),
        }
    }
}

/// RFC 3339 in UTC.
pub(super) fn time(us: i64) -> String {
    Timestamp::from_microsecond(us).map_or_else(|_| format!("{us} us"), |at| at.to_string())
}

/// Facts named `..._us` as times named `..._ts`.
fn with_times(facts: Facts) -> Facts {
    let as_time = |(name, value): (String, Value)| match (name.strip_suffix("_us"), value.as_i64())
    {
        (Some(stem), Some(us)) => (format!("{stem}_ts"), Value::String(time(us))),
        _ => (name, value),
    };
    facts.into_iter().map(as_time).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_bounded_and_counts_are_not() {
        let mut outcome = Outcome::default();
        for _ in 0..3 * EXAMPLES {
            outcome.find("gap", String::new(), Facts::new());
        }
        assert_eq!((outcome.wrong, outcome.findings.len()), (3 * EXAMPLES as u64, EXAMPLES));
    }

    #[test]
    fn facts_carry_times_that_people_read() {
        let facts: Facts = [("min_us", 1_793_491_200_000_001_i64), ("rows", 7)]
            .map(|(name, value)| (name.to_owned(), Value::from(value)))
            .into_iter()
            .collect();
        let told = with_times(facts);
        assert_eq!(told["min_ts"], "2026-11-01T00:00:00.000001Z");
        assert_eq!(told["rows"], 7);
    }

    #[test]
    fn a_check_is_called_the_same_everywhere() {
        for check in Check::ALL {
            assert_eq!(serde_json::to_value(check).expect("a name"), check.name());
        }
    }
}
