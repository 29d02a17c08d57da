//! `orbit gateway`: the gateway in production.

use clap::Args;

use super::Config;
use crate::run;
use crate::telemetry;

/// Run the gateway
#[derive(Args)]
#[command(after_help = "\
Examples:
  orbit gateway --config /etc/orbit/orbit.toml
  ORBIT_CONFIG=/etc/orbit/orbit.toml orbit gateway

Signals: SIGTERM, SIGINT and SIGQUIT drain and stop, a second one stops at once; SIGHUP reloads the
policy.")]
pub(super) struct Gateway {
    #[command(flatten)]
    config: Config,
}

impl Gateway {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let settings = self.config.load()?;
        telemetry::start_log(&settings.log)?;
        Ok(run::run_gateway(settings, &std::env::current_exe()?, |_| {})?)
    }
}
