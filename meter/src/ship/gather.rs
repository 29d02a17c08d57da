//! From frames to blocks: reads lanes, splits by month, encodes.
//!
//! Guarantees: the same ranges always make the same rows in the same batches; lanes of earlier
//! epochs come first; no live lane is starved by another, and one that cannot be read holds up no
//! other. A frame that is no row is left out and told as a loss. A gathering is of the lanes of one
//! node, so that its batches are, and of at most [`MAX_RANGES`] of them, so that its plan fits in the
//! blocks that the state's files have from the start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ledger::{Batch, Plan, Range, token};
use crate::clickhouse::native::month_of;
use crate::clickhouse::{BlockBuilder, EncodedBlock};
use crate::clock;
use crate::event::{EventId, View};
use crate::journal::{Frame, Journal, LaneKey, LaneReader, Loss, LossCause, Position, ReadError};

const US_PER_DAY: i64 = 86_400_000_000;
/// Parts of lanes that one plan has at most.
pub(super) const MAX_RANGES: usize = 64;

/// Reads what is committed and not planned.
pub(super) struct Gatherer {
    journal: Arc<Journal>,
    max_rows: usize,
    /// Where the next plan starts in each lane.
    starts: BTreeMap<LaneKey, Position>,
    readers: BTreeMap<LaneKey, LaneReader>,
    /// Former lanes read to their end.
    ended: BTreeSet<LaneKey>,
    /// The live lane whose turn was the last, when not all could have one.
    last_turn: Option<LaneKey>,
    blocks: Months,
    /// Frames read and left out since the last gathering.
    left_out: Vec<Loss>,
}

/// One gathering.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// The parts of lanes that were read, all of one node; empty when nothing was.
    pub(super) ranges: Vec<Range>,
    /// One of no rows when nothing that was read makes any.
    pub(super) batches: Vec<Batch>,
    /// In the order of `batches`.
    pub(super) blocks: Vec<EncodedBlock>,
    /// Former lanes that have nothing behind what was gathered so far.
    pub(super) ended: Vec<LaneKey>,
    /// Lanes that could not be read on.
    pub(super) failures: u64,
    /// Frames that are no rows.
    pub(super) losses: Vec<Loss>,
    /// There are more lanes to read from than a plan may have ranges.
    pub(super) is_cut: bool,
}

impl Gatherer {
    pub(super) fn new(
        journal: Arc<Journal>,
        max_rows: usize,
        planned: BTreeMap<LaneKey, Position>,
    ) -> Gatherer {
        Gatherer {
            journal,
            max_rows,
            starts: planned,
            readers: BTreeMap::new(),
            ended: BTreeSet::new(),
            last_turn: None,
            blocks: Months::default(),
            left_out: Vec::new(),
        }
    }

    /// Events committed and not planned, as far as known without reading them.
    pub(super) fn waiting(&self) -> u64 {
        let lanes = self.journal.lanes().into_iter().filter(|key| !self.ended.contains(key));
        lanes.map(|key| self.waiting_in(key)).sum()
    }

    fn waiting_in(&self, key: LaneKey) -> u64 {
        let next = self.journal.next_sequence(key).unwrap_or(0);
        let from = self.starts.get(&key).copied().or_else(|| self.journal.acknowledged(key));
        next.saturating_sub(from.map_or(0, |position| position.sequence))
    }

    /// Former lanes of which it is not known yet that they are read to their end.
    pub(super) fn has_former(&self) -> bool {
        let mut lanes = self.journal.lanes().into_iter();
        lanes.any(|key| !self.journal.is_live(key) && !self.ended.contains(&key))
    }

    /// Reads up to `max_rows` rows and encodes them under ids from `batch_id`.
    pub(super) fn gather(&mut self, batch_id: impl FnMut() -> u64) -> Gathered {
        let mut gathered = Gathered::default();
        let mut ends = BTreeMap::new();
        let (live, former): (Vec<_>, Vec<_>) =
            self.journal.lanes().into_iter().partition(|key| self.journal.is_live(*key));
        // Whose lanes this gathering is of. A directory has had two nodes if it lost its identity.
        let mut node = None;
        let mut ranges = 0;
        for key in former {
            if self.blocks.rows >= self.max_rows || node.is_some_and(|node| node != key.node) {
                break;
            }
            if ranges == MAX_RANGES {
                gathered.is_cut = true;
                break;
            }
            if self.ended.contains(&key) {
                continue;
            }
            match self.read_lane(key, self.max_rows, &mut ends) {
                Ok(false) => {}
                Ok(true) => {
                    self.ended.insert(key);
                    self.readers.remove(&key);
                    gathered.ended.push(key);
                }
                Err(error) => gathered.fail(key, &error),
            }
            if self.has_read(key, &ends) {
                node = Some(key.node);
                ranges += 1;
            }
        }
        if node.is_none_or(|node| node == self.journal.node()) {
            let turn = self.turn(live, MAX_RANGES - ranges, &mut gathered);
            self.read_in_turns(turn, &mut ends, &mut gathered);
        }
        if ends.keys().any(|key| self.has_read(*key, &ends)) {
            gathered.ranges = self.ranges(ends);
            gathered.losses = std::mem::take(&mut self.left_out);
            (gathered.batches, gathered.blocks) = self.blocks.finish(batch_id);
        }
        gathered
    }

    fn has_read(&self, key: LaneKey, ends: &BTreeMap<LaneKey, Position>) -> bool {
        let (start, end) = (self.starts.get(&key), ends.get(&key));
        start.zip(end).is_some_and(|(start, end)| start.sequence < end.sequence)
    }

    /// Of the live lanes with something to read, as many as there may be; others the next time.
    fn turn(&mut self, live: Vec<LaneKey>, most: usize, gathered: &mut Gathered) -> Vec<LaneKey> {
        let mut turn: Vec<_> = live.into_iter().filter(|key| self.waiting_in(*key) > 0).collect();
        if turn.len() > most {
            gathered.is_cut = true;
            let next = turn.partition_point(|key| self.last_turn.is_some_and(|last| *key <= last));
            turn.rotate_left(next);
            turn.truncate(most);
            self.last_turn = turn.last().copied().or(self.last_turn);
        }
        turn
    }

    /// Gives each lane a share of the room that is left, until it is gone or the lanes are empty.
    fn read_in_turns(
        &mut self,
        mut turn: Vec<LaneKey>,
        ends: &mut BTreeMap<LaneKey, Position>,
        gathered: &mut Gathered,
    ) {
        while !turn.is_empty() && self.blocks.rows < self.max_rows {
            let share = (self.max_rows - self.blocks.rows).div_ceil(turn.len());
            turn.retain(|&key| {
                let until = self.max_rows.min(self.blocks.rows + share);
                match self.read_lane(key, until, ends) {
                    Ok(is_empty) => !is_empty,
                    Err(error) => {
                        gathered.fail(key, &error);
                        false
                    }
                }
            });
        }
    }

    /// Reads a lane until there are `until` rows; true when it has no more for now.
    fn read_lane(
        &mut self,
        key: LaneKey,
        until: usize,
        ends: &mut BTreeMap<LaneKey, Position>,
    ) -> Result<bool, ReadError> {
        if !self.readers.contains_key(&key) {
            let Some(reader) = self.journal.reader(key, self.starts.get(&key).copied()) else {
                return Ok(true);
            };
            self.starts.entry(key).or_insert(reader.position());
            self.readers.insert(key, reader);
        }
        let reader = self.readers.get_mut(&key).expect("just made");
        let mut read = || {
            while self.blocks.rows < until {
                match reader.read()? {
                    Some(frame) if self.blocks.push(&frame) => {}
                    Some(frame) => leave_out(&mut self.left_out, &frame),
                    None => return Ok(true),
                }
            }
            Ok(false)
        };
        let done = read();
        ends.insert(key, reader.position());
        done
    }

    fn ranges(&mut self, ends: BTreeMap<LaneKey, Position>) -> Vec<Range> {
        let mut ranges = Vec::new();
        for (lane, end) in ends {
            let start = self.starts.insert(lane, end).unwrap_or(end);
            if start != end {
                ranges.push(Range { lane, start, end });
            }
        }
        ranges
    }
}

impl Gathered {
    fn fail(&mut self, lane: LaneKey, error: &ReadError) {
        self.failures += 1;
        let cause = &error.source;
        tracing::error!(?lane, %error, %cause, "a lane of the journal cannot be read");
    }
}

/// Builds the blocks of a plan again, from its ranges. In the order of its batches; one is smaller
/// than planned only if the journal has lost rows since.
pub(super) fn rebuild(journal: &Journal, plan: &Plan) -> Result<Vec<EncodedBlock>, ReadError> {
    let mut blocks = Months::default();
    for Range { lane, start, end } in &plan.ranges {
        let Some(mut reader) = journal.reader(*lane, Some(*start)) else { continue };
        while reader.position().sequence < end.sequence {
            match reader.read()? {
                Some(frame) if frame.id.sequence < end.sequence => blocks.push(&frame),
                Some(_) | None => break,
            };
        }
    }
    Ok(plan.batches.iter().map(|batch| blocks.take(batch)).collect())
}

/// Notes a frame that is no row, together with the one before it if that was none either.
#[cold]
fn leave_out(losses: &mut Vec<Loss>, frame: &Frame<'_>) {
    let EventId { node, epoch, lane, sequence } = frame.id;
    let (lane, bytes) = (LaneKey { node, epoch, lane }, frame.row.len() as u64);
    if let Some(last) = losses.last_mut()
        && last.lane == lane
        && last.first_sequence + last.events == sequence
    {
        last.events += 1;
        last.bytes += bytes;
        return;
    }
    // The time is in the row, if anywhere.
    let (since_us, until_us) = (0, 0);
    let (first_sequence, events, cause) = (sequence, 1, LossCause::Damaged);
    losses.push(Loss { lane, first_sequence, events, bytes, cause, since_us, until_us });
}

/// A block under construction for each month there is.
#[derive(Default)]
struct Months {
    open: Vec<(u32, BlockBuilder)>,
    /// Builders with their memory, for the next gathering.
    spare: Vec<BlockBuilder>,
    /// The open month pushed to last, and the day that proves a row is of it.
    current: usize,
    day: i64,
    rows: usize,
}

impl Months {
    /// Adds a frame's row; false when it has none.
    #[inline]
    fn push(&mut self, frame: &Frame<'_>) -> bool {
        let row = match View::decode(frame.row) {
            Ok(row) => row,
            Err(error) => {
                tracing::error!(id = ?frame.id, %error, "a frame of the journal is no row");
                return false;
            }
        };
        let day = row.ts_us().div_euclid(US_PER_DAY);
        if day != self.day || self.open.is_empty() {
            self.turn_to(month_of(row.ts_us()));
            self.day = day;
        }
        self.open[self.current].1.push(&frame.id, &row);
        self.rows += 1;
        true
    }

    fn turn_to(&mut self, month: u32) {
        let known = self.open.iter().position(|(open, _)| *open == month);
        self.current = known.unwrap_or_else(|| {
            self.open.push((month, self.spare.pop().unwrap_or_default()));
            self.open.len() - 1
        });
    }

    /// Encodes everything, months in order; without any row, as one block without rows.
    fn finish(&mut self, mut batch_id: impl FnMut() -> u64) -> (Vec<Batch>, Vec<EncodedBlock>) {
        if self.open.is_empty() {
            self.turn_to(month_of(clock::unix_us()));
        }
        self.open.sort_by_key(|(month, _)| *month);
        self.rows = 0;
        let finish = |(month, mut builder): (u32, BlockBuilder)| {
            let rows = builder.len() as u64;
            let batch_id = batch_id();
            let block = builder.finish(batch_id, month);
            self.spare.push(builder);
            (Batch { batch_id, token: token(batch_id), month, rows }, block)
        };
        let finished = self.open.drain(..).map(finish).unzip();
        // One month is the rule; the memory of others would lie idle.
        self.spare.truncate(1);
        finished
    }

    /// Encodes the rows of one batch's month.
    fn take(&mut self, batch: &Batch) -> EncodedBlock {
        let index = self.open.iter().position(|(month, _)| *month == batch.month);
        let mut builder =
            index.map_or_else(BlockBuilder::new, |index| self.open.swap_remove(index).1);
        builder.finish(batch.batch_id, batch.month)
    }
}
