//! A bearer token: where it is kept and how it is compared.
//!
//! Guarantees that a token made here is random and readable by its owner only, that comparing takes
//! the same time wherever the first difference is, and that no log or error repeats it.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

/// Shortest token taken from a file.
const MIN_BYTES: usize = 16;
/// Longest token taken from a file.
const MAX_BYTES: usize = 512;
/// Random bytes of a token made here, written as twice as many hexadecimal digits.
const RANDOM_BYTES: usize = 32;

/// The bearer token of an interface.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Vec<u8>);

/// The token cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file could not be read.
    #[error("cannot read the token from {}", path.display())]
    Read {
        /// The token's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file did not exist and could not be made.
    #[error("cannot write a new token to {}", path.display())]
    Write {
        /// The token's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file's content is no token.
    #[error("{} holds no token: expected one line of {MIN_BYTES} to {MAX_BYTES} visible ASCII \
             characters", path.display())]
    Unusable {
        /// The token's file.
        path: PathBuf,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Random(#[source] getrandom::Error),
}

impl Token {
    /// Reads the token's file, or makes it with a random token and mode 0600.
    ///
    /// A file that others may read is used with a warning: secrets mounted by an orchestrator are
    /// often like that.
    pub fn load_or_create(path: &Path) -> Result<Token, TokenError> {
        let read = |source| TokenError::Read { path: path.to_owned(), source };
        match std::fs::read(path) {
            Ok(content) => {
                let mode = std::fs::metadata(path).map_err(read)?.permissions().mode();
                if mode & 0o077 != 0 {
                    let path = path.display();
                    tracing::warn!("others can read the token: chmod 600 {path}");
                }
                Token::parse(&content).ok_or_else(|| TokenError::Unusable { path: path.to_owned() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Token::create(path),
            Err(error) => Err(read(error)),
        }
    }

    fn create(path: &Path) -> Result<Token, TokenError> {
        let failed = |source| TokenError::Write { path: path.to_owned(), source };
        let mut random = [0; RANDOM_BYTES];
        getrandom::fill(&mut random).map_err(TokenError::Random)?;
        let digits = random.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let text: String =
            digits.map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])).collect();
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        // Linked into place when complete: a crash leaves no half token, and of two processes that
        // start at once the second keeps the first one's.
        let draft = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.write_all(b"\n")?;
                file.sync_all()
            })
            .and_then(|()| std::fs::hard_link(&draft, path));
        // The draft is gone either way; if it cannot be removed it is only litter.
        drop(std::fs::remove_file(&draft));
        match written {
            Ok(()) => {
                tracing::info!("made a token in {}", path.display());
                Ok(Token(text.into_bytes()))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.exists() => {
                Token::load_or_create(path)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The token in a file's content; the line's end does not count.
    fn parse(content: &[u8]) -> Option<Token> {
        let text = content.trim_ascii();
        let fits =
            (MIN_BYTES..=MAX_BYTES).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        fits.then(|| Token(text.to_vec()))
    }

    /// Whether `presented` is this token; takes the same time for all of one length.
    pub fn matches(&self, presented: &[u8]) -> bool {
        self.0.ct_eq(presented).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_is_private_and_stays() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("deeper").join("admin.token");
        let made = Token::load_or_create(&path).expect("made");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).expect("text");
        assert_eq!(text.trim().len(), RANDOM_BYTES * 2);
        assert!(made.matches(text.trim().as_bytes()));
        assert!(!made.matches(b"") && !made.matches(&text.trim().as_bytes()[1..]));
        assert!(Token::load_or_create(&path).expect("read") == made);
        let files = std::fs::read_dir(home.path().join("deeper")).expect("listed").count();
        assert_eq!(files, 1, "no draft stays behind");
        assert_eq!(format!("{made:?}"), "Token(..)");
    }

    #[test]
    fn a_file_without_a_token_is_refused() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("admin.token");
        for content in ["", "short\n", "one two three four five\n"] {
            std::fs::write(&path, content).expect("written");
            let error = Token::load_or_create(&path).expect_err("no token");
            assert!(matches!(error, TokenError::Unusable { .. }), "{error}");
        }
    }
}
