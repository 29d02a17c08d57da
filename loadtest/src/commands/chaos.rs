//! `loadtest chaos`, and the launcher of what it starts.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use orbit_loadtest::chaos::{self, schedule::Plan};
use orbit_loadtest::load::share_rate;
use orbit_loadtest::random::Random;
use orbit_loadtest::scenario::Scenario;
use orbit_loadtest::stage::disk::{self, SmallDisk};
use orbit_loadtest::stage::{Stage, StageSettings};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use tempfile::TempDir;

use super::{Outcome, finish, runtime};
use crate::arguments::{ChaosArguments, ChildArguments, StageArguments};

/// A disk that takes some seconds of traffic and is soon full when ClickHouse is away.
const DISK_BYTES: u64 = 128 << 20;
const SEGMENT_BYTES: u64 = 2 << 20;
const MAX_BYTES: u64 = 1 << 30;

/// Where a stage is built: a directory that is gone at the end unless it is to be kept.
pub(super) struct Place {
    pub(super) directory: PathBuf,
    _temporary: Option<TempDir>,
}

impl Place {
    pub(super) fn of(arguments: &StageArguments) -> Result<Place> {
        let Some(kept) = &arguments.keep else {
            let temporary = TempDir::new().context("cannot make a temporary directory")?;
            return Ok(Place {
                directory: temporary.path().to_owned(),
                _temporary: Some(temporary),
            });
        };
        std::fs::create_dir_all(kept).with_context(|| format!("cannot make {}", kept.display()))?;
        if std::fs::read_dir(kept)?.next().is_some() {
            bail!("{} is not empty: an earlier run is kept there", kept.display());
        }
        Ok(Place { directory: kept.canonicalize()?, _temporary: None })
    }

    pub(super) fn settings(&self, arguments: &StageArguments) -> Result<StageSettings> {
        Ok(StageSettings {
            orbit: arguments.orbit.clone(),
            launcher: std::env::current_exe().context("cannot find this program")?,
            directory: self.directory.clone(),
            journal: None,
            segment_bytes: SEGMENT_BYTES,
            max_bytes: MAX_BYTES,
            on_full: "refuse",
        })
    }
}

/// Runs what attacks until it is done, or Ctrl-C ends it: everything is then taken down in order.
pub(super) fn until_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(async {
        tokio::select! {
            done = work => done,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("cannot listen for Ctrl-C")?;
                bail!("interrupted")
            }
        }
    })
}

/// Attacks a whole Orbit under load.
pub(crate) fn chaos(arguments: &ChaosArguments) -> Result<Outcome> {
    let mut scenarios =
        arguments.scenarios.iter().map(|path| Scenario::read(path)).collect::<Result<Vec<_>, _>>()?;
    if let Some(rate) = arguments.rate {
        share_rate(&mut scenarios, rate);
    }
    let plan = plan(arguments);
    let place = Place::of(&arguments.stage)?;
    let mut settings = place.settings(&arguments.stage)?;
    // Before the first thread is started.
    let disk = match disk::isolate_mounts() {
        Ok(()) => {
            let disk = SmallDisk::mount(&place.directory.join("disk"), DISK_BYTES)
                .context("cannot mount a small disk for the journal")?;
            settings.journal = Some(disk.directory().join("journal"));
            Some(disk)
        }
        // Not root: the report says that the disk was not filled.
        Err(_) => None,
    };
    let quiet = arguments.stage.quiet;
    let report = until_interrupted(async {
        let mut stage = Stage::build(&settings).await?;
        Ok(chaos::run(&mut stage, &scenarios, &plan, disk.as_ref(), quiet).await?)
    })?;
    finish(&report, &report.findings, arguments.stage.json.as_deref())
}

/// What was asked for; else a rate at which everything that is killed also works for a while.
fn plan(arguments: &ChaosArguments) -> Plan {
    let length_s = arguments.duration_s;
    let every = |seconds: f64| (length_s / seconds).ceil() as u32;
    Plan {
        seed: arguments.seed.unwrap_or_else(Random::seed),
        length: Duration::from_secs_f64(length_s),
        gateway_kills: arguments.gateway_kills.unwrap_or_else(|| every(5.5)),
        engine_kills: arguments.clickhouse_kills.unwrap_or_else(|| every(18.0)),
        stops: every(15.0),
        faults: every(5.0),
        fills: every(45.0),
    }
}

/// Becomes another program, which is killed when whoever started this one ends.
pub(crate) fn child(arguments: &ChildArguments) -> Result<Outcome> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot follow the parent")?;
    // Whoever started this may have ended before it was asked for.
    if getppid().is_none_or(|parent| parent.as_raw_nonzero().get() == 1) {
        bail!("whoever started this is gone");
    }
    let [program, rest @ ..] = &arguments.command[..] else { bail!("no program is given") };
    let error = Command::new(program).args(rest).exec();
    let program: &OsString = program;
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
