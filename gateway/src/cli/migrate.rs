//! `orbit migrate`: brings the usage database's schema up to date.

use clap::Args;

use super::{Config, output};
use crate::storage;
use crate::telemetry;

/// Bring the usage database's schema up to date
#[derive(Args)]
#[command(after_help = "\
Examples:
  orbit migrate --config /etc/orbit/orbit.toml

`orbit gateway` does the same at start. A running gateway's engine is found by the files in its data
directory; if none runs, one is started for it and stopped again.")]
pub(super) struct Migrate {
    #[command(flatten)]
    config: Config,
}

impl Migrate {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let settings = self.config.load()?;
        telemetry::start_log(&settings.log)?;
        let applied = storage::migrate(&settings.clickhouse, &std::env::current_exe()?)?;
        if applied.is_empty() {
            output::line("the schema is up to date");
        }
        for migration in applied {
            output::line(format_args!("applied {:04} {}", migration.version, migration.name));
        }
        Ok(())
    }
}
