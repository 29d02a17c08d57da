//! When requests are due.
//!
//! Open loop: request `i` is due at `start + i / rate`, decided before the start and moved by
//! nothing. A pacer task releases slots when they fall due, never before; a connection that is
//! free takes the oldest. When all connections are busy, slots wait, and the wait is part of the
//! latency, because the latency counts from the moment the slot was due.
//!
//! Closed loop (`rate = "max"`): a slot is due when a connection asks for it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

use crate::clock::Clock;

/// Slots closer together than this are released together, up to this much late.
const RELEASE_INTERVAL_NS: u64 = 50_000;

/// One request's place in the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Position in the whole run, from 0; decides the kind.
    pub(super) index: u64,
    /// When it was due, nanoseconds on the run's clock.
    pub(super) due_ns: u64,
}

/// Which slots a thread has: every `stride`-th from `first`, below `total`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) first: u64,
    pub(super) stride: u64,
    pub(super) total: u64,
}

impl Share {
    /// How many slots that is.
    pub(super) fn count(&self) -> u64 {
        self.total.saturating_sub(self.first).div_ceil(self.stride)
    }
}

/// The schedule of one thread.
pub(super) enum Pace {
    Open { schedule: Schedule, taken: AtomicU64, due: Semaphore },
    Closed { share: Share, taken: AtomicU64, end_ns: u64 },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) share: Share,
    pub(super) start_ns: u64,
    pub(super) interval_ns: f64,
}

impl Schedule {
    /// The slot of this thread's `n`-th request.
    fn slot(&self, n: u64) -> Slot {
        let index = self.share.first + n * self.share.stride;
        Slot { index, due_ns: self.start_ns + (index as f64 * self.interval_ns) as u64 }
    }
}

impl Pace {
    pub(super) fn open(schedule: Schedule) -> Pace {
        Pace::Open { schedule, taken: AtomicU64::new(0), due: Semaphore::new(0) }
    }

    pub(super) fn closed(share: Share, end_ns: u64) -> Pace {
        Pace::Closed { share, taken: AtomicU64::new(0), end_ns }
    }

    /// The next slot, when it is due; `None` when all are taken or the run has ended.
    pub(super) async fn next(&self, clock: &Clock) -> Option<Slot> {
        match self {
            Pace::Open { schedule, taken, due } => {
                due.acquire().await.ok()?.forget();
                // Counted once per permit; permits beyond the last slot only wake the idle.
                let n = taken.fetch_add(1, Ordering::Relaxed);
                (n < schedule.share.count()).then(|| schedule.slot(n))
            }
            Pace::Closed { share, taken, end_ns } => {
                let due_ns = clock.now_ns();
                let n = taken.fetch_add(1, Ordering::Relaxed);
                let open = n < share.count() && due_ns < *end_ns;
                open.then(|| Slot { index: share.first + n * share.stride, due_ns })
            }
        }
    }

    /// Slots that nobody took although they were planned. A closed loop plans none.
    pub(super) fn untaken(&self) -> u64 {
        match self {
            Pace::Open { schedule, taken, .. } => {
                schedule.share.count().saturating_sub(taken.load(Ordering::Relaxed))
            }
            Pace::Closed { .. } => 0,
        }
    }

    /// Releases the slots as they fall due, then wakes all `workers` to see the end.
    pub(super) async fn release(&self, clock: &Clock, workers: usize) -> io::Result<()> {
        let Pace::Open { schedule, due, .. } = self else { return Ok(()) };
        let mut alarm = Alarm::new()?;
        let total = schedule.share.count();
        let mut released = 0;
        while released < total {
            let now_ns = clock.now_ns();
            let mut fresh = 0;
            while released + fresh < total && schedule.slot(released + fresh).due_ns <= now_ns {
                fresh += 1;
            }
            due.add_permits(fresh as usize);
            released += fresh;
            if released < total {
                let next_ns = schedule.slot(released).due_ns.max(now_ns + RELEASE_INTERVAL_NS);
                alarm.wait(Duration::from_nanos(next_ns.saturating_sub(clock.now_ns()))).await?;
            }
        }
        due.add_permits(workers);
        Ok(())
    }
}

/// A timer of the kernel's resolution: the runtime's own counts in milliseconds, which at some
/// thousand requests a second would be most of the latency measured.
struct Alarm {
    timer: AsyncFd<std::os::fd::OwnedFd>,
}

impl Alarm {
    fn new() -> io::Result<Alarm> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // Its successor is unsafe because a value could close or change its descriptor while it is
        // registered. An `OwnedFd` that nobody else can reach does neither.
        #[allow(deprecated, reason = "sound for an OwnedFd, and the successor is unsafe")]
        let timer = AsyncFd::with_interest(timer, tokio::io::Interest::READABLE)?;
        Ok(Alarm { timer })
    }

    async fn wait(&mut self, pause: Duration) -> io::Result<()> {
        // Zero would disarm it.
        let pause = pause.max(Duration::from_nanos(1));
        let it_value = Timespec::try_from(pause).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = Itimerspec { it_interval, it_value };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &setting)?;
        loop {
            let mut ready = self.timer.readable().await?;
            let mut expirations = [0; 8];
            match ready.try_io(|timer| {
                rustix::io::read(timer.get_ref(), &mut expirations).map_err(io::Error::from)
            }) {
                Ok(read) => return read.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(first: u64, stride: u64, total: u64) -> Schedule {
        let share = Share { first, stride, total };
        Schedule { share, start_ns: 1000, interval_ns: 0.5 }
    }

    #[test]
    fn threads_share_a_schedule_without_gap_or_double() {
        for (threads, total) in [(1, 10), (3, 10), (4, 3), (7, 1000)] {
            let mut all: Vec<Slot> = (0..threads)
                .map(|first| schedule(first, threads, total))
                .flat_map(|s| (0..s.share.count()).map(move |n| s.slot(n)))
                .collect();
            all.sort_by_key(|slot| slot.index);
            let indices: Vec<u64> = all.iter().map(|slot| slot.index).collect();
            assert_eq!(indices, (0..total).collect::<Vec<_>>());
            assert!(all.is_sorted_by_key(|slot| slot.due_ns));
        }
    }

    #[tokio::test]
    async fn no_slot_is_released_early_and_all_are_taken_once() {
        let clock = Clock::start();
        let share = Share { first: 0, stride: 1, total: 200 };
        let pace = Pace::open(Schedule { share, start_ns: clock.now_ns(), interval_ns: 20_000.0 });
        let take = async {
            let mut seen = Vec::new();
            while let Some(slot) = pace.next(&clock).await {
                assert!(slot.due_ns <= clock.now_ns(), "slot {} came early", slot.index);
                seen.push(slot.index);
            }
            seen
        };
        let (seen, released) = tokio::join!(take, pace.release(&clock, 1));
        released.expect("a timer can be set");
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
        assert_eq!(pace.untaken(), 0);
    }
}
