//! Policy documents from disk: which files, in which order, and whether they changed.
//!
//! Guarantees that the same files give the same sources in the same order, that hidden files
//! (editors' swap files, `..data` of a Kubernetes volume) are not documents, and that one
//! unreadable file is reported beside the others instead of hiding them.

use std::fmt;
use std::path::{Path, PathBuf};

use orbit_policy::{Diagnostic, Source};
use sha2::{Digest, Sha256};

/// Most bytes of all documents together: several million keys.
const MAX_TOTAL_BYTES: u64 = 1024 * 1024 * 1024;
/// Most documents.
const MAX_FILES: usize = 100_000;
/// Deepest directory below a policy path; also what ends a loop of symbolic links.
const MAX_DEPTH: usize = 16;

/// SHA-256 over names and texts of a set of documents.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of these documents in this order.
    pub fn of(sources: &[Source]) -> Fingerprint {
        let mut hash = Sha256::new();
        for source in sources {
            // Lengths first, so that text cannot move between names and contents unnoticed.
            hash.update((source.file.len() as u64).to_le_bytes());
            hash.update(source.file.as_bytes());
            hash.update((source.text.len() as u64).to_le_bytes());
            hash.update(source.text.as_bytes());
        }
        Fingerprint(hash.finalize().into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads every file named, and every `*.toml` below every directory named, sorted by path.
///
/// Fails with a diagnostic for each path that could not be read.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Source>, Vec<Diagnostic>> {
    let mut reader = Reader::default();
    for path in paths {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => reader.directory(path, 0),
            Ok(_) => reader.files.push(path.clone()),
            Err(error) => reader.failed(path, &format!("cannot be read: {error}")),
        }
    }
    reader.files.sort();
    reader.files.dedup();
    if reader.files.len() > MAX_FILES {
        let count = reader.files.len();
        let first = paths.first().cloned().unwrap_or_default();
        reader.failed(&first, &format!("{count} documents, of at most {MAX_FILES}"));
        reader.files.clear();
    }
    let mut total_bytes = 0;
    let mut sources = Vec::with_capacity(reader.files.len());
    for path in std::mem::take(&mut reader.files) {
        match std::fs::read(&path).map(String::from_utf8) {
            Ok(Ok(text)) => {
                total_bytes += text.len() as u64;
                if total_bytes > MAX_TOTAL_BYTES {
                    reader.failed(&path, &format!("all documents exceed {MAX_TOTAL_BYTES} bytes"));
                    break;
                }
                sources.push(Source { file: path.display().to_string(), text });
            }
            Ok(Err(error)) => reader.not_text(&path, &error),
            Err(error) => reader.failed(&path, &format!("cannot be read: {error}")),
        }
    }
    if reader.diagnostics.is_empty() { Ok(sources) } else { Err(reader.diagnostics) }
}

#[derive(Default)]
struct Reader {
    files: Vec<PathBuf>,
    diagnostics: Vec<Diagnostic>,
}

impl Reader {
    /// Adds the documents of one directory and of those in it.
    fn directory(&mut self, path: &Path, depth: usize) {
        if depth > MAX_DEPTH {
            return self.failed(path, &format!("is more than {MAX_DEPTH} directories deep"));
        }
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.failed(path, &format!("cannot be listed: {error}")),
        };
        for entry in entries {
            let path = match entry {
                Ok(entry) if hidden(&entry.path()) => continue,
                Ok(entry) => entry.path(),
                Err(error) => {
                    self.failed(path, &format!("cannot be listed: {error}"));
                    continue;
                }
            };
            if path.is_dir() {
                self.directory(&path, depth + 1);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                self.files.push(path);
            }
        }
    }

    fn failed(&mut self, path: &Path, message: &str) {
        self.at(path, (1, 1), message.to_owned());
    }

    fn not_text(&mut self, path: &Path, error: &std::string::FromUtf8Error) {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.split(|byte| *byte == b'\n').count();
        let last = valid.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let column = last.len() + 1;
        self.at(path, (line as u32, column as u32), "is not UTF-8 text here".to_owned());
    }

    fn at(&mut self, path: &Path, (line, column): (u32, u32), message: String) {
        let file = path.display().to_string();
        self.diagnostics.push(Diagnostic { file, line, column, key: String::new(), message });
    }
}

/// Whether the last part of the path starts with a dot.
fn hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}
