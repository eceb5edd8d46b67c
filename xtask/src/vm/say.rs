//! What the harness says to people: progress on stderr, the result on stdout. Must not fail a run because nobody reads.

use std::io::{self, Write as _};

/// A line of the result.
pub(crate) fn result(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// A line of progress.
pub(crate) fn progress(text: &str) {
    let _ = writeln!(io::stderr().lock(), "vm: {text}");
}
