//! `orbit journal`: looks at a journal, checks it, and ships what a dead gateway left.

mod inspect;
mod replay;
mod verify;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::{Timestamp, Unit};

use super::Config;

/// Look at a journal, check it, ship what a dead gateway left
#[derive(Subcommand)]
pub(super) enum Journal {
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Replay(replay::Replay),
}

impl Journal {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Journal::Inspect(inspect) => inspect.run(),
            Journal::Verify(verify) => verify.run(),
            Journal::Replay(replay) => replay.run(),
        }
    }
}

/// Which journal.
#[derive(Args)]
struct Place {
    /// The journal's directory [default: the one of the settings file]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    config: Config,
}

impl Place {
    /// The settings are needed only when no directory is given.
    fn directory(self) -> anyhow::Result<PathBuf> {
        match self.directory {
            Some(directory) => Ok(directory),
            None => Ok(self.config.load()?.journal.directory),
        }
    }
}

/// On standard error, and only when that is a terminal.
fn progress(total: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::new(total).with_style(style.expect("a valid template"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A time as RFC 3339, to the millisecond.
fn time(unix_us: i64) -> String {
    let time = Timestamp::from_microsecond(unix_us).and_then(|it| it.round(Unit::Millisecond));
    time.map_or_else(|_| format!("{unix_us} us"), |time| format!("{time:.3}"))
}
