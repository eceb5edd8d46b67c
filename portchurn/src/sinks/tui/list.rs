//! The rows. Before each stand three marks: where the cursor is, whether something fails (`!`) or has ended (`x`), and whether
//! it is pinned (`+`). Behind it stands a bar where there is room.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use crate::model::columns::Column;
use crate::model::row::Row;
use crate::model::snapshot::Snapshot;
use crate::sinks::layout::{GAP, Placed, heading, place, row_text, total};
use crate::sinks::tui::draw::{Ink, lines};
use crate::sinks::tui::mouse::RowPlaces;
use crate::sinks::tui::state::State;
use crate::sinks::view::{Selection, activity};
use crate::sinks::{summary, text};

/// Cells of the marks.
const MARKS: usize = 3;

/// Marks a row that stays at the top.
pub(super) const PINNED: &str = "+";

/// A shorter bar says nothing, a longer one nothing more.
const BAR: std::ops::RangeInclusive<usize> = 6..=24;

/// Draws the heading and as many rows as fit; says where they stand.
pub(super) fn draw(
    buffer: &mut Buffer,
    area: Rect,
    state: &State,
    snapshot: &Snapshot,
    selection: &Selection<'_>,
    ink: Ink,
) -> RowPlaces {
    if let Some(why) = summary::nothing_to_show(snapshot, &state.view, selection) {
        lines(buffer, area, empty(&why, usize::from(area.width), ink));
        return RowPlaces::default();
    }
    let last = selection.rows.len().min(state.scroll + usize::from(area.height));
    let visible = &selection.rows[state.scroll.min(last)..last];
    let max_width = usize::from(area.width).saturating_sub(MARKS);
    let placed = place(&state.columns(), &state.view.sort, visible, Some(max_width), ink.glyphs);
    let bar_width = max_width.saturating_sub(total(&placed) + GAP).min(*BAR.end());
    let busiest = selection.rows.iter().map(activity).fold(0.0, f64::max);
    let head =
        Line::styled(format!("{}{}", " ".repeat(MARKS), heading(&placed, ink.glyphs)), ink.theme.strong());
    let rows = visible.iter().enumerate().map(|(at, row)| {
        let bar = if BAR.contains(&bar_width) {
            bar(activity(row), busiest, bar_width, ink)
        } else {
            String::new()
        };
        let line = row_line(row, state.is_pinned(row), &placed, bar, ink);
        let selected = state.scroll + at == state.cursor;
        if selected { highlighted(line, usize::from(area.width), ink) } else { line }
    });
    // On a screen of one line the row says more than the heading.
    let head = (area.height > 1).then_some(head);
    let heading = Rect { height: u16::from(head.is_some()), ..area };
    lines(buffer, area, head.into_iter().chain(rows));
    let rows = Rect { y: area.y + heading.height, height: area.height - heading.height, ..area };
    RowPlaces { heading, rows, columns: column_ends(&placed, area.x) }
}

/// Each column with the cell behind its last one.
fn column_ends(placed: &[Placed], from: u16) -> Vec<(&'static Column, u16)> {
    let mut end = usize::from(from) + MARKS;
    let ends = placed.iter().map(|placed| {
        end += placed.width;
        let behind = (placed.column, end as u16);
        end += GAP;
        behind
    });
    ends.collect()
}

fn row_line(row: &Row<'_>, is_pinned: bool, placed: &[Placed], bar: String, ink: Ink) -> Line<'static> {
    let fails = row.tally.failed_per_s > 0.0;
    let (mark, mark_style) = match (fails, row.exited) {
        (true, _) => ("!", ink.theme.alarm()),
        (false, true) => ("x", ink.theme.quiet()),
        (false, false) => (" ", Style::new()),
    };
    let style = if row.exited && !fails { Style::new().add_modifier(Modifier::DIM) } else { Style::new() };
    Line::from(vec![
        Span::raw(" "),
        Span::styled(mark, mark_style),
        Span::styled(if is_pinned { PINNED } else { " " }, ink.theme.accent()),
        Span::styled(row_text(placed, row, ink.glyphs), style),
        Span::styled(
            format!("{}{bar}", " ".repeat(GAP)),
            if fails { ink.theme.alarm() } else { ink.theme.accent() },
        ),
    ])
}

/// The line under the cursor.
pub(super) fn highlighted(mut line: Line<'static>, width: usize, ink: Ink) -> Line<'static> {
    if let Some(first) = line.spans.first_mut() {
        *first = Span::styled(ink.glyphs.pointer, ink.theme.accent());
    }
    line.push_span(" ".repeat(width.saturating_sub(line.width())));
    for span in &mut line.spans {
        // What says something by its colour goes on saying it.
        span.style = ink.theme.selected().patch(span.style);
    }
    line
}

/// Something is never drawn as nothing.
fn bar(value: f64, highest: f64, width: usize, ink: Ink) -> String {
    if value <= 0.0 || highest <= 0.0 {
        return String::new();
    }
    let steps = ink.glyphs.bar.len();
    let filled = ((value / highest * (width * steps) as f64).round() as usize).clamp(1, width * steps);
    let full = ink.glyphs.bar[steps - 1].repeat(filled / steps);
    match filled % steps {
        0 => full,
        part => full + ink.glyphs.bar[part - 1],
    }
}

/// What to say instead of rows, one sentence part per line.
fn empty(why: &str, width: usize, ink: Ink) -> Vec<Line<'static>> {
    let mut lines = vec![Line::raw("")];
    for part in why.split("; ").flat_map(|part| wrapped(part, width.saturating_sub(4))) {
        lines.push(Line::styled(format!("  {part}"), ink.theme.notice()));
    }
    lines.push(Line::styled("  Tab: another grouping   /: filter   ?: help", ink.theme.quiet()));
    lines
}

/// Words in lines of at most this width; a longer word is broken.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if text::width(line) + 1 + text::width(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.extend(pieces(word, width)),
        }
    }
    lines
}

/// A word in pieces of at most this width, but of one character at least.
fn pieces(word: &str, width: usize) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut piece = String::new();
    for c in word.chars() {
        if !piece.is_empty() && text::width(&piece) + text::width(c.encode_utf8(&mut [0; 4])) > width {
            pieces.push(std::mem::take(&mut piece));
        }
        piece.push(c);
    }
    pieces.push(piece);
    pieces
}

#[cfg(test)]
mod tests {
    use super::{bar, wrapped};
    use crate::sinks::text::{ASCII, UNICODE};
    use crate::sinks::tui::draw::Ink;
    use crate::sinks::tui::theme::Theme;

    #[test]
    fn bars_are_in_proportion_and_never_vanish() {
        let unicode = Ink { glyphs: &UNICODE, theme: Theme::new(false) };
        assert_eq!(bar(10.0, 10.0, 4, unicode), "████");
        assert_eq!(bar(5.0, 10.0, 4, unicode), "██");
        assert_eq!(bar(0.001, 10.0, 4, unicode), "▏");
        assert_eq!(bar(0.0, 10.0, 4, unicode), "");
        assert_eq!(bar(0.0, 0.0, 4, unicode), "");
        let ascii = Ink { glyphs: &ASCII, theme: Theme::new(false) };
        assert_eq!(bar(5.0, 10.0, 4, ascii), "##");
    }

    #[test]
    fn words_are_wrapped() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a immeasurable x", 5), ["a", "immea", "surab", "le x"]);
        assert_eq!(wrapped("工作者 x", 5), ["工作", "者 x"]);
        assert_eq!(wrapped("工作", 0), ["工", "作"]);
    }
}
