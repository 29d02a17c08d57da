//! Reading a lane: every committed frame once, in order, checked.
//!
//! Guarantees: a row is handed out only when its checksum agrees with its place; what cannot be
//! read is skipped to the next segment and remembered as a [`Loss`](super::Loss), never guessed. Bytes are
//! read from the file, not through the mapping.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::frame::{self, FRAME_HEAD_BYTES, Found, MAX_FRAME_BYTES, Seed};
use super::lane::{Lane, start_of};
use super::segment::Segment;
use super::{LaneKey, Loss, LossCause, Position};
use crate::clock;
use crate::event::EventId;

/// Bytes asked of the file at once; more than the longest frame.
const CHUNK_BYTES: usize = 1024 * 1024;
const _: () = assert!(CHUNK_BYTES > MAX_FRAME_BYTES);

/// A segment could not be read.
#[derive(Debug, thiserror::Error)]
#[error("reading {} at {offset}", path.display())]
pub struct ReadError {
    /// The segment's file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// One event as it lies in the journal.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Its identity.
    pub id: EventId,
    /// Its row; see [`View::decode`](crate::event::View::decode).
    pub row: &'a [u8],
}

/// Reads one lane from a position on.
#[derive(Debug)]
pub struct LaneReader {
    lane: Arc<Lane>,
    seed: Seed,
    position: Position,
    open: Option<Open>,
    buffer: Vec<u8>,
    chunk_bytes: usize,
    /// The part of `buffer` that is read from the file and not yet handed out.
    at: usize,
    filled: usize,
}

#[derive(Debug)]
struct Open {
    segment: Arc<Segment>,
    file: File,
}

impl LaneReader {
    pub(super) fn new(lane: Arc<Lane>, position: Position) -> LaneReader {
        let seed = Seed::new(lane.key());
        // Filled when something is read: most lanes of earlier epochs are short, or never are.
        let (buffer, chunk_bytes) = (Vec::new(), CHUNK_BYTES);
        LaneReader { lane, seed, position, open: None, buffer, chunk_bytes, at: 0, filled: 0 }
    }

    /// For one who reads a frame and no more.
    pub(super) fn of_one_frame(lane: Arc<Lane>, position: Position) -> LaneReader {
        LaneReader { chunk_bytes: FRAME_HEAD_BYTES, ..LaneReader::new(lane, position) }
    }

    /// The lane.
    pub fn key(&self) -> LaneKey {
        self.lane.key()
    }

    /// Where the next frame will be looked for; everything before was handed out or is lost.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next committed event; `None` when there is none now. Of a lane of an earlier epoch,
    /// there will then never be one.
    #[inline]
    pub fn read(&mut self) -> Result<Option<Frame<'_>>, ReadError> {
        let sequence = self.position.sequence;
        let Some(row) = self.advance()? else { return Ok(None) };
        let LaneKey { node, epoch, lane } = self.lane.key();
        // A step over lost events moves the sequence; the frame's is the one before the next.
        debug_assert!(self.position.sequence > sequence);
        let id = EventId { node, epoch, lane, sequence: self.position.sequence - 1 };
        Ok(Some(Frame { id, row: &self.buffer[row] }))
    }

    #[inline]
    fn advance(&mut self) -> Result<Option<Range<usize>>, ReadError> {
        loop {
            let bytes = &self.buffer[self.at..self.filled];
            let needed = match frame::read(bytes, self.seed, self.position.sequence) {
                Found::Row(row) => {
                    let start = self.at + FRAME_HEAD_BYTES;
                    let end = start + row.len();
                    self.position.offset += (end - self.at) as u64;
                    self.position.sequence += 1;
                    self.at = end;
                    return Ok(Some(start..end));
                }
                Found::Short(needed) => Some(needed),
                Found::Nothing => None,
            };
            let is_filled = match needed {
                Some(needed) => self.fill(needed)?,
                None => false,
            };
            if !is_filled && !self.leave(needed) {
                return Ok(None);
            }
        }
    }

    /// Reads on in the current segment; false when it has fewer than `needed` bytes to give.
    #[cold]
    fn fill(&mut self, needed: usize) -> Result<bool, ReadError> {
        if self.open.is_none() && !self.open_next()? {
            return Ok(false);
        }
        let open = self.open.as_ref().expect("just opened");
        let left = open.segment.extent().end.saturating_sub(self.position.offset);
        if left < needed as u64 {
            return Ok(false);
        }
        let wanted = left.min(self.chunk_bytes.max(needed) as u64) as usize;
        let offset = self.position.offset;
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        open.file
            .read_exact_at(&mut self.buffer[..wanted], offset)
            .map_err(|source| ReadError { path: open.segment.path().to_owned(), offset, source })?;
        (self.at, self.filled) = (0, wanted);
        Ok(true)
    }

    /// Opens the segment of the position, or the first there is after it.
    fn open_next(&mut self) -> Result<bool, ReadError> {
        let Some(segment) = self.lane.segment_from(self.position.segment) else {
            return Ok(false);
        };
        let start = start_of(&segment);
        if start.segment != self.position.segment {
            self.skip_to(&segment);
        }
        let file = File::open(segment.path()).map_err(|source| ReadError {
            path: segment.path().to_owned(),
            offset: 0,
            source,
        })?;
        self.open = Some(Open { segment, file });
        Ok(true)
    }

    /// There is no frame at the position within what was readable: it cannot be read, or it `needed`
    /// more bytes than there were. Goes to the next segment if there is one; false when there is
    /// nothing to read for now.
    #[cold]
    fn leave(&mut self, needed: Option<usize>) -> bool {
        let Some(open) = &self.open else { return false };
        // Now, and not when it was last read: the segment may have been left meanwhile.
        let extent = open.segment.extent();
        // And written to the end before it was: what has come since is read first.
        let left = extent.end.saturating_sub(self.position.offset);
        if extent.is_final && needed.is_some_and(|needed| left >= needed as u64) {
            return true;
        }
        let torn = self.position.offset < extent.end.min(open.segment.claimed_end());
        if !extent.is_final {
            if torn {
                let (lane, position) = (self.lane.key(), self.position);
                tracing::error!(?lane, ?position, "unreadable frame in the segment being written");
            }
            return false;
        }
        let next = self.lane.segment_from(self.position.segment + 1);
        if let Some(next) = next {
            self.skip_to(&next);
            return true;
        }
        if torn {
            let bytes = open.segment.claimed_end() - self.position.offset;
            self.note_loss(&open.segment, open.segment.next_sequence(), bytes, clock::unix_us());
        }
        false
    }

    fn skip_to(&mut self, next: &Segment) {
        let start = start_of(next);
        if start.sequence != self.position.sequence {
            let until_us = next.header().created_us;
            let (segment, unread) = match &self.open {
                Some(open) => (&*open.segment, open.segment.claimed_end()),
                None => (next, 0),
            };
            let bytes = unread.saturating_sub(self.position.offset);
            self.note_loss(segment, start.sequence, bytes, until_us);
        }
        self.position = start;
        self.open = None;
        (self.at, self.filled) = (0, 0);
    }

    /// Events from here to `next_sequence`, which were in `segment` or behind it, are unreadable.
    fn note_loss(&self, segment: &Segment, next_sequence: u64, bytes: u64, until_us: i64) {
        self.lane.note_loss(Loss {
            lane: self.lane.key(),
            first_sequence: self.position.sequence,
            events: next_sequence.saturating_sub(self.position.sequence),
            bytes,
            cause: LossCause::Damaged,
            since_us: segment.header().created_us.min(until_us),
            until_us,
        });
    }
}
