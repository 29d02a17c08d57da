//! Names that survive a power failure.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes creations, renames and removals inside `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
