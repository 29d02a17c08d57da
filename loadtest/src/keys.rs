//! Secrets, from files: API keys by label (`NAME=value` lines), and single tokens.
//!
//! A secret is never an argument, never part of an error or a report, and `Debug` does not show it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The largest keys file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Labelled API keys.
#[derive(Default)]
pub struct Keys {
    by_label: BTreeMap<String, String>,
}

/// Why a keys file was not understood. No variant carries a value.
#[derive(Debug, Error)]
pub enum KeysError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is too large to be a keys file.
    #[error("{path} has {bytes} bytes: more than a keys file may have")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A line is not `NAME=value`.
    #[error("{path}:{line}: expected NAME=value")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// A value cannot be sent in a header.
    #[error("{path}:{line}: {label}: the value has characters that no header may carry")]
    Value {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The label, not the value.
        label: String,
    },
    /// A label occurs twice.
    #[error("{path}:{line}: {label}: this label was given before")]
    Twice {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The label.
        label: String,
    },
}

impl Keys {
    /// Reads a keys file: one `NAME=value` per line, the value bare or in double quotes; empty
    /// lines and lines that begin with `#` are skipped.
    pub fn read(path: &Path) -> Result<Keys, KeysError> {
        let unread = |source| KeysError::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(unread)?.len();
        if bytes > MAX_FILE_BYTES {
            return Err(KeysError::TooLarge { path: path.to_owned(), bytes });
        }
        Keys::parse(path, &std::fs::read_to_string(path).map_err(unread)?)
    }

    /// The same from text; `path` is used in errors only.
    pub fn parse(path: &Path, text: &str) -> Result<Keys, KeysError> {
        let mut by_label = BTreeMap::new();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let malformed = || KeysError::Line { path: path.to_owned(), line };
            let content = content.strip_prefix("export ").unwrap_or(content);
            let (label, value) = content.split_once('=').ok_or_else(malformed)?;
            let (label, value) = (label.trim().to_owned(), unquoted(value.trim()));
            if label.is_empty() || value.is_empty() {
                return Err(malformed());
            }
            if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(KeysError::Value { path: path.to_owned(), line, label });
            }
            if by_label.contains_key(&label) {
                return Err(KeysError::Twice { path: path.to_owned(), line, label });
            }
            by_label.insert(label, value.to_owned());
        }
        Ok(Keys { by_label })
    }

    /// The key of a label.
    pub fn get(&self, label: &str) -> Option<&str> {
        self.by_label.get(label).map(String::as_str)
    }

    /// All labels, sorted.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.by_label.keys().map(String::as_str)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.labels()).finish()
    }
}

/// A single secret: a bearer token or a password.
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// A secret from memory.
    pub fn new(value: String) -> Secret {
        Secret(value)
    }

    /// The first line of a file.
    pub fn read(path: &Path) -> Result<Secret, KeysError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| KeysError::Read { path: path.to_owned(), source })?;
        Ok(Secret(text.lines().next().unwrap_or_default().trim().to_owned()))
    }

    /// What is to be sent.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Keys, KeysError> {
        Keys::parse(Path::new("keys.env"), text)
    }

    #[test]
    fn bare_quoted_and_commented_lines() {
        let keys = parse("# demo\n\ndemo=orb_a\nteam = \"orb_b\"\nexport X=orb_c\n");
        let keys = keys.expect("the file is well formed");
        assert_eq!(keys.get("demo"), Some("orb_a"));
        assert_eq!(keys.get("team"), Some("orb_b"));
        assert_eq!(keys.get("X"), Some("orb_c"));
        assert_eq!(keys.get("other"), None);
    }

    #[test]
    fn no_error_and_no_debug_output_shows_a_value() {
        for text in ["demo=orb_a\ndemo=orb_SECRET", "orb_SECRET", "demo=orb_SECRET\u{7f}"] {
            let error = parse(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("SECRET"), "{error}");
        }
        let keys = parse("demo=orb_SECRET").expect("the file is well formed");
        assert!(!format!("{keys:?}").contains("SECRET"));
    }
}
