//! What commands print. A reader that went away, as `head` does, ends nothing: the command goes on and ends as it
//! would have.

use std::io::{self, ErrorKind, Write};

use anyhow::Context;

use super::CliError;

/// Prints to standard output.
///
/// # Errors
/// When it cannot be written for another reason than that nobody reads it any more: a full disk, say.
pub fn say(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other.context("standard output")?),
    }
}

/// Prints a line to standard error, if anybody reads it.
pub fn note(line: &str) {
    // There is nowhere left to say that this failed.
    let _ = writeln!(io::stderr().lock(), "{line}");
}
