//! `loadtest`: fake upstreams, load, and the judges of a run. `loadtest help` tells more.
//!
//! Exit status: 0 when everything was as it should be, 1 when a run found something wrong, 2 when
//! a command could not be carried out.

mod arguments;
mod commands;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use commands::Outcome;

#[global_allocator]
static ALLOCATOR: jemallocator::Jemalloc = jemallocator::Jemalloc;

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Upstream(arguments) => commands::upstream(&arguments),
        Command::Keys(arguments) => commands::keys(&arguments),
        Command::Run(arguments) => commands::run(&arguments),
        Command::Compare(arguments) => commands::compare(&arguments),
        Command::Reload(arguments) => commands::reload(&arguments),
        Command::Chaos(arguments) => commands::chaos(&arguments),
        Command::Outage(arguments) => commands::outage(&arguments),
        Command::Alerts(arguments) => commands::alerts(&arguments),
        Command::Quota(arguments) => commands::quota(&arguments),
        Command::Disk(arguments) => commands::disk(&arguments),
        Command::Power(arguments) => commands::power(&arguments),
        Command::Kills(arguments) => commands::kills(&arguments),
        Command::Child(arguments) => commands::child(&arguments),
        Command::Ingest(arguments) => commands::ingest(&arguments),
    };
    match done {
        Ok(Outcome::AsExpected) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        Err(error) => {
            // Without standard error there is nobody to tell.
            drop(writeln!(std::io::stderr(), "loadtest: {error:#}"));
            ExitCode::from(2)
        }
    }
}
