//! Printing what a command found out.

use std::io::{ErrorKind, Write};

/// Prints an answer. Whoever reads it may have had enough before its end, as `head` does.
///
/// # Errors
/// A sentence: standard output cannot be written to, such as a file on a full disk.
pub fn say(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("cannot print the answer: {error}")),
        _ => Ok(()),
    }
}
