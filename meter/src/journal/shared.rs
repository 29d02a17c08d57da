//! What the threads of an open journal share: its lanes, its disk, and how to get at them.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::{cmp, io};

use super::housekeeping::Handles;
use super::lane::Lane;
use super::mark::Mark;
use super::pool::{Pool, Wanted};
use super::reader::LaneReader;
use super::record::{Identity, Record};
use super::recover::{Recovered, judge};
use super::survey::survey;
use super::{AppendError, JournalError, JournalSettings, LaneKey, Loss, locked, loss};
use crate::boot::Boot;
use crate::clock;
use crate::durable::sync_directory;
use crate::event::View;

/// Tells journals of one process apart, for thread-locals.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// How old the mark becomes while nothing is appended: an idle machine's disk is left in peace.
const IDLE_MARK_US: i64 = 1_000_000;

/// An open journal without its threads.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: u64,
    pub(super) settings: JournalSettings,
    pub(super) identity: Identity,
    pub(super) boot: Boot,
    pub(super) pool: Pool,
    live: Mutex<Vec<Arc<Lane>>>,
    /// Live lanes that no thread has.
    free: Mutex<Vec<Arc<Lane>>>,
    former: Mutex<BTreeMap<LaneKey, Arc<Lane>>>,
    record: Mutex<Record>,
    mark: Mark,
    /// Losses found at the opening or not noted before, and those of lanes that are gone.
    losses: Mutex<Vec<Loss>>,
    /// Threads that will probably append.
    expected_lanes: usize,
    closed: AtomicBool,
    pub(super) synced_bytes: AtomicU64,
    pub(super) sync_failures: AtomicU64,
    is_sync_failing: AtomicBool,
    /// Everything appended before is on the disk, and marked so.
    pub(super) synced_us: AtomicI64,
    /// Events there were then.
    marked_events: AtomicU64,
    handles: Handles,
}

impl Shared {
    pub(super) fn open(settings: JournalSettings, boot: &Boot) -> Result<Shared, JournalError> {
        let directory = settings.directory.clone();
        let failed = |source| JournalError::Io { path: directory.clone(), source };
        let now_us = clock::unix_us();
        let (record, recovered) = recover(&directory, boot, now_us)?;
        let Recovered { lanes, bytes, next_serial, .. } = recovered;
        let (identity, losses) = (record.identity(), record.known().losses.clone());
        let mark = Mark::open(&directory, identity.node, identity.epoch).map_err(failed)?;
        let JournalSettings { segment_bytes, max_bytes, max_lanes, .. } = settings;
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Shared {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            settings,
            identity,
            boot: *boot,
            pool: Pool::new(directory, segment_bytes, max_bytes, bytes, next_serial),
            live: Mutex::new(Vec::new()),
            free: Mutex::new(Vec::new()),
            former: Mutex::new(lanes),
            record: Mutex::new(record),
            mark,
            losses: Mutex::new(losses),
            expected_lanes: cmp::min(threads, usize::from(max_lanes)),
            closed: AtomicBool::new(false),
            synced_bytes: AtomicU64::new(0),
            sync_failures: AtomicU64::new(0),
            is_sync_failing: AtomicBool::new(false),
            synced_us: AtomicI64::new(now_us),
            marked_events: AtomicU64::new(0),
            handles: Handles::new(),
        })
    }

    pub(super) fn set_housekeeper(&self, thread: Thread) {
        self.pool.set_housekeeper(thread);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// A lane for a thread: one given back, else a new one, else the least shared.
    pub(super) fn claim_lane(&self) -> Result<Arc<Lane>, AppendError> {
        // Held throughout, so that `close` sees every lane there will ever be.
        let mut free = locked(&self.free);
        if self.is_closed() {
            return Err(AppendError::Closed);
        }
        if let Some(lane) = free.pop() {
            self.pool.set_active(true);
            lane.claim();
            return Ok(lane);
        }
        let number = locked(&self.live).len();
        let lane = if number < usize::from(self.settings.max_lanes) {
            let Identity { node, epoch } = self.identity;
            let key = LaneKey { node, epoch, lane: number as u16 };
            let lane = Arc::new(Lane::start(key, &self.pool)?);
            // After a power failure, a lane that was is known to have been.
            match lane.sync(u32::MAX) {
                Ok(bytes) => self.note_synced(bytes),
                Err(error) => self.note_sync_failure(&error),
            }
            locked(&self.live).push(Arc::clone(&lane));
            self.pool.set_active(true);
            lane
        } else {
            let live = locked(&self.live);
            let least = live.iter().min_by_key(|lane| lane.claims());
            Arc::clone(least.expect("a journal allows at least one lane"))
        };
        lane.claim();
        Ok(lane)
    }

    /// A thread no longer appends to this lane.
    pub(super) fn give_back(&self, lane: &Arc<Lane>) {
        let mut free = locked(&self.free);
        if lane.unclaim() {
            self.pool.set_active(false);
            free.push(Arc::clone(lane));
        }
    }

    /// No append succeeds after this returned.
    pub(super) fn close(&self) {
        let free = locked(&self.free);
        self.closed.store(true, Ordering::Release);
        drop(free);
        for lane in self.live() {
            lane.close();
        }
    }

    fn live(&self) -> Vec<Arc<Lane>> {
        locked(&self.live).clone()
    }

    /// Former lanes in order, then the live ones.
    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        let mut lanes: Vec<_> = locked(&self.former).values().cloned().collect();
        lanes.extend(self.live());
        lanes
    }

    pub(super) fn lane(&self, key: LaneKey) -> Option<Arc<Lane>> {
        let Identity { node, epoch } = self.identity;
        if (key.node, key.epoch) == (node, epoch) {
            locked(&self.live).get(usize::from(key.lane)).cloned()
        } else {
            locked(&self.former).get(&key).cloned()
        }
    }

    /// A spare for every active lane, in memory for those that will soon need it; and one for each
    /// thread that has not come yet, so that its first event finds one.
    pub(super) fn replenish(&self, retry: bool) {
        let live = self.live();
        let welcome = self.expected_lanes.saturating_sub(live.len());
        let soon = live.iter().filter(|lane| lane.is_half_full()).count();
        self.pool.replenish(Wanted { welcome, ready: 1 + soon }, retry);
    }

    /// Brings everything committed to the disk and marks that it is; false when that failed.
    pub(super) fn sync(&self) -> bool {
        let began_us = clock::unix_us();
        let lanes = self.live();
        // Read before syncing, as is the time: what is marked was there when the round began.
        let events = lanes.iter().map(|lane| lane.next_sequence()).sum();
        let mut failure = None;
        for lane in lanes {
            match lane.sync(u32::MAX) {
                Ok(bytes) => self.note_synced(bytes),
                Err(error) => failure = Some(error),
            }
        }
        let age_us = began_us - self.synced_us.load(Ordering::Relaxed);
        let is_due = self.is_closed()
            || self.marked_events.load(Ordering::Relaxed) != events
            || age_us.abs() >= IDLE_MARK_US;
        if failure.is_none() && is_due {
            failure = self.mark.set(began_us).err();
        }
        if let Some(error) = failure {
            self.note_sync_failure(&error);
            return false;
        }
        if self.is_sync_failing.swap(false, Ordering::Relaxed) {
            let failures = self.sync_failures.load(Ordering::Relaxed);
            tracing::info!(failures, "the journal can be synced again");
        }
        if is_due {
            self.marked_events.store(events, Ordering::Relaxed);
            self.synced_us.store(began_us, Ordering::Relaxed);
        }
        true
    }

    fn note_sync_failure(&self, error: &io::Error) {
        self.sync_failures.fetch_add(1, Ordering::Relaxed);
        if !self.is_sync_failing.swap(true, Ordering::Relaxed) {
            tracing::error!(
                %error,
                directory = ?self.settings.directory,
                "the journal cannot be synced: events survive this process, not the machine"
            );
        }
    }

    /// Everything is on the disk and nothing will follow: durably said.
    pub(super) fn seal(&self) {
        if let Err(error) = locked(&self.record).close() {
            tracing::error!(%error, "the journal's clean end could not be noted");
        }
    }

    pub(super) fn note_synced(&self, bytes: u64) {
        self.synced_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn retire(&self, key: LaneKey) -> io::Result<()> {
        let Some(lane) = self.lane(key) else { return Ok(()) };
        let mut freed = 0;
        for segment in lane.segments() {
            segment.remove()?;
            freed += segment.bytes();
        }
        sync_directory(&self.settings.directory)?;
        if locked(&self.former).remove(&key).is_some() {
            loss::add(&mut locked(&self.losses), lane.losses());
            self.pool.release(freed);
        }
        Ok(())
    }

    pub(super) fn losses(&self) -> Vec<Loss> {
        let mut losses = locked(&self.losses).clone();
        loss::add(&mut losses, self.lanes().iter().flat_map(|lane| lane.losses()));
        losses
    }

    pub(super) fn tell_loss(&self, loss: Loss) -> io::Result<()> {
        let stored = locked(&self.record).add(loss);
        loss::add(&mut locked(&self.losses), [loss]);
        stored
    }

    pub(super) fn losses_noted(&self, noted: &[Loss]) -> io::Result<()> {
        locked(&self.record).forget(noted)
    }

    /// Event time of the oldest frame, lane by lane, that is not acknowledged; of all, the lowest.
    pub(super) fn oldest_pending_ts_us(&self) -> Option<i64> {
        let first_ts_us = |lane: &Arc<Lane>| {
            let mut reader = LaneReader::of_one_frame(Arc::clone(lane), lane.acknowledged());
            let frame = reader.read().ok()??;
            View::decode(frame.row).ok().map(|row| row.ts_us())
        };
        self.lanes().iter().filter(|lane| pending_events(lane) > 0).filter_map(first_ts_us).min()
    }

    pub(super) fn publish(&self) {
        self.handles.publish(&self.status());
    }
}

/// Recovers what earlier openings left and raises the epoch.
fn recover(
    directory: &Path,
    boot: &Boot,
    now_us: i64,
) -> Result<(Record, Recovered), JournalError> {
    let mut record = Record::open(directory)?;
    let survey = survey(directory)?;
    let seen = survey.last_epoch(record.known().node);
    let told = record.known().losses.len();
    let judged = judge(directory, survey, record.known(), boot, now_us)?;
    judged.losses.iter().for_each(Loss::log);
    let scanned_bytes = judged.scanned_bytes;
    judged.sync()?;
    // From here on the losses are durable, and the disk may be changed.
    record.raise(seen, boot, now_us, &judged.losses)?;
    let recovered = judged.settle(directory)?;
    if told > 0 {
        tracing::warn!(losses = told, "losses of earlier openings are not noted elsewhere yet");
    }
    let Identity { node, epoch } = record.identity();
    tracing::info!(
        took_ms = (clock::unix_us() - now_us) / 1_000,
        node,
        epoch,
        lanes = recovered.lanes.len(),
        segments = recovered.segments,
        bytes = recovered.bytes,
        scanned_bytes,
        cut_bytes = recovered.cut_bytes,
        pending_events = recovered.lanes.values().map(|lane| pending_events(lane)).sum::<u64>(),
        "journal opened"
    );
    Ok((record, recovered))
}

/// Events of the lane that are not acknowledged.
pub(super) fn pending_events(lane: &Lane) -> u64 {
    lane.next_sequence().saturating_sub(lane.acknowledged().sequence)
}
