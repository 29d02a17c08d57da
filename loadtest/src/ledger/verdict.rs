//! The outcome of a comparison: checks, differences, and the table by tenant and route.

use std::collections::BTreeMap;

use serde::Serialize;

use super::RequestId;

/// Offending ids that are listed; all are counted.
const MAX_EXAMPLES: usize = 20;

/// Tenant and route.
pub(super) type Place = (String, String);

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check it belongs to.
    pub check: Check,
    /// The request, when there is one.
    pub id: Option<String>,
    /// What is wrong.
    pub says: String,
}

/// The checks, in the order they are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Every whole answer has exactly one right row.
    Answers,
    /// No id has two rows.
    Doubles,
    /// No more other rows than requests without a whole answer.
    Others,
    /// Rows that are more of a request have the row that counts it.
    Parts,
    /// Rows say as much of each meter as was used.
    Quantities,
    /// Rows say as many bytes as went to and fro.
    Bytes,
    /// Every user has a row.
    Members,
    /// Refused rows add up to the refusals received.
    Refusals,
    /// Lanes are dense.
    Sequences,
}

/// The differences met so far.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) examples: Vec<Finding>,
    pub(super) counts: BTreeMap<Check, u64>,
}

impl Findings {
    pub(super) fn add(
        &mut self,
        check: Check,
        id: Option<RequestId>,
        says: impl FnOnce() -> String,
    ) {
        *self.counts.entry(check).or_default() += 1;
        if self.examples.len() < MAX_EXAMPLES {
            let id = id.map(|id| id.to_string());
            self.examples.push(Finding { check, id, says: says() });
        }
    }
}

impl Check {
    /// What it checks, in a few words.
    pub fn says(self) -> &'static str {
        match self {
            Check::Answers => "whole answers have one right row",
            Check::Doubles => "rows occur once",
            Check::Others => "other rows are aborts or failures",
            Check::Parts => "parts belong to a counted request",
            Check::Quantities => "quantities are what was used",
            Check::Bytes => "bytes are what went to and fro",
            Check::Members => "users have their rows",
            Check::Refusals => "refusals are counted",
            Check::Sequences => "lanes are dense",
        }
    }
}

/// One line of the verdict table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckLine {
    /// The check.
    pub check: Check,
    /// How many things it looked at.
    pub checked: u64,
    /// How many were wrong.
    pub wrong: u64,
}

/// Answers and rows of one tenant, route and class of status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupLine {
    /// The tenant.
    pub tenant: String,
    /// The route.
    pub route: String,
    /// 2 for 200 to 299, and so on.
    pub status_class: u16,
    /// Whole answers received.
    pub answers: u64,
    /// Requests recorded.
    pub recorded: u64,
}

/// The outcome of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct LedgerVerdict {
    /// One line per check.
    pub checks: Vec<CheckLine>,
    /// One line per tenant, route and class of status.
    pub groups: Vec<GroupLine>,
    /// The first differences.
    pub findings: Vec<Finding>,
    /// Rows read.
    pub rows: u64,
    /// Answers received whole whose row says that the client or the upstream went away.
    pub whole_but_marked_aborted: u64,
}

impl LedgerVerdict {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.checks.iter().all(|line| line.wrong == 0)
    }
}

/// The table by place and class of status.
pub(super) fn groups(
    answered: &BTreeMap<(Place, u16), u64>,
    recorded: &BTreeMap<(Place, u16), u64>,
) -> Vec<GroupLine> {
    let mut keys: Vec<_> = answered.keys().chain(recorded.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .map(|key @ ((tenant, route), status_class)| GroupLine {
            tenant: tenant.clone(),
            route: route.clone(),
            status_class: *status_class,
            answers: answered.get(key).copied().unwrap_or(0),
            recorded: recorded.get(key).copied().unwrap_or(0),
        })
        .collect()
}
