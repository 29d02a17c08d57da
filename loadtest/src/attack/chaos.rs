//! Load while everything around it dies: kills, stops, a network that lies and a disk that is
//! full, by a schedule from a seed. Beside the requests, events are ingested.
//!
//! The load goes on as if nothing happened. When the last attack is over, what is dead is started
//! again, and the answers are compared with the rows.

mod carry_out;
pub mod schedule;

use std::time::Duration;

use crate::generator::Burst;
use crate::ledger::audit::expectations;
use crate::load::Load;
use crate::progress::ProgressView;
use crate::scenario::Scenario;
use crate::stage::Stage;
use crate::stage::disk::SmallDisk;

use super::events::Events;
use super::{AttackError, AttackReport, AuditSays, Fact, LoadSummary, OnFull, Seen, settle};
use carry_out::{Attacks, Tally};
use schedule::{Plan, schedule};

/// Sent at the same moment before each kill of the gateway: what it answers, and is killed in the midst
/// of, is found by nobody else.
const BURST: &str = r#"
name = "burst"
rate = "max"
requests = 1
connections = 24
[[request]]
name = "burst"
path = "/load/fixed/200"
key = "LOAD_OTHER"
tenant = "load-other"
app = "load"
route = "load-fixed"
"#;

/// Of the load's time, this much is left in peace at either end.
const CALM: Duration = Duration::from_secs(2);

/// Attacks a stage under the load of all `scenarios` at once and judges what came of it. `disk` has
/// what the gateway keeps, and is filled; the stage was built with `on_full`. Must run on a thread that lives as long as the stage, on a
/// runtime of that thread alone.
pub async fn run(
    stage: &mut Stage,
    scenarios: &[Scenario],
    plan: &Plan,
    disk: Option<&SmallDisk>,
    on_full: OnFull,
    quiet: bool,
) -> Result<AttackReport, AttackError> {
    let moments = schedule(&Plan { length: plan.length.saturating_sub(2 * CALM), ..*plan });
    let load = Load::start(scenarios, plan.length, stage);
    let events = Events::start(stage, plan.seed, plan.length)?;
    let mut view = ProgressView::new("chaos", quiet);
    let scenario = Scenario::parse("burst", BURST)?;
    let mut burst = Burst::new(&scenario, &stage.target, &stage.keys)?;
    let mut attacks = Attacks::new(stage, disk, &load, &mut burst, &mut view);
    attacks.pause(CALM).await?;
    attacks.carry_out(&moments).await?;
    attacks.end().await?;
    let tally = attacks.tally();
    load.watch_to_end(&mut view).await;
    drop(view);
    let recordings = load.recordings().await?;
    let summary = LoadSummary::of(scenarios, &recordings);
    let events = events.acknowledged().await?;
    let mut expected = expectations(&scenario)?.remove(0);
    expected.open = burst.open;
    let struck = format!("{} answers, {} without one", burst.answers.len(), burst.open);
    let seen = Seen { scenarios, recordings, beside: Some((expected, burst.answers)) };
    let mut verdict = settle(stage, seen, AuditSays::Clean, quiet).await?;

    let mut facts = facts(plan, &tally, stage, disk.is_some());
    facts.push(Fact::new("bursts before kills", struck));
    facts.push(events.judge(stage, &mut verdict).await?);
    if disk.is_some() && plan.fills > 0 {
        let (wrong, obeyed) = on_full.judge(stage, scenarios, &summary, tally.fills).await?;
        verdict.add("a full disk does what is set", tally.fills.into(), wrong);
        facts.push(obeyed);
    }
    let mut report = AttackReport::new("chaos", facts, summary, verdict);
    let full_kills = if disk.is_some() { plan.fills } else { 0 };
    for (what, asked, done) in [
        ("the gateway", plan.gateway_kills, tally.gateway_kills),
        ("ClickHouse", plan.engine_kills, tally.engine_kills),
        ("the gateway, its disk full,", full_kills, tally.full_kills),
    ] {
        if done < asked {
            report.findings.push(format!("{what} was killed {done} times, not {asked}"));
        }
    }
    Ok(report)
}

fn facts(plan: &Plan, tally: &Tally, stage: &Stage, small_disk: bool) -> Vec<Fact> {
    let Tally { gateway_kills, engine_kills, gateway_stops, engine_stops, .. } = tally;
    let Tally { faults, fills, full_kills, gateway_starts, slowest_start_ms, .. } = tally;
    let proxy = stage.faults.tally();
    let starts = stage.gateway.starts();
    let gateway = format!("{gateway_kills} kills, {gateway_stops} stops, {starts} starts");
    let starts = stage.engine.starts();
    let aborts = stage.engine.aborts();
    let engine = format!(
        "{engine_kills} kills, {engine_stops} stops, {aborts} aborts of its own, {starts} starts"
    );
    let disk = if small_disk {
        format!("filled {fills} times, the gateway killed and started on it {full_kills} times")
    } else {
        "not filled, as asked".to_owned()
    };
    [
        ("seed", plan.seed.to_string()),
        ("load", format!("{:.0} s", plan.length.as_secs_f64())),
        ("gateway", gateway),
        ("slowest start-up", format!("{slowest_start_ms} ms of {gateway_starts}")),
        ("ClickHouse", engine),
        ("network faults", faults.to_string()),
        (
            "connections",
            format!(
                "{}, {} of them reset: {} within a request, {} in place of an answer",
                proxy.connections, proxy.resets, proxy.cut, proxy.swallowed
            ),
        ),
        ("the disk", disk),
    ]
    .map(|(what, is)| Fact::new(what, is))
    .to_vec()
}
