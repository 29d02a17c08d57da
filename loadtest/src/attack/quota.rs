//! A quota is used up while the gateway dies: what was counted is not forgiven, what was never
//! answered is not charged for, and in the end the count is that of ClickHouse to the unit.
//!
//! The load goes on until the quota is spent for good. At a share of it the gateway is killed and
//! started again. A client then finds no more answers than the quota has; those that were in flight
//! at the kill were counted and have no row, and come back once the next process has compared its
//! count with the rows.

use std::time::Duration;

use crate::clock::Clock;
use crate::ledger::table::TableError;
use crate::load::Load;
use crate::progress::ProgressView;
use crate::scenario::Scenario;
use crate::stage::Stage;

use super::{AttackError, AttackReport, AuditSays, Fact, LoadSummary, Seen, settle};

/// Longest time until the quota is used as far as it should be before the kill.
const USE_LIMIT: Duration = Duration::from_mins(2);
/// Load after the kill: for what is left of the quota, and for what comes back when counts are
/// compared with rows, which takes an interval of ten seconds after a start.
const AFTER: Duration = Duration::from_secs(25);

/// What is used up, and when it is interrupted.
#[derive(Clone, Copy, Debug)]
pub struct QuotaPlan {
    /// The quota of the scenario's tenant, in requests.
    pub quota: u64,
    /// The share of it at which the gateway is killed.
    pub kill_at: f64,
    /// Requests per second of the scenario.
    pub per_s: f64,
    /// Requests that can be in flight at once.
    pub in_flight: u64,
}

/// Uses a quota up and kills the gateway on the way. The scenario is of one tenant whose requests
/// cost one unit each.
pub async fn run(
    stage: &mut Stage,
    scenario: &Scenario,
    tenant: &str,
    plan: &QuotaPlan,
    quiet: bool,
) -> Result<AttackReport, AttackError> {
    let QuotaPlan { quota, kill_at, per_s, in_flight } = *plan;
    let scenarios = std::slice::from_ref(scenario);
    let using = Duration::from_secs_f64(quota as f64 / per_s);
    let load = Load::start(scenarios, using + AFTER, stage);
    let mut view = ProgressView::new("quota", quiet);
    let at = (quota as f64 * kill_at) as u64;
    let clock = Clock::start();
    while load.progress().ended < at && !load.is_finished() {
        if Duration::from_nanos(clock.now_ns()) > USE_LIMIT {
            return Err(AttackError::Never { what: "the kill's moment", limit: USE_LIMIT });
        }
        load.watch_for(Duration::from_millis(5), &mut view, "before the kill").await;
    }
    let ended_before = load.progress().ended;
    stage.gateway.kill().await;
    stage.gateway.start()?;
    stage.gateway_serves().await?;
    load.watch_to_end(&mut view).await;
    drop(view);

    let recordings = load.recordings().await?;
    let summary = LoadSummary::of(scenarios, &recordings);
    let answered = summary.answered(200);
    let refused = summary.answered(429);
    let mut verdict =
        settle(stage, Seen::new(scenarios, recordings), AuditSays::Clean, quiet).await?;
    let counted = counted(stage, tenant).await?;
    let mut wrong = Vec::new();
    if counted != quota {
        wrong.push(format!("ClickHouse counts {counted}, the quota is {quota}"));
    }
    verdict.add("the quota ends where ClickHouse does", quota, wrong);
    let mut wrong = Vec::new();
    if answered > quota || answered + in_flight < quota {
        wrong.push(format!(
            "{answered} were answered: at most {in_flight} fewer than {quota} may be"
        ));
    }
    verdict.add("nothing is forgiven or lost but what was in flight", answered, wrong);
    let none = if refused == 0 { vec!["nothing was refused".to_owned()] } else { Vec::new() };
    verdict.add("what is beyond is refused", refused, none);
    let facts = [
        ("quota", format!("{quota} requests a month")),
        ("killed after", format!("{ended_before} answers")),
        ("answered", answered.to_string()),
        ("refused", refused.to_string()),
        ("in ClickHouse", counted.to_string()),
    ];
    let facts = facts.map(|(what, is)| Fact::new(what, is)).to_vec();
    Ok(AttackReport::new("quota", facts, summary, verdict))
}

/// What ClickHouse counts for the tenant.
async fn counted(stage: &Stage, tenant: &str) -> Result<u64, TableError> {
    let sql = format!(
        "SELECT toUInt64(sum(quantity)) FROM usage_events \
         WHERE kind = 'request' AND meter = 'api_calls' AND tenant = '{tenant}' FORMAT TSV"
    );
    let counts = stage.table.numbers::<1>(&sql).await?;
    Ok(counts.first().map_or(0, |[counted]| *counted))
}
