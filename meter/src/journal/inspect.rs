//! What a journal's directory holds, for an operator who looks: beside a running gateway or at what
//! a dead one left.
//!
//! Guarantees: nothing is written or locked. Beside a running gateway the numbers are of about the
//! same moment, and a segment that goes away meanwhile was not there.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::header::HEADER_BYTES;
use super::reader::ReadError;
use super::record::Record;
use super::recover::judge;
use super::survey::{Candidate, survey, walk};
use super::{JournalError, LaneKey, Loss, Position, loss, mark};
use crate::boot::Boot;
use crate::clock;
use crate::event::View;

/// A journal's directory at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The directory's random number; `None` when no journal was ever opened here.
    pub node: Option<u32>,
    /// The latest opening.
    pub epoch: u32,
    /// When that was, unix microseconds.
    pub opened_us: i64,
    /// Whether it ended with everything on the disk.
    pub is_closed: bool,
    /// The process that has it open, if it has; 0 when it is of another namespace.
    pub in_use_by: Option<u32>,
    /// Everything the latest opening appended before is on the disk; unix microseconds.
    pub synced_us: Option<i64>,
    /// Lanes, those of earlier openings first.
    pub lanes: Vec<LaneInspection>,
    /// Segments made in advance.
    pub spare_segments: usize,
    /// What is known to be lost and noted nowhere else, and what the next opening will find lost.
    pub losses: Vec<Loss>,
    /// Segments with a damaged header: nobody can say which events they hold.
    pub damaged_files: Vec<PathBuf>,
}

/// A lane at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LaneInspection {
    /// Whose.
    pub lane: LaneKey,
    /// Segment files.
    pub segments: usize,
    /// Their bytes on the disk.
    pub file_bytes: u64,
    /// Sequence of the first event kept.
    pub first_sequence: u64,
    /// Sequence after the last readable event.
    pub next_sequence: u64,
    /// Time of the first event kept, unix microseconds.
    pub oldest_us: Option<i64>,
    /// Time of the last.
    pub newest_us: Option<i64>,
    /// Sequence before which everything is in ClickHouse, as far as the shipper has noted.
    pub acknowledged: Option<u64>,
    /// Events that are not.
    pub pending_events: u64,
}

impl Inspection {
    /// Events that are not in ClickHouse, as far as the shipper has noted.
    pub fn pending_events(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.pending_events).sum()
    }
}

/// Looks at a directory; `acknowledged` is what the shipper has noted there
/// ([`ship::acknowledged`](crate::ship::acknowledged)).
pub fn inspect(
    directory: &Path,
    acknowledged: &[(LaneKey, Position)],
) -> Result<Inspection, JournalError> {
    let failed = |source| JournalError::Io { path: directory.to_owned(), source };
    let in_use_by = holder(&directory.join("lock")).map_err(failed)?;
    let known = Record::peek(directory)?;
    let survey = survey(directory)?;
    let mut lanes = Vec::new();
    for (key, candidates) in &survey.lanes {
        let position = acknowledged.iter().find(|(lane, _)| lane == key);
        lanes.push(lane(*key, candidates, position.map(|(_, position)| position.sequence))?);
    }
    let spare_segments = survey.blank.len();
    let damaged_files = survey.without_header().cloned().collect();
    let mut losses = known.as_ref().map_or_else(Vec::new, |known| known.losses.clone());
    let mut synced_us = None;
    if let Some(known) = &known {
        synced_us = mark::read(directory, known.node, known.epoch).map_err(failed)?;
        if in_use_by.is_none() {
            let now_us = clock::unix_us();
            let judged = judge(directory, survey, known, &Boot::current(), now_us)?;
            loss::add(&mut losses, judged.losses);
        }
    }
    Ok(Inspection {
        node: known.as_ref().map(|known| known.node),
        epoch: known.as_ref().map_or(0, |known| known.epoch),
        opened_us: known.as_ref().map_or(0, |known| known.opened_us),
        is_closed: known.is_none_or(|known| known.is_closed),
        in_use_by,
        synced_us,
        lanes,
        spare_segments,
        losses,
        damaged_files,
    })
}

fn lane(
    key: LaneKey,
    candidates: &[Candidate],
    acknowledged: Option<u64>,
) -> Result<LaneInspection, JournalError> {
    let (mut oldest_us, mut newest_us) = (None, None);
    for candidate in candidates {
        look(candidate, |ts_us| {
            oldest_us = Some(ts_us);
            ControlFlow::Break(())
        })?;
        if oldest_us.is_some() {
            break;
        }
    }
    let first_sequence = candidates.first().map_or(0, |first| first.header.first_sequence);
    let mut next_sequence = first_sequence;
    for candidate in candidates.iter().rev() {
        let end = look(candidate, |ts_us| {
            newest_us = Some(ts_us);
            ControlFlow::Continue(())
        })?;
        if let Some(end) = end.filter(|end| end.offset > HEADER_BYTES as u64) {
            next_sequence = end.sequence;
            break;
        }
    }
    Ok(LaneInspection {
        lane: key,
        segments: candidates.len(),
        file_bytes: candidates.iter().map(|candidate| candidate.bytes).sum(),
        first_sequence,
        next_sequence,
        oldest_us,
        newest_us,
        acknowledged,
        pending_events: next_sequence.saturating_sub(acknowledged.unwrap_or(first_sequence)),
    })
}

/// Hands out the times of a segment's events; where they end, unless the file is gone.
fn look(
    candidate: &Candidate,
    mut each: impl FnMut(i64) -> ControlFlow<()>,
) -> Result<Option<Position>, JournalError> {
    let walked = walk(candidate, |frame, _| match View::decode(frame.row) {
        Ok(row) => each(row.ts_us()),
        Err(_) => ControlFlow::Continue(()),
    });
    match walked {
        Ok(end) => Ok(Some(end)),
        Err(ReadError { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(ReadError { path, source, .. }) => Err(JournalError::Io { path, source }),
    }
}

/// The process that holds the lock on a file, from the kernel's list: to try the lock would keep a
/// gateway that starts at that moment from having it.
fn holder(path: &Path) -> io::Result<Option<u32>> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let device = metadata.st_dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{}", metadata.st_ino());
    // 1: FLOCK  ADVISORY  WRITE 4711 fe:01:131073 0 EOF
    let holds = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, place, ..] = words[..] else { return None };
        (place == file).then(|| pid.parse().unwrap_or(0))
    };
    Ok(fs::read_to_string("/proc/locks")?.lines().find_map(holds))
}
