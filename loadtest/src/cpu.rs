//! CPU time of other processes, from /proc.
//!
//! `stat` holds user and system time in clock ticks (usually 10 ms) and includes threads that have
//! ended; `schedstat` holds nanoseconds, but per thread and only of threads that live. So the
//! total comes from `schedstat` when the same threads were there at both ends, else from `stat`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use thiserror::Error;

/// The CPU time of some processes at one moment.
#[derive(Clone, Debug)]
pub struct CpuSample {
    user_ticks: u64,
    system_ticks: u64,
    /// Nanoseconds on a CPU by (process, thread); `None` where the kernel keeps no schedstat.
    threads: Option<BTreeMap<(u32, u32), u64>>,
}

/// CPU time spent between two samples, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CpuUse {
    /// In user mode, at clock-tick resolution.
    pub user_s: f64,
    /// In the kernel, at clock-tick resolution.
    pub system_s: f64,
    /// Both together, at the best resolution there was.
    pub total_s: f64,
    /// Whether `total_s` has nanosecond resolution.
    pub precise: bool,
}

/// Why a process could not be read.
#[derive(Debug, Error)]
pub enum CpuError {
    /// No such process, or not ours to read.
    #[error("cannot read {path}: is process {pid} running?")]
    Read {
        /// The process.
        pid: u32,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file does not look as proc(5) says.
    #[error("{path} does not look as proc(5) says")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl CpuSample {
    /// Reads the processes now; their times are added up.
    pub fn read(pids: &[u32]) -> Result<CpuSample, CpuError> {
        let (mut user_ticks, mut system_ticks) = (0, 0);
        let mut threads = Some(BTreeMap::new());
        for &pid in pids {
            let path = PathBuf::from(format!("/proc/{pid}/stat"));
            let text = std::fs::read_to_string(&path).map_err(|source| CpuError::Read {
                pid,
                path: path.clone(),
                source,
            })?;
            let (user, system) = stat_ticks(&text).ok_or(CpuError::Malformed { path })?;
            user_ticks += user;
            system_ticks += system;
            match (thread_times(pid), &mut threads) {
                (Some(times), Some(threads)) => threads.extend(times),
                (None, _) => threads = None,
                (Some(_), None) => {}
            }
        }
        Ok(CpuSample { user_ticks, system_ticks, threads })
    }

    /// What was spent since `earlier`, a sample of the same processes.
    pub fn since(&self, earlier: &CpuSample) -> CpuUse {
        let tick_s = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        let user_s = self.user_ticks.saturating_sub(earlier.user_ticks) as f64 * tick_s;
        let system_s = self.system_ticks.saturating_sub(earlier.system_ticks) as f64 * tick_s;
        let precise = match (&earlier.threads, &self.threads) {
            (Some(before), Some(after)) if before.keys().eq(after.keys()) => {
                let sum = |times: &BTreeMap<_, u64>| times.values().sum::<u64>();
                Some(sum(after).saturating_sub(sum(before)) as f64 / 1e9)
            }
            _ => None,
        };
        let total_s = precise.unwrap_or(user_s + system_s);
        CpuUse { user_s, system_s, total_s, precise: precise.is_some() }
    }
}

/// utime and stime. The command name may hold spaces and parentheses: fields count from the last.
fn stat_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// A thread that ends while we read makes the answer `None`: the caller falls back to ticks.
fn thread_times(pid: u32) -> Option<Vec<((u32, u32), u64)>> {
    std::fs::read_dir(format!("/proc/{pid}/task"))
        .ok()?
        .map(|entry| {
            let entry = entry.ok()?;
            let thread = entry.file_name().to_str()?.parse().ok()?;
            let text = std::fs::read_to_string(entry.path().join("schedstat")).ok()?;
            Some(((pid, thread), text.split_ascii_whitespace().next()?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_the_last_parenthesis() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 10 0 0 0 12 34 0 0 20 0 1 0 100 1 1";
        assert_eq!(stat_ticks(stat), Some((12, 34)));
        assert_eq!(stat_ticks("7 (a) S 1"), None);
        assert_eq!(stat_ticks(""), None);
    }

    #[test]
    fn our_own_work_is_seen() {
        let pid = std::process::id();
        let before = CpuSample::read(&[pid]).expect("our own process can be read");
        // Work until the kernel has accounted some: bounded by the test runner, not by a clock.
        let mut rounds = 0_u64;
        let spent = loop {
            for step in 0..1_000_000_u64 {
                rounds = std::hint::black_box(rounds.wrapping_add(step));
            }
            let spent = CpuSample::read(&[pid]).expect("our own process can be read");
            let spent = spent.since(&before);
            if spent.total_s > 0.0 {
                break spent;
            }
        };
        assert!(spent.user_s >= 0.0 && spent.system_s >= 0.0);
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = CpuSample::read(&[u32::MAX]).expect_err("no process has this id");
        assert!(error.to_string().contains(&u32::MAX.to_string()));
    }
}
