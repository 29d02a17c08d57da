//! What the threads of an open journal share: its lanes, its disk, and how to get at them.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::{cmp, io};

use super::housekeeping::Handles;
use super::identity::{self, Identity};
use super::lane::Lane;
use super::pool::{Pool, Wanted};
use super::reader::LaneReader;
use super::recover::{Recovered, recover};
use super::{AppendError, JournalError, JournalSettings, LaneKey, Loss, locked};
use crate::durable::sync_directory;
use crate::event::View;

/// Tells journals of one process apart, for thread-locals.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// An open journal without its threads.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: u64,
    pub(super) settings: JournalSettings,
    pub(super) identity: Identity,
    pub(super) pool: Pool,
    live: Mutex<Vec<Arc<Lane>>>,
    /// Live lanes that no thread has.
    free: Mutex<Vec<Arc<Lane>>>,
    former: Mutex<BTreeMap<LaneKey, Arc<Lane>>>,
    /// Losses of lanes that are gone.
    losses: Mutex<Vec<Loss>>,
    /// Threads that will probably append.
    expected_lanes: usize,
    closed: AtomicBool,
    pub(super) synced_bytes: AtomicU64,
    pub(super) sync_failures: AtomicU64,
    handles: Handles,
}

impl Shared {
    pub(super) fn open(settings: JournalSettings) -> Result<Shared, JournalError> {
        let directory = settings.directory.clone();
        let failed = |source| JournalError::Io { path: directory.clone(), source };
        let recovered = recover(&directory)?;
        let identity =
            identity::raise(&directory, |node| recovered.last_epoch(node)).map_err(failed)?;
        let Recovered { lanes, bytes, next_serial, losses } = recovered;
        let events = lanes.values().map(|lane| pending_events(lane)).sum::<u64>();
        tracing::info!(
            node = identity.node,
            epoch = identity.epoch,
            lanes = lanes.len(),
            bytes,
            events,
            "journal opened"
        );
        let JournalSettings { segment_bytes, max_bytes, max_lanes, .. } = settings;
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Shared {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            settings,
            identity,
            pool: Pool::new(directory, segment_bytes, max_bytes, bytes, next_serial),
            live: Mutex::new(Vec::new()),
            free: Mutex::new(Vec::new()),
            former: Mutex::new(lanes),
            losses: Mutex::new(losses),
            expected_lanes: cmp::min(threads, usize::from(max_lanes)),
            closed: AtomicBool::new(false),
            synced_bytes: AtomicU64::new(0),
            sync_failures: AtomicU64::new(0),
            handles: Handles::new(),
        })
    }

    pub(super) fn set_housekeeper(&self, thread: Thread) {
        self.pool.set_housekeeper(thread);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_closed()
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

    /// Brings everything committed to the disk.
    pub(super) fn sync(&self) {
        for lane in self.live() {
            match lane.sync(u32::MAX) {
                Ok(bytes) => self.note_synced(bytes),
                Err(error) => {
                    if self.sync_failures.fetch_add(1, Ordering::Relaxed) == 0 {
                        tracing::error!(%error, lane = ?lane.key(), "the journal cannot be synced");
                    }
                }
            }
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
            locked(&self.losses).extend(lane.losses());
            self.pool.release(freed);
        }
        Ok(())
    }

    pub(super) fn losses(&self) -> Vec<Loss> {
        let mut losses = locked(&self.losses).clone();
        losses.extend(self.lanes().iter().flat_map(|lane| lane.losses()));
        losses
    }

    /// Event time of the oldest frame, lane by lane, that is not acknowledged; of all, the lowest.
    pub(super) fn oldest_pending_ts_us(&self) -> Option<i64> {
        let first_ts_us = |lane: &Arc<Lane>| {
            let mut reader = LaneReader::new(Arc::clone(lane), lane.acknowledged());
            let frame = reader.read().ok()??;
            View::decode(frame.row).ok().map(|row| row.ts_us())
        };
        self.lanes().iter().filter(|lane| pending_events(lane) > 0).filter_map(first_ts_us).min()
    }

    pub(super) fn publish(&self) {
        self.handles.publish(&self.status());
    }
}

/// Events of the lane that are not acknowledged.
pub(super) fn pending_events(lane: &Lane) -> u64 {
    lane.next_sequence().saturating_sub(lane.acknowledged().sequence)
}
