//! The command line: `orbit SUBCOMMAND`, one file each.
//!
//! Owns arguments, help and exit codes. Guarantees that what a command was asked for goes to
//! standard output and everything else to standard error, and that the exit code is 0 for success,
//! 1 for a failure and 2 for wrong arguments.

mod alerts;
mod audit;
mod clickhouse;
mod demo_keys;
mod gateway;
mod journal;
mod key;
mod migrate;
mod node;
mod output;
mod policy;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use orbit_meter::clickhouse::Store;

use crate::settings::{ClickHouse, Settings};
use crate::storage::Reached;

/// The metering and rate-limiting gateway.
#[derive(Parser)]
#[command(name = "orbit", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  orbit up                                   everything at once, to try it
  orbit gateway --config /etc/orbit/orbit.toml
  orbit policy check config/policy           every mistake as file:line:column
  orbit key new --env live --tenant acme-web a key, shown once
  orbit audit                                nothing missing, double or different

`orbit SUBCOMMAND --help` has more.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(up::Up),
    Gateway(gateway::Gateway),
    #[command(subcommand)]
    Policy(policy::Policy),
    #[command(subcommand)]
    Key(key::Key),
    Migrate(migrate::Migrate),
    Audit(audit::Audit),
    #[command(subcommand)]
    Alerts(alerts::Alerts),
    #[command(subcommand)]
    Node(node::Node),
    #[command(subcommand)]
    Journal(journal::Journal),
    Clickhouse(clickhouse::Clickhouse),
}

/// The settings file, for every command that needs one.
#[derive(Args)]
struct Config {
    /// The settings file
    #[arg(long, value_name = "FILE", default_value = "config/orbit.toml", env = "ORBIT_CONFIG")]
    config: PathBuf,
}

impl Config {
    fn load(&self) -> anyhow::Result<Settings> {
        Ok(Settings::load(&self.config)?)
    }
}

/// Runs `work` with a client of the usage database and with its address. An embedded one is started
/// for it when nobody runs it.
fn with_database<T>(
    settings: &ClickHouse,
    work: impl AsyncFnOnce(&Store, &str) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let program = std::env::current_exe()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reached = runtime.block_on(Reached::open(settings, &program))?;
    let done = runtime.block_on(async { work(&reached.store()?, reached.url()).await });
    // An engine waits for its clients before it stops.
    drop(runtime);
    let closed = reached.close();
    let done = done?;
    closed?;
    Ok(done)
}

/// Runs the command the process was started with.
pub fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up(up) => up.run(),
        Command::Gateway(gateway) => gateway.run(),
        Command::Policy(policy) => policy.run(),
        Command::Key(key) => key.run(),
        Command::Migrate(migrate) => migrate.run(),
        Command::Audit(audit) => audit.run(),
        Command::Alerts(alerts) => alerts.run(),
        Command::Node(node) => node.run(),
        Command::Journal(journal) => journal.run(),
        Command::Clickhouse(clickhouse) => clickhouse.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::failure(&error);
            ExitCode::FAILURE
        }
    }
}
