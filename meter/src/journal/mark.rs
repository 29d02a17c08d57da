//! Up to which time everything is on the disk: a few bytes, written after each round of syncing.
//!
//! Guarantees: once an opening is marked with a time, every event appended to it before that time
//! survives a power failure. The file is of one block that is there from the start, so marking
//! needs no room; its few bytes lie in one sector, which a disk writes whole, and have a checksum.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::frame::checksum;
use crate::durable::sync_directory;

const NAME: &str = "synced";
/// Epoch, time, and a checksum that starts from the node.
const MARK_BYTES: usize = 16;
const FILE_BYTES: usize = 4096;

/// The open file.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    node: u32,
    epoch: u32,
}

impl Mark {
    /// For one opening; what an earlier one marked stays until the first [`Mark::set`].
    pub(super) fn open(directory: &Path, node: u32, epoch: u32) -> io::Result<Mark> {
        let path = directory.join(NAME);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() < FILE_BYTES as u64 {
            file.write_all_at(&[0; FILE_BYTES], 0)?;
            file.sync_all()?;
            sync_directory(directory)?;
        }
        Ok(Mark { file, node, epoch })
    }

    /// Everything appended before `synced_us` is on the disk.
    pub(super) fn set(&self, synced_us: i64) -> io::Result<()> {
        self.file.write_all_at(&encode(self.node, self.epoch, synced_us), 0)?;
        self.file.sync_data()
    }
}

/// The time this opening was last marked with; `None` when it never was, or nobody can say.
pub(super) fn read(directory: &Path, node: u32, epoch: u32) -> io::Result<Option<i64>> {
    let mut bytes = [0; MARK_BYTES];
    match File::open(directory.join(NAME)).and_then(|file| file.read_exact_at(&mut bytes, 0)) {
        Ok(()) => {}
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => Ok(None),
                _ => Err(error),
            };
        }
    }
    let [_, _, _, _, time @ .., _, _, _, _] = bytes;
    let synced_us = i64::from_le_bytes(time);
    Ok((bytes == encode(node, epoch, synced_us)).then_some(synced_us))
}

fn encode(node: u32, epoch: u32, synced_us: i64) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    bytes[0..4].copy_from_slice(&epoch.to_le_bytes());
    bytes[4..12].copy_from_slice(&synced_us.to_le_bytes());
    let sum = checksum(node, &bytes[..12]);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_for_its_own_opening_only() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path();
        assert_eq!(read(path, 7, 1).expect("readable"), None);
        let mark = Mark::open(path, 7, 1).expect("writable");
        assert_eq!(read(path, 7, 1).expect("readable"), None);
        mark.set(1_795_000_000_000_000).expect("writable");
        assert_eq!(read(path, 7, 1).expect("readable"), Some(1_795_000_000_000_000));
        assert_eq!(read(path, 7, 2).expect("readable"), None);
        assert_eq!(read(path, 8, 1).expect("readable"), None);
        let next = Mark::open(path, 7, 2).expect("writable");
        assert_eq!(read(path, 7, 1).expect("readable"), Some(1_795_000_000_000_000));
        next.set(9).expect("writable");
        assert_eq!(read(path, 7, 1).expect("readable"), None);
    }

    #[test]
    fn a_damaged_mark_is_none() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path();
        Mark::open(path, 7, 1).and_then(|mark| mark.set(5)).expect("writable");
        let bytes = std::fs::read(path.join(NAME)).expect("there");
        for bit in 0..MARK_BYTES * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(path.join(NAME), &changed).expect("writable");
            assert_eq!(read(path, 7, 1).expect("readable"), None, "bit {bit}");
        }
    }
}
