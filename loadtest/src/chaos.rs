//! Load while everything around it dies: kills, stops, a network that lies and a disk that is
//! full, by a schedule from a seed; and then the question whether every answer was counted once.
//!
//! The load goes on as if nothing happened. When the last attack is over, what is dead is started
//! again, the journal drains, the gateway is ended in good order, and the answers are compared
//! with the rows.

mod attack;
mod report;
pub mod schedule;
pub mod verdict;

use std::time::Duration;

use thiserror::Error;

use crate::generator::{Recording, RunError};
use crate::ledger::audit::NoExpectation;
use crate::ledger::table::TableError;
use crate::load::Load;
use crate::progress::ProgressView;
use crate::scenario::Scenario;
use crate::stage::disk::SmallDisk;
use crate::stage::{Stage, StageError};

pub use attack::Tally;
pub use report::ChaosReport;
use schedule::{Plan, schedule};
use verdict::{Verdict, judge};

/// Of the load's time, this much is left in peace at either end.
const CALM: Duration = Duration::from_secs(2);
/// How long the journal may take to drain.
const DRAIN_LIMIT: Duration = Duration::from_mins(10);

/// Why a run could not be made.
#[derive(Debug, Error)]
pub enum ChaosError {
    /// A server, or something it needs.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The load.
    #[error(transparent)]
    Load(#[from] RunError),
    /// The scenario does not say what its rows must be.
    #[error(transparent)]
    Expectation(#[from] NoExpectation),
    /// The rows could not be read.
    #[error("cannot read the rows")]
    Table(#[from] TableError),
    /// The journal's small disk.
    #[error("cannot {what} the journal's disk")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Attacks a stage under the load of all `scenarios` at once and judges what came of it. Must run
/// on a thread that lives as long as the stage, on a runtime of that thread alone.
pub async fn run(
    stage: &mut Stage,
    scenarios: &[Scenario],
    plan: &Plan,
    disk: Option<&SmallDisk>,
    quiet: bool,
) -> Result<ChaosReport, ChaosError> {
    let moments = schedule(&Plan { length: plan.length.saturating_sub(2 * CALM), ..*plan });
    let load = Load::start(scenarios, plan.length, stage);
    let mut view = ProgressView::new("chaos", quiet);
    let mut attacks = attack::Attacks::new(stage, disk, &load, &mut view);
    attacks.pause(CALM).await?;
    attacks.carry_out(&moments).await?;
    attacks.end().await?;
    let tally = attacks.tally();
    while !load.is_finished() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        view.run(&load.progress());
    }
    drop(view);
    let recordings = load.recordings().await?;
    let verdict = settle(stage, scenarios, recordings.clone(), quiet).await?;
    Ok(ChaosReport::new(plan, tally, stage, scenarios, &recordings, disk.is_some(), verdict))
}

/// Lets the journal drain, ends the gateway and compares.
pub async fn settle(
    stage: &mut Stage,
    scenarios: &[Scenario],
    recordings: Vec<Recording>,
    quiet: bool,
) -> Result<Verdict, ChaosError> {
    stage.engine_answers().await?;
    stage.gateway_serves().await?;
    let mut view = ProgressView::new("drain", quiet);
    let mut most = 1;
    stage
        .drained(DRAIN_LIMIT, |left| {
            most = most.max(left);
            view.share(1.0 - left as f64 / most as f64, || format!("{left} events to ship"));
        })
        .await?;
    drop(view);
    let backlog = stage.backlog().await?;
    let ended = stage.stop_gateway().await?;
    judge(stage, scenarios, recordings, backlog, ended).await
}
