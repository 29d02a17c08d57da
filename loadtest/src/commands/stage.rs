//! What the commands that build an Orbit of their own have in common, and the launcher of what
//! they start.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use orbit_loadtest::stage::StageSettings;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use tempfile::TempDir;

use super::{Outcome, runtime};
use crate::arguments::{ChildArguments, StageArguments};

/// Where a stage is built: a directory that is gone at the end unless it is to be kept.
pub(super) struct Place {
    pub(super) directory: PathBuf,
    _temporary: Option<TempDir>,
}

impl Place {
    pub(super) fn of(arguments: &StageArguments) -> Result<Place> {
        let Some(kept) = &arguments.keep else {
            let temporary = TempDir::new().context("cannot make a temporary directory")?;
            let directory = temporary.path().to_owned();
            return Ok(Place { directory, _temporary: Some(temporary) });
        };
        std::fs::create_dir_all(kept).with_context(|| format!("cannot make {}", kept.display()))?;
        if std::fs::read_dir(kept)?.next().is_some() {
            bail!("{} is not empty: an earlier run is kept there", kept.display());
        }
        Ok(Place { directory: kept.canonicalize()?, _temporary: None })
    }

    /// A stage with a journal of this shape that refuses when it is full.
    pub(super) fn settings(
        &self,
        arguments: &StageArguments,
        segment_bytes: u64,
        max_bytes: u64,
    ) -> Result<StageSettings> {
        Ok(StageSettings {
            orbit: arguments.orbit.clone(),
            launcher: std::env::current_exe().context("cannot find this program")?,
            directory: self.directory.clone(),
            data: None,
            segment_bytes,
            max_bytes,
            on_full: "refuse",
            policy: String::new(),
            settings: String::new(),
        })
    }
}

/// Runs an attack until it is done, or Ctrl-C ends it: everything is then taken down in order.
pub(super) fn until_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(async {
        tokio::select! {
            done = work => done,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("cannot listen for Ctrl-C")?;
                bail!("interrupted")
            }
        }
    })
}

/// Becomes another program, which is killed when whoever started this one ends.
pub(crate) fn child(arguments: &ChildArguments) -> Result<Outcome> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot follow the parent")?;
    // Whoever started this may have ended before it was asked for.
    if getppid().is_none_or(|parent| parent.as_raw_nonzero().get() == 1) {
        bail!("whoever started this is gone");
    }
    let [program, rest @ ..] = &arguments.command[..] else { bail!("no program is given") };
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("cannot run {program}"))
}
