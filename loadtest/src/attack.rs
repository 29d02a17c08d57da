//! Attacks on a whole Orbit under load, and what is asked when they are over: was every answer
//! counted, and counted once?

pub mod alerts;
pub mod chaos;
pub mod disk;
mod events;
pub mod kills;
pub mod outage;
pub mod power;
pub mod quota;
mod report;
mod verdict;

use std::time::Duration;

use thiserror::Error;

use crate::generator::{Recording, RunError};
use crate::ingest::SendError;
use crate::ledger::audit::NoExpectation;
use crate::ledger::table::TableError;
use crate::ledger::{Answer, Expectation};
use crate::progress::ProgressView;
use crate::scenario::{Scenario, ScenarioError};
use crate::stage::{Backlog, Stage, StageError};

pub use report::{AttackReport, Fact, LoadSummary};
pub(crate) use verdict::AuditSays;
pub use verdict::{Line, Verdict};

/// How long the journal may take to drain.
const DRAIN_LIMIT: Duration = Duration::from_mins(10);

/// Why an attack could not be made or judged.
#[derive(Debug, Error)]
pub enum AttackError {
    /// A server, or something it needs.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The load.
    #[error(transparent)]
    Load(#[from] RunError),
    /// What is sent beside it.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The scenario does not say what its rows must be.
    #[error(transparent)]
    Expectation(#[from] NoExpectation),
    /// The rows could not be read.
    #[error("cannot read the rows")]
    Table(#[from] TableError),
    /// A key could not be made.
    #[error("cannot make a key")]
    Key(#[from] orbit_policy::keys::NewKeyError),
    /// The events beside it.
    #[error("cannot send events")]
    Events(#[from] SendError),
    /// A disk.
    #[error("cannot {what}")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program of the system's that makes or mounts disks.
    #[error("`{command}` failed: {said}")]
    Tool {
        /// The command line.
        command: String,
        /// What it said.
        said: String,
    },
    /// A command that was to be run under kills.
    #[error("cannot run {program}")]
    Command {
        /// The program.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something that should have come about did not.
    #[error("{what} did not come about within {} s", .limit.as_secs())]
    Never {
        /// What.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
}

/// What the gateway does when it cannot record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// It refuses.
    Refuse,
    /// It serves and sums.
    ServeUnmetered,
}

impl OnFull {
    /// As in the gateway's settings.
    pub fn setting(self) -> &'static str {
        match self {
            OnFull::Refuse => "refuse",
            OnFull::ServeUnmetered => "serve_unmetered",
        }
    }

    /// Whether a run whose disk was full so many times was told so as set. The second result is what
    /// came of it.
    ///
    /// A request that was admitted while there was room is answered, and what there is no room for any
    /// more is summed: at most what was in flight at each time.
    async fn judge(
        self,
        stage: &Stage,
        scenarios: &[Scenario],
        summary: &LoadSummary,
        times: u32,
    ) -> Result<(Vec<String>, Fact), AttackError> {
        let in_flight: u64 = scenarios.iter().map(|one| u64::from(one.workers())).sum();
        let refused = summary.answered(503);
        let sql = "SELECT sumIf(requests, bitAnd(flags, 4) != 0) FROM usage_events FORMAT TSV";
        let unmetered: u64 = stage.table.ask(sql).await?.trim().parse().unwrap_or(0);
        let (all, other, at_most) = match self {
            OnFull::Refuse => (refused, unmetered, in_flight * u64::from(times)),
            OnFull::ServeUnmetered => (unmetered, refused, 0),
        };
        let mut wrong = Vec::new();
        if all == 0 {
            wrong.push("the disk was not full, or nobody noticed: nothing was proved".to_owned());
        }
        if other > at_most {
            wrong.push(format!(
                "{refused} requests were refused, {unmetered} were served without a row"
            ));
        }
        let is = format!("{refused} refused, {unmetered} served without a row and in sums");
        Ok((wrong, Fact::new("on_full", format!("{}: {is}", self.setting()))))
    }
}

/// Lets the journal drain, ends the gateway and compares answers with rows.
async fn settle(
    stage: &mut Stage,
    seen: Seen<'_>,
    audit: AuditSays,
    quiet: bool,
) -> Result<Verdict, AttackError> {
    let backlog = drain(stage, quiet).await?;
    let ended = stage.stop_gateway().await?;
    verdict::judge(stage, seen, backlog, ended, audit).await
}

/// What clients saw.
struct Seen<'a> {
    scenarios: &'a [Scenario],
    /// One for each of them.
    recordings: Vec<Recording>,
    /// What was asked beside them, of one kind.
    beside: Option<(Expectation, Vec<Answer>)>,
}

impl<'a> Seen<'a> {
    fn new(scenarios: &'a [Scenario], recordings: Vec<Recording>) -> Seen<'a> {
        Seen { scenarios, recordings, beside: None }
    }
}

/// Waits until everything recorded is in ClickHouse.
async fn drain(stage: &mut Stage, quiet: bool) -> Result<Backlog, AttackError> {
    stage.engine_answers().await?;
    stage.gateway_serves().await?;
    let mut view = ProgressView::new("drain", quiet);
    let mut most = 1;
    let drained = stage.drained(DRAIN_LIMIT, |left| {
        most = most.max(left);
        view.share(1.0 - left as f64 / most as f64, || format!("{left} events to ship"));
    });
    drained.await?;
    Ok(stage.backlog().await?)
}
