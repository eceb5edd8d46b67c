//! The screen from top to bottom: facts, the present place, rows, the selected row in detail, keys. Only draws: of the
//! state it changes no more than how far the rows are scrolled and where they stand.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::model::columns::Cut;
use crate::model::snapshot::Snapshot;
use crate::sinks::human;
use crate::sinks::summary::{self, Fact};
use crate::sinks::text::{Glyphs, clean, fit, width};
use crate::sinks::tui::state::{Mode, State};
use crate::sinks::tui::theme::Theme;
use crate::sinks::tui::{detail, footer, list, mouse, pane, popup, sites_draw};
use crate::sinks::view::Selection;

/// What drawing needs to know besides what is drawn.
#[derive(Clone, Copy)]
pub(super) struct Ink {
    pub(super) glyphs: &'static Glyphs,
    pub(super) theme: Theme,
}

/// Lines that the parts get, from top to bottom. Rows get the rest.
struct Heights {
    facts: u16,
    alarm: u16,
    notes: u16,
    title: u16,
    detail: u16,
    footer: u16,
}

/// Draws everything. `notes` are lines for the head that only the command knows, such as since when is counted.
pub fn draw(frame: &mut Frame<'_>, state: &mut State, notes: &[String]) {
    let area = frame.area();
    let ink = Ink { glyphs: state.view.page.glyphs(), theme: Theme::new(state.view.page.colour) };
    let buffer = frame.buffer_mut();
    let alarm = state.snapshot().and_then(|snapshot| summary::alarm(snapshot, ink.glyphs));
    let alarm_lines = alarm.map_or(Vec::new(), |alarm| alarm_lines(&alarm.said(), area, ink));
    let heights = heights(
        area.height,
        notes.len(),
        matches!(&state.mode, Mode::Filter(prompt) if prompt.error.is_some()),
        alarm_lines.len(),
    );
    let mut rest = area;
    let facts_area = take_top(&mut rest, heights.facts);
    let alarm_area = take_top(&mut rest, heights.alarm);
    let notes_area = take_top(&mut rest, heights.notes);
    let title_area = take_top(&mut rest, heights.title);
    let footer_area = take_bottom(&mut rest, heights.footer);
    let detail_area = take_bottom(&mut rest, heights.detail);

    lines(buffer, alarm_area, alarm_lines);
    lines(buffer, notes_area, notes.iter().map(|note| note_line(note, ink)));
    state.page_rows = usize::from(rest.height.saturating_sub(1)).max(1);
    state.scroll = scrolled(state.scroll, state.cursor, state.page_rows);
    if let Some(snapshot) = state.snapshot().filter(|_| state.shows_list()).cloned() {
        facts(buffer, facts_area, &snapshot, state, ink);
        let below = Rect { height: rest.height + detail_area.height, ..rest };
        pane::draw(buffer, title_area, below, state, &snapshot, ink);
    } else if let Some((mut pane, snapshot)) = state.sites.take().zip(state.snapshot().cloned()) {
        facts(buffer, facts_area, &snapshot, state, ink);
        let outside =
            format!("{} {} {}", path(state, ink), ink.glyphs.arrow, clean(&pane.title, ink.glyphs.unicode));
        sites_draw::draw(
            buffer,
            (title_area, rest, detail_area),
            &mut pane,
            (&outside, &snapshot, state.frozen),
            ink,
        );
        state.sites = Some(pane);
        state.row_places = mouse::RowPlaces::default();
    } else if let Some((snapshot, selection)) = state.snapshot().zip(state.selection()) {
        facts(buffer, facts_area, snapshot, state, ink);
        lines(buffer, title_area, [title(state, &selection, title_area.width, ink)]);
        let row_places = list::draw(buffer, rest, state, snapshot, &selection, ink);
        detail::draw(buffer, detail_area, selection.rows.get(state.cursor), ink);
        state.row_places = row_places;
    } else {
        let interval = human::micros(state.interval.as_micros() as u64, ink.glyphs);
        let wait = format!(" attached; the first interval is not over yet ({interval})");
        lines(buffer, rest, [Line::styled(wait, ink.theme.quiet())]);
    }
    lines(buffer, footer_area, footer::lines(state, footer_area.width, ink));
    popup::draw(buffer, area, state, ink);
}

/// The one line that somebody must read, in two where there is room.
fn alarm_lines(text: &str, area: Rect, ink: Ink) -> Vec<Line<'static>> {
    let room = usize::from(area.width).saturating_sub(2);
    let (first, rest) = if area.height >= 20 { broken(text, room) } else { (text, "") };
    let line =
        |text: &str| Line::styled(format!(" {}", fit(text, room, Cut::End, ink.glyphs)), ink.theme.alarm());
    [first, rest].into_iter().filter(|text| !text.is_empty()).map(line).collect()
}

/// As many whole words as have room, and the rest.
fn broken(text: &str, room: usize) -> (&str, &str) {
    if width(text) <= room {
        return (text, "");
    }
    let ends = text.match_indices(' ').map(|(at, _)| at).take_while(|&at| width(&text[..at]) <= room);
    ends.last().map_or((text, ""), |at| (&text[..at], &text[at + 1..]))
}

fn note_line(note: &str, ink: Ink) -> Line<'static> {
    Line::styled(format!(" {}", clean(note, ink.glyphs.unicode)), ink.theme.notice())
}

fn heights(total: u16, notes: usize, filter_error: bool, alarms: usize) -> Heights {
    let facts = match total {
        0..4 => 0,
        4..8 => 1,
        8..12 => 2,
        12..22 => 3,
        _ => 4,
    };
    Heights {
        facts,
        alarm: if total >= 5 { alarms as u16 } else { 0 },
        notes: if total >= 15 { notes.min(2) as u16 } else { 0 },
        title: u16::from(total >= 6),
        detail: if total >= 20 { detail::HEIGHT } else { 0 },
        footer: u16::from(total >= 3) + u16::from(filter_error && total >= 2),
    }
}

fn take_top(rest: &mut Rect, height: u16) -> Rect {
    let taken = Rect { height: height.min(rest.height), ..*rest };
    rest.y += taken.height;
    rest.height -= taken.height;
    taken
}

fn take_bottom(rest: &mut Rect, height: u16) -> Rect {
    let height = height.min(rest.height);
    rest.height -= height;
    Rect { y: rest.y + rest.height, height, ..*rest }
}

/// Writes lines into an area; what does not fit is cut by the buffer.
pub(super) fn lines<'a>(buffer: &mut Buffer, area: Rect, lines: impl IntoIterator<Item = Line<'a>>) {
    for (line, y) in lines.into_iter().zip(area.y..area.bottom()) {
        if area.width > 0 {
            buffer.set_line(area.x, y, &line, area.width);
        }
    }
}

/// The first row to show, so that the cursor stays on the screen.
pub(super) fn scrolled(scroll: usize, cursor: usize, page_rows: usize) -> usize {
    if cursor < scroll { cursor } else { scroll.max((cursor + 1).saturating_sub(page_rows)) }
}

fn facts(buffer: &mut Buffer, area: Rect, snapshot: &Snapshot, state: &State, ink: Ink) {
    let line = |facts| facts_line(facts, area.width, ink);
    let room = |line: &Line<'_>| usize::from(area.width).saturating_sub(line.width());
    let totals = line(summary::totals(snapshot, ink.glyphs));
    let totals_room = room(&totals);
    let totals = spread(totals, sparkline(state, totals_room.saturating_sub(2), ink), totals_room);
    if area.height == 1 {
        return lines(buffer, area, [totals]);
    }
    let identity = line(summary::identity(snapshot, &state.view.page));
    let identity_room = room(&identity);
    let every = format!("every {} ", human::micros(state.interval.as_micros() as u64, ink.glyphs));
    let identity = spread(identity, Span::styled(every, ink.theme.quiet()), identity_room);
    let (hooks, cost) = (summary::hooks(snapshot, ink.glyphs), summary::own_cost(snapshot));
    let about = match area.height {
        2 => Vec::new(),
        3 => vec![hooks.into_iter().chain(cost).collect()],
        _ => vec![hooks, cost],
    };
    lines(buffer, area, [identity, totals].into_iter().chain(about.into_iter().map(line)));
}

/// A line with something at its right end, if there is room.
fn spread<'a>(mut line: Line<'a>, right: Span<'a>, room: usize) -> Line<'a> {
    if right.width() > 0 && right.width() < room {
        line.push_span(" ".repeat(room - right.width()));
        line.push_span(right);
    }
    line
}

/// Facts side by side, numbers strong; where they do not fit, the least important are left out.
fn facts_line(facts: Vec<Fact>, max_width: u16, ink: Ink) -> Line<'static> {
    const GAP: usize = 3;
    let facts = summary::fitting(facts, Some(usize::from(max_width).saturating_sub(2)), GAP);
    let mut line = Line::raw(" ");
    for (at, fact) in facts.into_iter().enumerate() {
        if at > 0 {
            line.push_span(Span::styled(format!(" {} ", ink.glyphs.dot), ink.theme.quiet()));
        }
        let style = if fact.alarm { ink.theme.alarm() } else { Style::new() };
        match fact.said().split_once(' ') {
            Some((number, unit)) if number.starts_with(|c: char| c.is_ascii_digit() || c == '<') => {
                line.push_span(Span::styled(number.to_owned(), style.patch(ink.theme.strong())));
                line.push_span(Span::styled(format!(" {unit}"), style));
            }
            _ => line.push_span(Span::styled(fact.said(), style)),
        }
    }
    line
}

/// Connects per second of past intervals.
fn sparkline(state: &State, room: usize, ink: Ink) -> Span<'static> {
    const WIDEST: usize = 40;
    let room = room.min(WIDEST);
    let highest = state.rates.iter().copied().fold(0.0, f64::max);
    if room < 8 || highest <= 0.0 || state.rates.len() < 2 {
        return Span::raw("");
    }
    let steps = ink.glyphs.spark.len() - 1;
    let height = |rate: f64| ((rate / highest) * steps as f64).round() as usize;
    let recent = state.rates.iter().skip(state.rates.len().saturating_sub(room));
    let curve: String = recent.map(|&rate| ink.glyphs.spark[height(rate).min(steps)]).collect();
    Span::styled(curve + " ", ink.theme.accent())
}

/// `── programs → python3 worker.py ──── 2 of 5 rows · busiest first · filter: x · FROZEN ──`.
fn title(state: &State, selection: &Selection<'_>, max_width: u16, ink: Ink) -> Line<'static> {
    let left = path(state, ink);
    title_line(&left, &title_facts(state, selection, ink), state.frozen, max_width, ink)
}

/// The line above the rows: where one is, and what there is to know.
pub(super) fn title_line(left: &str, right: &str, noted: bool, max_width: u16, ink: Ink) -> Line<'static> {
    let rule = if ink.glyphs.unicode { "─" } else { "-" };
    // Of a long way in, the end says where one is.
    let left = fit(left, usize::from(max_width) / 2, Cut::Start, ink.glyphs);
    let right = fit(right, usize::from(max_width).saturating_sub(width(&left) + 9), Cut::End, ink.glyphs);
    let used = width(&left) + width(&right) + 8;
    let fill = usize::from(max_width).saturating_sub(used).max(1);
    Line::from(vec![
        Span::styled(rule.repeat(2), ink.theme.quiet()),
        Span::styled(format!(" {left} "), ink.theme.accent().patch(ink.theme.strong())),
        Span::styled(rule.repeat(fill), ink.theme.quiet()),
        Span::styled(format!(" {right} "), if noted { ink.theme.notice() } else { Style::new() }),
        Span::styled(rule.repeat(2), ink.theme.quiet()),
    ])
}

/// `programs → python3 worker.py`: from the outermost to the present place.
fn path(state: &State, ink: Ink) -> String {
    let mut path = state.view.level.plural().to_owned();
    for title in state.titles() {
        path.push_str(&format!(" {} {}", ink.glyphs.arrow, clean(title, ink.glyphs.unicode)));
    }
    path
}

fn title_facts(state: &State, selection: &Selection<'_>, ink: Ink) -> String {
    let mut facts = Vec::new();
    if state.frozen {
        facts.push("FROZEN, still counting".to_owned());
    }
    if let Some(filter) = &state.view.filter {
        facts.push(format!("filter: {}", clean(&filter.text, ink.glyphs.unicode)));
    }
    if !state.view.include_exited {
        facts.push("ended ones hidden".to_owned());
    }
    facts.push(match state.view.sort.first() {
        None => "busiest first".to_owned(),
        Some(key) if key.descending => format!("by {}, largest first", key.column.header),
        Some(key) => format!("by {}, smallest first", key.column.header),
    });
    facts.push(if selection.rows.len() == selection.total {
        format!("{} {}", selection.total, if selection.total == 1 { "row" } else { "rows" })
    } else {
        format!("{} of {} rows", selection.rows.len(), selection.total)
    });
    facts.join(&format!(" {} ", ink.glyphs.dot))
}

#[cfg(test)]
mod tests {
    use super::broken;

    #[test]
    fn a_line_is_broken_between_words() {
        assert_eq!(broken("none left to x: 30 connects", 12), ("none left to", "x: 30 connects"));
        assert_eq!(broken("none left to x: 30 connects", 11), ("none left", "to x: 30 connects"));
        assert_eq!(broken("none left", 12), ("none left", ""));
        assert_eq!(
            broken("10.77.0.2:44005 is full", 9),
            ("10.77.0.2:44005 is full", ""),
            "to be cut, with a sign"
        );
    }
}
