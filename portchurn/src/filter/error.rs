//! What is wrong with a filter, and where: shown below the text with a caret. It must not pass control characters of
//! the text on to a terminal.

use std::fmt::{Display, Formatter, Result};

use unicode_width::UnicodeWidthStr as _;

/// A filter that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FilterError {
    /// Where. Bytes from the beginning of the text.
    pub offset: usize,
    /// What is wrong, and what was expected.
    pub message: String,
    text: String,
}

impl FilterError {
    pub(super) fn new(text: &str, offset: usize, message: impl Into<String>) -> Self {
        let offset = text.floor_char_boundary(offset);
        Self { offset, message: message.into(), text: text.to_owned() }
    }
}

impl Display for FilterError {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (before, after) = self.text.split_at(self.offset);
        let (start, end) =
            (before.rfind('\n').map_or(0, |at| at + 1), after.find('\n').unwrap_or(after.len()));
        let (before, after) = (printable(&before[start..]), printable(&after[..end]));
        writeln!(f, "{before}{after}")?;
        write!(f, "{:column$}^ {}", "", printable(&self.message), column = before.width())
    }
}

impl std::error::Error for FilterError {}

/// The same, one column for every control character.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
