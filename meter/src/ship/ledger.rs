//! What has been shipped and what is being shipped, durably.
//!
//! Guarantees (M2): a plan names its rows, batches and tokens durably before any of it is sent, and
//! all its rows are on the disk by then; the cursor passes a plan only when every batch of it is
//! acknowledged and listed, and segments are removed only below the durable cursor. What the journal
//! tells to be lost is kept here, from before a cursor passes it until ClickHouse has it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ShipError;
use crate::clickhouse::proof::ShippedLane;
use crate::journal::{Journal, LaneKey, Loss, Position, loss};
use crate::slots::Slots;

pub(super) const NAME: &str = "shipping";
const VERSION: u32 = 1;
/// Lanes of which it is remembered how far they were shipped: those of the last few hundred openings.
/// ClickHouse has been told of all.
const MOST_SHIPPED: usize = 1024;

/// A part of a lane: the frames from `start` up to the sequence of `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Range {
    pub(super) lane: LaneKey,
    pub(super) start: Position,
    pub(super) end: Position,
}

/// Rows of one month, sent as one block.
#[allow(clippy::struct_field_names, reason = "the column is called so, and an id is no batch")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) batch_id: u64,
    pub(super) token: String,
    /// yyyymm
    pub(super) month: u32,
    pub(super) rows: u64,
}

/// Ranges of lanes, and the batches their rows make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) number: u64,
    pub(super) ranges: Vec<Range>,
    pub(super) batches: Vec<Batch>,
}

impl Plan {
    pub(super) fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.rows).sum()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    lane: LaneKey,
    position: Position,
}

/// Node, epoch and lane, the sequence below which it was shipped, and when the last of that was.
type Shipped = (u32, u32, u16, u64, i64);

/// The durable part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    version: u32,
    /// Upper half of every batch id, drawn when the state was made: a state that is lost and made
    /// again does not repeat ids.
    prefix: u32,
    next_batch: u32,
    next_plan: u64,
    watermark_us: Option<i64>,
    cursors: Vec<Cursor>,
    pending: VecDeque<Plan>,
    /// Not in ClickHouse yet.
    #[serde(default)]
    losses: Vec<Loss>,
    /// Lanes that were shipped from, whether they are still here or not; the latest first.
    #[serde(default)]
    shipped: Vec<Shipped>,
}

/// The state, its file, and the journal it is about.
#[derive(Debug)]
pub(super) struct Ledger {
    journal: Arc<Journal>,
    slots: Slots,
    state: State,
    /// Pending plans of which everything is acknowledged, and when each was listed.
    done: BTreeMap<u64, i64>,
    /// Former lanes whose last frame is in a plan, or was before the cursor.
    exhausted: BTreeSet<LaneKey>,
    /// Taken over from the journal, which tells them as long as it is open.
    told: Vec<Loss>,
}

impl Ledger {
    /// Reads the state kept in the journal's directory and tells the journal what is acknowledged.
    pub(super) fn open(journal: Arc<Journal>) -> Result<Ledger, ShipError> {
        let (mut slots, stored) = Slots::open(journal.directory(), NAME)?;
        let state = if let Some(bytes) = stored {
            parse(&bytes)?
        } else {
            let state = fresh().map_err(|source| ShipError::State { source })?;
            // Twice, so that neither copy is ever blank again: see `Slots::open`.
            for _ in 0..2 {
                slots.store(&text(&state)).map_err(|source| ShipError::State { source })?;
            }
            state
        };
        let (done, exhausted) = (BTreeMap::new(), BTreeSet::new());
        let mut ledger = Ledger { journal, slots, state, done, exhausted, told: Vec::new() };
        if ledger.has_news() {
            ledger.persist().map_err(|source| ShipError::State { source })?;
        }
        let lanes: BTreeSet<LaneKey> = ledger.journal.lanes().into_iter().collect();
        // A lane without files was shipped and removed.
        ledger.state.cursors.retain(|cursor| lanes.contains(&cursor.lane));
        for Cursor { lane, position } in &ledger.state.cursors {
            let done = ledger.journal.acknowledge(*lane, *position);
            done.map_err(|source| ShipError::State { source })?;
        }
        Ok(ledger)
    }

    pub(super) fn pending(&self) -> Vec<Plan> {
        self.state.pending.iter().cloned().collect()
    }

    pub(super) fn watermark_us(&self) -> Option<i64> {
        self.state.watermark_us
    }

    /// Kept with the next change; a watermark that is lost is only lower.
    pub(super) fn set_watermark(&mut self, watermark_us: Option<i64>) {
        self.state.watermark_us = watermark_us.or(self.state.watermark_us);
    }

    /// Where planning goes on in each lane that has been shipped from.
    pub(super) fn planned(&self) -> BTreeMap<LaneKey, Position> {
        let cursors = self.state.cursors.iter().map(|cursor| (cursor.lane, cursor.position));
        let ranges = self.state.pending.iter().flat_map(|plan| &plan.ranges);
        cursors.chain(ranges.map(|range| (range.lane, range.end))).collect()
    }

    /// An id for a batch of the next plan.
    pub(super) fn draw_batch_id(&mut self) -> u64 {
        let id = u64::from(self.state.prefix) << 32 | u64::from(self.state.next_batch);
        self.state.next_batch = self.state.next_batch.wrapping_add(1);
        id
    }

    pub(super) fn draw_plan_number(&mut self) -> u64 {
        let number = self.state.next_plan;
        self.state.next_plan += 1;
        number
    }

    /// Takes a plan in; it may be sent once `persist` succeeded.
    pub(super) fn register(&mut self, plan: Plan) {
        self.state.pending.push_back(plan);
    }

    /// Brings the rows of all plans to the disk, then the state itself, with every loss there is.
    pub(super) fn persist(&mut self) -> io::Result<()> {
        for range in self.state.pending.iter().flat_map(|plan| &plan.ranges) {
            self.journal.sync_lane(range.lane, range.end)?;
        }
        let news = self.news();
        self.note_losses(&news);
        self.slots.store(&text(&self.state))?;
        if !news.is_empty() {
            loss::add(&mut self.told, news.iter().copied());
            self.journal.losses_noted(&news)?;
        }
        Ok(())
    }

    /// Whether the journal tells of a loss that is not known here.
    pub(super) fn has_news(&self) -> bool {
        !self.news().is_empty()
    }

    fn news(&self) -> Vec<Loss> {
        let losses = self.journal.losses().into_iter();
        losses.filter(|loss| !self.told.contains(loss)).collect()
    }

    /// Takes losses in, each place once; they are kept once `persist` succeeded.
    pub(super) fn note_losses(&mut self, losses: &[Loss]) {
        loss::add(&mut self.state.losses, losses.iter().copied());
    }

    /// Losses that ClickHouse may not have yet.
    pub(super) fn losses(&self) -> &[Loss] {
        &self.state.losses
    }

    /// ClickHouse has these.
    pub(super) fn forget_losses(&mut self, listed: &[Loss]) {
        loss::remove(&mut self.state.losses, listed);
    }

    /// How far lanes were shipped, as far as it is remembered.
    pub(super) fn shipped(&self) -> Vec<ShippedLane> {
        let lane = |&(node, epoch, lane, shipped, at_us): &Shipped| ShippedLane {
            lane: LaneKey { node, epoch, lane },
            shipped,
            at_us,
        };
        self.state.shipped.iter().map(lane).collect()
    }

    /// Plans come in the order of their ranges, and each with the time at which it was listed itself:
    /// the audit looks for a lane's last plan from then on.
    fn note_shipped(&mut self, range: &Range, at_us: i64) {
        let LaneKey { node, epoch, lane } = range.lane;
        self.state.shipped.retain(|one| (one.0, one.1, one.2) != (node, epoch, lane));
        self.state.shipped.insert(0, (node, epoch, lane, range.end.sequence, at_us));
        self.state.shipped.truncate(MOST_SHIPPED);
    }

    /// A batch is to be sent again under a token never used; valid once `persist` succeeded.
    pub(super) fn retoken(&mut self, plan: u64, batch: &Batch, rows: u64) -> Batch {
        let fresh = Batch { token: token(batch.batch_id), rows, ..batch.clone() };
        let plan = self.state.pending.iter_mut().find(|pending| pending.number == plan);
        let batches = plan.map(|plan| &mut plan.batches).into_iter().flatten();
        for known in batches.filter(|known| known.batch_id == batch.batch_id) {
            *known = fresh.clone();
        }
        fresh
    }

    /// Every batch of the plan is acknowledged, and was listed at `at_us`: the cursor moves over all
    /// plans so far that are, once `persist` succeeded.
    pub(super) fn complete(&mut self, number: u64, at_us: i64) {
        self.done.insert(number, at_us);
        while let Some(plan) = self.state.pending.front() {
            let Some(at_us) = self.done.remove(&plan.number) else { return };
            let Some(plan) = self.state.pending.pop_front() else { return };
            for range in &plan.ranges {
                let cursors = &mut self.state.cursors;
                match cursors.iter_mut().find(|cursor| cursor.lane == range.lane) {
                    Some(cursor) => cursor.position = range.end,
                    None => cursors.push(Cursor { lane: range.lane, position: range.end }),
                }
                self.note_shipped(range, at_us);
            }
        }
    }

    /// The former lane has nothing behind what is planned.
    pub(super) fn exhaust(&mut self, lane: LaneKey) {
        self.exhausted.insert(lane);
    }

    /// Lets the journal remove what lies below the cursor. Only after `persist`.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if self.has_news() {
            // The journal tells of a loss again only while it has the segment.
            self.persist()?;
        }
        for Cursor { lane, position } in &self.state.cursors {
            self.journal.acknowledge(*lane, *position)?;
        }
        let planned: BTreeSet<LaneKey> = self.ranges_pending().map(|range| range.lane).collect();
        let ended: Vec<LaneKey> =
            self.exhausted.iter().filter(|lane| !planned.contains(lane)).copied().collect();
        for lane in ended {
            // Its files are gone durably before its cursor is, in the next `persist`.
            self.journal.retire(lane)?;
            self.state.cursors.retain(|cursor| cursor.lane != lane);
            self.exhausted.remove(&lane);
        }
        Ok(())
    }

    fn ranges_pending(&self) -> impl Iterator<Item = &Range> {
        self.state.pending.iter().flat_map(|plan| &plan.ranges)
    }
}

/// How far each lane is shipped, as last made durable: sequences below are in ClickHouse.
pub(crate) fn shipped(journal: &Journal) -> Result<BTreeMap<LaneKey, u64>, ShipError> {
    let (_, stored) = Slots::open(journal.directory(), NAME)?;
    let Some(bytes) = stored else { return Ok(BTreeMap::new()) };
    let cursors = parse(&bytes)?.cursors.into_iter();
    Ok(cursors.map(|cursor| (cursor.lane, cursor.position.sequence)).collect())
}

/// A token no batch was ever sent under.
pub(super) fn token(batch_id: u64) -> String {
    match getrandom::u64() {
        Ok(random) => format!("{batch_id:016x}-{random:016x}"),
        // Batch ids do not repeat either; only a second token of this batch needs the chance.
        Err(_) => format!("{batch_id:016x}-{:016x}", crate::clock::unix_us()),
    }
}

fn fresh() -> io::Result<State> {
    Ok(State {
        version: VERSION,
        prefix: getrandom::u32().map_err(io::Error::other)?,
        next_batch: 0,
        next_plan: 0,
        watermark_us: None,
        cursors: Vec::new(),
        pending: VecDeque::new(),
        losses: Vec::new(),
        shipped: Vec::new(),
    })
}

fn text(state: &State) -> Vec<u8> {
    serde_json::to_vec(state).expect("numbers and strings are always JSON")
}

fn parse(bytes: &[u8]) -> Result<State, ShipError> {
    let state: State =
        serde_json::from_slice(bytes).map_err(|source| ShipError::Format { source })?;
    if state.version == VERSION {
        Ok(state)
    } else {
        Err(ShipError::Version { found: state.version, known: VERSION })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::JournalSettings;

    /// Plans are listed as they are delivered, and complete in their order.
    #[test]
    fn m3_a_lane_is_as_far_as_its_last_plan_and_since_that_was_listed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let journal = Journal::open(JournalSettings::new(directory.path())).expect("opens");
        let mut ledger = Ledger::open(journal).expect("opens");
        let lane = LaneKey { node: 1, epoch: 2, lane: 3 };
        let at = |sequence| Position { segment: 0, offset: 0, sequence };
        for (number, from, to) in [(0, 0, 320), (1, 320, 360), (2, 360, 400)] {
            let ranges = vec![Range { lane, start: at(from), end: at(to) }];
            ledger.register(Plan { number, ranges, batches: Vec::new() });
        }
        let shipped = |shipped, at_us| vec![ShippedLane { lane, shipped, at_us }];
        ledger.complete(1, 1_000);
        assert_eq!(ledger.shipped(), []);
        ledger.complete(0, 2_000);
        assert_eq!(ledger.shipped(), shipped(360, 1_000));
        ledger.complete(2, 3_000);
        assert_eq!(ledger.shipped(), shipped(400, 3_000));
    }
}
