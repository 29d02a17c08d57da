//! Refused requests, counted: a flood of refusals must not become a flood of rows.
//!
//! Refusals of one second that agree in tenant, path, plan, app, route, reason and status are one
//! [`Kind::Refused`] event on the meter `refusals`: its time is the start of the second, its
//! `requests` and quantity the count.
//!
//! Guarantees: every counted refusal is in exactly one event; a group that was counted before costs
//! no allocation; memory is bounded by [`MAX_GROUPS`]. A count that the journal has no room for is
//! kept and added to the group's next, under the earlier second. Unlike an answered request, a
//! refusal is held in memory until its second is over: a crash can take about the last second.

use std::hash::BuildHasher;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hashbrown::HashTable;

use crate::clock;
use crate::event::{Event, Flags, Kind, Method};
use crate::journal::{AppendError, Journal};

#[cfg(test)]
mod tests;

/// Groups remembered at most; a refusal of yet another group becomes an event of its own.
pub const MAX_GROUPS: usize = 1 << 17;

const SHARDS: usize = 16;
const US_PER_SECOND: i64 = 1_000_000;
/// A group without refusals is forgotten after so many seconds.
const IDLE_SECONDS: i64 = 10;
/// Clock readings of two threads differ by no more; a larger step back is a clock that was set.
const LATE_SECONDS: i64 = 2;
/// How often the thread of [`Refusals::start`] flushes.
const FLUSH_INTERVAL: Duration = Duration::from_millis(250);

/// Who was refused what, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Labels<'a> {
    tenant: &'a str,
    path: &'a str,
    plan: &'a str,
    app: &'a str,
    route: &'a str,
    reason: &'a str,
    status: u16,
}

/// A group and its count in one second.
#[derive(Debug)]
struct Group {
    text: Box<str>,
    ends: [usize; 6],
    status: u16,
    second: i64,
    count: u32,
}

/// Counts refusals and journals them second by second.
#[derive(Debug)]
pub struct Refusals {
    journal: Arc<Journal>,
    hasher: foldhash::fast::RandomState,
    shards: [Mutex<HashTable<Group>>; SHARDS],
    groups: AtomicUsize,
}

impl Refusals {
    /// A counter without a thread: the caller calls [`Refusals::flush`], or [`Refusals::start`].
    pub fn new(journal: Arc<Journal>) -> Refusals {
        Refusals {
            journal,
            hasher: foldhash::fast::RandomState::default(),
            shards: std::array::from_fn(|_| Mutex::new(HashTable::new())),
            groups: AtomicUsize::new(0),
        }
    }

    /// Counts one refusal at `now_us` (unix microseconds).
    #[allow(clippy::too_many_arguments, reason = "the columns of a row, in their order")]
    pub fn count(
        &self,
        now_us: i64,
        tenant: &str,
        path: &str,
        plan: &str,
        app: &str,
        route: &str,
        reason: &str,
        status: u16,
    ) {
        let labels = Labels { tenant, path, plan, app, route, reason, status };
        let second = now_us.div_euclid(US_PER_SECOND);
        let hash = self.hasher.hash_one(labels);
        let mut shard = locked(&self.shards[hash as usize % SHARDS]);
        if let Some(group) = shard.find_mut(hash, |group| group.labels() == labels) {
            group.roll(second, &self.journal);
            group.count = group.count.saturating_add(1);
            return;
        }
        let mut group = Group::new(&labels, second);
        group.count = 1;
        if self.groups.fetch_add(1, Ordering::Relaxed) < MAX_GROUPS {
            shard.insert_unique(hash, group, |group| self.hasher.hash_one(group.labels()));
        } else {
            self.groups.fetch_sub(1, Ordering::Relaxed);
            drop(shard);
            if let Err(error) = group.write(&self.journal) {
                tracing::error!(%error, "a refusal could not be counted");
            }
        }
    }

    /// Journals every count of a second that is over at `now_us`. What the journal has no room for
    /// stays; the first refusal of the journal ends the flush.
    pub fn flush(&self, now_us: i64) -> Result<(), AppendError> {
        let current = now_us.div_euclid(US_PER_SECOND);
        for shard in &self.shards {
            let mut shard = locked(shard);
            let before = shard.len();
            for group in shard.iter_mut().filter(|group| group.second < current) {
                group.write(&self.journal)?;
            }
            shard.retain(|group| group.count > 0 || current - group.second < IDLE_SECONDS);
            self.groups.fetch_sub(before - shard.len(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Start of the earliest second that is counted but not journalled, unix microseconds: nothing
    /// up to it may be taken for complete.
    pub fn oldest_us(&self) -> Option<i64> {
        let oldest = |shard: &Mutex<HashTable<Group>>| {
            let shard = locked(shard);
            shard.iter().filter(|group| group.count > 0).map(|group| group.second).min()
        };
        let second = self.shards.iter().filter_map(oldest).min()?;
        Some(second.saturating_mul(US_PER_SECOND))
    }

    /// Starts the thread that flushes; dropping the result ends it after a last flush of
    /// everything.
    pub fn start(self: &Arc<Refusals>) -> io::Result<Flusher> {
        let refusals = Arc::clone(self);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name("orbit-refusals".to_owned()).spawn(move || {
                while !stopped.load(Ordering::Acquire) {
                    std::thread::park_timeout(FLUSH_INTERVAL);
                    if let Err(error) = refusals.flush(clock::unix_us()) {
                        // The journal says itself, and once, that it is full; the counts are kept.
                        tracing::debug!(%error, "refusals wait for room in the journal");
                    }
                }
                if let Err(error) = refusals.flush(i64::MAX) {
                    tracing::error!(%error, "the last refusals could not be journalled");
                }
            })?;
        Ok(Flusher { stop, thread: Some(thread) })
    }
}

/// The flushing thread of [`Refusals::start`]; dropping it flushes everything and ends it.
#[derive(Debug)]
pub struct Flusher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!("the thread that journals refusals had panicked");
        }
    }
}

impl Group {
    fn new(labels: &Labels<'_>, second: i64) -> Group {
        let Labels { tenant, path, plan, app, route, reason, status } = *labels;
        let parts = [tenant, path, plan, app, route, reason];
        let mut end = 0;
        let ends = parts.map(|part| {
            end += part.len();
            end
        });
        Group { text: parts.concat().into_boxed_str(), ends, status, second, count: 0 }
    }

    fn labels(&self) -> Labels<'_> {
        let [tenant, path, plan, app, route, reason] = self.ends;
        Labels {
            tenant: &self.text[..tenant],
            path: &self.text[tenant..path],
            plan: &self.text[path..plan],
            app: &self.text[plan..app],
            route: &self.text[app..route],
            reason: &self.text[route..reason],
            status: self.status,
        }
    }

    /// Makes `second` the one that is counted. A count without room keeps its own second, and a
    /// refusal whose clock was read just before another's joins the later second.
    fn roll(&mut self, second: i64, journal: &Journal) {
        let is_late = (second + 1..=second + LATE_SECONDS).contains(&self.second);
        if self.second != second && !is_late && self.write(journal).is_ok() {
            self.second = second;
        }
    }

    /// Journals the count, if there is one, and starts over.
    fn write(&mut self, journal: &Journal) -> Result<(), AppendError> {
        if self.count == 0 {
            return Ok(());
        }
        let Labels { tenant, path, plan, app, route, reason, status } = self.labels();
        journal.append(&Event {
            ts_us: self.second.saturating_mul(US_PER_SECOND),
            request_id: [0; 16],
            kind: Kind::Refused,
            method: Method::Other,
            status,
            flags: Flags::GATEWAY_MADE,
            requests: self.count,
            quantity_nano: i128::from(self.count) * 1_000_000_000,
            request_bytes: 0,
            response_bytes: 0,
            duration_us: 0,
            upstream_us: 0,
            tenant,
            path,
            plan,
            key_id: "",
            app,
            route,
            meter: "refusals",
            reason,
        })?;
        self.count = 0;
        Ok(())
    }
}

/// A count is changed in a single step, so a panic elsewhere leaves it whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
