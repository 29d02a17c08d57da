//! The audit beside the traffic: what was shipped lately is checked every few minutes.
//!
//! Owns one thread of low priority, its window of time and its metrics. Guarantees that it never
//! holds up the end of the process: a check that is under way is dropped, and ClickHouse stops
//! working on it.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::{describe_gauge, gauge};
use orbit_meter::audit::{self, AuditError, Check, Limits, Options, Report, Scope, Verdict};
use orbit_meter::causes::with_causes;
use orbit_meter::clickhouse::Store;
use tokio::sync::oneshot;

use crate::background;
use crate::clock::Clock;
use crate::storage::{StorageError, StorageHandle};

/// Longest pause before the first audit, which leaves the start to others.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// How often a database that is away is looked for.
const LOOK: Duration = Duration::from_secs(2);
/// How long what may be on its way is waited for.
const WAIT: Duration = Duration::from_secs(15);
/// One thread and little memory: inserts come first.
const LIMITS: Limits =
    Limits { max_threads: 1, max_memory_bytes: 512 << 20, timeout: Duration::from_mins(10) };
/// Most findings written to the log at a time.
const MOST_LOGGED: usize = 5;

const HOUR_US: i64 = 3_600_000_000;
/// What is looked at first.
const FIRST_US: i64 = 24 * HOUR_US;
/// How far a window reaches back behind the last clean audit.
const MARGIN_US: i64 = HOUR_US;
/// Most that is looked at while findings stay.
const LONGEST_US: i64 = 7 * 24 * HOUR_US;

/// The audit could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AuditorError {
    /// The database's settings cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no thread for it.
    #[error("cannot start the thread that audits the usage database")]
    Thread(#[from] io::Error),
}

/// The thread; dropping it ends it.
pub struct Auditor {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Auditor {
    /// Audits the database behind `storage` every `interval`, whenever it can be reached.
    pub fn start(
        storage: StorageHandle,
        interval: Duration,
        clock: Arc<Clock>,
    ) -> Result<Auditor, AuditorError> {
        describe();
        let store = storage.store()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let mut work =
            Work { storage, store, interval, clock, window: Window::default(), told: None };
        let run = move || {
            background::yield_to_traffic();
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = work.run() => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(run)?;
        Ok(Auditor { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the audit thread panicked");
        }
    }
}

fn describe() {
    describe_gauge!(
        "orbit_audit_findings",
        "What the latest audit of the usage database found wrong, by check."
    );
    describe_gauge!(
        "orbit_audit_last_success_timestamp_seconds",
        "When the latest audit began that was carried out to its end, whatever it found."
    );
    describe_gauge!("orbit_audit_duration_seconds", "How long the latest audit took.");
}

/// What the thread owns.
struct Work {
    storage: StorageHandle,
    store: Store,
    interval: Duration,
    clock: Arc<Clock>,
    window: Window,
    /// What was last said in the log.
    told: Option<Told>,
}

/// The outcome of an audit as far as the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Clean,
    Findings(Vec<(Check, u64)>),
    Failed(String),
}

impl Work {
    async fn run(&mut self) {
        tokio::time::sleep(self.interval.min(FIRST_PAUSE)).await;
        loop {
            let status = self.storage.status();
            let there = status.reachable && status.migrated;
            if there {
                self.once().await;
            }
            tokio::time::sleep(if there { self.interval } else { LOOK }).await;
        }
    }

    async fn once(&mut self) {
        let began_us = self.clock.unix_us();
        let from_us = self.window.from_us(began_us);
        let scope =
            Scope { from_us: Some(from_us), written_from_us: Some(from_us), ..Scope::default() };
        let options = Options { scope, limits: LIMITS, wait: WAIT };
        let audited = audit::audit(&self.store, &options, &mut |_| {}).await;
        let took_s = (self.clock.unix_us() - began_us) as f64 / 1e6;
        if let Ok(report) = &audited {
            gauge!("orbit_audit_duration_seconds").set(took_s);
            gauge!("orbit_audit_last_success_timestamp_seconds").set(began_us as f64 / 1e6);
            for check in &report.checks {
                let findings = gauge!("orbit_audit_findings", "check" => check.check.name());
                findings.set(check.wrong as f64);
            }
            if report.verdict == Verdict::Clean {
                self.window.clean(began_us);
            }
        }
        self.tell(&audited);
    }

    /// Says what is new.
    fn tell(&mut self, audited: &Result<Report, AuditError>) {
        let now = Told::of(audited);
        if self.told.as_ref() == Some(&now) {
            return;
        }
        match (&now, audited) {
            (Told::Findings(_), Ok(report)) => {
                let findings = report.findings;
                tracing::error!(findings, "the usage database is not as it should be");
                for (check, finding) in examples(report) {
                    let (check, kind, text) = (check.name(), finding.kind, &finding.text);
                    tracing::error!(check, kind, text, "audit finding");
                }
            }
            (Told::Failed(error), _) => tracing::warn!(error, "the usage database was not audited"),
            _ if self.told.is_some() => tracing::info!("the usage database is as it should be"),
            _ => tracing::debug!("the usage database is as it should be"),
        }
        self.told = Some(now);
    }
}

/// Some findings: the first of each check before the second of any, so that none hides another.
fn examples(report: &Report) -> Vec<(Check, &audit::Finding)> {
    let nth = |at: usize| {
        report.checks.iter().filter_map(move |check| Some((check.check, check.findings.get(at)?)))
    };
    (0..audit::EXAMPLES).flat_map(nth).take(MOST_LOGGED).collect()
}

impl Told {
    fn of(audited: &Result<Report, AuditError>) -> Told {
        match audited {
            Ok(report) if report.verdict == Verdict::Clean => Told::Clean,
            Ok(report) => {
                let wrong = report.checks.iter().filter(|check| check.wrong > 0);
                Told::Findings(wrong.map(|check| (check.check, check.wrong)).collect())
            }
            Err(error) => Told::Failed(with_causes(error)),
        }
    }
}

/// Which events an audit looks at: those since the last one that found nothing.
#[derive(Debug, Default)]
struct Window {
    clean_us: Option<i64>,
}

impl Window {
    fn from_us(&self, now_us: i64) -> i64 {
        let from_us = self.clean_us.map_or(now_us - FIRST_US, |clean_us| clean_us - MARGIN_US);
        from_us.max(now_us - LONGEST_US).max(0)
    }

    fn clean(&mut self, began_us: i64) {
        self.clean_us = Some(began_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_reaches_back_behind_the_last_clean_audit() {
        let now_us = 1_796_000_000_000_000;
        let mut window = Window::default();
        assert_eq!(window.from_us(now_us), now_us - 24 * HOUR_US);
        window.clean(now_us);
        let later_us = now_us + 300_000_000;
        assert_eq!(window.from_us(later_us), now_us - HOUR_US);
        // Findings stay: the window grows, and not for ever.
        assert_eq!(window.from_us(now_us + 30 * FIRST_US), now_us + 23 * FIRST_US);
        assert_eq!(Window::default().from_us(1), 0);
    }
}
