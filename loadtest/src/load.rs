//! Several scenarios at once against one gateway, while the caller does something else.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::generator::{Progress, Recording, Run, RunError, run};
use crate::progress::ProgressView;
use crate::scenario::{Amount, Rate, Scenario};
use crate::stage::Stage;

const TICK: Duration = Duration::from_millis(20);

/// Load that is under way.
pub(crate) struct Load {
    running: Vec<JoinHandle<Result<Recording, RunError>>>,
    progress: Arc<Mutex<Vec<Progress>>>,
}

impl Load {
    /// Starts all `scenarios`, each for `length`.
    pub(crate) fn start(scenarios: &[Scenario], length: Duration, stage: &Stage) -> Load {
        let empty = Progress {
            elapsed: Duration::ZERO,
            planned: None,
            length: Some(length),
            started: 0,
            ended: 0,
            failed: 0,
        };
        let progress = Arc::new(Mutex::new(vec![empty; scenarios.len()]));
        let start = |(number, scenario): (usize, &Scenario)| {
            let scenario = Scenario {
                amount: Amount::Duration(length),
                warmup: Duration::ZERO,
                // What is under way at the end may still be answered.
                drain: scenario.timeout + Duration::from_secs(1),
                ..scenario.clone()
            };
            let (target, keys) = (stage.target.clone(), Arc::clone(&stage.keys));
            let progress = Arc::clone(&progress);
            tokio::task::spawn_blocking(move || {
                let plan = Run {
                    scenario: &scenario,
                    target: &target,
                    keys: &keys,
                    pids: &[],
                    keep_answers: true,
                    reloading: None,
                };
                run(&plan, &mut |seen| locked(&progress)[number] = Progress { ..*seen })
            })
        };
        let running = scenarios.iter().enumerate().map(start).collect();
        Load { running, progress }
    }

    /// Whether all of it has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.running.iter().all(JoinHandle::is_finished)
    }

    /// A glance at all of it.
    pub(crate) fn progress(&self) -> Progress {
        let each = locked(&self.progress);
        let sum = |of: fn(&Progress) -> u64| each.iter().map(of).sum();
        Progress {
            elapsed: each.iter().map(|progress| progress.elapsed).max().unwrap_or_default(),
            planned: None,
            length: each.first().and_then(|progress| progress.length),
            started: sum(|progress| progress.started),
            ended: sum(|progress| progress.ended),
            failed: sum(|progress| progress.failed),
        }
    }

    /// Lets it go on for so long.
    pub(crate) async fn watch_for(&self, length: Duration, view: &mut ProgressView, note: &str) {
        let clock = Clock::start();
        while Duration::from_nanos(clock.now_ns()) < length && !self.is_finished() {
            view.noted(&self.progress(), note);
            tokio::time::sleep(TICK).await;
        }
    }

    /// Lets it go on until it ends.
    pub(crate) async fn watch_to_end(&self, view: &mut ProgressView) {
        while !self.is_finished() {
            view.run(&self.progress());
            tokio::time::sleep(TICK).await;
        }
    }

    /// What each scenario has brought, once it has ended.
    pub(crate) async fn recordings(self) -> Result<Vec<Recording>, RunError> {
        let mut recordings = Vec::new();
        for running in self.running {
            recordings.push(running.await.map_err(|_| RunError::Panicked)??);
        }
        Ok(recordings)
    }
}

fn locked(progress: &Mutex<Vec<Progress>>) -> std::sync::MutexGuard<'_, Vec<Progress>> {
    // Numbers only: whoever panicked left them whole.
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives all scenarios together `per_second`, in the proportion of their own rates. Those at full
/// speed stay as they are.
pub fn share_rate(scenarios: &mut [Scenario], per_second: f64) {
    let rate = |scenario: &Scenario| match scenario.rate {
        Rate::PerSecond(rate) => rate,
        Rate::Max => 0.0,
    };
    let all: f64 = scenarios.iter().map(rate).sum();
    for scenario in scenarios {
        if let Rate::PerSecond(rate) = &mut scenario.rate {
            *rate *= per_second / all;
        }
    }
}
