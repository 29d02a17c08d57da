//! The audit: asks ClickHouse, and nothing else, whether anything is missing, double or different.
//!
//! The shipper leaves a manifest behind (`usage_batches`), how far it shipped each lane
//! (`usage_lanes`), the losses it knows of (`usage_losses`) and how far each node is
//! (`usage_nodes`). An [`audit`] compares these with the rows, and the rows with themselves.
//! Guarantees:
//!
//! - It changes nothing: every query runs read-only.
//! - Every number of a [`Report`] is exact; examples are bounded ([`EXAMPLES`] a check).
//! - What a scope or a live table keeps a check from saying is in the report: a check that was
//!   limited says how, and nothing above the watermark is claimed to be complete.
//! - An insert in flight is no finding: what a node that is there may still be doing is looked at
//!   again for as long as [`Options::wait`] allows; what a node that is away has not confirmed is a
//!   note.
//! - Memory is bounded at the server by [`Limits`]: large groupings go to disk, sequences are
//!   counted in bitmaps.
//!
//! | module | owns |
//! |---|---|
//! | `ask` | the queries (`clickhouse/queries/audit_*.sql`), their parameters and limits |
//! | `batches`, `unlisted`, `ranges`, `gaps`, `lanes` | the manifest against the rows, itself, and what nodes say they shipped |
//! | `rows`, `projection` | the rows against themselves and against what bills are made of |
//! | `losses`, `standing` | what is known to be lost, and how far everybody is |
//! | `report` | what comes out |

mod ask;
mod batches;
mod gaps;
mod lanes;
mod losses;
mod projection;
mod ranges;
mod report;
mod rows;
mod standing;
mod unlisted;

use std::collections::BTreeSet;
use std::time::Duration;

pub use report::{
    Check, CheckReport, Finding, LaneStanding, NodeStanding, Report, ScopeReport, Verdict,
    WatermarkReport,
};

use crate::clickhouse::store::{Store, StoreError};
use crate::clock;
use crate::event::LATEST_TS_US;
use ask::Asker;
use gaps::Gap;
use report::Outcome;
use standing::Standings;

/// Most examples of findings that a check brings.
pub const EXAMPLES: usize = 10;

/// How long a look waits for the next.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What is audited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Events from this time on, unix microseconds; `None` from the beginning.
    pub from_us: Option<i64>,
    /// Events before this time, unix microseconds; `None` to the end.
    pub to_us: Option<i64>,
    /// This tenant and those below it; `None` for all.
    pub tenant: Option<String>,
    /// Batches and losses written down since then as well, whatever their event times.
    pub written_from_us: Option<i64>,
}

impl Scope {
    /// Whether only some event times are in scope.
    fn is_window(&self) -> bool {
        self.from_us.is_some() || self.to_us.is_some()
    }
}

/// What an audit may take from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Threads of one query.
    pub max_threads: usize,
    /// Memory of one query, in bytes.
    pub max_memory_bytes: u64,
    /// Longest a query may run.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_threads: 2, max_memory_bytes: 1 << 30, timeout: Duration::from_hours(1) }
    }
}

/// What to audit, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What.
    pub scope: Scope,
    /// At a query's expense of.
    pub limits: Limits,
    /// How long in all what may still be on its way is looked at again.
    pub wait: Duration,
}

/// How far an audit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it does now.
    pub check: Check,
    /// Steps that are done.
    pub done: u64,
    /// Steps in all.
    pub of: u64,
}

/// The audit could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// ClickHouse did not answer a query, or refused it.
    #[error("the audit could not ask for its {query}")]
    Store {
        /// Which one.
        query: &'static str,
        /// Why not.
        source: StoreError,
    },
    /// A table or column that the audit reads is not there.
    #[error("the usage database has no schema of this version: run `orbit migrate`")]
    Schema(#[source] StoreError),
    /// An answer has not the expected form.
    #[error("ClickHouse answered {got:?} when asked for the audit's {query}")]
    Answer {
        /// Which query.
        query: &'static str,
        /// The beginning of the answer.
        got: String,
    },
}

/// Audits what `options` say; `progress` is told before each step.
pub async fn audit(
    store: &Store,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, AuditError> {
    let asker = Asker::new(store, options).await?;
    let standings = Standings::read(store, asker.now_us()).await?;
    let months = asker.months().await?;
    let mut run = Run {
        deadline_us: clock::unix_us().saturating_add_unsigned(options.wait.as_micros() as u64),
        steps: Steps { done: 0, of: 3 * months.len() as u64 + 7, progress },
        scope: &options.scope,
        asker,
        standings,
        months,
        unconfirmed: BTreeSet::new(),
        pending: Vec::new(),
    };
    let checks = run.all().await?;
    Ok(Report::new(&options.scope, run.asker.now_us(), checks, &run.standings))
}

/// An audit that is going on.
struct Run<'a> {
    asker: Asker<'a>,
    scope: &'a Scope,
    standings: Standings,
    /// yyyymm, of rows and batches in scope.
    months: Vec<u32>,
    /// Nodes that are away and have rows in no batch of the manifest.
    unconfirmed: BTreeSet<u32>,
    /// Gaps of the manifest that may still be filled.
    pending: Vec<Gap>,
    /// Nothing is looked at again after this.
    deadline_us: i64,
    steps: Steps<'a>,
}

struct Steps<'a> {
    done: u64,
    of: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Run<'_> {
    async fn all(&mut self) -> Result<Vec<CheckReport>, AuditError> {
        let mut checks = Vec::new();
        for check in Check::ALL {
            let started_us = clock::unix_us();
            let outcome = match self.unasked(check) {
                Some(reason) => {
                    self.skip(check);
                    Outcome { limited: Some(reason), asked: false, ..Outcome::default() }
                }
                None => self.one(check).await?,
            };
            let took_ms = (clock::unix_us() - started_us).max(0).cast_unsigned() / 1_000;
            checks.push(CheckReport::new(check, outcome, took_ms));
        }
        Ok(checks)
    }

    async fn one(&mut self, check: Check) -> Result<Outcome, AuditError> {
        match check {
            Check::Batches => batches::run(self).await,
            Check::Unlisted => unlisted::run(self).await,
            Check::Ranges => ranges::run(self).await,
            Check::Lanes => lanes::run(self).await,
            Check::Sequences => rows::sequences(self).await,
            Check::Ingested => rows::ingested(self).await,
            Check::OpenParts => rows::open_parts(self).await,
            Check::Projection => projection::run(self).await,
            Check::Losses => losses::run(self).await,
        }
    }

    /// Why this scope cannot ask this check, if it cannot.
    fn unasked(&self, check: Check) -> Option<String> {
        let of_whole_batches =
            matches!(check, Check::Batches | Check::Unlisted | Check::Ranges | Check::Lanes);
        (of_whole_batches && self.scope.tenant.is_some())
            .then(|| "not asked: batches are not by tenant".to_owned())
    }

    /// Tells that a step of this check begins.
    fn step(&mut self, check: Check) {
        let Steps { done, of, progress } = &mut self.steps;
        progress(Progress { check, done: *done, of: *of });
        *done += 1;
    }

    fn skip(&mut self, check: Check) {
        self.step(check);
        if check.is_by_month() {
            self.steps.done += (self.months.len() as u64).saturating_sub(1);
        }
    }

    /// Waits a little before the next look; false when there is no time left for one.
    async fn may_look_again(&self) -> bool {
        if clock::unix_us() >= self.deadline_us {
            return false;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        true
    }

    /// Findings of a window say less of some checks.
    fn limited_to_window(&self, text: &str) -> Option<String> {
        self.scope.is_window().then(|| text.to_owned())
    }
}

/// The bounds of a scope as the queries take them.
fn bounds_us(scope: &Scope) -> (i64, i64) {
    (scope.from_us.unwrap_or(0), scope.to_us.unwrap_or(LATEST_TS_US))
}
