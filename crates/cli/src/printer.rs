//! The one place that writes to the terminal.

use std::io::{IsTerminal, Write};

use crate::exit::Failure;

/// A line of output. A closed pipe ends the program quietly, as it does for any filter.
pub(crate) fn line(text: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        end_quietly();
    }
}

/// Bytes of output as they are.
pub(crate) fn bytes(bytes: &[u8]) {
    if std::io::stdout().write_all(bytes).is_err() {
        end_quietly();
    }
}

/// What is not output: warnings, progress in words.
pub(crate) fn note(text: impl std::fmt::Display) {
    // With stderr closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What an answer is waited for behind, on the same line.
pub(crate) fn prompt(text: &str) {
    let _ = write!(std::io::stderr(), "{text}");
}

/// Bytes of a container's error output.
pub(crate) fn error_bytes(bytes: &[u8]) {
    let _ = std::io::stderr().write_all(bytes);
}

/// Why the command ends.
pub(crate) fn failure(failure: &Failure) {
    note(format_args!("cove: {}", failure.message));
    if let Some(hint) = &failure.hint {
        note(format_args!("\nhint: {hint}"));
    }
}

pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

pub(crate) fn flush() {
    let _ = std::io::stdout().flush();
}

#[expect(clippy::exit, reason = "nobody reads any more: there is nothing left to do or to tell")]
fn end_quietly() -> ! {
    std::process::exit(0)
}
