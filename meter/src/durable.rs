//! Small files that are replaced as a whole or not at all.
//!
//! Guarantees: after [`replace`] returned, power may fail and the file holds the new bytes; before,
//! it holds the old ones. A reader never sees a mixture.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Write, fsync, rename, fsync the directory.
pub(crate) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = directory.join(format!("{name}.new"));
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&draft, directory.join(name))?;
    sync_directory(directory)
}

/// Makes creations, renames and removals inside `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The file's bytes; `None` when there is no such file.
pub(crate) fn read(directory: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    match fs::read(directory.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
