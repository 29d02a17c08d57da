//! ClickHouse is away for long: no client may notice, and what has piled up must be gone much
//! faster than it came, while traffic goes on.
//!
//! The first half of the time it is stopped (it accepts connections and answers nothing), the
//! second half it is dead.

use std::time::Duration;

use rustix::process::Signal;

use crate::clock::Clock;
use crate::load::Load;
use crate::progress::ProgressView;
use crate::report::Report;
use crate::scenario::Scenario;
use crate::stage::Stage;

use super::{AttackError, AttackReport, AuditSays, Fact, LoadSummary, Seen, settle};

/// Load before anything happens.
const CALM: Duration = Duration::from_secs(5);
/// Load after it has caught up, at least.
const AFTER: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long, and what is asked for.
#[derive(Clone, Copy, Debug)]
pub struct OutagePlan {
    /// How long ClickHouse is away.
    pub outage: Duration,
    /// Requests per second of the scenario.
    pub per_s: f64,
    /// What piled up must go so many times faster than it came.
    pub times_faster: f64,
}

/// Takes ClickHouse away under load.
pub async fn run(
    stage: &mut Stage,
    scenario: &Scenario,
    plan: &OutagePlan,
    quiet: bool,
) -> Result<AttackReport, AttackError> {
    let OutagePlan { outage, per_s, times_faster } = *plan;
    let longest = outage.div_f64(times_faster);
    // Traffic goes on for half as long again as catching up may take.
    let length = CALM + outage + longest.mul_f64(1.5) + AFTER;
    let scenarios = std::slice::from_ref(scenario);
    let load = Load::start(scenarios, length, stage);
    let mut view = ProgressView::new("outage", quiet);
    load.watch_for(CALM, &mut view, "").await;
    stage.engine.signal(Signal::STOP);
    load.watch_for(outage / 2, &mut view, "ClickHouse is stopped").await;
    stage.engine.kill().await;
    load.watch_for(outage / 2, &mut view, "ClickHouse is dead").await;

    let backlog = stage.backlog().await?.events;
    stage.engine.start()?;
    stage.engine_answers().await?;
    let clock = Clock::start();
    let mut left = backlog;
    // At this rate, what is less than a second old is no backlog.
    while left as f64 > per_s && !load.is_finished() {
        load.watch_for(POLL_INTERVAL, &mut view, &format!("{left} events to ship")).await;
        left = stage.backlog().await?.events;
    }
    let caught_up = !load.is_finished();
    let took_s = clock.now_ns() as f64 / 1e9;
    load.watch_to_end(&mut view).await;
    drop(view);

    let recordings = load.recordings().await?;
    let errors: Vec<String> = scenarios
        .iter()
        .zip(&recordings)
        .flat_map(|(scenario, recording)| Report::new(scenario, &stage.target, recording).findings)
        .collect();
    let summary = LoadSummary::of(scenarios, &recordings);
    let mut verdict =
        settle(stage, Seen::new(scenarios, recordings), AuditSays::Clean, quiet).await?;
    verdict.add("no client sees an error", summary.requests, errors);
    let shipped_per_s = backlog as f64 / took_s;
    let mut wrong = Vec::new();
    if !caught_up {
        wrong.push(format!("{left} events were left when the load ended"));
    } else if shipped_per_s < times_faster * per_s {
        wrong.push(format!(
            "what came at {per_s:.0} events a second went at {shipped_per_s:.0}: not \
             {times_faster} times as fast"
        ));
    }
    verdict.add("catching up is fast", backlog, wrong);
    let facts = [
        ("ClickHouse away", format!("{:.0} s at {per_s:.0} requests/s", outage.as_secs_f64())),
        ("backlog", format!("{backlog} events")),
        ("caught up in", format!("{took_s:.1} s: {shipped_per_s:.0} events/s, traffic going on")),
        ("faster than it came", format!("{:.1} times", shipped_per_s / per_s)),
    ];
    let facts = facts.map(|(what, is)| Fact::new(what, is)).to_vec();
    Ok(AttackReport::new("outage", facts, summary, verdict))
}
