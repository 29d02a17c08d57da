//! Counts that outlive the process: four words for each key, in mapped files.
//!
//! The counts of quotas and levels of gauges are words of these files ([`Memory`]), so what
//! was counted survives `kill -9` to the unit without a system call. A file holds [`FILE_SLOTS`]
//! slots of eight words and is followed by another when it is full:
//!
//! | word of a slot | |
//! |---|---|
//! | 0 | in use, and the day (since 1970) on which a process last had it; 0: free |
//! | 1, 2 | the key |
//! | 4 to 7 | the words |
//!
//! The first slot of a file is its header: magic, layout, and the run of the machine in which it was
//! last used.
//!
//! Guarantees: a word handed out stays where it is for the life of the process (its file stays
//! mapped until then); a slot is marked as in use after all else of it is written, so a process
//! killed while it takes one leaves it free or whole; blocks are allocated before a slot is used, so
//! a full disk is `None` from [`Counts::words`] and no signal. A file that is not ours is set aside
//! and named in the log. What a process has is dated every day, so however long it runs the next one
//! finds it. After a power failure words are as they were at some time since the last
//! [`Counts::sync`]: the log says so, and whoever knows better sets them right.

mod file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use orbit_policy::quota::{Memory, Words};

use crate::boot::BootId;
use file::{CountsFile, Opened};

/// Slots of one file, its header not included: 4 MiB with it.
pub const FILE_SLOTS: usize = 65_535;

/// The words of a key.
pub type CountWords = Words;

/// A slot no process had is given to another key after so many days.
const KEPT_DAYS: u64 = 40;

/// The files of one directory that begin with one name.
#[derive(Debug)]
pub struct Counts {
    directory: PathBuf,
    name: &'static str,
    /// The day with which what is in use is dated.
    today: AtomicU64,
    boot: u64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    files: Vec<&'static CountsFile>,
    /// File and slot of each key.
    places: HashMap<u128, (usize, usize)>,
    free: Vec<(usize, usize)>,
}

/// What was found when a directory was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Keys with words.
    pub keys: usize,
    /// Whether the machine went down since, and with it what was not synced.
    pub power_failed: bool,
}

impl Counts {
    /// Opens what is there, `unix_us` being now. `begin` sees the words of every key before they are
    /// used. One process at a time: the caller holds a lock on the directory, which is there.
    pub fn open(
        directory: &Path,
        name: &'static str,
        unix_us: i64,
        begin: impl Fn(&CountWords),
    ) -> io::Result<(Counts, Left)> {
        let today = day(unix_us);
        let boot = BootId::current().map_or(0, BootId::folded);
        let counts = Counts {
            directory: directory.to_owned(),
            name,
            today: AtomicU64::new(today),
            boot,
            table: Mutex::default(),
        };
        let mut power_failed = false;
        let mut table = counts.table();
        for number in 0.. {
            let path = counts.path(number);
            if !path.try_exists()? {
                break;
            }
            let file = counts.open_file(number)?;
            power_failed |= file.last_boot() != boot;
            file.used_in(boot);
            for slot in 0..FILE_SLOTS {
                match file.key(slot) {
                    Some((day, _)) if day + KEPT_DAYS < today => {
                        file.release(slot);
                        table.free.push((number, slot));
                    }
                    Some((_, key)) => {
                        begin(file.words(slot));
                        table.places.insert(key, (number, slot));
                    }
                    None => table.free.push((number, slot)),
                }
            }
            table.files.push(file);
        }
        // The first free slots are taken first, so that files fill from their beginning.
        table.free.reverse();
        let left = Left { keys: table.places.len(), power_failed };
        drop(table);
        Ok((counts, left))
    }

    /// The words of a key, zeros when it is new. `None`: there is no room for a new one, which the
    /// log says once.
    pub fn words(&self, key: u128) -> Option<&'static CountWords> {
        let mut table = self.table();
        if let Some((number, slot)) = table.places.get(&key).copied() {
            let file = table.files[number];
            file.touch(slot, self.today());
            return Some(file.words(slot));
        }
        if table.free.is_empty() {
            match self.open_file(table.files.len()) {
                Ok(file) => {
                    file.used_in(self.boot);
                    let number = table.files.len();
                    table.files.push(file);
                    table.free.extend((0..FILE_SLOTS).rev().map(|slot| (number, slot)));
                }
                Err(error) => {
                    let directory = self.directory.display();
                    tracing::error!(%error, %directory, "no room for more counts");
                    return None;
                }
            }
        }
        let (number, slot) = table.free.pop()?;
        let file = table.files[number];
        file.take(slot, key, self.today());
        table.places.insert(key, (number, slot));
        Some(file.words(slot))
    }

    /// The words of a key, if it has some.
    pub fn find(&self, key: u128) -> Option<&'static CountWords> {
        let table = self.table();
        let (number, slot) = table.places.get(&key).copied()?;
        let file = table.files[number];
        file.touch(slot, self.today());
        Some(file.words(slot))
    }

    /// Frees the slots of all keys but these. Nobody may hold words of the others.
    pub fn retain(&self, in_use: &dyn Fn(u128) -> bool) {
        let mut table = self.table();
        let Table { files, places, free } = &mut *table;
        places.retain(|key, (number, slot)| {
            let keep = in_use(*key);
            if !keep {
                files[*number].release(*slot);
                free.push((*number, *slot));
            }
            keep
        });
    }

    /// Brings everything to the disk and waits; `unix_us` is now.
    pub fn sync(&self, unix_us: i64) -> io::Result<()> {
        let today = day(unix_us);
        let files = {
            let table = self.table();
            if self.today.fetch_max(today, Ordering::Relaxed) < today {
                let places = table.places.values();
                places.for_each(|(number, slot)| table.files[*number].touch(*slot, today));
            }
            table.files.clone()
        };
        files.into_iter().try_for_each(CountsFile::sync)
    }

    /// How many keys have words.
    pub fn len(&self) -> usize {
        self.table().places.len()
    }

    /// Whether no key has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn today(&self) -> u64 {
        self.today.load(Ordering::Relaxed)
    }

    fn open_file(&self, number: usize) -> io::Result<&'static CountsFile> {
        let path = self.path(number);
        match CountsFile::open(&path, FILE_SLOTS)? {
            Opened::Ours(file) => Ok(Box::leak(Box::new(file))),
            Opened::Strange => {
                let aside = path.with_extension("strange");
                std::fs::rename(&path, &aside)?;
                let (path, aside) = (path.display(), aside.display());
                tracing::error!(%path, %aside, "not a file of counts: set aside, counts begin anew");
                self.open_file(number)
            }
        }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.directory.join(format!("{}-{number}", self.name))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory for Counts {
    fn words(&self, key: u128) -> Option<&'static Words> {
        Counts::words(self, key)
    }

    fn find(&self, key: u128) -> Option<&'static Words> {
        Counts::find(self, key)
    }

    fn retain(&self, in_use: &dyn Fn(u128) -> bool) {
        Counts::retain(self, in_use);
    }
}

/// Days since 1970.
fn day(unix_us: i64) -> u64 {
    unix_us.max(0).cast_unsigned() / 86_400_000_000
}

#[cfg(test)]
mod tests;
