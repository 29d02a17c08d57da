//! Rows of the table: what somebody asks and what must be answered. All are looked at before any
//! mismatch ends the test.

use std::fmt::Debug;

use serde_json::{Value, json};

use crate::world::{Answer, Ask, World};

/// IANA's type for limits and quotas.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// One line of the table.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) tenant: &'static str,
    pub(crate) ask: Ask,
    pub(crate) answer: Expected,
}

/// What must be answered.
pub(crate) struct Expected {
    status: u16,
    /// The problem's type without `urn:orbit:problem:`; nothing of what is admitted.
    kind: &'static str,
    /// Members of the problem that must be so.
    members: Value,
}

pub(crate) fn admitted() -> Expected {
    Expected { status: 200, kind: "", members: json!({}) }
}

/// By the rights of the tenant.
pub(crate) fn forbidden(kind: &'static str, members: Value) -> Expected {
    Expected { status: 403, kind, members }
}

pub(crate) fn unpaid() -> Expected {
    Expected { status: 402, kind: "tenant-unpaid", members: json!({}) }
}

/// By a limit or a quota.
pub(crate) fn exceeded(members: Value) -> Expected {
    Expected { status: 429, kind: QUOTA_EXCEEDED, members }
}

impl Expected {
    /// Where the answer is another.
    fn differs(&self, answer: &Answer) -> bool {
        let body = answer.json();
        let kind = body["type"].as_str().unwrap_or_default();
        let kind = kind.strip_prefix("urn:orbit:problem:").unwrap_or(kind);
        let members = self.members.as_object().unwrap();
        answer.status != self.status
            || kind != self.kind
            || members.iter().any(|(name, value)| body[name] != *value)
    }
}

/// The rows that were looked at.
#[derive(Default)]
pub(crate) struct Table {
    rows: usize,
    mismatches: Vec<String>,
}

impl Table {
    /// Asks until no rate refuses it, which is not what the row is about.
    pub(crate) fn row(&mut self, world: &World, row: &Row) {
        let answer = world.patiently(row.tenant, &row.ask);
        self.judge(&row.name, &answer, &row.answer);
    }

    /// Holds an answer against what it must be.
    pub(crate) fn judge(&mut self, name: &str, answer: &Answer, expected: &Expected) {
        self.rows += 1;
        if expected.differs(answer) {
            let Expected { status, kind, members } = expected;
            let Answer { status: got, body, .. } = answer;
            self.mismatches
                .push(format!("{name}: {got} {body}\n    and not {status} {kind} {members}"));
        }
    }

    /// Holds a fact against what it must be.
    pub(crate) fn same<T: PartialEq + Debug>(&mut self, name: &str, got: &T, expected: &T) {
        self.rows += 1;
        if got != expected {
            self.mismatches.push(format!("{name}: {got:?}\n    and not {expected:?}"));
        }
    }

    /// Fails with every row that is not as it must be.
    pub(crate) fn close(self, least: usize) {
        let rows = self.rows;
        assert!(rows >= least, "{rows} rows were looked at, and not {least}");
        assert!(self.mismatches.is_empty(), "{} of {rows} rows, told below", self.mismatches.len());
    }
}

impl Drop for Table {
    /// Tells the mismatches, also where the test could not go on to its end.
    #[expect(clippy::print_stderr, reason = "the rows are what a failure is about")]
    fn drop(&mut self) {
        for mismatch in &self.mismatches {
            eprintln!("{mismatch}");
        }
    }
}
