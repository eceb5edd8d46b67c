//! What opens above the rows: help, menus, the command line of the view. The help is made from the key tables.

use std::ops::Range;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Widget};

use crate::model::columns::{COLUMNS, Column};
use crate::sinks::text::clean;
use crate::sinks::tui::draw::{Ink, lines};
use crate::sinks::tui::keys::TABLES;
use crate::sinks::tui::list::{PINNED, wrapped};
use crate::sinks::tui::menu::sort_entries;
use crate::sinks::tui::state::{Mode, State};

const ASCII_BORDER: border::Set<'_> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

/// What stands in a box.
struct Content {
    title: String,
    lines: Vec<Line<'static>>,
    /// First line on the screen, as far as it was scrolled.
    scroll: usize,
    /// Of a menu: the lines of the entry under the cursor.
    entry: Option<Range<usize>>,
}

/// Draws what is open, if anything is.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, state: &mut State, ink: Ink) {
    let Some(content) = content(state, usize::from(area.width).saturating_sub(6).max(1), ink) else { return };
    let first = boxed(buffer, area, content, ink);
    // Only here it is known how far a text can go.
    match &mut state.mode {
        Mode::Help { scroll, .. } | Mode::Reproduce { scroll } => *scroll = first,
        Mode::Text(text) => text.scroll = first,
        _ => {}
    }
}

fn content(state: &State, width: usize, ink: Ink) -> Option<Content> {
    let text = |title: &str, lines, scroll| Content { title: title.to_owned(), lines, scroll, entry: None };
    let menu = |title: &str, entries: Vec<Vec<Line<'static>>>, cursor: usize| {
        let from = entries.iter().take(cursor).map(Vec::len).sum::<usize>();
        let entry = Some(from..from + entries.get(cursor).map_or(0, Vec::len));
        Content { title: title.to_owned(), lines: entries.concat(), scroll: 0, entry }
    };
    Some(match &state.mode {
        Mode::Browse | Mode::Filter(_) | Mode::Write(_) | Mode::Who(_) | Mode::List(_) => return None,
        Mode::Text(said) => {
            let lines = said.lines.iter().flat_map(|line| indented(line, width)).map(Line::raw).collect();
            text(&clean(&said.title, ink.glyphs.unicode), lines, said.scroll)
        }
        Mode::Help { scroll, .. } => text("help", help(width, ink), *scroll),
        Mode::Reproduce { scroll } => {
            let command = clean(&state.command_line(), ink.glyphs.unicode).into_owned();
            let lines = wrapped(&command, width).into_iter().map(Line::raw).collect();
            text("this view as a command", lines, *scroll)
        }
        Mode::SortMenu { cursor } => menu("order", orders(state, width, ink), *cursor),
        Mode::ColumnMenu { cursor } => menu("columns", columns(state, width), *cursor),
    })
}

/// A box in the middle, as large as its text and no larger than the screen. Returns the first line that it shows.
fn boxed(buffer: &mut Buffer, area: Rect, content: Content, ink: Ink) -> usize {
    let Content { title, lines: text, scroll, entry } = content;
    let height = (text.len() + 2).min(usize::from(area.height)) as u16;
    let room = usize::from(height.saturating_sub(2)).max(1);
    let last_scroll = text.len().saturating_sub(room);
    let keys = match entry {
        Some(_) => "Esc closes, j/k move",
        None if last_scroll > 0 => "Esc closes, j/k scroll",
        None => "Esc closes",
    };
    let named = title.len().max(keys.len()) + 2;
    let widest = text.iter().map(Line::width).max().unwrap_or(0).max(named);
    let width = (widest + 4).min(usize::from(area.width)) as u16;
    let x = area.x + (area.width - width) / 2;
    let y = area.y + (area.height - height) / 2;
    let outer = Rect { x, y, width, height };
    Clear.render(outer, buffer);
    let border = if ink.glyphs.unicode { border::ROUNDED } else { ASCII_BORDER };
    let block = Block::bordered().border_set(border).border_style(ink.theme.quiet());
    let block = block.title(format!(" {title} ")).title_bottom(format!(" {keys} "));
    let mut inner = block.inner(outer);
    block.render(outer, buffer);
    if inner.width > 2 {
        inner = Rect { x: inner.x + 1, width: inner.width - 2, ..inner };
    }
    let first = entry.as_ref().map_or(scroll, |entry| entry.end.saturating_sub(room)).min(last_scroll);
    let marked = |(at, line): (usize, Line<'static>)| {
        let is_chosen = entry.as_ref().is_some_and(|entry| entry.contains(&at));
        if is_chosen { line.patch_style(ink.theme.selected()) } else { line }
    };
    lines(buffer, inner, text.into_iter().enumerate().skip(first).map(marked));
    first
}

/// Wrapped, and further lines as far in as the first one.
fn indented(line: &str, width: usize) -> Vec<String> {
    let inset = line.len() - line.trim_start().len();
    let wrapped = wrapped(line.trim_start(), width.saturating_sub(inset).max(1));
    wrapped.into_iter().map(|part| format!("{}{part}", " ".repeat(inset))).collect()
}

/// A word, and what it means beside it, wrapped there.
fn explained(word: Span<'static>, meaning: &str, width: usize) -> Vec<Line<'static>> {
    /// Narrower columns of text cannot be read; what is beyond the border then is cut.
    const LEAST: usize = 12;
    let inset = word.width();
    let mut parts =
        indented(&format!("{}{meaning}", " ".repeat(inset)), width.max(inset + LEAST)).into_iter();
    let first = parts.next().unwrap_or_default().trim_start().to_owned();
    std::iter::once(Line::from(vec![word, Span::raw(first)])).chain(parts.map(Line::raw)).collect()
}

/// Every key of every table, and what the marks before rows mean.
fn help(width: usize, ink: Ink) -> Vec<Line<'static>> {
    let names = TABLES.iter().flat_map(|(_, table)| *table).map(|binding| binding.names().len());
    let widest = names.max().unwrap_or(0);
    let mut text = Vec::new();
    for (heading, table) in TABLES {
        text.push(Line::styled(*heading, ink.theme.strong()));
        for binding in *table {
            let keys = Span::styled(format!("  {:widest$}  ", binding.names()), ink.theme.accent());
            text.extend(explained(keys, binding.help, width));
        }
        text.push(Line::raw(""));
    }
    text.push(Line::styled("Marks", ink.theme.strong()));
    let marks =
        [("!", "connects fail now"), ("x", "every process of it has ended"), (PINNED, "pinned to the top")];
    for (mark, meaning) in marks {
        text.extend(explained(Span::raw(format!("  {mark:widest$}  ")), meaning, width));
    }
    text
}

fn orders(state: &State, width: usize, ink: Ink) -> Vec<Vec<Line<'static>>> {
    let present = state.view.sort.first();
    let line = |entry: Option<&'static Column>| {
        let direction = match present.filter(|key| entry.is_some_and(|column| column.key == key.column.key)) {
            Some(key) if key.descending => ", largest first",
            Some(_) => ", smallest first",
            None => "",
        };
        let (name, help) = entry
            .map_or(("busiest first", "What goes on now, failures included."), |column| {
                (column.header, column.help)
            });
        let is_present = entry.map(|column| column.key) == present.map(|key| key.column.key);
        let mark = if is_present { ink.glyphs.pointer } else { " " };
        explained(Span::raw(format!("{mark} {name:14} ")), &format!("{help}{direction}"), width)
    };
    sort_entries().map(line).collect()
}

fn columns(state: &State, width: usize) -> Vec<Vec<Line<'static>>> {
    let shown = state.columns();
    let placed = &state.row_places.columns;
    let line = |column: &&'static Column| {
        let is_shown = shown.iter().any(|other| other.key == column.key);
        // Without rows nothing is placed, and nothing is known.
        let has_room = placed.is_empty() || placed.iter().any(|(other, _)| other.key == column.key);
        let mark = if is_shown { "[x]" } else { "[ ]" };
        let room = if is_shown && !has_room { "(no room) " } else { "" };
        explained(
            Span::raw(format!("{mark} {:11} ", column.header)),
            &format!("{room}{}", column.help),
            width,
        )
    };
    COLUMNS.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyCode;

    use crate::model::columns::COLUMNS;
    use crate::sinks::sample_snapshot;
    use crate::sinks::tui::State;
    use crate::sinks::tui::tests::{assert_shows, press, screen, state_with, type_text};
    use crate::sinks::view::Page;

    fn state() -> State {
        state_with(Page::default(), sample_snapshot())
    }

    /// What stands in the box, its lines joined with nothing between them, or with a blank.
    fn inside(screen: &str, between: &str) -> String {
        let lines = screen.lines().filter_map(|line| line.split_once('│')?.1.rsplit_once('│'));
        lines.map(|(inside, _)| inside.trim()).collect::<Vec<_>>().join(between)
    }

    #[test]
    fn a_command_line_without_blanks_is_read_to_its_end() {
        let mut state = state();
        let long = format!("portchurn top --only '{}end'", "0123456789".repeat(180));
        state.set_base_command(&long);
        type_text(&mut state, "y");
        let top = screen(&mut state, 80, 24);
        assert_shows(&top, &["Esc closes, j/k scroll"]);
        assert!(!top.contains("end'"));
        press(&mut state, KeyCode::PageDown);
        press(&mut state, KeyCode::PageDown);
        let bottom = screen(&mut state, 80, 24);
        assert_shows(&bottom, &["end'"]);
        press(&mut state, KeyCode::Up);
        assert_ne!(screen(&mut state, 80, 24), bottom, "one line up is one line up");
        // A short one is there at once.
        state.set_base_command(&long[..long.len() - 1800 + 200]);
        let short = screen(&mut state, 80, 24);
        assert_eq!(inside(&short, "").replace(' ', ""), long[..long.len() - 1800 + 200].replace(' ', ""));
        assert_shows(&short, &["Esc closes"]);
        assert!(!short.contains("j/k"), "{short}");
    }

    #[test]
    fn sentences_are_whole_at_80_columns_and_the_border_says_how_to_go_on() {
        for (key, keys) in [("?", "Esc closes, j/k scroll"), ("s", "Esc closes, j/k move"), ("c", "j/k move")]
        {
            let mut state = state();
            type_text(&mut state, key);
            let tall = screen(&mut state, 80, 250);
            let said = inside(&tall, " ");
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            match key {
                "?" => {
                    assert_shows(
                        &said,
                        &["to the next row that matches the filter, or the last one", "+ pinned"],
                    );
                }
                _ => COLUMNS.iter().for_each(|column| assert_shows(&said, &[column.help])),
            }
            assert_shows(&screen(&mut state, 80, 24), &[keys]);
        }
    }

    #[test]
    fn the_chosen_entry_is_always_on_the_screen() {
        for key in ["s", "c"] {
            let mut state = state();
            type_text(&mut state, key);
            for column in COLUMNS {
                if key == "s" || column.key != COLUMNS[0].key {
                    press(&mut state, KeyCode::Down);
                }
                assert_shows(&screen(&mut state, 80, 24), &[column.header]);
            }
        }
    }

    #[test]
    fn columns_without_room_say_so() {
        let mut state = state();
        type_text(&mut state, "c");
        let narrow = screen(&mut state, 80, 250);
        let wide = screen(&mut state, 250, 250);
        assert_shows(&narrow, &["(no room)"]);
        assert!(!wide.contains("(no room)"), "{wide}");
        for line in narrow.lines().filter(|line| line.contains("(no room)")) {
            assert!(line.contains("[x]"), "{line}");
        }
        press(&mut state, KeyCode::Esc);
        let heading = screen(&mut state, 80, 250);
        let heading = heading.lines().find(|line| line.contains("PROGRAM")).unwrap();
        let shown = heading.split("  ").filter(|header| !header.trim().is_empty()).count();
        let placed =
            narrow.lines().filter(|line| line.contains("[x]") && !line.contains("(no room)")).count();
        assert_eq!(placed, shown, "{narrow}");
    }
}
