//! The attacks: from arguments to a stage, and from what came of it to a report.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use orbit_loadtest::attack::OnFull;
use orbit_loadtest::attack::alerts::{self, AlertsPlan};
use orbit_loadtest::attack::chaos::{self, schedule::Plan};
use orbit_loadtest::attack::disk as full_disk;
use orbit_loadtest::attack::kills::{self, KillPlan};
use orbit_loadtest::attack::outage::{self, OutagePlan};
use orbit_loadtest::attack::power::{self, PowerDisk};
use orbit_loadtest::attack::quota::{self, QuotaPlan};
use orbit_loadtest::load::share_rate;
use orbit_loadtest::random::Random;
use orbit_loadtest::scenario::{Rate, Scenario};
use orbit_loadtest::stage::Stage;
use orbit_loadtest::stage::disk::{SmallDisk, isolate_mounts};

use super::stage::{Place, until_interrupted};
use super::{Outcome, finish};
use crate::arguments::{
    AlertsArguments, ChaosArguments, DiskArguments, KillsArguments, LoadArguments, OnFullChoice,
    OutageArguments, PowerArguments, QuotaArguments,
};

const MIB: u64 = 1 << 20;

/// Everything at once.
pub(crate) fn chaos(arguments: &ChaosArguments) -> Result<Outcome> {
    let scenarios = scenarios(&arguments.load)?;
    let plan = chaos_plan(arguments);
    let (stage, quiet) = (&arguments.load.stage, arguments.load.stage.quiet);
    let place = Place::of(stage)?;
    let mut settings = place.settings(stage, 2 * MIB, 1024 * MIB)?;
    let on_full = on_full(arguments.on_full);
    settings.on_full = on_full.setting();
    let disk = if arguments.no_disk {
        None
    } else {
        isolate_mounts().context("only root can mount a small disk to fill; see --no-disk")?;
        // It takes some seconds of traffic and is soon full when ClickHouse is away.
        Some(small_disk(&place, 160 * MIB)?)
    };
    settings.data = disk.as_ref().map(|disk| disk.directory().to_owned());
    let report = until_interrupted(async {
        let mut stage = Stage::build(&settings).await?;
        Ok(chaos::run(&mut stage, &scenarios, &plan, disk.as_ref(), on_full, quiet).await?)
    })?;
    finish(&report, &report.findings, stage.json.as_deref())
}

/// The seed that was asked for, or another. Told at once: a run that never ends is worth repeating.
fn told(seed: Option<u64>) -> u64 {
    let seed = seed.unwrap_or_else(Random::seed);
    // Without standard error, the report still says it.
    drop(writeln!(std::io::stderr(), "seed {seed}"));
    seed
}

/// What was asked for; else a rate at which everything that is killed also works for a while.
fn chaos_plan(arguments: &ChaosArguments) -> Plan {
    let length_s = arguments.duration_s;
    let every = |seconds: f64| (length_s / seconds).ceil() as u32;
    Plan {
        seed: told(arguments.seed),
        length: Duration::from_secs_f64(length_s),
        gateway_kills: arguments.gateway_kills.unwrap_or_else(|| every(5.5)),
        engine_kills: arguments.clickhouse_kills.unwrap_or_else(|| every(18.0)),
        stops: every(15.0),
        faults: every(5.0),
        fills: every(45.0),
    }
}

/// The tenant of the load tests' policy that has a monthly quota, and the quota.
const QUOTA_TENANT: (&str, u64) = ("load-quota", 20_000);

/// A quota is used up under a kill.
pub(crate) fn quota(arguments: &QuotaArguments) -> Result<Outcome> {
    let (scenario, per_s) = only_scenario(&arguments.load)?;
    let (tenant, quota) = QUOTA_TENANT;
    let in_flight = u64::from(scenario.workers());
    let plan = QuotaPlan { quota, kill_at: arguments.kill_at, per_s, in_flight };
    let (stage, quiet) = (&arguments.load.stage, arguments.load.stage.quiet);
    let place = Place::of(stage)?;
    let settings = place.settings(stage, 64 * MIB, 1024 * MIB)?;
    let report = until_interrupted(async {
        let mut stage = Stage::build(&settings).await?;
        Ok(quota::run(&mut stage, &scenario, tenant, &plan, quiet).await?)
    })?;
    finish(&report, &report.findings, stage.json.as_deref())
}

/// Crossings of quotas are told, whatever dies.
pub(crate) fn alerts(arguments: &AlertsArguments) -> Result<Outcome> {
    let plan = AlertsPlan {
        crossings: arguments.crossings,
        over: Duration::from_secs_f64(arguments.over_s),
        gateway_kills: arguments.gateway_kills,
        receiver_kills: arguments.receiver_kills,
        receiver: arguments.receiver.clone(),
        seed: told(arguments.seed),
    };
    let (stage, quiet) = (&arguments.stage, arguments.stage.quiet);
    let place = Place::of(stage)?;
    let settings = place.settings(stage, 2 * MIB, 256 * MIB)?;
    let report = until_interrupted(async { Ok(alerts::run(&settings, &plan, quiet).await?) })?;
    finish(&report, &report.findings, stage.json.as_deref())
}

/// ClickHouse is away for long.
pub(crate) fn outage(arguments: &OutageArguments) -> Result<Outcome> {
    let (scenario, per_s) = only_scenario(&arguments.load)?;
    let plan = OutagePlan {
        outage: Duration::from_secs_f64(arguments.outage_s),
        per_s,
        times_faster: arguments.times_faster,
    };
    let (stage, quiet) = (&arguments.load.stage, arguments.load.stage.quiet);
    let place = Place::of(stage)?;
    let settings = place.settings(stage, 64 * MIB, 16 * 1024 * MIB)?;
    let report = until_interrupted(async {
        let mut stage = Stage::build(&settings).await?;
        Ok(outage::run(&mut stage, &scenario, &plan, quiet).await?)
    })?;
    finish(&report, &report.findings, stage.json.as_deref())
}

/// The disk is full.
pub(crate) fn disk(arguments: &DiskArguments) -> Result<Outcome> {
    let (scenario, _) = only_scenario(&arguments.load)?;
    let on_full = on_full(arguments.on_full);
    let (stage, quiet) = (&arguments.load.stage, arguments.load.stage.quiet);
    let place = Place::of(stage)?;
    isolate_mounts().context("only root can mount a small disk to fill")?;
    let disk = small_disk(&place, 80 * MIB)?;
    let mut settings = place.settings(stage, MIB / 4, 1024 * MIB)?;
    settings.data = Some(disk.directory().to_owned());
    settings.on_full = on_full.setting();
    let report = until_interrupted(async {
        let mut stage = Stage::build(&settings).await?;
        Ok(full_disk::run(&mut stage, &scenario, &disk, on_full, quiet).await?)
    })?;
    finish(&report, &report.findings, stage.json.as_deref())
}

/// The machine loses power.
pub(crate) fn power(arguments: &PowerArguments) -> Result<Outcome> {
    let scenarios = scenarios(&arguments.load)?;
    let seed = told(arguments.seed);
    let (stage, quiet) = (&arguments.load.stage, arguments.load.stage.quiet);
    let place = Place::of(stage)?;
    isolate_mounts().context("only root can mount a disk for the journal")?;
    let mut settings = place.settings(stage, 2 * MIB, 128 * MIB)?;
    let report = until_interrupted(async {
        let mut disk = PowerDisk::make(&place.directory).await?;
        settings.data = Some(disk.directory().to_owned());
        let mut stage = Stage::build(&settings).await?;
        Ok(power::run(&mut stage, &scenarios, &mut disk, seed, quiet).await?)
    })?;
    finish(&report, &report.findings, stage.json.as_deref())
}

/// The gateway dies while another program works with it.
pub(crate) fn kills(arguments: &KillsArguments) -> Result<Outcome> {
    let plan = KillPlan {
        kills: arguments.kills,
        every: Duration::from_secs_f64(arguments.every_s),
        seed: told(arguments.seed),
    };
    let (stage, quiet) = (&arguments.stage, arguments.stage.quiet);
    let place = Place::of(stage)?;
    let settings = place.settings(stage, 16 * MIB, 4 * 1024 * MIB)?;
    let report = until_interrupted(async {
        let mut stage = Stage::build(&settings).await?;
        Ok(kills::run(&mut stage, &arguments.command, &plan, quiet).await?)
    })?;
    finish(&report, &report.findings, stage.json.as_deref())
}

fn on_full(choice: OnFullChoice) -> OnFull {
    match choice {
        OnFullChoice::Refuse => OnFull::Refuse,
        OnFullChoice::ServeUnmetered => OnFull::ServeUnmetered,
    }
}

fn small_disk(place: &Place, bytes: u64) -> Result<SmallDisk> {
    SmallDisk::mount(&place.directory.join("disk"), bytes).context("cannot mount a small disk")
}

fn scenarios(arguments: &LoadArguments) -> Result<Vec<Scenario>> {
    let mut scenarios = arguments
        .scenarios
        .iter()
        .map(|path| Scenario::read(path))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(rate) = arguments.rate {
        share_rate(&mut scenarios, rate);
    }
    Ok(scenarios)
}

/// The scenario, where there can be only one, and its rate.
fn only_scenario(arguments: &LoadArguments) -> Result<(Scenario, f64)> {
    let Ok([scenario]) = <[Scenario; 1]>::try_from(scenarios(arguments)?) else {
        bail!("give one scenario");
    };
    match scenario.rate {
        Rate::PerSecond(per_s) => Ok((scenario, per_s)),
        Rate::Max => {
            bail!("the scenario must have a rate: what is full speed before is less after")
        }
    }
}
