//! A run seen from outside its threads: progress, and CPU time at both ends of the measured part.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::cpu::{CpuError, CpuSample, CpuUse};

use super::record::Record;
use super::{RunError, Shared, lock};

/// A glance at a run under way.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Time since the first request was due.
    pub elapsed: Duration,
    /// Requests planned, when that is known.
    pub planned: Option<u64>,
    /// How long it will take, when that is known.
    pub length: Option<Duration>,
    /// Requests begun.
    pub started: u64,
    /// Requests ended.
    pub ended: u64,
    /// Of these, failed.
    pub failed: u64,
}

/// CPU time of the measured processes over the measured part of a run.
#[derive(Clone, Copy, Debug)]
pub struct MeasuredCpu {
    /// The processes asked for.
    pub target: CpuUse,
    /// This process.
    pub generator: CpuUse,
    /// Whole answers received meanwhile.
    pub answers: u64,
}

/// Watches the threads until all are done, and samples the CPU at both ends of the measured part.
pub(super) fn observe(
    pids: &[u32],
    shared: &Shared,
    records: &[Arc<Mutex<Record>>],
    finished: &mpsc::Receiver<()>,
    watch: &mut dyn FnMut(&Progress),
) -> Result<Option<MeasuredCpu>, RunError> {
    const TICK_NS: u64 = 100_000_000;
    let Shared { clock, timeline, closed_loop, .. } = shared;
    let sample = || -> Result<_, CpuError> {
        let answers: u64 = records.iter().map(|record| lock(record).whole).sum();
        let own = CpuSample::read(&[std::process::id()])?;
        Ok((CpuSample::read(pids)?, own, answers))
    };
    let length = (!closed_loop || timeline.planned.is_none())
        .then(|| Duration::from_nanos(timeline.end_ns - timeline.start_ns));
    let (mut before, mut after) = (None, None);
    let mut left = records.len();
    while left > 0 {
        let now_ns = clock.now_ns();
        if before.is_none() && now_ns >= timeline.warm_ns {
            before = Some(sample()?);
        }
        if after.is_none() && now_ns >= timeline.end_ns {
            after = Some(sample()?);
        }
        let started = records.iter().map(|record| lock(record).started()).sum();
        let ended = records.iter().map(|record| lock(record).ended).sum();
        let failed = records.iter().map(|record| lock(record).failed()).sum();
        let elapsed = Duration::from_nanos(now_ns.saturating_sub(timeline.start_ns));
        watch(&Progress { elapsed, planned: timeline.planned, length, started, ended, failed });
        let until = [timeline.warm_ns, timeline.end_ns].into_iter().filter(|at| *at > now_ns).min();
        let pause_ns = until.map_or(TICK_NS, |at| (at - now_ns).min(TICK_NS));
        match finished.recv_timeout(Duration::from_nanos(pause_ns)) {
            Ok(()) => left -= 1,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            // A panicked thread sends nothing; joining it tells.
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    let Some((target, own, answers)) = before.filter(|_| !pids.is_empty()) else { return Ok(None) };
    let (target_after, own_after, answers_after) = match after {
        Some(after) => after,
        None => sample()?,
    };
    Ok(Some(MeasuredCpu {
        target: target_after.since(&target),
        generator: own_after.since(&own),
        answers: answers_after - answers,
    }))
}
