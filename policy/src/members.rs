//! Who was seen: the members of meters that count distinct ones, each set for one window of time.
//!
//! Owns every set there is, by its key, for the life of the process: a set outlives the snapshots
//! that use it, so a reload forgives nobody (**P3**). A member is a 64-bit hash ([`Member`]); names
//! are not kept.
//!
//! Guarantees:
//! - A set with a cap never holds one member more, and refuses none before it is full, whoever asks
//!   at the same time (**P1**): a new member is let in under a lock, after a second look.
//! - A new member is in every set of its chain or in none (**P2**): the locks of all of them are
//!   held from that look until the rest of the chain has decided.
//! - A known member is found without a lock, an allocation or a write to shared memory.
//! - What a set let in was handed to the [`MemberLog`] before, so that it is found again after a
//!   restart (**P3**).
//! - Up to [`EXACT_MAX`] members, or the cap where that is more, a set is exact; beyond that it is a
//!   sketch of 16 KiB whose count has a standard error of 0.81 %. With a cap, members that would
//!   not change the sketch are let in, so what it counts never passes the cap.

mod id;
mod sketch;
mod table;
mod written;

use std::sync::{Arc, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use hashbrown::HashMap;

pub use id::{Member, member_id};
pub use table::EXACT_MAX;
pub use written::{Entry, Written};

use crate::sync::{Mutex, MutexGuard};
use table::Table;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

/// Locks for new members; a set has one of them by its key.
const SHARDS: usize = 64;

/// Microseconds in a quarter of an hour.
const QUARTER_US: i64 = 15 * 60 * 1_000_000;

/// Rows of members that are remembered as written: 16 MiB.
const WRITTEN_WORDS: usize = 1 << 21;

/// How long after its window a set is kept for requests that come late.
const LATE_US: i64 = 4 * QUARTER_US;

/// A window of time, in quarters of an hour since 1970: midnight is on one in every zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Its first quarter.
    pub start: u32,
    /// The first quarter after it.
    pub end: u32,
}

impl Span {
    /// The window from one unix time in microseconds to another, which is not in it.
    pub fn between(start_us: i64, end_us: i64) -> Span {
        let quarter = |us: i64| u32::try_from(us.div_euclid(QUARTER_US)).unwrap_or(0);
        let start = quarter(start_us);
        Span { start, end: quarter(end_us).max(start + 1) }
    }

    /// When it ends, unix microseconds.
    pub fn end_us(self) -> i64 {
        i64::from(self.end) * QUARTER_US
    }
}

/// A member that was let into a set, as it is kept over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberRecord {
    /// The set's key.
    pub set: u128,
    /// The window the set was in.
    pub span: Span,
    /// The member.
    pub member: Member,
    /// Whether the set is a sketch by now, which this member changed.
    pub sketched: bool,
}

/// Where members are kept over a restart. Called with locks held: it returns at once, and deals
/// with its own failures.
pub trait MemberLog: Send + Sync {
    /// Keeps a member that is about to be let in.
    fn append(&self, record: &MemberRecord);
}

/// Every set of the process.
pub struct Members {
    seed: u64,
    sets: Mutex<HashMap<u128, Arc<MemberSet>>>,
    shards: [Mutex<()>; SHARDS],
    log: OnceLock<Box<dyn MemberLog>>,
    written: OnceLock<Written>,
}

/// One set. Empty until somebody is seen.
#[derive(Debug)]
pub struct MemberSet {
    key: u128,
    table: ArcSwapOption<Table>,
}

/// Whom a set is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'s> {
    /// The set.
    pub set: &'s MemberSet,
    /// The window the request falls in.
    pub span: Span,
    /// Who.
    pub member: Member,
    /// Members at most; `None`: any number.
    pub cap: Option<u64>,
}

/// How a set answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Seen before in this window.
    Known,
    /// Not seen before, and there is room.
    New,
    /// Not seen before, and there is no room.
    Full,
}

/// How many members a set has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCount {
    /// So many.
    pub members: u64,
    /// Whether that is an estimate, with a standard error of 0.81 %.
    pub estimated: bool,
}

/// The right to let members into the sets it was made for: nobody else does meanwhile.
pub struct Turn<'m> {
    members: &'m Members,
    locked: u64,
    _guards: [Option<MutexGuard<'m, ()>>; SHARDS],
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Members").finish_non_exhaustive()
    }
}

impl Members {
    /// No sets yet. `hash_key` keeps others from choosing names that fall together in memory.
    pub fn new(hash_key: &[u8; 16]) -> Members {
        let halves = hash_key.as_chunks::<8>().0;
        let seed = halves.iter().fold(0, |seed, half| seed ^ u64::from_le_bytes(*half));
        Members {
            seed,
            sets: Mutex::new(HashMap::new()),
            shards: std::array::from_fn(|_| Mutex::new(())),
            log: OnceLock::new(),
            written: OnceLock::new(),
        }
    }

    /// From now on new members are kept there. Only the first call counts.
    pub fn keep(&self, log: Box<dyn MemberLog>) {
        let _only_the_first = self.log.set(log);
    }

    /// Which members have their row.
    pub fn written(&self) -> &Written {
        self.written.get_or_init(|| Written::new(WRITTEN_WORDS))
    }

    /// The set of this key; always the same one.
    pub fn set(&self, key: u128) -> Arc<MemberSet> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(MemberSet { key, table: ArcSwapOption::empty() });
        Arc::clone(sets.entry(key).or_insert_with(new))
    }

    /// Whether the set has seen the member, or counts as many with it. Takes no lock.
    pub fn knows(&self, set: &MemberSet, span: Span, member: Member) -> bool {
        let table = set.table.load();
        let current = table.as_deref().filter(|table| !table.is_over(span));
        current.is_some_and(|table| table.covers(self.seed, member))
    }

    /// Asks a set without changing it. Takes no lock.
    pub fn look(&self, asked: &Asked<'_>) -> Seen {
        let table = asked.set.table.load();
        let current = table.as_deref().filter(|table| !table.is_over(asked.span));
        match current {
            Some(table) => table.look(self.seed, asked.member, asked.cap),
            None if asked.cap == Some(0) => Seen::Full,
            None => Seen::New,
        }
    }

    /// Keeps everybody else from letting members into these sets.
    ///
    /// Locks are taken in their order, whatever the order of the sets: no two turns wait for each
    /// other.
    pub fn turn<'s>(&self, sets: impl IntoIterator<Item = &'s MemberSet>) -> Turn<'_> {
        let locked = sets.into_iter().fold(0_u64, |locked, set| locked | 1 << set.shard());
        let guards = std::array::from_fn(|shard| {
            let lock = || self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
            (locked >> shard & 1 == 1).then(lock)
        });
        Turn { members: self, locked, _guards: guards }
    }

    /// Puts everybody who is in one set also into another one, which takes over from it (**P3**).
    pub fn take_over(&self, from: &MemberSet, to: &MemberSet, now: Span, span: Span) {
        let turn = self.turn([from, to]);
        let table = from.table.load_full().filter(|table| !table.is_over(now));
        let Some(table) = table else { return };
        table.each(&mut |member, sketched| {
            let record = MemberRecord { set: to.key, span, member, sketched };
            if let Some(log) = self.log.get() {
                log.append(&record);
            }
            to.restore(&turn, &record);
        });
    }

    /// Puts a member back that a process before this one had let in, unless its window is over.
    pub fn restore(&self, record: &MemberRecord, unix_us: i64) {
        if record.span.end_us() <= unix_us {
            return;
        }
        let set = self.set(record.set);
        let turn = self.turn([&*set]);
        set.restore(&turn, record);
    }

    /// Shows every member of every set; one that is let in meanwhile is shown or in the log behind
    /// what was there when this began. A sketch shows members that make up the same sketch.
    pub fn export(&self, visit: &mut dyn FnMut(&MemberRecord)) {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let sets: Vec<_> = sets.values().map(Arc::clone).collect();
        for set in sets {
            let _turn = self.turn([&*set]);
            let table = set.table.load_full();
            if let Some(table) = &table {
                let (key, span) = (set.key, table.span());
                table.each(&mut |member, sketched| {
                    visit(&MemberRecord { set: key, span, member, sketched });
                });
            }
        }
    }

    /// Frees what windows that are over have left. Returns how many members are held, a
    /// sketch as its registers.
    pub fn sweep(&self, unix_us: i64) -> u64 {
        let is_over = |table: &Arc<Table>| table.span().end_us() + LATE_US <= unix_us;
        let mut held = 0;
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|_, set| {
            if set.table.load().as_ref().is_some_and(is_over) {
                let _turn = self.turn([&**set]);
                // Somebody may have begun a new window in it before the turn.
                if set.table.load().as_ref().is_some_and(is_over) {
                    set.table.store(None);
                }
            }
            let here = set.table.load().as_ref().map(|table| table.held());
            held += here.unwrap_or(0);
            // Only this map and nobody's quota: with the map locked nobody else gets it.
            here.is_some() || Arc::strong_count(set) > 1
        });
        held
    }
}

impl MemberSet {
    /// What it is known by.
    pub fn key(&self) -> u128 {
        self.key
    }

    /// How many members it has in this window.
    pub fn count(&self, span: Span) -> MemberCount {
        let table = self.table.load();
        let current = table.as_deref().filter(|table| !table.is_over(span));
        current.map(Table::count).unwrap_or_default()
    }

    fn shard(&self) -> usize {
        self.key as usize % SHARDS
    }

    /// The table this window's members are in; under the set's turn.
    fn current(&self, span: Span) -> Option<Arc<Table>> {
        let table = self.table.load_full().filter(|table| !table.is_over(span))?;
        if table.span() == span || table.span().start >= span.end {
            return Some(table);
        }
        // The quota's period was changed: what it had counted stays counted (P3).
        let table = Arc::new(table.in_span(span));
        self.table.store(Some(Arc::clone(&table)));
        Some(table)
    }

    fn restore(&self, turn: &Turn<'_>, record: &MemberRecord) {
        let seed = turn.members.seed;
        let current = self.current(record.span);
        let next = match current {
            None if record.sketched => {
                Table::of(record.span, seed, record.member).sketched(record.member)
            }
            None => Some(Table::of(record.span, seed, record.member)),
            // It became a sketch where it would be exact by the limit it has now, or the other
            // way round: what it was is what tells how much it stands for.
            Some(table) if record.sketched => table.sketched(record.member),
            Some(table) => table.with(seed, record.member, u64::MAX),
        };
        if let Some(next) = next {
            self.table.store(Some(Arc::new(next)));
        }
    }
}

impl Turn<'_> {
    /// Asks a set, as [`Members::look`]: the answer holds as long as the turn.
    pub fn look(&self, asked: &Asked<'_>) -> Seen {
        self.members.look(asked)
    }

    /// Puts a member in that is one of those that make a sketch of more; the set is one from then on.
    pub fn sketch(&self, set: &MemberSet, span: Span, member: Member) {
        debug_assert!(self.locked >> set.shard() & 1 == 1, "the turn was made for this set");
        let at = set.current(span).map_or(span, |table| table.span());
        let record = MemberRecord { set: set.key, span: at, member, sketched: true };
        if let Some(log) = self.members.log.get() {
            log.append(&record);
        }
        set.restore(self, &record);
    }

    /// Lets a member in that this turn was told is new. Returns whether the set changed.
    pub fn insert(&self, asked: &Asked<'_>) -> bool {
        let Asked { set, span, member, cap } = *asked;
        debug_assert!(self.locked >> set.shard() & 1 == 1, "the turn was made for this set");
        let seed = self.members.seed;
        let current = set.current(span);
        if current.as_ref().is_some_and(|table| table.covers(seed, member)) {
            return false;
        }
        let exact_max = cap.unwrap_or(0).max(EXACT_MAX);
        let sketched = current.as_ref().is_some_and(|table| table.is_sketched(exact_max));
        let at = current.as_ref().map_or(span, |table| table.span());
        if let Some(log) = self.members.log.get() {
            log.append(&MemberRecord { set: set.key, span: at, member, sketched });
        }
        let next = match current {
            None => Some(Table::of(span, seed, member)),
            Some(table) => table.with(seed, member, exact_max),
        };
        if let Some(next) = next {
            set.table.store(Some(Arc::new(next)));
        }
        true
    }
}
