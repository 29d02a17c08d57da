//! The command line: `orbit SUBCOMMAND`, one file each.
//!
//! Owns arguments, help and exit codes. Guarantees that what a command was asked for goes to
//! standard output and everything else to standard error, and that the exit code is 0 for success,
//! 1 for a failure and 2 for wrong arguments.

mod clickhouse;
mod demo_keys;
mod gateway;
mod journal;
mod key;
mod migrate;
mod output;
mod policy;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::settings::Settings;

/// The metering and rate-limiting gateway.
#[derive(Parser)]
#[command(name = "orbit", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  orbit up                                   everything at once, to try it
  orbit gateway --config /etc/orbit/orbit.toml
  orbit policy check config/policy           every mistake as file:line:column
  orbit key new --env live --tenant acme-web a key, shown once

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

/// Runs the command the process was started with.
pub fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up(up) => up.run(),
        Command::Gateway(gateway) => gateway.run(),
        Command::Policy(policy) => policy.run(),
        Command::Key(key) => key.run(),
        Command::Migrate(migrate) => migrate.run(),
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
