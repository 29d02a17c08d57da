//! The subcommands: from arguments to a report on standard output.

mod attack;
mod stage;

use std::fmt::Display;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use orbit_loadtest::clock::Clock;
use orbit_loadtest::compare::{Side, compare as compare_sides};
use orbit_loadtest::fresh_keys::{self, FreshKeys};
use orbit_loadtest::generator::{Recording, Run, run as run_scenario};
use orbit_loadtest::ingest::{IngestReport, IngestRun, check, send};
use orbit_loadtest::keys::{Keys, Secret};
use orbit_loadtest::ledger::audit::{audit, expectations};
use orbit_loadtest::ledger::table::{Patience, Table};
use orbit_loadtest::ledger::{Expectation, LedgerVerdict};
use orbit_loadtest::progress::ProgressView;
use orbit_loadtest::reload::{
    Admin, ReloadOutcome, ReloadPlan, Toggle, Trigger, first_policy_file, reload as reload_policy,
};
use orbit_loadtest::report::Report;
use orbit_loadtest::scenario::{Amount, Rate, Scenario};
use orbit_loadtest::target::Target;
use orbit_loadtest::upstream::Upstream;
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::{
    CompareArguments, IngestArguments, KeysArguments, ReloadArguments, RunArguments,
    ScenarioArguments, TableArguments, TriggerChoice, UpstreamArguments,
};

pub(crate) use attack::{alerts, chaos, disk, kills, outage, power, quota};
pub(crate) use stage::child;

/// How a command that could be carried out went.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    AsExpected,
    Findings,
}

/// Serves fake upstreams until SIGTERM, SIGINT, or the end of standard input when asked.
pub(crate) fn upstream(arguments: &UpstreamArguments) -> Result<Outcome> {
    runtime()?.block_on(async {
        let port = arguments.port;
        let upstream =
            Upstream::bind(port).await.with_context(|| format!("cannot bind 127.0.0.1:{port}"))?;
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stdin_closed = stdin_closed(arguments.until_stdin_closes);
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{}", upstream.address())?;
        stdout.flush()?;
        upstream
            .serve(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    () = stdin_closed => {}
                }
            })
            .await;
        Ok(Outcome::AsExpected)
    })
}

/// Completes at the end of standard input, or never.
async fn stdin_closed(watched: bool) {
    if !watched {
        return std::future::pending().await;
    }
    let (closed, at_end) = tokio::sync::oneshot::channel();
    // A thread of its own: the runtime would wait for a blocking read when it ends.
    std::thread::spawn(move || {
        let mut ignored = [0; 1024];
        while matches!(std::io::stdin().read(&mut ignored), Ok(bytes) if bytes > 0) {}
        // Nobody listens any more when the server has ended already.
        closed.send(()).ok();
    });
    // An error means that the thread is gone, and with it what it watched.
    at_end.await.ok();
}

/// Makes keys for the scenarios.
pub(crate) fn keys(arguments: &KeysArguments) -> Result<Outcome> {
    let FreshKeys { document, keys_file } = fresh_keys::write(&arguments.dir)?;
    let (document, keys_file) = (document.display(), keys_file.display());
    writeln!(std::io::stdout(), "hashes for the gateway: {document}\nkeys: {keys_file}")?;
    Ok(Outcome::AsExpected)
}

/// Runs a scenario.
pub(crate) fn run(arguments: &RunArguments) -> Result<Outcome> {
    let prepared = Prepared::new(arguments)?;
    let (recording, ledger) = prepared.record(arguments, None)?;
    let mut report = Report::new(&prepared.scenario, &prepared.target, &recording);
    if let Some(ledger) = ledger {
        report = report.with_ledger(ledger);
    }
    finish(&report, &report.findings, arguments.scenario.json.as_deref())
}

/// Runs a scenario while a policy file is rewritten.
pub(crate) fn reload(arguments: &ReloadArguments) -> Result<Outcome> {
    let prepared = Prepared::new(&arguments.run)?;
    let plan = reload_plan(arguments, &prepared.scenario)?;
    let reloading = Arc::new(AtomicBool::new(false));
    let stop = AtomicBool::new(false);
    let ((recording, ledger), outcome) = std::thread::scope(|scope| {
        let reloader = scope.spawn(|| -> Result<ReloadOutcome> {
            Ok(runtime()?.block_on(reload_policy(&plan, &reloading, &stop)))
        });
        let recorded = prepared.record(&arguments.run, Some((&reloading, &stop)));
        stop.store(true, Ordering::Relaxed);
        let Ok(outcome) = reloader.join() else { bail!("the reloads panicked") };
        Ok((recorded?, outcome?))
    })?;
    let mut report = Report::new(&prepared.scenario, &prepared.target, &recording);
    let latency = recording.record.reload.as_ref().context("the run kept no reload latency")?;
    report = report.with_reloads(outcome, latency, arguments.max_p99_ratio);
    if let Some(ledger) = ledger {
        report = report.with_ledger(ledger);
    }
    finish(&report, &report.findings, arguments.run.scenario.json.as_deref())
}

/// Sends events and proves that each counted once.
pub(crate) fn ingest(arguments: &IngestArguments) -> Result<Outcome> {
    let Some(table) = table(&arguments.table)? else {
        bail!("give --clickhouse-url: that each event counted once is in its rows")
    };
    let started_us = Clock::start().unix_us(0);
    let run = IngestRun {
        target: arguments.url.clone(),
        token: Secret::read(&arguments.token_file)?,
        events: arguments.events,
        batch: arguments.batch,
        resend_percent: arguments.duplicates,
        clients: arguments.clients,
        seed: arguments.seed.unwrap_or(started_us.cast_unsigned()),
        tenant: arguments.tenant.clone(),
        pause: Duration::ZERO,
        patience: Duration::from_secs_f64(arguments.give_up_s),
        run: started_us,
    };
    writeln!(std::io::stderr(), "seed {}", run.seed).context("cannot write the seed")?;
    let (events, quiet) = (run.events, arguments.quiet);
    let report = runtime()?.block_on(async {
        let mut view = ProgressView::new("ingest", quiet);
        let sent = send(&run, &mut |done| view.counted(done, events, "acknowledged")).await?;
        drop(view);
        let mut view = ProgressView::new("rows", quiet);
        let patience = Patience::at_most(Duration::from_secs_f64(arguments.table.ledger_wait_s));
        let mut watch = |rows| view.counted(rows, events, "events in ClickHouse");
        let rows = check(&table, &run, &patience, &mut watch).await?;
        anyhow::Ok(IngestReport::new(&run, &sent, rows))
    })?;
    finish(&report, &report.findings, arguments.json.as_deref())
}

/// Compares two servers.
pub(crate) fn compare(arguments: &CompareArguments) -> Result<Outcome> {
    let (scenario, keys) = scenario(&arguments.scenario)?;
    let sides = [
        Side { target: arguments.a_url.clone(), pids: arguments.a_pids.clone() },
        Side { target: arguments.b_url.clone(), pids: arguments.b_pids.clone() },
    ];
    let quiet = arguments.scenario.quiet;
    let mut view: Option<(String, ProgressView)> = None;
    let comparison = compare_sides(
        &scenario,
        &keys,
        &sides,
        arguments.rounds,
        arguments.max_ratio,
        &mut |title, progress| {
            if view.as_ref().is_none_or(|(shown, _)| shown != title) {
                view = Some((title.to_owned(), ProgressView::new(title, quiet)));
            }
            if let Some((_, view)) = &mut view {
                view.run(progress);
            }
        },
    )?;
    drop(view);
    finish(&comparison, &comparison.findings, arguments.scenario.json.as_deref())
}

/// A run whose arguments have been resolved.
struct Prepared {
    scenario: Scenario,
    keys: Keys,
    target: Target,
    ledger: Option<(Table, Vec<Expectation>)>,
}

impl Prepared {
    fn new(arguments: &RunArguments) -> Result<Prepared> {
        let (scenario, keys) = scenario(&arguments.scenario)?;
        let target = match (&arguments.url, &scenario.url) {
            (Some(url), _) => url.clone(),
            (None, Some(url)) => url.parse()?,
            (None, None) => bail!("the scenario has no url: give --url http://127.0.0.1:PORT"),
        };
        let ledger = match table(&arguments.ledger.table)? {
            Some(table) if arguments.ledger.ledger => Some((table, expectations(&scenario)?)),
            _ => None,
        };
        Ok(Prepared { scenario, keys, target, ledger })
    }

    /// Makes the run, and the comparison with the ledger. `reloads` are the flag that tells of
    /// them and the one that ends them.
    fn record(
        &self,
        arguments: &RunArguments,
        reloads: Option<(&Arc<AtomicBool>, &AtomicBool)>,
    ) -> Result<(Recording, Option<LedgerVerdict>)> {
        let quiet = arguments.scenario.quiet;
        let mut view = ProgressView::new(&self.scenario.name, quiet);
        let plan = Run {
            scenario: &self.scenario,
            target: &self.target,
            keys: &self.keys,
            pids: &arguments.pids,
            keep_answers: self.ledger.is_some(),
            reloading: reloads.map(|(reloading, _)| Arc::clone(reloading)),
        };
        let mut recording = run_scenario(&plan, &mut |progress| view.run(progress))?;
        drop(view);
        if let Some((_, stop)) = reloads {
            stop.store(true, Ordering::Relaxed);
        }
        let Some((table, expectations)) = &self.ledger else { return Ok((recording, None)) };
        let mut view = ProgressView::new("ledger", quiet);
        let patience =
            Patience::at_most(Duration::from_secs_f64(arguments.ledger.table.ledger_wait_s));
        let verdict = runtime()?.block_on(audit(
            table,
            expectations.clone(),
            &mut recording,
            &patience,
            &mut |recorded, expected| view.recorded(recorded, expected),
        ))?;
        Ok((recording, Some(verdict)))
    }
}

fn scenario(arguments: &ScenarioArguments) -> Result<(Scenario, Keys)> {
    let mut scenario = Scenario::read(&arguments.scenario)?;
    if let Some(rate) = arguments.rate {
        scenario.rate = rate;
    }
    if let Some(connections) = arguments.connections {
        scenario.connections = connections;
        scenario.threads = scenario.threads.min(connections);
    }
    if let Some(requests) = arguments.requests {
        scenario.amount = Amount::Requests(requests);
    }
    if let Some(seconds) = arguments.duration_s {
        scenario.amount = Amount::Duration(Duration::from_secs_f64(seconds));
    }
    let keys = match &arguments.keys_file {
        Some(path) => Keys::read(path)?,
        None => Keys::default(),
    };
    Ok((scenario, keys))
}

fn table(arguments: &TableArguments) -> Result<Option<Table>> {
    let Some(target) = arguments.clickhouse_url.clone() else { return Ok(None) };
    let password = match &arguments.clickhouse_password_file {
        Some(path) => Secret::read(path)?,
        None => Secret::new(std::env::var("ORBIT_CLICKHOUSE_PASSWORD").unwrap_or_default()),
    };
    Ok(Some(Table {
        target,
        user: arguments.clickhouse_user.clone(),
        password,
        database: arguments.clickhouse_database.clone(),
    }))
}

fn reload_plan(arguments: &ReloadArguments, scenario: &Scenario) -> Result<ReloadPlan> {
    let file = match &arguments.file {
        Some(name) => arguments.policy_dir.join(name),
        None => first_policy_file(&arguments.policy_dir)?,
    };
    let over = match (scenario.rate, scenario.amount) {
        (_, Amount::Duration(duration)) => duration + scenario.warmup,
        (Rate::PerSecond(rate), Amount::Requests(requests)) => {
            Duration::from_secs_f64(requests as f64 / rate)
        }
        (Rate::Max, Amount::Requests(_)) => {
            bail!("at full speed nobody knows how long requests take: give --duration-s")
        }
    };
    Ok(ReloadPlan {
        file,
        toggle: match (&arguments.replace, &arguments.with) {
            (Some(from), Some(to)) => Toggle::Replace { from: from.clone(), to: to.clone() },
            _ => Toggle::Comment,
        },
        times: arguments.times,
        over,
        trigger: match arguments.trigger {
            TriggerChoice::Watch => Trigger::Watch,
            TriggerChoice::Apply => Trigger::Apply(arguments.apply_path.clone()),
        },
        admin: Admin {
            target: arguments.admin_url.clone(),
            token: Secret::read(&arguments.token_file)?,
        },
        effect_limit: Duration::from_secs_f64(arguments.effect_within_s),
    })
}

/// Prints a report, writes its JSON, and turns its findings into the outcome.
fn finish<R: Display + Serialize>(
    report: &R,
    findings: &[String],
    json: Option<&Path>,
) -> Result<Outcome> {
    write!(std::io::stdout(), "{report}").context("cannot write the report")?;
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(report).context("cannot write JSON")?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if findings.is_empty() { Outcome::AsExpected } else { Outcome::Findings })
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")
}
