//! The command line of the attacks.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{per_second, seconds};

pub(super) const CHAOS_EXAMPLES: &str = "\
Examples:
  loadtest chaos loadtest/scenarios/chaos*.toml --orbit target/release/orbit
  loadtest chaos loadtest/scenarios/chaos.toml --orbit target/release/orbit --duration-s 120
  loadtest chaos loadtest/scenarios/chaos.toml --orbit target/release/orbit --on-full serve_unmetered
  loadtest chaos loadtest/scenarios/chaos.toml --orbit target/release/orbit --seed 42 --keep /tmp/x";
pub(super) const OUTAGE_EXAMPLES: &str = "\
Examples:
  loadtest outage loadtest/scenarios/served.toml --orbit target/release/orbit
  loadtest outage loadtest/scenarios/served.toml --orbit target/release/orbit --outage-s 60";
pub(super) const DISK_EXAMPLES: &str = "\
Examples:
  loadtest disk loadtest/scenarios/served.toml --orbit target/release/orbit --rate 2000
  loadtest disk loadtest/scenarios/served.toml --orbit target/release/orbit --on-full serve_unmetered";
pub(super) const QUOTA_EXAMPLES: &str = "\
Examples:
  loadtest quota loadtest/scenarios/quota.toml --orbit target/release/orbit
  loadtest quota loadtest/scenarios/quota.toml --orbit target/debug/orbit --rate 1000";
pub(super) const ALERTS_EXAMPLES: &str = "\
Examples:
  loadtest alerts --orbit target/release/orbit
  loadtest alerts --orbit target/debug/orbit --crossings 300 --over-s 8 --gateway-kills 4";
pub(super) const POWER_EXAMPLES: &str = "\
Examples:
  loadtest power loadtest/scenarios/chaos.toml --orbit target/release/orbit
  loadtest power loadtest/scenarios/chaos.toml --orbit target/release/orbit --seed 42";
pub(super) const KILLS_EXAMPLES: &str = "\
Examples:
  loadtest kills --orbit target/release/orbit --kills 20 -- loadtest ingest --events 1000000";

/// For every command that builds an Orbit of its own.
#[derive(Args)]
pub(crate) struct StageArguments {
    /// The `orbit` binary.
    #[arg(long, value_name = "FILE")]
    pub(crate) orbit: PathBuf,
    /// Build everything here and leave it for a look at; must be empty or absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Write the report as JSON as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Show no progress.
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// For every attack under load.
#[derive(Args)]
pub(crate) struct LoadArguments {
    /// The scenario, a TOML file; `chaos` and `power` drive several at once.
    #[arg(required = true, value_name = "SCENARIO")]
    pub(crate) scenarios: Vec<PathBuf>,
    /// Requests per second over all scenarios, instead of the sum of theirs.
    #[arg(long, value_parser = per_second)]
    pub(crate) rate: Option<f64>,
    #[command(flatten)]
    pub(crate) stage: StageArguments,
}

#[derive(Args)]
pub(crate) struct ChaosArguments {
    #[command(flatten)]
    pub(crate) load: LoadArguments,
    /// Brings the attacks of an earlier run again; drawn at random and reported when not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How long there is load.
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0, value_parser = seconds)]
    pub(crate) duration_s: f64,
    /// Kill the gateway so often [default: every 5.5 s].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..100_000))]
    pub(crate) gateway_kills: Option<u32>,
    /// Kill ClickHouse so often [default: every 18 s].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..100_000))]
    pub(crate) clickhouse_kills: Option<u32>,
    /// The gateway's journal.on_full.
    #[arg(long, value_enum, default_value_t = OnFullChoice::Refuse)]
    pub(crate) on_full: OnFullChoice,
    /// Do not fill the disk, for which a small one is mounted: only root can do that.
    #[arg(long)]
    pub(crate) no_disk: bool,
}

#[derive(Args)]
pub(crate) struct OutageArguments {
    #[command(flatten)]
    pub(crate) load: LoadArguments,
    /// How long ClickHouse is away: stopped for the first half, dead for the second.
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0, value_parser = seconds)]
    pub(crate) outage_s: f64,
    /// What piled up must go so many times faster than it came.
    #[arg(long, value_name = "RATIO", default_value_t = 5.0)]
    pub(crate) times_faster: f64,
}

#[derive(Args)]
pub(crate) struct DiskArguments {
    #[command(flatten)]
    pub(crate) load: LoadArguments,
    /// The gateway's journal.on_full.
    #[arg(long, value_enum, default_value_t = OnFullChoice::Refuse)]
    pub(crate) on_full: OnFullChoice,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum OnFullChoice {
    /// 503 while there is no room.
    Refuse,
    /// Served, and summed until there is room again.
    ServeUnmetered,
}

#[derive(Args)]
pub(crate) struct QuotaArguments {
    #[command(flatten)]
    pub(crate) load: LoadArguments,
    /// The share of the quota at which the gateway is killed.
    #[arg(long, value_name = "SHARE", default_value_t = 0.6)]
    pub(crate) kill_at: f64,
}

#[derive(Args)]
pub(crate) struct AlertsArguments {
    #[command(flatten)]
    pub(crate) stage: StageArguments,
    /// Crossings that are to be told, at least.
    #[arg(long, value_name = "N", default_value_t = 1_000,
          value_parser = clap::value_parser!(u64).range(1..100_000))]
    pub(crate) crossings: u64,
    /// How long the quotas are being used.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    pub(crate) over_s: f64,
    /// Kill the gateway so often.
    #[arg(long, value_name = "N", default_value_t = 12,
          value_parser = clap::value_parser!(u32).range(..1_000))]
    pub(crate) gateway_kills: u32,
    /// Kill the receiver so often.
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(..1_000))]
    pub(crate) receiver_kills: u32,
    /// The receiver's program.
    #[arg(long, value_name = "FILE", default_value = "gateway/tests/webhooks/receiver.py")]
    pub(crate) receiver: PathBuf,
    /// Brings the moments of an earlier run again; drawn at random and reported when not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

#[derive(Args)]
pub(crate) struct PowerArguments {
    #[command(flatten)]
    pub(crate) load: LoadArguments,
    /// Brings the moment of an earlier run again; drawn at random and reported when not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

#[derive(Args)]
pub(crate) struct KillsArguments {
    #[command(flatten)]
    pub(crate) stage: StageArguments,
    /// How often.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..100_000))]
    pub(crate) kills: u32,
    /// Between two kills, on average.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    pub(crate) every_s: f64,
    /// Brings the moments of an earlier run again; drawn at random and reported when not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Args)]
pub(crate) struct ChildArguments {
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}
