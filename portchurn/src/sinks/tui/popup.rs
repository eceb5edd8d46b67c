//! What opens above the rows: help, menus, the command line of the view. The help is made from the key tables.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Widget};

use crate::model::columns::{COLUMNS, Column};
use crate::sinks::text::clean;
use crate::sinks::tui::draw::{Ink, lines};
use crate::sinks::tui::keys::TABLES;
use crate::sinks::tui::list::wrapped;
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

/// Draws what is open, if anything is.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, state: &mut State, ink: Ink) {
    match state.mode {
        Mode::Browse | Mode::Filter(_) | Mode::Write(_) | Mode::Who(_) | Mode::List(_) => {}
        Mode::Text(ref text) => {
            let width = usize::from(area.width).saturating_sub(6).max(1);
            let said = text.lines.iter().flat_map(|line| indented(line, width)).map(Line::raw).collect();
            let title = clean(&text.title, ink.glyphs.unicode).into_owned();
            let scroll = boxed(buffer, area, &title, said, text.scroll, None, ink);
            state.scroll_text(scroll);
        }
        Mode::Help { scroll } => {
            // Only here it is known how far the text can go.
            let scroll = boxed(buffer, area, "help", help(ink), scroll, None, ink);
            state.mode = Mode::Help { scroll };
        }
        Mode::Reproduce => {
            let command = clean(&state.command_line(), ink.glyphs.unicode).into_owned();
            let width = usize::from(area.width).saturating_sub(6).max(1);
            let text = wrapped(&command, width).into_iter().map(Line::raw).collect();
            let _ = boxed(buffer, area, "this view as a command", text, 0, None, ink);
        }
        Mode::SortMenu { cursor } => {
            let _ = boxed(buffer, area, "order", orders(state, ink), 0, Some(cursor), ink);
        }
        Mode::ColumnMenu { cursor } => {
            let _ = boxed(buffer, area, "columns", columns(state), 0, Some(cursor), ink);
        }
    }
}

/// A box in the middle, as large as its text and no larger than the screen. Returns the first line that it shows.
fn boxed(
    buffer: &mut Buffer,
    area: Rect,
    title: &str,
    text: Vec<Line<'static>>,
    scroll: usize,
    cursor: Option<usize>,
    ink: Ink,
) -> usize {
    let widest = text.iter().map(Line::width).max().unwrap_or(0).max(title.len() + 2);
    let width = (widest + 4).min(usize::from(area.width)) as u16;
    let height = (text.len() + 2).min(usize::from(area.height)) as u16;
    let x = area.x + (area.width - width) / 2;
    let y = area.y + (area.height - height) / 2;
    let outer = Rect { x, y, width, height };
    Clear.render(outer, buffer);
    let border = if ink.glyphs.unicode { border::ROUNDED } else { ASCII_BORDER };
    let block =
        Block::bordered().border_set(border).border_style(ink.theme.quiet()).title(format!(" {title} "));
    let mut inner = block.inner(outer);
    block.render(outer, buffer);
    if inner.width > 2 {
        inner = Rect { x: inner.x + 1, width: inner.width - 2, ..inner };
    }
    let room = usize::from(inner.height).max(1);
    let last_scroll = text.len().saturating_sub(room);
    let first = cursor.map_or(scroll, |cursor| (cursor + 1).saturating_sub(room)).min(last_scroll);
    let marked = |(at, line): (usize, Line<'static>)| {
        if cursor == Some(at) { line.patch_style(ink.theme.selected()) } else { line }
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

/// Every key of every table, and what the marks before rows mean.
fn help(ink: Ink) -> Vec<Line<'static>> {
    let names = TABLES.iter().flat_map(|(_, table)| *table).map(|binding| binding.names().len());
    let widest = names.max().unwrap_or(0);
    let mut text = Vec::new();
    for (heading, table) in TABLES {
        text.push(Line::styled(*heading, ink.theme.strong()));
        for binding in *table {
            text.push(Line::from(vec![
                Span::styled(format!("  {:widest$}  ", binding.names()), ink.theme.accent()),
                Span::raw(binding.help),
            ]));
        }
        text.push(Line::raw(""));
    }
    text.push(Line::styled("Marks", ink.theme.strong()));
    for (mark, meaning) in [("!", "connects fail now"), ("x", "every process of it has ended")] {
        text.push(Line::raw(format!("  {mark:widest$}  {meaning}")));
    }
    text
}

fn orders(state: &State, ink: Ink) -> Vec<Line<'static>> {
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
        Line::styled(format!("{mark} {name:14} {help}{direction}"), Style::new())
    };
    sort_entries().map(line).collect()
}

fn columns(state: &State) -> Vec<Line<'static>> {
    let shown = state.columns();
    let line = |column: &&'static Column| {
        let mark = if shown.iter().any(|other| other.key == column.key) { "[x]" } else { "[ ]" };
        Line::raw(format!("{mark} {:11} {}", column.header, column.help))
    };
    COLUMNS.iter().map(line).collect()
}
