//! What commands write: results to standard output, failures to standard error.
//!
//! Guarantees that a reader that goes away (`orbit policy check | head`) ends the command instead
//! of making it panic.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes one line, or several, to standard output.
pub(super) fn line(text: impl Display) {
    if let Err(error) = writeln!(io::stdout().lock(), "{text}") {
        gone(&error);
    }
}

/// Writes why a command failed, with every cause, to standard error.
pub(super) fn failure(error: &anyhow::Error) {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    // There is nowhere left to say that this failed.
    drop(writeln!(io::stderr().lock(), "orbit: {}", causes.join("\n  because: ")));
}

/// Nobody reads what was asked for any more.
fn gone(error: &io::Error) -> ! {
    let wanted_no_more = error.kind() == io::ErrorKind::BrokenPipe;
    std::process::exit(i32::from(!wanted_no_more));
}
