//! Names that survive a power failure, and files that nobody can use.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// How a file that was set aside is told from others.
pub(crate) const ASIDE: &str = "damaged";

/// Makes creations, renames and removals inside `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Keeps a file that is not ours to read for whoever wants to look into it, beside others of its
/// name; says so in the log. Returns what it is called now.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default();
    let mut aside = path.with_file_name(named(name, None));
    for number in 2.. {
        if !aside.try_exists()? {
            break;
        }
        aside = path.with_file_name(named(name, Some(number)));
    }
    fs::rename(path, &aside)?;
    tracing::error!(?path, ?aside, "a file that is damaged, or not ours, is set aside");
    Ok(aside)
}

fn named(name: &std::ffi::OsStr, number: Option<u32>) -> OsString {
    let mut name = name.to_owned();
    if let Some(number) = number {
        name.push(format!(".{number}"));
    }
    name.push(".");
    name.push(ASIDE);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_aside_before_stays() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("members.7");
        for content in ["one", "two", "three"] {
            fs::write(&path, content).expect("writable");
            let aside = set_aside(&path).expect("renamed");
            assert_eq!(fs::read_to_string(aside).expect("there"), content);
        }
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["members.7.2.damaged", "members.7.3.damaged", "members.7.damaged"]);
    }
}
