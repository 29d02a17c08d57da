//! The disk with everything the gateway keeps is full to the last byte while ClickHouse is away; the
//! gateway is killed and started on it; and room comes back.
//!
//! With `on_full = "refuse"` clients are told (503, problem `temporary-reduced-capacity`) and
//! nothing is served that is not recorded; with `serve_unmetered` they notice nothing, and what
//! was served without a row of its own is in a sum. In both cases it recovers by itself. Only the
//! requests that the kill cuts off have no whole answer.

use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, StatusCode};
use rustix::process::Signal;

use crate::clock::Clock;
use crate::fetch::{get, send, text};
use crate::load::Load;
use crate::progress::ProgressView;
use crate::scenario::Scenario;
use crate::stage::disk::SmallDisk;
use crate::stage::{Stage, StageError};

use super::{AttackError, AttackReport, AuditSays, Fact, LoadSummary, OnFull, Seen, settle};

const CALM: Duration = Duration::from_secs(3);
/// How long the disk stays full.
const FULL: Duration = Duration::from_secs(10);
/// How long the journal may take to find out, either way.
const LIMIT: Duration = Duration::from_secs(30);
const AFTER: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(50);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const REDUCED_CAPACITY: &str =
    "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";

/// Fills the disk of a stage that was built with `on_full`. The first request kind of the scenario
/// must be one that is served.
pub async fn run(
    stage: &mut Stage,
    scenario: &Scenario,
    disk: &SmallDisk,
    on_full: OnFull,
    quiet: bool,
) -> Result<AttackReport, AttackError> {
    let scenarios = std::slice::from_ref(scenario);
    let load = Load::start(scenarios, CALM + LIMIT + FULL + AFTER, stage);
    let mut view = ProgressView::new("full disk", quiet);
    load.watch_for(CALM, &mut view, "").await;
    // Otherwise what is shipped would make room.
    stage.engine.signal(Signal::STOP);
    let filling = |source| AttackError::Disk { what: "fill the journal's disk", source };
    let mut filler = disk.fill().map_err(filling)?;
    let clock = Clock::start();
    while !stage.backlog().await?.full {
        overdue(&clock, "a full journal")?;
        filler.top_up().map_err(filling)?;
        load.watch_for(STEP, &mut view, "the disk is full").await;
    }
    let noticed_s = seconds(&clock);
    load.watch_for(FULL / 2, &mut view, "the journal is full").await;
    let mut probes = vec![("while it is full", probe(stage, scenario).await?, on_full)];
    let failed_before = load.progress().failed;
    let started_ms = restart(stage).await?;
    load.watch_for(FULL / 2, &mut view, "started while it is full").await;
    let cut_off = load.progress().failed - failed_before;
    probes.push(("started while it is full", probe(stage, scenario).await?, on_full));
    drop(filler);
    stage.engine.signal(Signal::CONT);
    let clock = Clock::start();
    while stage.backlog().await?.full {
        overdue(&clock, "room in the journal")?;
        load.watch_for(STEP, &mut view, "the disk has room").await;
    }
    let recovered_s = seconds(&clock);
    probes.push((
        "when there is room again",
        probe(stage, scenario).await?,
        OnFull::ServeUnmetered,
    ));
    load.watch_to_end(&mut view).await;
    drop(view);

    let mut recordings = load.recordings().await?;
    let summary = LoadSummary::of(scenarios, &recordings);
    for recording in &mut recordings {
        // What was asked beside the load may have rows as well.
        recording.record.kinds[0].aborted += probes.len() as u64;
    }
    let mut verdict =
        settle(stage, Seen::new(scenarios, recordings), AuditSays::Clean, quiet).await?;
    let wrong = probes.iter().filter_map(|(when, seen, like)| unlike(when, seen, *like)).collect();
    verdict.add("what clients are told is right", probes.len() as u64, wrong);
    let (mut wrong, obeyed) = on_full.judge(stage, scenarios, &summary, 1).await?;
    let failed = summary.failed();
    if failed > cut_off {
        wrong.push(format!("{} requests had no whole answer", failed - cut_off));
    }
    verdict.add("the setting is obeyed", summary.requests, wrong);
    let facts = [
        ("full", format!("after {noticed_s:.1} s without a byte of room")),
        ("killed and started", format!("serves after {started_ms} ms; {cut_off} were cut off")),
        ("room again", format!("noticed after {recovered_s:.1} s")),
    ];
    let facts = facts.map(|(what, is)| Fact::new(what, is));
    let facts = [obeyed].into_iter().chain(facts).collect();
    Ok(AttackReport::new(format!("full disk, {}", on_full.setting()), facts, summary, verdict))
}

/// Kills the gateway and starts it again; how long it took until it served, milliseconds.
async fn restart(stage: &mut Stage) -> Result<u64, AttackError> {
    stage.gateway.kill().await;
    let clock = Clock::start();
    stage.gateway.start()?;
    stage.gateway_serves().await?;
    Ok(clock.now_ns() / 1_000_000)
}

fn overdue(clock: &Clock, what: &'static str) -> Result<(), AttackError> {
    let late = Duration::from_nanos(clock.now_ns()) > LIMIT;
    if late { Err(AttackError::Never { what, limit: LIMIT }) } else { Ok(()) }
}

fn seconds(clock: &Clock) -> f64 {
    clock.now_ns() as f64 / 1e9
}

/// One request beside the load: its status and its body.
async fn probe(stage: &Stage, scenario: &Scenario) -> Result<(StatusCode, String), AttackError> {
    let kind = &scenario.requests[0];
    let mut request = get(&stage.target, &kind.path);
    let key = kind.key.as_ref().and_then(|label| stage.keys.get(label)).unwrap_or_default();
    if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {key}")) {
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let response = send(&stage.target, request, ANSWER_TIMEOUT).await.map_err(StageError::from)?;
    let status = response.status();
    let body = text(&stage.target, response, ANSWER_TIMEOUT).await.map_err(StageError::from)?;
    Ok((status, body))
}

/// What is wrong with an answer.
fn unlike(when: &str, (status, body): &(StatusCode, String), like: OnFull) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let right = match like {
        OnFull::Refuse => {
            *status == StatusCode::SERVICE_UNAVAILABLE && problem["type"] == REDUCED_CAPACITY
        }
        OnFull::ServeUnmetered => *status == StatusCode::OK,
    };
    (!right).then(|| format!("{when}, a request was answered {status}: {body}"))
}
