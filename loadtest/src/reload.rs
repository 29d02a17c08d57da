//! Policy reloads under load: a policy file is rewritten, again and again, while a run is going.
//!
//! Bursts of reloads alternate with quiet spans of the same length, so that latency with and
//! without reloads comes from one run on one machine in one mood. Each reload replaces the file
//! atomically and then waits until the gateway's policy version has changed. The file's own text
//! is put back at the end, whatever happened.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use crate::clock::Clock;
use crate::fetch::FetchError;

pub use crate::admin::Admin;

/// Reloads in one burst.
const BURST: u32 = 10;
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What makes the gateway read the file again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// It watches the directory.
    Watch,
    /// A POST to this path of the admin API.
    Apply(String),
}

/// How the file's text alternates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toggle {
    /// A comment with a counter is added at the end.
    Comment,
    /// The first occurrence of a text is replaced by another in every second version; the comment
    /// is added as well.
    Replace {
        /// What is there.
        from: String,
        /// What is put there.
        to: String,
    },
}

/// The reloads to make.
#[derive(Clone, Debug)]
pub struct ReloadPlan {
    /// The file to rewrite.
    pub file: PathBuf,
    /// How.
    pub toggle: Toggle,
    /// How often.
    pub times: u32,
    /// Spread over so long.
    pub over: Duration,
    /// How the gateway learns of it.
    pub trigger: Trigger,
    /// Where the policy version is read.
    pub admin: Admin,
    /// A reload that has not taken effect after so long does not count.
    pub effect_limit: Duration,
}

/// What came of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReloadOutcome {
    /// Reloads asked for.
    pub planned: u32,
    /// Files written.
    pub written: u32,
    /// Reloads after which the gateway's policy version changed.
    pub effective: u32,
    /// From writing to the changed version, the longest, milliseconds.
    pub slowest_ms: f64,
    /// What ended the reloads early.
    pub error: Option<String>,
}

/// Why reloads could not be made.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// The file.
    #[error("cannot {what} {path}")]
    File {
        /// What was attempted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text to replace is not in the file.
    #[error("{path} does not contain `{text}`")]
    NotThere {
        /// The file.
        path: PathBuf,
        /// The text.
        text: String,
    },
    /// The admin API.
    #[error("cannot ask the admin API")]
    Admin(#[from] FetchError),
}

/// The first policy file of a directory by name, for when none is given.
pub fn first_policy_file(directory: &Path) -> Result<PathBuf, ReloadError> {
    let unread = |source| ReloadError::File { what: "list", path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    files.into_iter().next().ok_or_else(|| unread(std::io::ErrorKind::NotFound.into()))
}

/// The file to rewrite, with its original text; dropping it puts that text back.
struct Rewritten<'a> {
    path: &'a Path,
    original: String,
    dirty: bool,
}

impl Rewritten<'_> {
    fn open<'a>(path: &'a Path, toggle: &Toggle) -> Result<Rewritten<'a>, ReloadError> {
        let unread = |source| ReloadError::File { what: "read", path: path.to_owned(), source };
        let original = std::fs::read_to_string(path).map_err(unread)?;
        match toggle {
            Toggle::Replace { from, .. } if !original.contains(from.as_str()) => {
                Err(ReloadError::NotThere { path: path.to_owned(), text: from.clone() })
            }
            _ => Ok(Rewritten { path, original, dirty: false }),
        }
    }

    /// Version `number`, from 1; even versions have the original values.
    fn version(&self, toggle: &Toggle, number: u32) -> String {
        let body = match toggle {
            Toggle::Replace { from, to } if !number.is_multiple_of(2) => {
                self.original.replacen(from, to, 1)
            }
            _ => self.original.clone(),
        };
        let newline = if body.ends_with('\n') || body.is_empty() { "" } else { "\n" };
        format!("{body}{newline}# load test: reload {number}\n")
    }

    fn write(&mut self, text: &str) -> Result<(), ReloadError> {
        self.dirty = true;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        // Not a policy file by its name, so a reader of the directory passes it over.
        let temporary = directory.join(format!(".loadtest-reload-{}", std::process::id()));
        std::fs::File::create(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| match std::fs::metadata(self.path) {
                Ok(original) => std::fs::set_permissions(&temporary, original.permissions()),
                Err(error) => Err(error),
            })
            .and_then(|()| std::fs::rename(&temporary, self.path))
            .map_err(|source| {
                // What is left of it; the error that matters is the first.
                drop(std::fs::remove_file(&temporary));
                ReloadError::File { what: "replace", path: self.path.to_owned(), source }
            })
    }
}

impl Drop for Rewritten<'_> {
    fn drop(&mut self) {
        if self.dirty {
            let original = std::mem::take(&mut self.original);
            if self.write(&original).is_err() {
                let path = self.path.display();
                drop(writeln!(std::io::stderr(), "could not put {path} back as it was"));
            }
        }
    }
}

/// Makes the reloads, until done or until `stop`. `reloading` is true from the beginning of each
/// burst to its end.
pub async fn reload(plan: &ReloadPlan, reloading: &AtomicBool, stop: &AtomicBool) -> ReloadOutcome {
    let mut outcome = ReloadOutcome { planned: plan.times, ..ReloadOutcome::default() };
    if let Err(error) = bursts(plan, reloading, stop, &mut outcome).await {
        let source = std::error::Error::source(&error);
        let because = source.map_or_else(String::new, |source| format!(": {source}"));
        outcome.error = Some(format!("{error}{because}"));
    }
    reloading.store(false, Ordering::Relaxed);
    outcome
}

async fn bursts(
    plan: &ReloadPlan,
    reloading: &AtomicBool,
    stop: &AtomicBool,
    outcome: &mut ReloadOutcome,
) -> Result<(), ReloadError> {
    let mut file = Rewritten::open(&plan.file, &plan.toggle)?;
    let clock = Clock::start();
    let spans = 2 * plan.times.div_ceil(BURST).max(1);
    let span = plan.over / spans;
    for number in 1..=plan.times {
        let (burst, place) = ((number - 1) / BURST, (number - 1) % BURST);
        let due = span * (2 * burst + 1) + span * place / BURST;
        if place == 0 {
            reloading.store(false, Ordering::Relaxed);
        }
        tokio::time::sleep_until(clock.instant(due.as_nanos() as u64).into()).await;
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let version = plan.admin.version().await?;
        reloading.store(true, Ordering::Relaxed);
        let began_ns = clock.now_ns();
        let text = file.version(&plan.toggle, number);
        file.write(&text)?;
        outcome.written += 1;
        if let Trigger::Apply(path) = &plan.trigger {
            plan.admin.apply(path).await?;
        }
        loop {
            let changed = plan.admin.version().await? != version;
            let took = Duration::from_nanos(clock.now_ns() - began_ns);
            if changed {
                outcome.effective += 1;
                outcome.slowest_ms = outcome.slowest_ms.max(took.as_secs_f64() * 1000.0);
                break;
            }
            if took >= plan.effect_limit || stop.load(Ordering::Relaxed) {
                break;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_differ_and_the_original_comes_back() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("plans.toml");
        std::fs::write(&path, "burst = 10").expect("the file can be written");
        let toggle = Toggle::Replace { from: "burst = 10".into(), to: "burst = 11".into() };
        let mut file = Rewritten::open(&path, &toggle).expect("the text is there");
        let versions = [1, 2, 3].map(|number| file.version(&toggle, number));
        assert_eq!(versions[0], "burst = 11\n# load test: reload 1\n");
        assert_eq!(versions[1], "burst = 10\n# load test: reload 2\n");
        assert_eq!(versions[2], "burst = 11\n# load test: reload 3\n");
        file.write(&versions[0]).expect("the file can be replaced");
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), versions[0]);
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "burst = 10");
        assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 1);
        assert_eq!(first_policy_file(directory.path()).expect("there is one"), path);
    }

    #[test]
    fn a_text_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("plans.toml");
        std::fs::write(&path, "").expect("the file can be written");
        let toggle = Toggle::Replace { from: "absent".into(), to: String::new() };
        let error = Rewritten::open(&path, &toggle).err().expect("the text is not there");
        assert!(error.to_string().ends_with("does not contain `absent`"), "{error}");
    }
}
