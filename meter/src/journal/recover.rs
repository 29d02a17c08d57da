//! What an earlier epoch left behind: its segments, each cut at its tear.
//!
//! Guarantees: a lane's last segment is read to the last frame whose checksum holds and shortened
//! there, so that crash after crash leaves rows and not preallocated zeros; everything offered to
//! the shipper is durable. The work is bounded: one segment per lane is read, the others are
//! checked as they are shipped.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::MIN_FRAME_BYTES;
use super::header::{self, HEADER_BYTES, Header, PAGE_BYTES, Page};
use super::lane::{Lane, start_of};
use super::reader::{LaneReader, ReadError};
use super::segment::{EXTENSION, Hint, Segment};
use super::{JournalError, LaneKey, Loss, Position, SegmentError};

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) lanes: BTreeMap<LaneKey, Arc<Lane>>,
    /// Bytes of the segment files that remain.
    pub(super) bytes: u64,
    pub(super) next_serial: u64,
    /// Events known to be lost from lanes of which nothing remains.
    pub(super) losses: Vec<Loss>,
}

impl Recovered {
    /// The highest epoch of `node` that any segment carries; 0 when none does.
    pub(super) fn last_epoch(&self, node: u32) -> u32 {
        let of_node = self.lanes.keys().filter(|key| key.node == node);
        of_node.map(|key| key.epoch).max().unwrap_or(0)
    }
}

#[derive(Debug)]
struct Candidate {
    path: PathBuf,
    header: Header,
    bytes: u64,
    hint: Hint,
}

/// Reads the directory, cuts what is torn and removes what holds nothing.
pub(super) fn recover(directory: &Path) -> Result<Recovered, JournalError> {
    let mut recovered = Recovered::default();
    let mut lanes: BTreeMap<LaneKey, Vec<Candidate>> = BTreeMap::new();
    for path in segment_files(directory)? {
        let serial = path.file_stem().and_then(|stem| stem.to_str());
        if let Some(serial) = serial.and_then(|stem| u64::from_str_radix(stem, 16).ok()) {
            recovered.next_serial = recovered.next_serial.max(serial + 1);
        }
        if let Some(candidate) = identify(path)? {
            lanes.entry(candidate.header.lane).or_default().push(candidate);
        }
    }
    for (key, mut candidates) in lanes {
        candidates.sort_by_key(|candidate| candidate.header.index);
        let (segments, losses) = restore(key, candidates)?;
        recovered.bytes += segments.iter().map(|segment| segment.bytes()).sum::<u64>();
        if segments.is_empty() {
            recovered.losses.extend(losses);
        } else {
            let lane = Lane::former(key, segments);
            for loss in losses {
                lane.note_loss(loss);
            }
            recovered.lanes.insert(key, Arc::new(lane));
        }
    }
    Ok(recovered)
}

fn segment_files(directory: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let failed = |source| JournalError::Io { path: directory.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whose segment it is. Unused ones are removed; one with a damaged header is set aside, as nobody
/// can say which events it holds.
fn identify(path: PathBuf) -> Result<Option<Candidate>, JournalError> {
    let failed = |source| JournalError::Io { path: path.clone(), source };
    let file = File::open(&path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut page = [0; HEADER_BYTES];
    let parsed = match file.read_exact_at(&mut page, 0) {
        Ok(()) => header::parse(&page),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Page::Blank),
        Err(error) => return Err(failed(error)),
    };
    match parsed {
        Ok(Page::Segment { header, committed, next_sequence }) => {
            // After a crash of this process the rows may still be on their way to the disk.
            file.sync_data().map_err(failed)?;
            // The words have no checksum: believed only as far as they are possible.
            let most = header.first_sequence.saturating_add(bytes / MIN_FRAME_BYTES);
            let hint = Hint {
                committed: committed.min(bytes),
                next_sequence: next_sequence.clamp(header.first_sequence, most),
            };
            Ok(Some(Candidate { path, header, bytes, hint }))
        }
        Ok(Page::Blank) => {
            fs::remove_file(&path).map_err(failed)?;
            Ok(None)
        }
        Err(SegmentError::Header) => {
            let aside = path.with_extension("damaged");
            fs::rename(&path, &aside).map_err(failed)?;
            tracing::error!(path = ?aside, bytes, "segment with a damaged header set aside");
            Ok(None)
        }
        Err(source @ SegmentError::Layout { .. }) => Err(JournalError::Segment { path, source }),
    }
}

/// A lane's segments in order, the last of them ending at its last good frame.
fn restore(
    key: LaneKey,
    mut candidates: Vec<Candidate>,
) -> Result<(Vec<Arc<Segment>>, Vec<Loss>), JournalError> {
    let mut losses = Vec::new();
    let mut last = None;
    while let Some(candidate) = candidates.pop() {
        let (end, found) = scan(key, &candidate)?;
        losses.extend(found);
        if end.offset > HEADER_BYTES as u64 {
            let bytes = cut(&candidate, end.offset)?;
            let Candidate { path, header, .. } = candidate;
            let hint = Hint { committed: end.offset, next_sequence: end.sequence };
            last = Some(Segment::former(path, header, bytes, end.offset, hint));
            break;
        }
        let failed = |source| JournalError::Io { path: candidate.path.clone(), source };
        fs::remove_file(&candidate.path).map_err(failed)?;
    }
    let whole = candidates.into_iter().map(|Candidate { path, header, bytes, hint }| {
        Segment::former(path, header, bytes, bytes, hint)
    });
    Ok((whole.chain(last).map(Arc::new).collect(), losses))
}

/// Where the frames of a segment end, and what should have been there beyond.
fn scan(key: LaneKey, candidate: &Candidate) -> Result<(Position, Vec<Loss>), JournalError> {
    let Candidate { path, header, bytes, hint } = candidate;
    let segment = Segment::former(path.clone(), *header, *bytes, *bytes, *hint);
    let start = start_of(&segment);
    let lane = Arc::new(Lane::former(key, vec![Arc::new(segment)]));
    let mut reader = LaneReader::new(Arc::clone(&lane), start);
    let failed = |ReadError { path, source, .. }| JournalError::Io { path, source };
    while reader.read().map_err(failed)?.is_some() {}
    let end = reader.position();
    if end.offset < hint.committed {
        let bytes = hint.committed - end.offset;
        tracing::warn!(?key, index = header.index, end = end.offset, bytes, "torn segment cut");
    }
    Ok((end, lane.losses()))
}

/// Shortens the file to the page that `end` is in; returns its new length.
fn cut(candidate: &Candidate, end: u64) -> Result<u64, JournalError> {
    let bytes = end.next_multiple_of(PAGE_BYTES as u64).min(candidate.bytes);
    if bytes < candidate.bytes {
        let file = OpenOptions::new().write(true).open(&candidate.path);
        let done = file.and_then(|file| {
            file.set_len(bytes)?;
            file.sync_all()
        });
        done.map_err(|source| JournalError::Io { path: candidate.path.clone(), source })?;
    }
    Ok(bytes)
}
