//! `orbit policy`: judges policy documents, and tells what they mean for a tenant at an instant,
//! without a running gateway.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Subcommand;
use jiff::Timestamp;
use orbit_policy::snapshot::{Change, Snapshot};
use orbit_policy::{Diagnostic, Diagnostics, Summary};

use super::audit::time_us;
use super::output;
use crate::admin::entitlements_json;
use crate::clock::Clock;
use crate::reload;

/// Most warnings that are shown.
const WARNINGS: usize = 20;

/// Work on policy documents
#[derive(Subcommand)]
pub(super) enum Policy {
    /// Judge policy documents; every mistake is a line file:line:column: key: message
    #[command(after_help = "\
Examples:
  orbit policy check
  orbit policy check config/policy data/policy/demo-keys.toml

Changes that are still to come are checked like those that have come. The next one is shown. Warnings
are what is no mistake and perhaps not meant: guarantees that do not hold for every request, with
their place, and apps that a tenant has activated and cannot use.

Exit code 0: valid. 1: mistakes, all of them on standard output.")]
    Check {
        /// Files, and directories whose *.toml files are read at every depth; judged together
        #[arg(value_name = "PATH", default_value = "config/policy")]
        paths: Vec<PathBuf>,
    },
    /// Show what a tenant is entitled to, now or at another time: plan, apps, figures, what comes next
    #[command(after_help = "\
Examples:
  orbit policy show acme
  orbit policy show acme --at 2027-01-01
  orbit policy show acme-web --at 2027-01-01T12:00:00-03:00 config/policy

One JSON object on standard output, as `entitlements` of GET /v1/tenants/{id}/usage.

Exit code 0: shown. 1: the documents have mistakes, or there is no such tenant.")]
    Show {
        /// The tenant
        #[arg(value_name = "TENANT")]
        tenant: String,
        /// Files and directories, as for check
        #[arg(value_name = "PATH", default_value = "config/policy")]
        paths: Vec<PathBuf>,
        /// At this time, a date (UTC) or RFC 3339, instead of now
        #[arg(long, value_name = "TIME", value_parser = time_us)]
        at: Option<i64>,
    },
}

impl Policy {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let now_us = Clock::start().unix_us();
        match self {
            Policy::Check { paths } => {
                let (snapshot, doubts) = judge(&paths, now_us)?;
                let Summary { tenants, keys, plans, apps, routes } = Summary::of(&snapshot);
                output::line(format_args!(
                    "ok: {tenants} tenants, {keys} keys, {plans} plans, {apps} apps, \
                     {routes} routes"
                ));
                show_warnings(&doubts, &snapshot);
                if let Some(change) = snapshot.upcoming().first() {
                    show_next(change);
                }
            }
            Policy::Show { tenant, paths, at } => {
                let (snapshot, _) = judge(&paths, at.unwrap_or(now_us))?;
                let found = snapshot.tenant(&tenant);
                let found = found.with_context(|| format!("there is no tenant `{tenant}`"))?;
                let shown = entitlements_json(&snapshot.entitlements_of(found));
                output::line(format_args!("{shown:#}"));
            }
        }
        Ok(())
    }
}

/// Every mistake is a line. Returns what is none, but doubtful, beside the snapshot.
fn judge(paths: &[PathBuf], at_us: i64) -> anyhow::Result<(Snapshot, Vec<Diagnostic>)> {
    let judged = reload::read(paths)
        .map_err(Diagnostics)
        .and_then(|sources| orbit_policy::review(&sources, at_us));
    judged.or_else(|Diagnostics(diagnostics)| {
        diagnostics.iter().map(Diagnostic::to_string).for_each(output::line);
        let count = diagnostics.len();
        bail!("{count} mistake{}", if count == 1 { "" } else { "s" })
    })
}

/// A downgrade must not make a policy invalid, but somebody should know what it takes away.
fn show_warnings(doubts: &[Diagnostic], snapshot: &Snapshot) {
    let unusable = snapshot.unusable_apps().map(|(tenant, activated)| {
        let why = if activated.granted { "is beyond the number of apps" } else { "is not granted" };
        format!("tenant.{}.apps: `{}` {why}", tenant.id, activated.app.id)
    });
    let mut warnings = doubts.iter().map(Diagnostic::to_string).chain(unusable);
    for warning in warnings.by_ref().take(WARNINGS) {
        output::line(format_args!("warning: {warning}"));
    }
    let more = warnings.count();
    if more > 0 {
        output::line(format_args!("and {more} more warnings"));
    }
}

fn show_next(change: &Change) {
    let at = Timestamp::from_microsecond(change.at_us).unwrap_or_default();
    let what = &change.what;
    match &change.tenant {
        Some(tenant) => output::line(format_args!("next change {at:.0}: {tenant}: {what}")),
        None => output::line(format_args!("next change {at:.0}: {what}")),
    }
}
