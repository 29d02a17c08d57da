//! Reads every event of a journal's directory and says what is wrong, and where.
//!
//! Guarantees: nothing is written or locked. Every frame's checksum is computed and every row
//! decoded; every sequence that a lane's headers say was written and that no frame has is reported
//! at the place where it should be. Beside a running gateway, what was there at the start is read,
//! and a segment that goes away meanwhile was not there.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::reader::ReadError;
use super::survey::{Candidate, survey, walk};
use super::{JournalError, LaneKey};
use crate::event::{DecodeError, View};

/// How often progress is told, in bytes.
const STEP_BYTES: u64 = 1 << 20;

/// What was read and what was found.
#[derive(Debug, Default)]
pub struct Verification {
    /// Segment files with events.
    pub segments: u64,
    /// Events whose checksum and row are good.
    pub events: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// Everything that is wrong.
    pub damages: Vec<Damage>,
}

/// A place where something is wrong.
#[derive(Debug)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// Whose segment it is, and the sequence that should be here; `None` when nobody can say.
    pub expected: Option<(LaneKey, u64)>,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a place.
#[derive(Debug)]
pub enum Fault {
    /// The segment's header is damaged: its events belong to nobody.
    Header,
    /// There is no frame with this sequence, nor can those behind it be found in this segment: so
    /// many events are missing.
    Frame {
        /// How many.
        events: u64,
    },
    /// The frame is whole and its row is none.
    Row(DecodeError),
    /// The disk does not give the bytes.
    Unreadable(io::Error),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.path.display(), self.offset)?;
        if let Some((LaneKey { node, epoch, lane }, sequence)) = self.expected {
            write!(f, "node {node} epoch {epoch} lane {lane} sequence {sequence}: ")?;
        }
        match &self.fault {
            Fault::Header => f.write_str("the segment's header is damaged"),
            Fault::Frame { events } => write!(f, "{events} events from here on are unreadable"),
            Fault::Row(error) => write!(f, "the frame's row cannot be decoded: {error}"),
            Fault::Unreadable(error) => write!(f, "cannot be read: {error}"),
        }
    }
}

/// Reads everything in a directory. `progress` gets the bytes done and the bytes there are.
pub fn verify(
    directory: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<Verification, JournalError> {
    let survey = survey(directory)?;
    let mut verification = Verification::default();
    for path in survey.without_header() {
        verification.note(path.clone(), 0, None, Fault::Header);
    }
    let total = survey.lanes.values().flatten().map(|candidate| candidate.bytes).sum();
    for candidates in survey.lanes.values() {
        for (index, candidate) in candidates.iter().enumerate() {
            let done = verification.bytes;
            progress(done, total);
            let next = candidates.get(index + 1).map(|next| next.header.first_sequence);
            verification.segment(candidate, next, |at| progress(done + at, total));
            verification.bytes += candidate.bytes;
        }
    }
    progress(total, total);
    Ok(verification)
}

impl Verification {
    fn segment(&mut self, candidate: &Candidate, next: Option<u64>, mut at: impl FnMut(u64)) {
        let Candidate { path, header, hint, .. } = candidate;
        let lane = header.lane;
        let mut told = 0;
        let walked = walk(candidate, |frame, offset| {
            match View::decode(frame.row) {
                Ok(_) => self.events += 1,
                Err(error) => {
                    let expected = Some((lane, frame.id.sequence));
                    self.note(path.clone(), offset, expected, Fault::Row(error));
                }
            }
            if offset >= told + STEP_BYTES {
                told = offset;
                at(offset);
            }
            ControlFlow::Continue(())
        });
        let end = match walked {
            Ok(end) => end,
            Err(ReadError { source, .. }) if source.kind() == io::ErrorKind::NotFound => return,
            Err(ReadError { path, offset, source }) => {
                return self.note(path, offset, None, Fault::Unreadable(source));
            }
        };
        self.segments += 1;
        // The writer's own account counts when it goes further than what can be read.
        let claimed = if hint.committed > end.offset { hint.next_sequence } else { end.sequence };
        let written = next.unwrap_or(claimed);
        if written > end.sequence {
            let events = written - end.sequence;
            let expected = Some((lane, end.sequence));
            self.note(path.clone(), end.offset, expected, Fault::Frame { events });
        }
    }

    fn note(&mut self, path: PathBuf, offset: u64, expected: Option<(LaneKey, u64)>, fault: Fault) {
        self.damages.push(Damage { path, offset, expected, fault });
    }
}
