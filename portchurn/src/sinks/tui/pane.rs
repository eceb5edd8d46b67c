//! The lists beside the rows, which lines of code connect, whose TIME_WAIT there are and how many ports are left, on the whole screen below the head;
//! and texts that the command was asked for. Lists come as they are in `model::lists`; nothing is computed here.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;

use crate::model::lists::{List, ports, sites, time_wait};
use crate::model::snapshot::Snapshot;
use crate::sinks::sheet::{Kind, lines as sheet_lines};
use crate::sinks::tui::draw::{Ink, lines, title_line};
use crate::sinks::tui::keys::Command;
use crate::sinks::tui::list::wrapped;
use crate::sinks::tui::state::{Mode, State, moved};
use crate::sinks::view::Page;

/// Every list, with the key that opens it.
const PANES: &[(Command, &str, List)] = &[
    (Command::Sites, "lines of code that connect", sites::sheet),
    (Command::TimeWait, "whose every TIME_WAIT is", time_wait::sheet),
    (Command::Ports, "how many local ports are left", ports::sheet),
];

/// An open list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pane {
    command: Command,
    /// First line on the screen. `draw` sees to it that it is not beyond the end.
    pub(super) scroll: usize,
}

/// A text in a box.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) title: String,
    pub(super) lines: Vec<String>,
    pub(super) scroll: usize,
}

impl State {
    pub(super) fn open_list(&mut self, command: Command) {
        self.mode = Mode::List(Pane { command, scroll: 0 });
    }

    /// Whether a list of sockets or ports is open.
    pub fn shows_list(&self) -> bool {
        self.list().is_some()
    }

    /// The open list, also under its help.
    fn list(&self) -> Option<Pane> {
        match self.mode {
            Mode::List(list) | Mode::Help { over: Some(list), .. } => Some(list),
            _ => None,
        }
    }

    /// Does what a key asks for while a list is open.
    pub(super) fn in_list(&mut self, command: Command) {
        let page_rows = self.page_rows;
        let Mode::List(list) = &mut self.mode else { return };
        match command {
            Command::Sites | Command::TimeWait | Command::Ports => self.open_list(command),
            Command::Rows => self.mode = Mode::Browse,
            Command::Freeze => self.toggle_frozen(),
            Command::Help => self.mode = Mode::Help { scroll: 0, over: Some(*list) },
            _ => list.scroll = moved(command, list.scroll, usize::MAX, page_rows).unwrap_or(list.scroll),
        }
    }

    /// Shows a text until it is closed.
    pub fn show_text(&mut self, title: impl Into<String>, lines: Vec<String>) {
        self.mode = Mode::Text(Text { title: title.into(), lines, scroll: 0 });
    }
}

/// Draws the open list, if one is open.
pub(super) fn draw(
    buffer: &mut Buffer,
    title: Rect,
    area: Rect,
    state: &mut State,
    snapshot: &Snapshot,
    ink: Ink,
) {
    let Some(pane) = state.list() else { return };
    let Some((_, name, list)) = PANES.iter().find(|(command, ..)| *command == pane.command) else { return };
    let page = Page { width: Some(area.width.saturating_sub(2)), ..state.view.page.clone() };
    let sheet = list(snapshot);
    let mut text: Vec<Line<'static>> = Vec::new();
    for (kind, said) in sheet_lines(&sheet, &Page { header: true, ..page }, usize::MAX) {
        text.extend(styled(kind, &said, usize::from(area.width), ink));
    }
    let rows = sheet.rows.len();
    let noted = state.frozen || state.view.filter.is_some();
    lines(buffer, title, [title_line(name, &facts(rows, state, ink), noted, title.width, ink)]);
    let last = text.len().saturating_sub(usize::from(area.height));
    let scroll = pane.scroll.min(last);
    if let Mode::List(list) = &mut state.mode {
        list.scroll = scroll;
    }
    lines(buffer, area, text.into_iter().skip(scroll));
}

fn styled(kind: Kind, said: &str, width: usize, ink: Ink) -> Vec<Line<'static>> {
    let style = match kind {
        Kind::Fact | Kind::Row => Style::new(),
        Kind::Head => ink.theme.strong(),
        Kind::Alarm => ink.theme.alarm(),
        Kind::Note => ink.theme.quiet(),
    };
    if matches!(kind, Kind::Row | Kind::Alarm | Kind::Head) {
        return vec![Line::styled(format!(" {said}"), style)];
    }
    // Words are never cut.
    let inset = 1 + said.len() - said.trim_start().len();
    let parts = wrapped(said.trim_start(), width.saturating_sub(inset + 1).max(1));
    parts.into_iter().map(|part| Line::styled(format!("{}{part}", " ".repeat(inset)), style)).collect()
}

/// What stands at the right of the line above. Lists know nothing of the filter, which is of rows.
fn facts(rows: usize, state: &State, ink: Ink) -> String {
    let frozen = state.frozen.then(|| "FROZEN".to_owned());
    let filter = state.view.filter.as_ref().map(|_| "filter not applied".to_owned());
    let rows = Some(format!("{rows} {}", if rows == 1 { "row" } else { "rows" }));
    let facts: Vec<_> = [frozen, filter, rows].into_iter().flatten().collect();
    facts.join(&format!(" {} ", ink.glyphs.dot))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use crate::model::row::{Level, Row};
    use crate::sinks::sample_with_ports;
    use crate::sinks::text::is_hostile;
    use crate::sinks::tui::{Action, State, Understood, draw};
    use crate::sinks::view::View;

    fn state() -> State {
        let parse = Box::new(|_: &str| unreachable!("nothing is filtered here"));
        let mut state = State::new(View::new(Level::Program), Duration::from_secs(1), parse);
        state.set_snapshot(Arc::new(sample_with_ports()));
        state
    }

    fn press(state: &mut State, keys: &str) -> Action {
        let press = |c| state.on_key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE));
        keys.chars().map(press).last().unwrap()
    }

    fn screen(state: &mut State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state, &[])).unwrap();
        let cells = terminal.backend().buffer().content().chunks(usize::from(width));
        cells.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect()
    }

    #[track_caller]
    fn assert_shows(state: &mut State, wanted: &[&str]) {
        let screen = screen(state, 80, 24);
        for text in wanted {
            assert!(screen.contains(text), "`{text}` is missing:\n{screen}");
        }
    }

    #[test]
    fn both_lists_open_at_80_by_24_and_lead_to_each_other_and_back() {
        let mut state = state();
        press(&mut state, "T");
        assert_shows(&mut state, &["whose every TIME_WAIT is", "14400 owned", "CLOSED BY", "worker.py"]);
        press(&mut state, "P");
        assert_shows(&mut state, &["how many local ports are left", "EMPTY IN", "10.0.0.2:3306", "held by"]);
        state.on_key(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE));
        assert_shows(&mut state, &["busiest first"]);
    }

    #[test]
    fn a_list_says_that_it_is_frozen_and_that_no_filter_applies() {
        let parse = Box::new(|_: &str| {
            Ok(Understood { matches: Box::new(|_: &Row<'_>| false), level: Level::Program })
        });
        let mut state = State::new(View::new(Level::Program), Duration::from_secs(1), parse);
        state.set_snapshot(Arc::new(sample_with_ports()));
        for key in ["2", "3", "4"] {
            press(&mut state, key);
            let plain = screen(&mut state, 80, 24);
            assert!(!plain.contains("FROZEN") && !plain.contains("filter"), "{plain}");
            press(&mut state, " ");
            assert_shows(&mut state, &["FROZEN · ", "row", "space freeze"]);
            press(&mut state, "f");
            assert_eq!(screen(&mut state, 80, 24), plain);
        }
        press(&mut state, "1/nobody");
        state.on_key(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE));
        for key in ["2", "3", "4"] {
            press(&mut state, key);
            assert_shows(&mut state, &["─ filter not applied · "]);
            press(&mut state, " ");
            assert_shows(&mut state, &["FROZEN · filter not applied · ", "row"]);
            press(&mut state, " ");
        }
    }

    #[test]
    fn in_a_list_q_quits_and_the_help_leads_back() {
        let mut state = state();
        press(&mut state, "T");
        let list = screen(&mut state, 80, 24);
        assert!(list.lines().last().unwrap().contains("q quit  Esc back  1 rows  2 lines"), "{list}");
        press(&mut state, "?");
        assert_shows(&mut state, &["help", "Esc closes, j/k scroll"]);
        state.on_key(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE));
        assert_eq!(screen(&mut state, 80, 24), list);
        assert_eq!(press(&mut state, "q"), Action::Quit);
    }

    #[test]
    fn the_alarm_stands_above_everything_and_says_the_end_first() {
        let mut state = state();
        assert_shows(&mut state, &["% used, empty in 6 s"]);
        press(&mut state, "P");
        assert_shows(&mut state, &["% used, empty in 6 s"]);
    }

    #[test]
    fn who_is_asked_with_what_was_typed_and_its_answer_is_shown_until_closed() {
        let mut state = state();
        press(&mut state, "W:43211");
        assert_shows(&mut state, &["who opened ADDR:PORT: :43211"]);
        let action = state.on_key(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE));
        assert_eq!(action, Action::Who(":43211".to_owned()));
        state.show_text("who opened :43211", vec!["10.0.0.7:43211".into(), "  opened by worker".into()]);
        assert_shows(&mut state, &["who opened :43211", "10.0.0.7:43211", "  opened by worker"]);
        press(&mut state, "q");
        assert_shows(&mut state, &["busiest first"]);
    }

    #[test]
    fn no_size_panics_and_no_name_breaks_out() {
        for (width, height) in [(1, 1), (7, 3), (20, 5), (40, 10), (80, 24), (200, 60)] {
            for keys in ["T", "P", "TjjjG"] {
                let mut state = state();
                press(&mut state, keys);
                let screen = screen(&mut state, width, height);
                assert!(!screen.chars().any(|c| c != '\n' && is_hostile(c)), "{screen}");
            }
        }
    }
}
