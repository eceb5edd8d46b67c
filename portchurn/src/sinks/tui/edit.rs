//! One line that is typed. Knows text and cursor, not what the text is for.

use crate::sinks::text::is_hostile;
use crate::sinks::tui::keys::Command;

/// A line and the place where the next character goes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Edit {
    text: String,
    /// Byte offset, always between two characters.
    cursor: usize,
}

impl Edit {
    /// A line with something in it, cursor at its end.
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), cursor: text.len() }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What stands before the cursor.
    pub(super) fn before(&self) -> &str {
        &self.text[..self.cursor]
    }

    /// What stands after it.
    pub(super) fn after(&self) -> &str {
        &self.text[self.cursor..]
    }

    /// Types a character. A pasted control character is not taken.
    pub(super) fn insert(&mut self, c: char) {
        if !is_hostile(c) {
            self.text.insert(self.cursor, c);
            self.cursor += c.len_utf8();
        }
    }

    /// Does what an editing key asks for; false if it is none.
    pub(super) fn apply(&mut self, command: Command) -> bool {
        let left = self.cursor - self.before().chars().next_back().map_or(0, char::len_utf8);
        let right = self.cursor + self.after().chars().next().map_or(0, char::len_utf8);
        match command {
            Command::CursorLeft => self.cursor = left,
            Command::CursorRight => self.cursor = right,
            Command::CursorHome => self.cursor = 0,
            Command::CursorEnd => self.cursor = self.text.len(),
            Command::EraseBefore => self.erase(left, self.cursor),
            Command::EraseAfter => self.erase(self.cursor, right),
            Command::EraseWord => self.erase(self.word_start(), self.cursor),
            Command::ClearLine => *self = Self::default(),
            _ => return false,
        }
        true
    }

    fn erase(&mut self, from: usize, to: usize) {
        self.text.replace_range(from..to, "");
        self.cursor = from;
    }

    fn word_start(&self) -> usize {
        let word_end = self.before().trim_end();
        word_end.char_indices().rev().find(|(_, c)| c.is_whitespace()).map_or(0, |(at, c)| at + c.len_utf8())
    }
}

#[cfg(test)]
mod tests {
    use super::Edit;
    use crate::sinks::tui::keys::Command;

    #[test]
    fn editing_keeps_characters_whole() {
        let mut edit = Edit::default();
        for c in "工é\u{1b}x".chars() {
            edit.insert(c);
        }
        assert_eq!(edit.text(), "工éx");
        for command in [Command::CursorLeft, Command::EraseBefore, Command::CursorHome, Command::EraseAfter] {
            assert!(edit.apply(command));
        }
        assert_eq!((edit.before(), edit.after()), ("", "x"));
        assert!(edit.apply(Command::CursorLeft) && edit.apply(Command::EraseBefore));
        assert!(edit.apply(Command::CursorEnd) && edit.apply(Command::EraseAfter));
        assert_eq!(edit.text(), "x");
    }

    #[test]
    fn words_and_everything() {
        let mut edit = Edit::new("dport=3306 and 工 ");
        edit.apply(Command::EraseWord);
        assert_eq!(edit.text(), "dport=3306 and ");
        edit.apply(Command::EraseWord);
        assert_eq!(edit.text(), "dport=3306 ");
        edit.apply(Command::ClearLine);
        assert_eq!(edit, Edit::default());
        assert!(!edit.apply(Command::Accept));
    }
}
