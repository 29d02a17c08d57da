//! The members of distinct meters, kept over a restart: a log of who was let in, in mapped files.
//!
//! Owns the files `members.<number>` of the state directory. Each is a page with its magic and then
//! records of four words, a cache line's half, all native 64-bit words:
//!
//! | word | |
//! |---|---|
//! | 0, 1 | the set's key |
//! | 2 | the member |
//! | 3 | first quarter of the window (24 bits), first one after it (24), whether the set is a sketch (1), checksum of all that (15) |
//!
//! A record is written before its member is let in, its last word last: `kill -9` loses nobody who
//! was let in, and writing costs no system call. The files are synced once a second, so a power
//! failure takes the last second. A record whose checksum does not match is left out, with a line in
//! the log: its member is let in again and counted again.
//!
//! [`MemberFile::upkeep`] makes the next file before it is needed, and writes the files anew when
//! most of what is in them is over, or when something could not be written for want of room. The next
//! file outlives the process like the others, so that a start needs no room on the disk; one that finds
//! none (the very first) goes on without, and members are let in that a restart would not know, which
//! [`MemberFile::status`] tells until there is room.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{counter, gauge};
use orbit_policy::members::{Member, MemberLog, MemberRecord, Span};

use crate::durable::{set_aside, sync_directory};
use crate::words::Words;

#[cfg(test)]
mod tests;

/// "ORBITMB" and the layout's number.
const MAGIC: u64 = u64::from_be_bytes(*b"ORBITMB\x01");
/// A page, so that records do not cross one.
const HEADER_WORDS: usize = 512;
const RECORD_WORDS: usize = 4;
/// Records of a file: 1 MiB.
const FILE_RECORDS: usize = 1 << 15;
const FILE_WORDS: usize = HEADER_WORDS + FILE_RECORDS * RECORD_WORDS;
const NAME: &str = "members.";
/// Bits of a quarter, and of the checksum.
const QUARTER_BITS: u32 = 24;
const CHECK_BITS: u32 = 15;

/// The members of an earlier process cannot be read, or those of this one not be written.
#[derive(Debug, thiserror::Error)]
#[error("members cannot be kept in {}", path.display())]
pub struct MemberFileError {
    /// Which file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// What was found at a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FoundMembers {
    /// Records that are whole.
    pub records: u64,
    /// Records that are not, of members that will be counted anew.
    pub damaged: u64,
    /// Files that are not ours, or of another layout; they are set aside.
    pub foreign: u64,
}

/// How safe members are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Records in all files.
    pub records: u64,
    /// Members that were let in and are in no file: a restart would count them anew.
    pub lost: u64,
    /// Whether the next file is there already.
    pub has_spare: bool,
}

/// The log. One process at a time: the caller holds a lock on the directory.
pub struct MemberFile {
    directory: PathBuf,
    writer: Mutex<Writer>,
}

struct Writer {
    /// Oldest first; the last one is written to.
    segments: Vec<Segment>,
    /// The next free record of the last one.
    at: usize,
    /// Made ahead of time.
    spare: Option<Segment>,
    next_number: u64,
    /// Records in all segments.
    records: u64,
    /// Members there were when last asked.
    held: u64,
    /// Where syncing goes on: how many segments are synced whole, and records of the next.
    synced: (usize, usize),
    /// Members that are in no file.
    lost: u64,
    /// Whether making a segment is worth a try: not again at once after a failure.
    may_make: bool,
    /// Whether the last upkeep failed.
    is_failing: bool,
}

struct Segment {
    path: PathBuf,
    words: Arc<Words>,
}

impl MemberFile {
    /// Reads what an earlier process left, shows each record to `restore`, and goes on behind it.
    /// A disk without room is no error.
    pub fn open(
        directory: &Path,
        restore: &mut dyn FnMut(&MemberRecord),
    ) -> Result<(MemberFile, FoundMembers), MemberFileError> {
        let mut found = FoundMembers::default();
        let (mut segments, mut next_number, mut at) = (Vec::new(), 1, FILE_RECORDS);
        let mut spare: Option<Segment> = None;
        for (number, path) in list(directory)? {
            next_number = number + 1;
            let failed = |source| MemberFileError { path: path.clone(), source };
            let Some(words) = open(&path, &mut found).map_err(failed)? else { continue };
            // A spare is of use behind all others only.
            if let Some(unused) = spare.take() {
                fs::remove_file(&unused.path).map_err(failed)?;
            }
            let end = read(&words, restore, &mut found);
            let segment = Segment { path, words: Arc::new(words) };
            if end == 0 {
                spare = Some(segment);
            } else {
                at = end;
                segments.push(segment);
            }
        }
        report(directory, &found);
        let mut writer = Writer {
            synced: (segments.len().saturating_sub(1), 0),
            segments,
            at,
            spare,
            next_number,
            records: found.records + found.damaged,
            held: 0,
            lost: 0,
            may_make: true,
            is_failing: false,
        };
        if let Err(error) = writer.make_spare(directory) {
            let directory = directory.display();
            tracing::warn!(%error, %directory, "no room to be prepared for many more members");
        }
        Ok((MemberFile { directory: directory.to_owned(), writer: Mutex::new(writer) }, found))
    }

    /// How it is now.
    pub fn status(&self) -> MemberStatus {
        let writer = self.lock();
        let Writer { records, lost, .. } = *writer;
        MemberStatus { records, lost, has_spare: writer.spare.is_some() }
    }

    /// Once a second: syncs, makes room, and writes the files anew where they hold more than twice the
    /// members there are: `held` says how many, which is asked only where it may be so, and `export`
    /// shows all of them.
    pub fn upkeep(
        &self,
        held: impl FnOnce() -> u64,
        export: impl FnOnce(&mut dyn FnMut(&MemberRecord)),
    ) {
        let mut failed = self.sync().err();
        let (has_excess, lost) = {
            let mut writer = self.lock();
            writer.may_make = true;
            failed = failed.or(writer.make_spare(&self.directory).err());
            (writer.has_excess(), writer.lost)
        };
        let is_due = lost > 0
            || has_excess && {
                let held = held();
                let mut writer = self.lock();
                writer.held = held;
                writer.has_excess()
            };
        if failed.is_none() && is_due {
            failed = self.rewrite(export).err();
        }
        let mut writer = self.lock();
        gauge!("orbit_member_records").set(writer.records as f64);
        let was_failing = std::mem::replace(&mut writer.is_failing, failed.is_some());
        let directory = self.directory.display();
        match failed {
            Some(error) => {
                counter!("orbit_member_log_failures_total").increment(1);
                if !was_failing {
                    tracing::error!(%error, %directory, lost, "members are not safe from a restart");
                }
            }
            None if was_failing => tracing::info!(%directory, "members are safe again"),
            None => {}
        }
    }

    /// Brings what was written to the disk and waits.
    pub fn sync(&self) -> io::Result<()> {
        let (pending, upto) = {
            let writer = self.lock();
            let (whole, records) = writer.synced;
            let count = writer.segments.len();
            let pending = writer.segments.iter().enumerate().skip(whole).map(|(index, segment)| {
                let from = if index == whole { records } else { 0 };
                let to = if index + 1 == count { writer.at } else { FILE_RECORDS };
                (Arc::clone(&segment.words), words_of(from).start..words_of(to).start)
            });
            (pending.collect::<Vec<_>>(), (count.saturating_sub(1), writer.at))
        };
        for (words, range) in pending {
            words.sync(range)?;
        }
        self.lock().synced = upto;
        Ok(())
    }

    /// Writes every member there is into new files, and removes the old ones.
    fn rewrite(&self, export: impl FnOnce(&mut dyn FnMut(&MemberRecord))) -> io::Result<()> {
        let (old, lost) = {
            let mut writer = self.lock();
            writer.make_spare(&self.directory)?;
            let old = writer.segments.len();
            let spare = writer.spare.take();
            writer.segments.extend(spare);
            writer.at = 0;
            (old, std::mem::take(&mut writer.lost))
        };
        export(&mut |record| self.append(record));
        self.sync()?;
        let mut writer = self.lock();
        if writer.lost > 0 {
            // The old files hold what the new ones have no room for.
            writer.lost += lost;
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        sync_directory(&self.directory)?;
        for segment in writer.segments.drain(..old) {
            fs::remove_file(&segment.path)?;
        }
        writer.synced.0 = writer.synced.0.saturating_sub(old);
        writer.records =
            (writer.segments.len().saturating_sub(1) * FILE_RECORDS + writer.at) as u64;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemberLog for MemberFile {
    fn append(&self, record: &MemberRecord) {
        self.lock().append(&self.directory, record);
    }
}

impl Drop for MemberFile {
    fn drop(&mut self) {
        if let Err(error) = self.sync() {
            tracing::error!(%error, "the last members are not safe from a power failure");
        }
    }
}

impl Writer {
    fn append(&mut self, directory: &Path, record: &MemberRecord) {
        if self.at == FILE_RECORDS && !self.next_segment(directory) {
            self.lost += 1;
            return;
        }
        let Some(segment) = self.segments.last() else { return };
        let [key_high, key_low, member, last] = words(record);
        let slot = &segment.words.all()[words_of(self.at)];
        slot[0].store(key_high, Ordering::Relaxed);
        slot[1].store(key_low, Ordering::Relaxed);
        slot[2].store(member, Ordering::Relaxed);
        slot[3].store(last, Ordering::Release);
        self.at += 1;
        self.records += 1;
    }

    /// Whether most of what is written may be over.
    fn has_excess(&self) -> bool {
        self.records > self.held.saturating_mul(2) + FILE_RECORDS as u64
    }

    /// Goes on in a new segment. Made here only when they are used up faster than once a second.
    fn next_segment(&mut self, directory: &Path) -> bool {
        if self.spare.is_none()
            && self.may_make
            && let Err(error) = self.make_spare(directory)
        {
            self.may_make = false;
            let directory = directory.display();
            tracing::error!(%error, %directory, "members are let in that a restart will not know");
        }
        let Some(spare) = self.spare.take() else { return false };
        self.segments.push(spare);
        self.at = 0;
        true
    }

    fn make_spare(&mut self, directory: &Path) -> io::Result<()> {
        if self.spare.is_some() {
            return Ok(());
        }
        let path = directory.join(format!("{NAME}{:08}", self.next_number));
        let words = Arc::new(Words::open(&path, FILE_WORDS)?);
        words.all()[0].store(MAGIC, Ordering::Release);
        words.sync(0..1)?;
        sync_directory(directory)?;
        self.next_number += 1;
        self.spare = Some(Segment { path, words });
        Ok(())
    }
}

/// The files there are, oldest first.
fn list(directory: &Path) -> Result<Vec<(u64, PathBuf)>, MemberFileError> {
    let failed = |source| MemberFileError { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(NAME)?.parse().ok());
        files.extend(number.map(|number: u64| (number, entry.path())));
    }
    files.sort_unstable();
    Ok(files)
}

/// Opens a file; `None` when it is not ours, or was never finished.
fn open(path: &Path, found: &mut FoundMembers) -> io::Result<Option<Words>> {
    if fs::metadata(path)?.len() < FILE_WORDS as u64 * 8 {
        // Blocks come before anything else.
        let is_ours = fs::read(path)?.iter().all(|byte| *byte == 0);
        if is_ours {
            return fs::remove_file(path).map(|()| None);
        }
        found.foreign += 1;
        return set_aside(path).map(|_| None);
    }
    let words = Words::open(path, FILE_WORDS)?;
    let magic = &words.all()[0];
    if magic.load(Ordering::Acquire) == MAGIC {
        return Ok(Some(words));
    }
    if words.all().iter().all(|word| word.load(Ordering::Relaxed) == 0) {
        // Made by a process that died before it was used.
        magic.store(MAGIC, Ordering::Release);
        return Ok(Some(words));
    }
    found.foreign += 1;
    set_aside(path).map(|_| None)
}

/// Shows the whole records of a file. Returns the first place behind all that is written.
fn read(file: &Words, restore: &mut dyn FnMut(&MemberRecord), found: &mut FoundMembers) -> usize {
    let mut end = 0;
    for at in 0..FILE_RECORDS {
        // Pages reach the disk one by one: behind a free record may be used ones.
        let slot = &file.all()[words_of(at)];
        let [key_high, key_low, member, last] =
            std::array::from_fn(|word| AtomicU64::load(&slot[word], Ordering::Acquire));
        if [key_high, key_low, member, last] == [0; RECORD_WORDS] {
            continue;
        }
        end = at + 1;
        match record([key_high, key_low, member, last]) {
            Some(record) => {
                found.records += 1;
                restore(&record);
            }
            // Without its last word nobody was let in by it yet.
            None if last == 0 => {}
            None => found.damaged += 1,
        }
    }
    end
}

fn report(directory: &Path, found: &FoundMembers) {
    let FoundMembers { records, damaged, foreign } = *found;
    let directory = directory.display();
    if damaged > 0 || foreign > 0 {
        tracing::error!(%directory, records, damaged, foreign, "some members are lost, and counted anew");
    } else if records > 0 {
        tracing::info!(%directory, records, "members are known");
    }
}

fn words_of(record: usize) -> std::ops::Range<usize> {
    let start = HEADER_WORDS + record * RECORD_WORDS;
    start..start + RECORD_WORDS
}

fn words(record: &MemberRecord) -> [u64; RECORD_WORDS] {
    let MemberRecord { set, span, member, sketched } = *record;
    let (high, low) = ((set >> 64) as u64, set as u64);
    let span = u64::from(span.start) | u64::from(span.end) << QUARTER_BITS;
    let head = span | u64::from(sketched) << (2 * QUARTER_BITS);
    let member = member.number();
    [high, low, member, head | checksum([high, low, member, head]) << (u64::BITS - CHECK_BITS)]
}

fn record(words: [u64; RECORD_WORDS]) -> Option<MemberRecord> {
    let [high, low, member, last] = words;
    let head = last << CHECK_BITS >> CHECK_BITS;
    if last >> (u64::BITS - CHECK_BITS) != checksum([high, low, member, head]) {
        return None;
    }
    let quarter = |shift: u32| (head >> shift) as u32 % (1 << QUARTER_BITS);
    let span = Span { start: quarter(0), end: quarter(QUARTER_BITS) };
    (member != 0 && span.start < span.end).then(|| MemberRecord {
        set: u128::from(high) << 64 | u128::from(low),
        span,
        member: Member::from_number(member),
        sketched: head >> (2 * QUARTER_BITS) & 1 == 1,
    })
}

fn checksum(words: [u64; RECORD_WORDS]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    for word in words {
        hasher.update(&word.to_le_bytes());
    }
    let sum = hasher.finalize();
    u64::from((sum ^ sum >> 16) % (1 << CHECK_BITS))
}
