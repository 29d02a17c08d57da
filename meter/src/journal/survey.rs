//! What lies in a journal's directory, read without changing any of it.
//!
//! Guarantees: nothing is made, locked or written, so it may be used beside a running journal; a
//! file that goes away meanwhile was not there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::MIN_FRAME_BYTES;
use super::header::{self, HEADER_BYTES, Header, Hint, Page};
use super::lane::{Lane, start_of};
use super::reader::{Frame, LaneReader, ReadError};
use super::segment::{EXTENSION, Segment};
use super::{JournalError, LaneKey, Position, SegmentError};
use crate::durable::ASIDE;

/// A segment file that has an owner.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    pub(super) header: Header,
    /// The file's length.
    pub(super) bytes: u64,
    pub(super) hint: Hint,
}

/// Everything in a directory.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Segments by lane, in order.
    pub(super) lanes: BTreeMap<LaneKey, Vec<Candidate>>,
    /// Segments that were never used.
    pub(super) blank: Vec<PathBuf>,
    /// Segments whose header is damaged: nobody can say which events they hold.
    pub(super) damaged: Vec<PathBuf>,
    /// Segments with rows and a header page of zeros.
    pub(super) headless: Vec<PathBuf>,
    /// The same, set aside by an earlier opening.
    pub(super) aside: Vec<PathBuf>,
    /// Above the serial number of every segment.
    pub(super) next_serial: u64,
}

/// The number in a segment's name, also when it is set aside.
pub(super) fn serial(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    u64::from_str_radix(name.split('.').next()?, 16).ok()
}

impl Survey {
    /// Segments that belong to nobody.
    pub(super) fn without_header(&self) -> impl Iterator<Item = &PathBuf> {
        self.damaged.iter().chain(&self.headless).chain(&self.aside)
    }

    /// The highest epoch of `node` that any segment carries; 0 when none does.
    pub(super) fn last_epoch(&self, node: u32) -> u32 {
        let of_node = self.lanes.keys().filter(|key| key.node == node);
        of_node.map(|key| key.epoch).max().unwrap_or(0)
    }
}

/// Reads the directory and every segment's header page.
pub(super) fn survey(directory: &Path) -> Result<Survey, JournalError> {
    let failed = |source| JournalError::Io { path: directory.to_owned(), source };
    let mut survey = Survey::default();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(EXTENSION) => survey.take_in(path)?,
            Some(ASIDE) if serial(&path).is_some() => {
                survey.number(&path);
                survey.aside.push(path);
            }
            _ => {}
        }
    }
    survey.aside.sort();
    for candidates in survey.lanes.values_mut() {
        candidates.sort_by_key(|candidate| candidate.header.index);
    }
    Ok(survey)
}

impl Survey {
    fn number(&mut self, path: &Path) {
        let next = serial(path).map_or(0, |serial| serial.saturating_add(1));
        self.next_serial = self.next_serial.max(next);
    }

    fn take_in(&mut self, path: PathBuf) -> Result<(), JournalError> {
        self.number(&path);
        let Head { page, bytes, has_rows } = match read_head(&path) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(JournalError::Io { path, source }),
        };
        match page.as_ref().map_or(Ok(Page::Blank), header::parse) {
            Ok(Page::Segment { header, hint }) => {
                // The words have no checksum: believed only as far as they are possible.
                let most = header.first_sequence.saturating_add(bytes / MIN_FRAME_BYTES);
                let hint = Hint {
                    committed: hint.committed.min(bytes),
                    next_sequence: hint.next_sequence.clamp(header.first_sequence, most),
                    ..hint
                };
                let candidate = Candidate { path, header, bytes, hint };
                self.lanes.entry(header.lane).or_default().push(candidate);
            }
            Ok(Page::Blank) if has_rows => self.headless.push(path),
            Ok(Page::Blank) => self.blank.push(path),
            Err(SegmentError::Header) => self.damaged.push(path),
            Err(source @ SegmentError::Layout { .. }) => {
                return Err(JournalError::Segment { path, source });
            }
        }
        Ok(())
    }
}

/// The beginning of a segment's file.
struct Head {
    /// The header page, if the file is long enough to have one.
    page: Option<[u8; HEADER_BYTES]>,
    /// The file's length.
    bytes: u64,
    /// Whether something was written behind it: a frame's length is not 0.
    has_rows: bool,
}

fn read_head(path: &Path) -> io::Result<Head> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let (mut page, mut length) = ([0; HEADER_BYTES], [0; 4]);
    let page = is_read(file.read_exact_at(&mut page, 0))?.then_some(page);
    let is_longer = is_read(file.read_exact_at(&mut length, HEADER_BYTES as u64))?;
    Ok(Head { page, bytes, has_rows: is_longer && length != [0; 4] })
}

/// Whether there were as many bytes.
fn is_read(read: io::Result<()>) -> io::Result<bool> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    }
}

/// Reads the frames of one segment from its start, whatever its writer said about it; returns where
/// they end, or where `each` broke off. It gets a frame and the offset it starts at.
pub(super) fn walk(
    candidate: &Candidate,
    mut each: impl FnMut(&Frame<'_>, u64) -> ControlFlow<()>,
) -> Result<Position, ReadError> {
    let Candidate { path, header, bytes, .. } = candidate;
    let nothing_said = Hint {
        committed: HEADER_BYTES as u64,
        next_sequence: header.first_sequence,
        is_settled: false,
    };
    let segment = Segment::former(path.clone(), *header, *bytes, *bytes, nothing_said);
    let start = start_of(&segment);
    let lane = Arc::new(Lane::former(header.lane, vec![Arc::new(segment)]));
    let mut reader = LaneReader::new(lane, start);
    loop {
        let offset = reader.position().offset;
        let walked = reader.read()?.map_or(ControlFlow::Break(()), |frame| each(&frame, offset));
        if walked.is_break() {
            return Ok(reader.position());
        }
    }
}
