//! `orbit policy check`: judges policy documents without a running gateway.

use std::path::PathBuf;

use anyhow::bail;
use clap::Subcommand;
use orbit_policy::{Diagnostic, Diagnostics, Summary};

use super::output;
use crate::reload;

/// Work on policy documents
#[derive(Subcommand)]
pub(super) enum Policy {
    /// Judge policy documents; every mistake is a line file:line:column: key: message
    #[command(after_help = "\
Examples:
  orbit policy check
  orbit policy check config/policy data/policy/demo-keys.toml

Exit code 0: valid. 1: mistakes, all of them on standard output.")]
    Check {
        /// Files, and directories whose *.toml files are read at every depth; judged together
        #[arg(value_name = "PATH", default_value = "config/policy")]
        paths: Vec<PathBuf>,
    },
}

impl Policy {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Policy::Check { paths } = self;
        let judged = reload::read(&paths)
            .map_err(Diagnostics)
            .and_then(|sources| orbit_policy::check(&sources));
        match judged {
            Ok(Summary { tenants, keys, plans, apps, routes }) => {
                output::line(format_args!(
                    "ok: {tenants} tenants, {keys} keys, {plans} plans, {apps} apps, \
                     {routes} routes"
                ));
                Ok(())
            }
            Err(Diagnostics(diagnostics)) => {
                diagnostics.iter().map(Diagnostic::to_string).for_each(output::line);
                let count = diagnostics.len();
                bail!("{count} mistake{}", if count == 1 { "" } else { "s" })
            }
        }
    }
}
