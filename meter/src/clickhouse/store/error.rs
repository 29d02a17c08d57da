//! What can go wrong at the store, and what a failed insert allows to conclude.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use clickhouse::error::Error as ClientError;

/// A failed call to ClickHouse.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The connection settings cannot work.
    #[error("unusable ClickHouse settings: {problem}")]
    Settings {
        /// What is wrong.
        problem: &'static str,
    },
    /// The server answered with an error.
    #[error("ClickHouse answered: {message}")]
    Server {
        /// ClickHouse's error code; 0 when the answer had none, as a proxy's has not.
        code: i32,
        /// Its message.
        message: String,
    },
    /// No answer arrived.
    #[error("no answer from ClickHouse")]
    Transport(#[source] ClientError),
    /// No answer arrived in time.
    #[error("no answer from ClickHouse within {after:?}")]
    TimedOut {
        /// The time it had.
        after: Duration,
    },
    /// The answer is not what the question asks for.
    #[error("ClickHouse answered {got:?} where {expected} was expected")]
    Answer {
        /// What should have come.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// There is no named query of this name.
    #[error("there is no named query {name:?}")]
    UnknownQuery {
        /// The name asked for.
        name: String,
    },
    /// A migration that was applied is not the one this program has.
    #[error(
        "migration {version} ({name}) was applied with checksum {applied} but this program has it \
         with {embedded}: an applied migration must not be edited"
    )]
    MigrationChanged {
        /// Its number.
        version: u32,
        /// Its name.
        name: String,
        /// Checksum in the table of migrations.
        applied: String,
        /// Checksum of the program's own text.
        embedded: String,
    },
    /// A migration's statement failed.
    #[error("migration {version} ({name}) failed")]
    MigrationFailed {
        /// Its number.
        version: u32,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<StoreError>,
    },
}

impl StoreError {
    /// ClickHouse's error code, if the server answered with one.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Server { code, .. } if *code != 0 => Some(*code),
            Self::MigrationFailed { source, .. } => source.code(),
            _ => None,
        }
    }
}

impl From<ClientError> for StoreError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::BadResponse(message) => {
                Self::Server { code: code_of(&message).unwrap_or(0), message }
            }
            other => Self::Transport(other),
        }
    }
}

/// What is known after an insert that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum InsertError {
    /// Nothing of the block was written: it may be sent again as it is.
    #[error("ClickHouse did not take the block")]
    Refused(#[source] StoreError),
    /// The block may have been written: read `count_batch` before sending it again.
    #[error("ClickHouse may or may not have taken the block")]
    Ambiguous(#[source] StoreError),
}

impl InsertError {
    /// The failure itself.
    pub fn cause(&self) -> &StoreError {
        match self {
            Self::Refused(error) | Self::Ambiguous(error) => error,
        }
    }
}

impl From<ClientError> for InsertError {
    fn from(error: ClientError) -> Self {
        let nothing_written = match &error {
            ClientError::BadResponse(message) => {
                code_of(message).is_some_and(|code| BEFORE_ANY_WRITE.contains(&code))
            }
            ClientError::Network(_) => never_connected(&error),
            ClientError::InvalidParams(_) | ClientError::Unsupported(_) => true,
            _ => false,
        };
        let error = match error {
            ClientError::TimedOut => StoreError::TimedOut { after: super::INSERT_TIMEOUT },
            other => StoreError::from(other),
        };
        if nothing_written { Self::Refused(error) } else { Self::Ambiguous(error) }
    }
}

/// Errors that ClickHouse raises while it still looks at the statement and the user, or as the
/// first act of writing. Every other one, for instance memory (241) or a full disk (243), may come
/// after the part is in place: those cost one read more, not a lost or doubled batch.
const BEFORE_ANY_WRITE: [i32; 14] = [
    16,  // NO_SUCH_COLUMN_IN_TABLE
    60,  // UNKNOWN_TABLE
    62,  // SYNTAX_ERROR
    81,  // UNKNOWN_DATABASE
    115, // UNKNOWN_SETTING
    164, // READONLY
    192, // UNKNOWN_USER
    193, // WRONG_PASSWORD
    194, // REQUIRED_PASSWORD
    195, // IP_ADDRESS_NOT_ALLOWED
    202, // TOO_MANY_SIMULTANEOUS_QUERIES
    252, // TOO_MANY_PARTS
    497, // ACCESS_DENIED
    516, // AUTHENTICATION_FAILED
];

/// The number in `Code: 60. DB::Exception: ...`.
fn code_of(message: &str) -> Option<i32> {
    let digits = message.strip_prefix("Code: ")?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// Only connect(2) fails with "connection refused": not a byte was sent.
fn never_connected(error: &ClientError) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(error) = current.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        cause = current.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(message: &str) -> InsertError {
        InsertError::from(ClientError::BadResponse(message.to_owned()))
    }

    #[test]
    fn only_errors_from_before_any_write_are_refusals() {
        for message in [
            "Code: 60. DB::Exception: Table orbit.usage_events does not exist. (UNKNOWN_TABLE)",
            "Code: 516. DB::Exception: orbit: Authentication failed",
            "Code: 252. DB::Exception: Too many parts (3000)",
        ] {
            assert!(matches!(classify(message), InsertError::Refused(_)), "{message}");
        }
        for message in [
            "Code: 241. DB::Exception: Memory limit (total) exceeded",
            "Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space",
            "Code: 6000. DB::Exception: an error of tomorrow",
            "502 Bad Gateway",
            "Code: x",
            "",
        ] {
            assert!(matches!(classify(message), InsertError::Ambiguous(_)), "{message}");
        }
        assert!(matches!(InsertError::from(ClientError::TimedOut), InsertError::Ambiguous(_)));
    }

    #[test]
    fn the_code_is_kept() {
        assert_eq!(classify("Code: 60. DB::Exception: x").cause().code(), Some(60));
        assert_eq!(classify("502 Bad Gateway").cause().code(), None);
    }
}
