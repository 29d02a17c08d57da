//! Definitions of tables that a full disk left empty.
//!
//! A table that the engine makes while its disk is full leaves a file without a byte where its
//! definition should be, and an engine that finds such a file does not start any more. There is nothing
//! in it to be lost: the table was never made, so the file is removed and the table can be made again.

use std::fs;
use std::io;
use std::path::Path;

use super::EngineError;

/// Removes empty definitions from the databases below `data`. For who holds the lock, before the
/// engine runs.
pub(super) fn remove_empty(data: &Path) -> Result<(), EngineError> {
    let metadata = data.join("metadata");
    let failed = |path: &Path| EngineError::file("look through", path);
    for database in entries(&metadata).map_err(failed(&metadata))? {
        if !database.is_dir() {
            continue;
        }
        for file in entries(&database).map_err(failed(&database))? {
            let is_definition = file.extension().is_some_and(|extension| extension == "sql");
            if is_definition && fs::metadata(&file).is_ok_and(|found| found.len() == 0) {
                fs::remove_file(&file).map_err(EngineError::file("remove", &file))?;
                let file = file.display();
                tracing::warn!(%file, "a table that was never made is forgotten: no room was left");
            }
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_definitions_go() {
        let data = tempfile::tempdir().expect("a temporary directory");
        let database = data.path().join("store/abc");
        fs::create_dir_all(&database).expect("writable");
        fs::create_dir(data.path().join("metadata")).expect("writable");
        std::os::unix::fs::symlink(&database, data.path().join("metadata/orbit"))
            .expect("writable");
        for (name, content) in [("made.sql", "ATTACH"), ("unmade.sql", ""), ("unmade.txt", "")] {
            fs::write(database.join(name), content).expect("writable");
        }
        fs::write(data.path().join("metadata/orbit.sql"), "ATTACH").expect("writable");
        remove_empty(data.path()).expect("removed");
        let is_there = |name: &str| database.join(name).exists();
        assert!(is_there("made.sql") && !is_there("unmade.sql") && is_there("unmade.txt"));
        assert!(data.path().join("metadata/orbit.sql").exists());
        remove_empty(&data.path().join("nothing")).expect("nothing to remove");
    }
}
