//! Lines that are typed: a filter, and the name of a file. What a filter means is left to the parser that the command
//! gave; nothing is written here.

use crate::sinks::tui::edit::Edit;
use crate::sinks::tui::keys::Command;
use crate::sinks::tui::state::{Action, FilterError, Mode, State};
use crate::sinks::view::Filtering;

/// A filter that is typed. It takes effect while it is typed, whenever it makes sense.
#[derive(Debug)]
pub(super) struct FilterPrompt {
    pub(super) edit: Edit,
    pub(super) error: Option<FilterError>,
    /// To come back to.
    before: String,
    /// Steps back in the history.
    back: usize,
}

impl FilterPrompt {
    /// The filter that is `back` steps before this one; of none, that with which it began.
    fn recall(&mut self, back: usize, history: &[String]) {
        self.back = back.min(history.len());
        let earlier = history.len().checked_sub(self.back).and_then(|at| history.get(at));
        self.edit = Edit::new(earlier.unwrap_or(&self.before));
    }
}

impl State {
    pub(super) fn start_filter(&mut self) {
        let before = self.view.filter.as_ref().map_or(String::new(), |filter| filter.text.clone());
        self.mode = Mode::Filter(FilterPrompt { edit: Edit::new(&before), error: None, before, back: 0 });
    }

    pub(super) fn type_char(&mut self, c: char) -> Action {
        match &mut self.mode {
            Mode::Filter(prompt) => prompt.edit.insert(c),
            Mode::Write(edit) | Mode::Who(edit) => edit.insert(c),
            _ => {}
        }
        self.try_filter();
        Action::None
    }

    pub(super) fn edit(&mut self, command: Command) -> Action {
        match (command, &mut self.mode) {
            (Command::Accept, Mode::Write(edit)) => {
                let name = edit.text().trim().to_owned();
                self.mode = Mode::Browse;
                return if name.is_empty() { Action::None } else { Action::WriteSnapshot(name.into()) };
            }
            (Command::Accept, Mode::Who(edit)) => {
                let query = edit.text().trim().to_owned();
                self.mode = Mode::Browse;
                return if query.is_empty() { Action::None } else { Action::Who(query) };
            }
            (Command::Accept, _) => self.accept_filter(),
            (Command::Close, Mode::Filter(prompt)) => {
                prompt.edit = Edit::new(&prompt.before);
                self.try_filter();
                self.mode = Mode::Browse;
            }
            (Command::Close, _) => self.mode = Mode::Browse,
            (Command::Up | Command::Down, Mode::Filter(prompt)) => {
                let back =
                    if command == Command::Up { prompt.back + 1 } else { prompt.back.saturating_sub(1) };
                prompt.recall(back, &self.history);
                self.try_filter();
            }
            (_, Mode::Filter(prompt)) => {
                prompt.edit.apply(command);
                self.try_filter();
            }
            (_, Mode::Write(edit) | Mode::Who(edit)) => drop(edit.apply(command)),
            _ => {}
        }
        Action::None
    }

    /// Lets the typed filter take effect if it makes sense; else the last one that did stays, and the error is shown.
    fn try_filter(&mut self) {
        let Mode::Filter(prompt) = &mut self.mode else { return };
        let text = prompt.edit.text().trim();
        if text.is_empty() {
            (self.view.filter, prompt.error) = (None, None);
            return;
        }
        match (self.parse)(prompt.edit.text()) {
            Ok(filter) => {
                self.view.filter = Some(Filtering { text: text.to_owned(), matches: filter.matches });
                prompt.error = None;
            }
            Err(error) => prompt.error = Some(error),
        }
    }

    fn accept_filter(&mut self) {
        let Mode::Filter(prompt) = &self.mode else { return };
        if prompt.error.is_some() {
            return;
        }
        let text = prompt.edit.text().trim().to_owned();
        self.history.retain(|earlier| *earlier != text);
        if !text.is_empty() {
            self.history.push(text);
        }
        self.mode = Mode::Browse;
        self.follow_filter();
    }
}
