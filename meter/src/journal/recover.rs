//! What an earlier opening left behind: its segments, each cut at its tear, and what is missing.
//!
//! Guarantees: a lane's last segment is read to the last frame whose checksum holds and shortened
//! there, so that crash after crash leaves rows and not preallocated zeros; everything offered to
//! the shipper is durable. Judging changes nothing, and what it found missing is made durable by the
//! caller before [`Judged::settle`] changes anything: a crash at any point of a recovery costs
//! nothing but the time. That time is bounded: of each lane of the latest opening one segment is
//! read; lanes of earlier ones are settled and only their headers are.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::header::{COMMITTED_AT, HEADER_BYTES, Hint, PAGE_BYTES};
use super::lane::Lane;
use super::reader::ReadError;
use super::record::Known;
use super::segment::Segment;
use super::survey::{Candidate, Survey, serial, walk};
use super::{JournalError, LaneKey, Loss, LossCause, Position, mark};
use crate::boot::Boot;
use crate::durable::{set_aside, sync_directory};

/// What is to be done, and what is lost.
#[derive(Debug)]
pub(super) struct Judged {
    lanes: BTreeMap<LaneKey, Remains>,
    blank: Vec<PathBuf>,
    damaged: Vec<PathBuf>,
    /// Found by this recovery.
    pub(super) losses: Vec<Loss>,
    /// Bytes read to find the ends of lanes.
    pub(super) scanned_bytes: u64,
    next_serial: u64,
}

/// What is left of a lane.
#[derive(Debug)]
struct Remains {
    /// Checked as they are shipped.
    whole: Vec<Candidate>,
    /// With the end of its frames; `None` when the lane has no frame.
    last: Option<(Candidate, Position)>,
    /// Without a frame.
    empty: Vec<PathBuf>,
    /// The kernel may still have some of it to write.
    is_dirty: bool,
}

/// Everything that was kept.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) lanes: BTreeMap<LaneKey, Arc<Lane>>,
    /// Segment files that remain, and their bytes.
    pub(super) segments: u64,
    pub(super) bytes: u64,
    /// Bytes behind the ends of lanes, torn or never used, that are free again.
    pub(super) cut_bytes: u64,
    /// Above the serial number of every segment there was.
    pub(super) next_serial: u64,
}

/// A machine that went down under the latest opening: when, at the earliest and at the latest.
#[derive(Debug, Clone, Copy)]
struct Outage {
    since_us: i64,
    until_us: i64,
}

/// Finds the end of every lane, and what should have been there beyond.
pub(super) fn judge(
    directory: &Path,
    survey: Survey,
    last: &Known,
    boot: &Boot,
    now_us: i64,
) -> Result<Judged, JournalError> {
    let outage = outage(directory, last, boot, now_us)?;
    let Survey { lanes, mut blank, mut damaged, headless, next_serial, .. } = survey;
    // A power failure may take a header that was not synced, and never one that was: its rows are of
    // the time of which each lane tells a loss.
    if outage.is_some() { &mut blank } else { &mut damaged }.extend(headless);
    let header_lost = |path: &PathBuf| Loss {
        lane: LaneKey { node: last.node, epoch: 0, lane: Loss::NO_LANE },
        first_sequence: serial(path).unwrap_or(0),
        events: 0,
        bytes: 0,
        cause: LossCause::Header,
        since_us: 0,
        until_us: now_us,
    };
    let losses = damaged.iter().map(header_lost).collect();
    let lanes_left = BTreeMap::new();
    let mut judged =
        Judged { lanes: lanes_left, blank, damaged, losses, scanned_bytes: 0, next_serial };
    for (key, candidates) in lanes {
        let is_latest = (key.node, key.epoch) == (last.node, last.epoch);
        let outage = outage.filter(|_| is_latest);
        let is_dirty = key.node != last.node || key.epoch >= last.epoch;
        judged.lane(key, candidates, outage, is_dirty, now_us)?;
    }
    Ok(judged)
}

fn outage(
    directory: &Path,
    last: &Known,
    boot: &Boot,
    now_us: i64,
) -> Result<Option<Outage>, JournalError> {
    if last.is_closed || boot.is(last.boot()) {
        return Ok(None);
    }
    let failed = |source| JournalError::Io { path: directory.to_owned(), source };
    let marked_us = mark::read(directory, last.node, last.epoch).map_err(failed)?;
    // Nothing was appended before the opening; nor after this run of the machine began.
    let since_us = marked_us.unwrap_or(last.opened_us).max(last.opened_us);
    let until_us = boot.began_us.min(now_us).max(since_us);
    Ok(Some(Outage { since_us, until_us }))
}

impl Judged {
    fn lane(
        &mut self,
        key: LaneKey,
        mut candidates: Vec<Candidate>,
        outage: Option<Outage>,
        is_dirty: bool,
        now_us: i64,
    ) -> Result<(), JournalError> {
        let mut empty = Vec::new();
        let mut last = None;
        let mut torn = Torn { written: 0, bytes: 0, since_us: now_us };
        let mut end = Position::START;
        while let Some(candidate) = candidates.pop() {
            end = self.find_end(&candidate)?;
            torn.count(&candidate, end);
            if end.offset > HEADER_BYTES as u64 {
                last = Some((candidate, end));
                break;
            }
            empty.push(candidate.path);
        }
        let Outage { since_us, until_us } =
            outage.unwrap_or(Outage { since_us: torn.since_us, until_us: now_us });
        let loss = Loss {
            lane: key,
            first_sequence: end.sequence,
            events: torn.written.saturating_sub(end.sequence),
            bytes: torn.bytes,
            cause: LossCause::Damaged,
            since_us,
            until_us,
        };
        if loss.events > 0 {
            self.losses.push(loss);
        }
        if outage.is_some() {
            self.losses.push(Loss {
                first_sequence: end.sequence.max(torn.written),
                events: 0,
                bytes: 0,
                cause: LossCause::Power,
                ..loss
            });
        }
        self.lanes.insert(key, Remains { whole: candidates, last, empty, is_dirty });
        Ok(())
    }

    fn find_end(&mut self, candidate: &Candidate) -> Result<Position, JournalError> {
        let Candidate { header, hint, .. } = candidate;
        if hint.is_settled {
            let Hint { committed: offset, next_sequence: sequence, .. } = *hint;
            return Ok(Position { segment: header.index, offset, sequence });
        }
        let failed = |ReadError { path, source, .. }| JournalError::Io { path, source };
        let end = walk(candidate, |_, _| ControlFlow::Continue(())).map_err(failed)?;
        self.scanned_bytes += end.offset;
        Ok(end)
    }

    /// Brings everything that is kept to the disk: after the death of a process, the kernel may
    /// still have it to write.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        for remains in self.lanes.values().filter(|remains| remains.is_dirty) {
            let last = remains.last.iter().map(|(last, _)| last);
            for Candidate { path, .. } in remains.whole.iter().chain(last) {
                let done = File::open(path).and_then(|file| file.sync_data());
                done.map_err(|source| JournalError::Io { path: path.clone(), source })?;
            }
        }
        Ok(())
    }

    /// Cuts what is torn and removes what holds nothing. Only when the losses are durable.
    pub(super) fn settle(self, directory: &Path) -> Result<Recovered, JournalError> {
        let mut recovered = Recovered { next_serial: self.next_serial, ..Recovered::default() };
        for path in &self.blank {
            remove(path)?;
        }
        for path in &self.damaged {
            set_aside(path).map_err(|source| JournalError::Io { path: path.clone(), source })?;
        }
        for (key, Remains { whole, last, empty, .. }) in self.lanes {
            for path in &empty {
                remove(path)?;
            }
            let Some((last, end)) = last else { continue };
            let bytes = cut(&last, end)?;
            recovered.cut_bytes += last.bytes - bytes;
            let hint =
                Hint { committed: end.offset, next_sequence: end.sequence, is_settled: true };
            let last = Segment::former(last.path, last.header, bytes, end.offset, hint);
            let whole = whole.into_iter().map(|Candidate { path, header, bytes, hint }| {
                Segment::former(path, header, bytes, bytes, hint)
            });
            let segments: Vec<_> = whole.chain([last]).map(Arc::new).collect();
            recovered.segments += segments.len() as u64;
            recovered.bytes += segments.iter().map(|segment| segment.bytes()).sum::<u64>();
            recovered.lanes.insert(key, Arc::new(Lane::former(key, segments)));
        }
        let failed = |source| JournalError::Io { path: directory.to_owned(), source };
        sync_directory(directory).map_err(failed)?;
        Ok(recovered)
    }
}

/// How far a lane reached by its writer's account.
struct Torn {
    /// Sequence after the last event known to have been written.
    written: u64,
    bytes: u64,
    /// When the oldest segment concerned was made.
    since_us: i64,
}

impl Torn {
    fn count(&mut self, candidate: &Candidate, end: Position) {
        let Candidate { header, hint, .. } = candidate;
        self.written = self.written.max(header.first_sequence);
        if hint.committed > end.offset {
            self.written = self.written.max(hint.next_sequence);
            self.bytes += hint.committed - end.offset;
        }
        self.since_us = self.since_us.min(header.created_us);
    }
}

fn remove(path: &Path) -> Result<(), JournalError> {
    fs::remove_file(path).map_err(|source| JournalError::Io { path: path.to_owned(), source })
}

/// Notes the end of the frames in the header and shortens the file to the page it is in, in that
/// order: a segment that says it is settled is, if not yet short. Returns the file's new length.
fn cut(candidate: &Candidate, end: Position) -> Result<u64, JournalError> {
    let bytes = end.offset.next_multiple_of(PAGE_BYTES as u64).min(candidate.bytes);
    if candidate.hint.is_settled && bytes == candidate.bytes {
        return Ok(bytes);
    }
    let hint = Hint { committed: end.offset, next_sequence: end.sequence, is_settled: true };
    let file = OpenOptions::new().write(true).open(&candidate.path);
    let done = file.and_then(|file| {
        file.write_all_at(&hint.words(), COMMITTED_AT as u64)?;
        file.sync_data()?;
        file.set_len(bytes)?;
        file.sync_all()
    });
    done.map_err(|source| JournalError::Io { path: candidate.path.clone(), source })?;
    Ok(bytes)
}
