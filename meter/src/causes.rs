//! An error as one line: what went wrong, and why.

use std::error::Error;

/// The error and all its causes, joined with `: `. None of ours repeats its cause.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
