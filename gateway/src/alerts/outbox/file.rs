//! The file of the outbox: opened when it is needed, and again after a failure.
//!
//! Guarantees:
//! - A failed read or write closes the database, and the next call opens it again: what made it
//!   fail (a full disk, an unreachable volume) may be over by then.
//! - A file that cannot be read as a database is set aside under another name and kept; a new one
//!   takes its place. Its bytes never make the process panic.
//! - Blocks are allocated ahead of what is written, so that alerts go on for a while, and over
//!   restarts, on a disk that others have filled.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use redb::backends::FileBackend;
use redb::{BackendError, Builder, Database, ReadableDatabase, StorageBackend};
use redb::{ReadTransaction, WriteTransaction};
use rustix::fs::{FallocateFlags, fallocate};

use super::{OutboxError, tables};

/// What is allocated beyond the end of the file, in bytes.
const ROOM_BYTES: u64 = 4 << 20;
/// Of the file, so much is kept in memory, in bytes.
const CACHE_BYTES: usize = 32 << 20;

/// The file, open or not.
pub(super) struct Store {
    path: PathBuf,
    open: RwLock<Option<Open>>,
    openings: AtomicU64,
    set_aside: Mutex<SetAside>,
}

/// Files that could not be read.
#[derive(Clone, Debug, Default)]
pub(super) struct SetAside {
    /// How many.
    pub(super) times: u32,
    /// Where the last one was put.
    pub(super) file: Option<PathBuf>,
}

struct Open {
    database: Database,
    /// Tells one opening from the next.
    number: u64,
}

impl Store {
    pub(super) fn at(path: &Path) -> Store {
        Store {
            path: path.to_owned(),
            open: RwLock::default(),
            openings: AtomicU64::new(0),
            set_aside: Mutex::default(),
        }
    }

    /// Files that this process could not read.
    pub(super) fn set_aside(&self) -> SetAside {
        self.set_aside.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One transaction: all of it or nothing, on the disk when this returns.
    pub(super) fn write<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, OutboxError> {
        self.with(|database| {
            let tables = database.begin_write()?;
            let value = change(&tables)?;
            tables.commit()?;
            Ok(value)
        })
    }

    /// A look at one state of it.
    pub(super) fn read<T>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, OutboxError> {
        self.with(|database| look(&database.begin_read()?))
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, OutboxError> {
        let mut open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        while open.is_none() {
            drop(open);
            self.open()?;
            open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        }
        let Some(Open { database, number }) = &*open else { unreachable!("it was opened") };
        let (done, number) = (guarded(|| work(database)), *number);
        drop(open);
        done.map_err(|source| self.failed(source, number))
    }

    /// Closes the opening that failed.
    fn failed(&self, source: redb::Error, number: u64) -> OutboxError {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|open| open.number == number) {
            let closed = open.take();
            // Closing may fail as the work did, and is not told twice.
            drop(catch_unwind(AssertUnwindSafe(|| drop(closed))));
            if is_damage(&source)
                && let Err(error) = self.put_aside(&source)
            {
                return self.error(error.into());
            }
        }
        drop(open);
        self.error(source)
    }

    fn open(&self) -> Result<(), OutboxError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.is_some() {
            return Ok(());
        }
        let opened = match guarded(|| attempt(&self.path)) {
            Err(error) if is_damage(&error) => {
                self.put_aside(&error).map_err(|error| self.error(error.into()))?;
                guarded(|| attempt(&self.path))
            }
            opened => opened,
        };
        let database = opened.map_err(|error| self.error(error))?;
        let number = self.openings.fetch_add(1, Ordering::Relaxed);
        *open = Some(Open { database, number });
        Ok(())
    }

    fn put_aside(&self, why: &redb::Error) -> io::Result<()> {
        let aside = self.path.with_extension("damaged");
        std::fs::rename(&self.path, &aside)?;
        let (file, kept) = (self.path.display(), aside.display());
        tracing::error!(
            %file, %kept, error = %why,
            "alerts cannot be read and are set aside: some may be told again, others never were"
        );
        let mut set_aside = self.set_aside.lock().unwrap_or_else(PoisonError::into_inner);
        *set_aside = SetAside { times: set_aside.times + 1, file: Some(aside) };
        Ok(())
    }

    fn error(&self, source: redb::Error) -> OutboxError {
        OutboxError { path: self.path.clone(), source: Box::new(source) }
    }
}

/// Damage that the database did not find as such may make it panic; that is damage, too.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(redb::Error::Corrupted("the database gave up in the middle of its work".to_owned()))
    })
}

/// Whether an error says that the file is none of ours, or not whole; others may pass.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. } => true,
        redb::Error::Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

fn attempt(path: &Path) -> Result<Database, redb::Error> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let backend = Roomy { room: file.try_clone()?, file: FileBackend::new(file)? };
    backend.allocate(backend.len()?)?;
    let mut builder = Builder::new();
    // What is not whole is found here, and not by whoever reads it.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    let database = builder.create_with_backend(backend)?;
    let transaction = database.begin_write()?;
    tables::make(&transaction)?;
    transaction.commit()?;
    Ok(database)
}

/// A file whose blocks are there before they are written.
#[derive(Debug)]
struct Roomy {
    file: FileBackend,
    room: File,
}

impl Roomy {
    /// Allocates the blocks of a file of `length` bytes, and room beyond its end where there is
    /// any.
    fn allocate(&self, length: u64) -> io::Result<()> {
        let allocate = |bytes| fallocate(&self.room, FallocateFlags::KEEP_SIZE, 0, bytes);
        let ahead = allocate(length + ROOM_BYTES);
        if ahead == Err(rustix::io::Errno::NOSPC) && length > 0 {
            return Ok(allocate(length)?);
        }
        // A file system that cannot allocate ahead fails when it is written to, if it does.
        Ok(())
    }
}

impl StorageBackend for Roomy {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.file.len()? {
            self.allocate(len)?;
        }
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
