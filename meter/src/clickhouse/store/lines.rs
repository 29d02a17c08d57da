//! A result read line by line as it arrives.

use std::time::Duration;

use clickhouse::query::BytesCursor;
use tokio::io::AsyncBufReadExt;

use super::StoreError;

/// The lines of a query's result. An error in the middle ends it: until `None` has been returned,
/// the result is not complete.
pub struct Lines {
    lines: tokio::io::Lines<BytesCursor>,
    timeout: Duration,
}

impl Lines {
    pub(super) fn new(cursor: BytesCursor, timeout: Duration) -> Self {
        Self { lines: cursor.lines(), timeout }
    }

    /// The next line without its end, or `None` after the last.
    pub async fn next_line(&mut self) -> Result<Option<String>, StoreError> {
        match tokio::time::timeout(self.timeout, self.lines.next_line()).await {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(error)) => Err(StoreError::from(clickhouse::error::Error::from(error))),
            Err(_) => Err(StoreError::TimedOut { after: self.timeout }),
        }
    }
}
