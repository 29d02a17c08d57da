//! A lane: one writer's segments, from the oldest not yet shipped to the one being written.
//!
//! Guarantees: sequences are dense; an event is readable only when all of it is written (M1, M3).
//! A lane is its thread's own, so its lock is uncontended; it is shared only when there are more
//! threads than lanes, and taken by `close` to make sure that nothing is appended afterwards.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering, compiler_fence};
use std::sync::{Arc, Mutex};

use super::frame::{self, FRAME_HEAD_BYTES, Seed};
use super::header::{HEADER_BYTES, Header};
use super::mapping::Tail;
use super::pool::Pool;
use super::segment::Segment;
use super::{AppendError, LaneKey, Loss, Position, locked};
use crate::clock;
use crate::event::{Event, EventId};

/// One writer's part of the journal.
#[derive(Debug)]
pub(super) struct Lane {
    key: LaneKey,
    /// None when the lane is of an earlier epoch, or closed.
    writer: Mutex<Option<Writer>>,
    segments: Mutex<VecDeque<Arc<Segment>>>,
    /// Everything before is in ClickHouse.
    acknowledged: Mutex<Position>,
    losses: Mutex<Vec<Loss>>,
    /// Threads that append here.
    claims: AtomicUsize,
}

#[derive(Debug)]
struct Writer {
    tail: Tail,
    seed: Seed,
    segment: Arc<Segment>,
    next_sequence: u64,
}

impl Lane {
    /// A new lane of this epoch.
    pub(super) fn start(key: LaneKey, pool: &Pool) -> Result<Lane, AppendError> {
        let (segment, tail) = open_segment(key, 0, 0, pool)?;
        let writer =
            Writer { tail, seed: Seed::new(key), segment: Arc::clone(&segment), next_sequence: 0 };
        let mut lane = Lane::former(key, vec![segment]);
        lane.writer = Mutex::new(Some(writer));
        Ok(lane)
    }

    /// A lane that is only read: its segments in order.
    pub(super) fn former(key: LaneKey, segments: Vec<Arc<Segment>>) -> Lane {
        let start = segments.first().map_or(Position::START, |first| start_of(first));
        Lane {
            key,
            writer: Mutex::new(None),
            segments: Mutex::new(segments.into()),
            acknowledged: Mutex::new(start),
            losses: Mutex::new(Vec::new()),
            claims: AtomicUsize::new(0),
        }
    }

    pub(super) fn key(&self) -> LaneKey {
        self.key
    }

    /// Writes one event, whose row has `row_bytes` bytes; `note` learns its identity just before.
    #[inline]
    pub(super) fn append(
        &self,
        pool: &Pool,
        event: &Event<'_>,
        row_bytes: usize,
        note: &mut impl FnMut(EventId),
    ) -> Result<EventId, AppendError> {
        let mut guard = locked(&self.writer);
        let writer = guard.as_mut().ok_or(AppendError::Closed)?;
        let frame_bytes = FRAME_HEAD_BYTES + row_bytes;
        if writer.tail.room() < frame_bytes {
            self.rotate(writer, pool, frame_bytes)?;
        }
        let sequence = writer.next_sequence;
        let LaneKey { node, epoch, lane } = self.key;
        let id = EventId { node, epoch, lane, sequence };
        // Noted before the first byte of the frame, not just before the commit: after a crash a
        // frame counts by its checksum, whatever was committed.
        note(id);
        compiler_fence(Ordering::SeqCst);
        let frame = &mut writer.tail.vacant()[..frame_bytes];
        frame::write(frame, writer.seed, sequence, event);
        writer.next_sequence = sequence + 1;
        writer.tail.commit(frame_bytes, writer.next_sequence);
        Ok(id)
    }

    #[cold]
    fn rotate(&self, writer: &mut Writer, pool: &Pool, frame: usize) -> Result<(), AppendError> {
        let limit = pool.segment_bytes() as usize - HEADER_BYTES;
        if frame > limit {
            let bytes = frame - FRAME_HEAD_BYTES;
            return Err(AppendError::TooLarge { bytes, limit: limit - FRAME_HEAD_BYTES });
        }
        let index = writer.segment.header().index + 1;
        let (segment, tail) = open_segment(self.key, index, writer.next_sequence, pool)?;
        // The next segment is in the list before the last is sealed: a reader that finds a seal
        // finds its successor.
        locked(&self.segments).push_back(Arc::clone(&segment));
        writer.tail = tail;
        std::mem::replace(&mut writer.segment, segment).seal();
        Ok(())
    }

    /// No event is appended after this returned.
    pub(super) fn close(&self) {
        drop(locked(&self.writer).take());
    }

    /// One more thread appends here.
    pub(super) fn claim(&self) {
        self.claims.fetch_add(1, Ordering::Relaxed);
    }

    /// One thread less; true when it was the last.
    pub(super) fn unclaim(&self) -> bool {
        self.claims.fetch_sub(1, Ordering::Relaxed) == 1
    }

    pub(super) fn claims(&self) -> usize {
        self.claims.load(Ordering::Relaxed)
    }

    /// The segment with this index, or the first after it.
    pub(super) fn segment_from(&self, index: u32) -> Option<Arc<Segment>> {
        let segments = locked(&self.segments);
        segments.iter().find(|segment| segment.header().index >= index).cloned()
    }

    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        locked(&self.segments).iter().cloned().collect()
    }

    /// More than half of the segment being written is.
    pub(super) fn is_half_full(&self) -> bool {
        let segments = locked(&self.segments);
        segments.back().is_some_and(|last| last.filled_percent() > 50)
    }

    /// Sequence after the last committed event.
    pub(super) fn next_sequence(&self) -> u64 {
        let segments = locked(&self.segments);
        segments.back().map_or(0, |last| last.next_sequence())
    }

    pub(super) fn acknowledged(&self) -> Position {
        *locked(&self.acknowledged)
    }

    /// Everything before `position` is in ClickHouse: removes whole segments below it, returns
    /// the bytes freed.
    pub(super) fn acknowledge(&self, position: Position) -> io::Result<u64> {
        *locked(&self.acknowledged) = position;
        let mut freed = 0;
        loop {
            let oldest = {
                let segments = locked(&self.segments);
                segments.front().cloned().filter(|it| it.header().index < position.segment)
            };
            let Some(oldest) = oldest else { return Ok(freed) };
            oldest.remove()?;
            freed += oldest.bytes();
            locked(&self.segments).pop_front();
        }
    }

    /// Bytes of frames that are not acknowledged.
    pub(super) fn pending_bytes(&self) -> u64 {
        let from = self.acknowledged();
        let pending = |segment: &Arc<Segment>| {
            let start = if segment.header().index == from.segment { from.offset } else { 0 };
            let start = start.max(HEADER_BYTES as u64);
            segment.extent().end.saturating_sub(start)
        };
        locked(&self.segments).iter().map(pending).sum()
    }

    /// Brings everything committed up to segment `through` to the disk; returns the bytes.
    pub(super) fn sync(&self, through: u32) -> io::Result<u64> {
        let mut bytes = 0;
        for segment in self.segments() {
            if segment.header().index <= through {
                bytes += segment.sync()?;
            }
        }
        Ok(bytes)
    }

    /// Remembers events that were written and can no longer be read; each place once.
    pub(super) fn note_loss(&self, loss: Loss) {
        let mut losses = locked(&self.losses);
        if !losses.iter().any(|known| known.is_of(&loss)) {
            loss.log();
            losses.push(loss);
        }
    }

    pub(super) fn losses(&self) -> Vec<Loss> {
        locked(&self.losses).clone()
    }
}

/// Where a segment's first frame is.
pub(super) fn start_of(segment: &Segment) -> Position {
    Position {
        segment: segment.header().index,
        offset: HEADER_BYTES as u64,
        sequence: segment.header().first_sequence,
    }
}

fn open_segment(
    lane: LaneKey,
    index: u32,
    first_sequence: u64,
    pool: &Pool,
) -> Result<(Arc<Segment>, Tail), AppendError> {
    let created_us = clock::unix_us();
    let header = Header { lane, index, first_sequence, created_us };
    Ok(pool.take()?.stamp(header))
}
