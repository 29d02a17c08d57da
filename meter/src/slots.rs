//! A small durable value that can be replaced on a full disk: two files of their own blocks.
//!
//! A value is written over the older of the two, with a generation and a checksum, and synced; the
//! newer one stays whole meanwhile. Renaming a new file over the old would need a free block, and a
//! full disk is when a journal has to be opened and shipped to make room.
//!
//! Guarantees: after [`Slots::store`] returned, [`Slots::open`] finds that value, whatever fails;
//! if it did not return, that value or the one before. Damage to both is an error, never a guess.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::durable::sync_directory;

const MAGIC: [u8; 8] = *b"ORBITSLT";
const HEAD_BYTES: usize = 28;
/// What each file has from the start. The longest values are the shipper's: up to 26 plans of 64 ranges
/// of about 230 bytes, 1024 lanes of 55, and cursors and losses of 64 lanes each are 480 KiB. A longer
/// value needs free blocks.
const RESERVED_BYTES: usize = 512 * 1024;

/// The value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// A file could not be used.
    #[error("state file {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Neither file holds a value, though one was stored.
    #[error("both copies of {} are damaged", path.display())]
    Damaged {
        /// The path that both names start with.
        path: PathBuf,
    },
}

/// The two files.
#[derive(Debug)]
pub(crate) struct Slots {
    files: [File; 2],
    generation: u64,
}

impl Slots {
    /// Opens or makes `<name>.0` and `<name>.1`; the value stored last, if there is one.
    pub(crate) fn open(
        directory: &Path,
        name: &str,
    ) -> Result<(Slots, Option<Vec<u8>>), SlotsError> {
        let mut found: Option<(u64, Vec<u8>)> = None;
        let mut damaged = 0;
        let mut files = Vec::new();
        for index in 0..2 {
            let path = directory.join(format!("{name}.{index}"));
            let failed = |source| SlotsError::Io { path: path.clone(), source };
            let file = open_reserved(&path).map_err(failed)?;
            match read(&file).map_err(failed)? {
                Content::Blank => {}
                Content::Damaged => damaged += 1,
                Content::Value(generation, value) => {
                    if found.as_ref().is_none_or(|(known, _)| *known < generation) {
                        found = Some((generation, value));
                    }
                }
            }
            files.push(file);
        }
        let failed = |source| SlotsError::Io { path: directory.to_owned(), source };
        sync_directory(directory).map_err(failed)?;
        // A first store that was torn leaves one damaged and one blank: nothing was stored.
        if found.is_none() && damaged == 2 {
            return Err(SlotsError::Damaged { path: directory.join(name) });
        }
        let files = files.try_into().expect("two were opened");
        let generation = found.as_ref().map_or(0, |(generation, _)| *generation);
        Ok((Slots { files, generation }, found.map(|(_, value)| value)))
    }

    /// Opens the files to store a first value, whatever they hold.
    pub(crate) fn renew(directory: &Path, name: &str) -> Result<Slots, SlotsError> {
        for index in 0..2 {
            let path = directory.join(format!("{name}.{index}"));
            let failed = |source| SlotsError::Io { path: path.clone(), source };
            let file = open_reserved(&path).map_err(failed)?;
            file.write_all_at(&[0; HEAD_BYTES], 0).map_err(failed)?;
            file.sync_data().map_err(failed)?;
        }
        Ok(Slots::open(directory, name)?.0)
    }

    /// The value stored last, for one who only looks: makes nothing, changes nothing. `None` when
    /// there is none, or none that is whole at this moment.
    pub(crate) fn peek(directory: &Path, name: &str) -> Result<Option<Vec<u8>>, SlotsError> {
        let mut found: Option<(u64, Vec<u8>)> = None;
        for index in 0..2 {
            let path = directory.join(format!("{name}.{index}"));
            let content = match File::open(&path).and_then(|file| read(&file)) {
                Ok(content) => content,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(SlotsError::Io { path, source }),
            };
            if let Content::Value(generation, value) = content
                && found.as_ref().is_none_or(|(known, _)| *known < generation)
            {
                found = Some((generation, value));
            }
        }
        Ok(found.map(|(_, value)| value))
    }

    /// Replaces the value, durably.
    pub(crate) fn store(&mut self, value: &[u8]) -> io::Result<()> {
        let generation = self.generation + 1;
        let mut bytes = Vec::with_capacity(HEAD_BYTES + value.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&generation.to_le_bytes());
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&checksum(generation, value).to_le_bytes());
        bytes.extend_from_slice(value);
        let file = &self.files[(generation % 2) as usize];
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        self.generation = generation;
        Ok(())
    }
}

enum Content {
    Blank,
    Damaged,
    Value(u64, Vec<u8>),
}

fn open_reserved(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
    let have = file.metadata()?.len() as usize;
    if have < RESERVED_BYTES {
        let zeros = vec![0; RESERVED_BYTES - have];
        let reserved = file.write_all_at(&zeros, have as u64).and_then(|()| file.sync_all());
        match reserved {
            // Of another version, which reserved less: what it holds can be read and replaced.
            Err(error) if have > HEAD_BYTES => {
                tracing::warn!(?path, %error, have, "no room to reserve for a longer state");
            }
            other => other?,
        }
    }
    Ok(file)
}

fn read(file: &File) -> io::Result<Content> {
    let mut head = [0; HEAD_BYTES];
    file.read_exact_at(&mut head, 0)?;
    if head == [0; HEAD_BYTES] {
        return Ok(Content::Blank);
    }
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&head[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let (generation, length) = (word(8), word(16));
    let room = file.metadata()?.len() - HEAD_BYTES as u64;
    if head[0..8] != MAGIC || length > room {
        return Ok(Content::Damaged);
    }
    let mut value = vec![0; length as usize];
    file.read_exact_at(&mut value, HEAD_BYTES as u64)?;
    let is_whole = head[24..28] == checksum(generation, &value).to_le_bytes();
    Ok(if is_whole { Content::Value(generation, value) } else { Content::Damaged })
}

fn checksum(generation: u64, value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&generation.to_le_bytes());
    hasher.update(value);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> (Slots, Option<Vec<u8>>) {
        Slots::open(directory, "shipping").expect("readable")
    }

    #[test]
    fn the_last_value_is_found_again() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (mut slots, found) = open(directory.path());
        assert_eq!(found, None);
        for number in 0..5_usize {
            let value = vec![number as u8; number * 1_000];
            slots.store(&value).expect("writable");
            let (again, found) = open(directory.path());
            assert_eq!(found.as_deref(), Some(&value[..]));
            slots = again;
        }
    }

    #[test]
    fn a_store_torn_at_any_byte_leaves_the_value_before() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (mut slots, _) = open(directory.path());
        slots.store(b"first value").expect("writable");
        slots.store(b"second value").expect("writable");
        let path = directory.path().join("shipping.1");
        let before = std::fs::read(&path).expect("there");
        slots.store(b"third value").expect("writable");
        let after = std::fs::read(&path).expect("there");
        for cut in 0..HEAD_BYTES + 11 {
            let mut torn = after[..cut].to_vec();
            torn.extend_from_slice(&before[cut..]);
            if torn == after {
                continue;
            }
            std::fs::write(&path, &torn).expect("writable");
            let (_, found) = open(directory.path());
            assert_eq!(found.as_deref(), Some(&b"second value"[..]), "cut at {cut}");
        }
    }

    #[test]
    fn damage_to_both_is_an_error_until_they_are_renewed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (mut slots, _) = open(directory.path());
        slots.store(b"one").expect("writable");
        slots.store(b"two").expect("writable");
        for index in 0..2 {
            let path = directory.path().join(format!("shipping.{index}"));
            let mut bytes = std::fs::read(&path).expect("there");
            bytes[HEAD_BYTES] ^= 1;
            std::fs::write(&path, &bytes).expect("writable");
        }
        let error = Slots::open(directory.path(), "shipping").expect_err("both damaged");
        assert!(matches!(error, SlotsError::Damaged { .. }), "{error}");
        assert_eq!(Slots::peek(directory.path(), "shipping").expect("readable"), None);
        let mut slots = Slots::renew(directory.path(), "shipping").expect("writable");
        slots.store(b"three").expect("writable");
        let found = Slots::peek(directory.path(), "shipping").expect("readable");
        assert_eq!(found.as_deref(), Some(&b"three"[..]));
    }
}
