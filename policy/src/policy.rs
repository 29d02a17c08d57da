//! The policy in force: one snapshot behind an atomic pointer, replaced whole or not at all.

mod carry;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::{ArcSwap, Guard};

use crate::catalogue;
use crate::decide::{Call, Decision};
use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::documents::Source;
use crate::dynamic::DynamicBuckets;
use crate::levels::Levels;
use crate::members::Members;
use crate::quota::{Early, Memory};
use crate::snapshot::{Equipment, Snapshot};
use crate::time::{Nanos, Reading};
pub use carry::{Held, Owner, Record, Restored, Spent};

/// What is fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct PolicySettings {
    /// Most client addresses and end users held one by one, over all limits (72 bytes each).
    pub max_dynamic_keys: usize,
    /// Key of the hash by which they are held; random, so that nobody can aim for one bucket. What
    /// they have spent is found again after a restart under the same key only.
    pub hash_key: [u8; 16],
    /// Where quotas count.
    pub memory: Arc<dyn Memory>,
}

/// The policy in force. Reading it is wait-free; [`apply`](Self::apply) calls take turns.
pub struct Policy {
    current: ArcSwap<Snapshot>,
    applying: Mutex<()>,
    /// Held while buckets are handed over to a new snapshot, which takes no time compared with
    /// building it: whoever holds it sees every bucket where it is in force.
    handing_over: Mutex<()>,
    equip: OnceLock<Equip>,
    levels: Levels,
    early: Early,
    late: AtomicU64,
}

type Equip = Box<dyn Fn(&Snapshot) -> Equipment + Send + Sync>;

/// What a successful [`Policy::apply`] put in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The new catalogue's number.
    pub version: u64,
    /// What is in it.
    pub summary: Summary,
}

/// What a set of documents holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Tenants.
    pub tenants: usize,
    /// Keys.
    pub keys: usize,
    /// Plans.
    pub plans: usize,
    /// Apps.
    pub apps: usize,
    /// Routes.
    pub routes: usize,
}

impl Summary {
    /// Of what a snapshot holds.
    pub fn of(snapshot: &Snapshot) -> Summary {
        let [tenants, keys, plans, apps, routes] = snapshot.counts();
        Summary { tenants, keys, plans, apps, routes }
    }
}

/// Validates documents as [`Policy::apply`] would at `at_us` (unix microseconds), and changes
/// nothing. What resolves at one instant does so at any later one.
pub fn check(sources: &[Source], at_us: i64) -> Result<Snapshot, Diagnostics> {
    let dynamic = Arc::new(DynamicBuckets::new(0, [0; 16]));
    catalogue::build(sources, at_us, None, &dynamic, None)
}

/// As [`check`], with what is no mistake in the documents, and perhaps not what was meant: none or
/// more.
pub fn review(sources: &[Source], at_us: i64) -> Result<(Snapshot, Vec<Diagnostic>), Diagnostics> {
    let dynamic = Arc::new(DynamicBuckets::new(0, [0; 16]));
    let (snapshot, Diagnostics(doubts)) = catalogue::review(sources, at_us, &dynamic)?;
    Ok((snapshot, doubts))
}

impl Policy {
    /// The first policy of a process, as of `at_us` (unix microseconds); every bucket starts full
    /// until [`restore`](Self::restore).
    pub fn new(
        sources: &[Source],
        settings: &PolicySettings,
        at_us: i64,
    ) -> Result<Policy, Diagnostics> {
        let dynamic = DynamicBuckets::new(settings.max_dynamic_keys, settings.hash_key);
        let levels = Levels::new(Arc::clone(&settings.memory), at_us);
        let snapshot = catalogue::build(sources, at_us, None, &Arc::new(dynamic), Some(&levels))?;
        let kept = levels.resume(&snapshot);
        let is_in_use = |key| snapshot.quota(key).is_some() || kept.contains(&key);
        levels.memory().retain(&is_in_use);
        Ok(Policy {
            current: ArcSwap::from_pointee(snapshot),
            applying: Mutex::new(()),
            handing_over: Mutex::new(()),
            equip: OnceLock::new(),
            levels,
            early: Early::default(),
            late: AtomicU64::new(0),
        })
    }

    /// Has `make` called for the snapshot in force and for each later one before it comes into
    /// force; requests find the result by [`Snapshot::equipment`]. Only the first call counts.
    pub fn equip<T: Send + Sync + 'static>(
        &self,
        make: impl Fn(&Snapshot) -> T + Send + Sync + 'static,
    ) {
        let equip: Equip = Box::new(move |snapshot| Box::new(make(snapshot)));
        let _turn = self.applying.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let equip = self.equip.get_or_init(|| equip);
        let current = self.current.load();
        current.equipment.get_or_init(|| equip(&current));
    }

    /// The snapshot in force.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Puts new documents in force, or changes nothing and says why (**P4**).
    ///
    /// What a limit had spent stays spent, in tokens, whatever was edited (**P3**). A limit is
    /// known by its tenant (or key) and its name; a limit that appears where another one
    /// disappears takes over what that one had spent.
    ///
    /// `now` is asked for the instant the documents are resolved for, and again once they are in
    /// force, since building them takes time in which requests went on: for the buckets, and for each
    /// quota that begins to count.
    pub fn apply(
        &self,
        sources: &[Source],
        now: impl Fn() -> Reading,
    ) -> Result<Applied, Diagnostics> {
        let _turn = self.applying.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = self.current.load_full();
        let (at_us, levels) = (now().unix_us, Some(&self.levels));
        let next = catalogue::build(sources, at_us, Some(&before), &before.dynamic, levels)?;
        let applied = Applied { version: next.version, summary: Summary::of(&next) };
        if let Some(equip) = self.equip.get() {
            next.equipment.get_or_init(|| equip(&next));
        }
        let next = Arc::new(next);
        let _turn = self.handing_over.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.levels.hand_over(&next, || self.current.store(Arc::clone(&next)));
        let in_force = now().mono;
        for bucket in &next.inherited {
            bucket.settle(in_force);
        }
        next.begin_quotas(&|| now().unix_us);
        Ok(applied)
    }

    /// Decides a request against the policy in force.
    ///
    /// Reads no clock: `call.now` is the one reading of this request.
    pub fn decide(&self, call: &Call<'_>) -> Decision {
        loop {
            let snapshot = self.current();
            if let Some(decision) = snapshot.decide(call) {
                return decision;
            }
            // A bucket of this snapshot was taken over: a newer snapshot is in force already.
        }
    }

    /// As [`load`](Self::load), for a moment.
    pub(crate) fn current(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The levels of gauges.
    pub(crate) fn levels(&self) -> &Levels {
        &self.levels
    }

    /// Events that wait for the windows they are dated in.
    pub(crate) fn early(&self) -> &Early {
        &self.early
    }

    /// Notes that something went to a quota's base, if it did.
    pub(crate) fn note(&self, is_late: bool) {
        if is_late {
            self.late.fetch_add(1, Ordering::Release);
        }
    }

    /// A number that grows whenever something is counted in a quota's base, because it is dated before
    /// the quota began to count by itself: then rows are to be read anew for the base to be right.
    pub fn late_counts(&self) -> u64 {
        self.late.load(Ordering::Acquire)
    }

    /// Frees the buckets of clients and end users that are full again. Returns how many are left.
    pub fn sweep(&self, now: Nanos) -> usize {
        self.current.load().dynamic.sweep(now)
    }

    /// The members of distinct meters; the same for the life of the process.
    pub fn members(&self) -> Arc<Members> {
        Arc::clone(&self.current.load().members)
    }

    /// Client addresses and end users held one by one.
    pub fn dynamic_keys(&self) -> usize {
        self.current.load().dynamic.len()
    }
}
