//! The directory of a saved state: who may use it, what is read from it, how it is replaced.
//!
//! The state of a running gateway is in the file `limits`. Stopped in order, it leaves its last
//! state as `limits.closed`; the next one renames that to `limits` as it begins to serve. So the
//! name says whether the state is the last, and neither step needs room on the disk. A state is
//! replaced whole or not at all, and is readable by its owner only: it holds a secret.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::LimitStateError;
use super::layout::{self, Damage, HEADER_BYTES, Header};

const RUNNING: &str = "limits";
const CLOSED: &str = "limits.closed";
const DRAFT: &str = "limits.new";
const LOCK: &str = "limits.lock";

/// The directory, ours as long as this lives.
pub(super) struct Files {
    directory: PathBuf,
    /// Held, not used.
    _lock: File,
}

/// What was found.
pub(super) struct Found {
    pub(super) file: PathBuf,
    /// Whether the process that wrote it ended in order.
    pub(super) closed: bool,
    pub(super) content: Result<(Header, Vec<u8>), Damage>,
}

impl Files {
    /// Makes the directory if it is not there (mode 0700), and keeps other processes out.
    pub(super) fn open(directory: &Path) -> Result<Files, LimitStateError> {
        let failed =
            |source| LimitStateError::Directory { directory: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let lock = File::create(directory.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Files { directory: directory.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => {
                Err(LimitStateError::InUse { directory: directory.to_owned() })
            }
            Err(fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The state that was left here; `None` where none was.
    pub(super) fn read(&self) -> Result<Option<Found>, LimitStateError> {
        for (name, closed) in [(CLOSED, true), (RUNNING, false)] {
            let file = self.directory.join(name);
            match read(&file) {
                Ok(content) => return Ok(Some(Found { file, closed, content })),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(LimitStateError::Read { file, source }),
            }
        }
        Ok(None)
    }

    /// From now on the state is that of a process that did not end in order.
    pub(super) fn reopen(&self) -> io::Result<()> {
        match fs::rename(self.directory.join(CLOSED), self.directory.join(RUNNING)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.and_then(|()| File::open(&self.directory)?.sync_all()),
        }
    }

    /// Replaces the state of the running process.
    pub(super) fn save(&self, header: &Header, body: &[u8]) -> io::Result<()> {
        self.replace(RUNNING, header, body)
    }

    /// Leaves the last state of a process that ends in order.
    pub(super) fn close(&self, header: &Header, body: &[u8]) -> io::Result<()> {
        self.replace(CLOSED, header, body)?;
        match fs::remove_file(self.directory.join(RUNNING)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        File::open(&self.directory)?.sync_all()
    }

    fn replace(&self, name: &str, header: &Header, body: &[u8]) -> io::Result<()> {
        let draft = self.directory.join(DRAFT);
        let written = write(&draft, header, body);
        if written.is_err() {
            // It may be what fills the disk.
            drop(fs::remove_file(&draft));
        }
        written.and_then(|()| fs::rename(&draft, self.directory.join(name)))
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

fn write(draft: &Path, header: &Header, body: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(draft)?;
    file.write_all(&layout::header(header, body))?;
    file.write_all(body)?;
    // Renamed before it is on the disk, it could replace a good state by an empty file.
    file.sync_data()
}

/// Header and body of a file. Nothing is read after a header that says something else.
fn read(path: &Path) -> io::Result<Result<(Header, Vec<u8>), Damage>> {
    let mut file = File::open(path)?;
    let rest = file.metadata()?.len().saturating_sub(HEADER_BYTES as u64);
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    (&mut file).take(HEADER_BYTES as u64).read_to_end(&mut bytes)?;
    let (header, length, checksum) = match layout::read_header(&bytes) {
        Ok(read) => read,
        Err(damage) => return Ok(Err(damage)),
    };
    if length != rest {
        return Ok(Err(Damage::Length { expected: length, found: rest }));
    }
    let mut body = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(length).read_to_end(&mut body)?;
    if crc32fast::hash(&body) != checksum {
        return Ok(Err(Damage::Body));
    }
    // The checksum matches, so this fails only for a state that was written wrong.
    let sound = layout::each(&body, header.now, &mut |_| {});
    Ok(sound.map(|()| (header, body)))
}
