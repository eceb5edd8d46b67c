//! How call sites look: a line for each, the selected one in full below; or the whole stack of one. Only draws.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::model::columns::Cut;
use crate::model::sample::Frame;
use crate::model::snapshot::{CallSite, Destination, Place, Snapshot};
use crate::sinks::human;
use crate::sinks::text::{clean, fit, pad, width};
use crate::sinks::tui::detail::{self, labelled, rule};
use crate::sinks::tui::draw::{Ink, lines, scrolled, title_line};
use crate::sinks::tui::list::{highlighted, wrapped};
use crate::sinks::tui::sites::SitesPane;

/// Widths of the columns before the line of code: how often, share, moment, how that is known.
const COUNT: usize = 9;
const SHARE: usize = 6;
const AT: usize = 7;
const HOW: usize = 7;

/// Draws the pane into what is left for rows (`rows`) and for the selected one (`below`). Keeps what it scrolled.
pub(super) fn draw(
    buffer: &mut Buffer,
    (title, mut rows, below): (Rect, Rect, Rect),
    pane: &mut SitesPane,
    (outside, snapshot, frozen): (&str, &Snapshot, bool),
    ink: Ink,
) {
    let list = pane.list(snapshot);
    let site = pane.site(snapshot);
    if let Some((site, from)) = site.zip(pane.stack) {
        let frames = site.frames.as_ref().map_or(&[][..], |stack| &stack.frames);
        let left = format!("{outside} {} stack", ink.glyphs.arrow);
        let frames_text = format!("{} {}", frames.len(), if frames.len() == 1 { "frame" } else { "frames" });
        lines(buffer, title, [title_line(&left, &facts(frames_text, frozen, ink), frozen, title.width, ink)]);
        rows.height += below.height;
        return lines(buffer, rows, stack(site, frames, from, usize::from(rows.width), ink));
    }
    let count = format!("{} {}", list.len(), if list.len() == 1 { "call site" } else { "call sites" });
    lines(buffer, title, [title_line(outside, &facts(count, frozen, ink), frozen, title.width, ink)]);
    if list.is_empty() {
        let why = match pane.destination(snapshot) {
            Some(_) => "nothing was opened or closed here yet, by what was seen",
            None => "this destination is gone",
        };
        return lines(buffer, rows, [Line::raw(""), Line::styled(format!("  {why}"), ink.theme.notice())]);
    }
    let page = usize::from(rows.height.saturating_sub(1)).max(1);
    pane.scroll = scrolled(pane.scroll, pane.cursor, page);
    let max_width = usize::from(rows.width);
    let head = Line::styled(
        format!("   {:>COUNT$} {:>SHARE$} {:AT$} {:HOW$}  CALL SITE", "COUNT", "SHARE", "AT", "HOW"),
        ink.theme.strong(),
    );
    let visible = list.iter().enumerate().skip(pane.scroll).take(page).map(|(at, site)| {
        let line = site_line(site, max_width, ink);
        if at == pane.cursor { highlighted(line, max_width, ink) } else { line }
    });
    lines(buffer, rows, std::iter::once(head).chain(visible));
    if let (Some(site), Some(destination)) = (site, pane.destination(snapshot)) {
        lines(buffer, below, told(site, destination, usize::from(below.width), ink));
    }
}

/// What stands at the right of the line above.
fn facts(count: String, frozen: bool, ink: Ink) -> String {
    if frozen { format!("FROZEN {} {count}", ink.glyphs.dot) } else { count }
}

/// `exact`, or `sampled`.
fn how(site: &CallSite) -> &'static str {
    if site.exact { "exact" } else { "sampled" }
}

fn site_line(site: &CallSite, max_width: usize, ink: Ink) -> Line<'static> {
    let count = human::count(site.count, COUNT, ink.glyphs);
    let share = format!("{:.1}%", 100.0 * site.share);
    let numbers = format!("{count:>COUNT$} {share:>SHARE$} {:AT$} {:HOW$}  ", site.at, how(site));
    let room = max_width.saturating_sub(3 + width(&numbers));
    let mut spans = vec![Span::raw(" "), Span::raw("  "), Span::raw(numbers)];
    let label = label_of(site, ink);
    let code = fit(&label, room, Cut::End, ink.glyphs).into_owned();
    let style = if site.culprit.is_some() { ink.theme.strong() } else { ink.theme.quiet() };
    let left = room.saturating_sub(width(&code));
    spans.push(Span::styled(code, style));
    let more = more_of(site, ink);
    if left > 6 && !more.is_empty() {
        spans.push(Span::styled(fit(&more, left, Cut::End, ink.glyphs).into_owned(), ink.theme.quiet()));
    }
    Line::from(spans)
}

/// The culprit; without one, why there is none.
fn label_of(site: &CallSite, ink: Ink) -> String {
    let note = || format!("({})", site.note.as_deref().unwrap_or("not known"));
    let label = site.culprit.as_ref().map_or_else(note, Place::to_string);
    clean(&label, ink.glyphs.unicode).into_owned()
}

/// Who called it, and the first words of what there is to know.
fn more_of(site: &CallSite, ink: Ink) -> String {
    let arrow = if ink.glyphs.unicode { "←" } else { "<" };
    let mut more = String::new();
    if let Some(place) = &site.called_from {
        more += &format!("  {arrow} {place}");
    }
    if let Some(note) = site.note.as_deref().filter(|_| site.culprit.is_some()) {
        more += &format!("  [{}]", note.split(':').next().unwrap_or(note));
    }
    clean(&more, ink.glyphs.unicode).into_owned()
}

/// The selected site in full.
fn told(site: &CallSite, destination: &Destination, max_width: usize, ink: Ink) -> Vec<Line<'static>> {
    let room = max_width.saturating_sub(detail::LABEL + 2);
    let text = |text: &str, cut| {
        Span::raw(fit(&clean(text, ink.glyphs.unicode), room, cut, ink.glyphs).into_owned())
    };
    let place = |place: &Option<Place>| match place {
        Some(place) => text(&place_text(place), Cut::Start),
        None => text(ink.glyphs.empty, Cut::End),
    };
    let moments = match site.at {
        "open" => "connects begun",
        "no_port" => "connects that found no port",
        _ => "connections closed",
    };
    let counted = format!(
        "{} of the {moments} ({:.1} %), {}",
        human::count(site.count, usize::MAX, ink.glyphs),
        100.0 * site.share,
        match site.sampled {
            Some(read) => format!("sampled: {} were read", human::count(read, usize::MAX, ink.glyphs)),
            None => "exact".to_owned(),
        }
    );
    let frames = site.frames.as_ref().map_or(0, |stack| stack.frames.len());
    let stack =
        if frames == 0 { "not known".to_owned() } else { format!("{frames} frames; Enter shows them") };
    let note = site.note.as_deref().unwrap_or(ink.glyphs.empty);
    let note_style = if site.note.is_some() { ink.theme.notice() } else { Style::new() };
    let name = format!("{} {}", site.at, crate::model::row::destination_text(destination));
    vec![
        rule(&name, max_width, ink),
        labelled("line", place(&site.culprit), ink),
        labelled("called by", place(&site.called_from), ink),
        labelled("count", text(&counted, Cut::End), ink),
        labelled("language", text(site.language.unwrap_or(ink.glyphs.empty), Cut::End), ink),
        labelled("note", text(note, Cut::End).style(note_style), ink),
        labelled("stack", text(&stack, Cut::End), ink),
    ]
}

/// `/srv/app/sync.py:41 getSession`: unlike the short form with its folder.
fn place_text(place: &Place) -> String {
    match (&place.file, place.line) {
        (Some(file), Some(line)) => format!("{file}:{line} {}", place.function),
        (Some(file), None) => format!("{file} {}", place.function),
        _ => place.function.to_string(),
    }
}

/// Every frame, innermost first; the line to blame and the one that called it are marked.
fn stack(site: &CallSite, frames: &[Frame], from: usize, max_width: usize, ink: Ink) -> Vec<Line<'static>> {
    let mut text = Vec::new();
    if let Some(note) = &site.note {
        let safe = clean(note, ink.glyphs.unicode).into_owned();
        let note = wrapped(&safe, max_width.saturating_sub(4)).into_iter();
        text.extend(note.map(|line| Line::styled(format!("   {line}"), ink.theme.notice())));
    }
    let widest = frames.iter().map(|frame| width(&clean(&frame.function, ink.glyphs.unicode))).max();
    let function_width = widest.unwrap_or(0).clamp(8, (max_width / 2).max(9) - 1);
    let is_place = |frame: &Frame, place: &Option<Place>| {
        place.as_ref().is_some_and(|place| {
            frame.function == place.function && frame.file == place.file && frame.line == place.line
        })
    };
    let mut marks = [Some((&site.culprit, "line")), Some((&site.called_from, "called by"))];
    for (index, frame) in frames.iter().enumerate() {
        let mark = marks.iter_mut().find(|mark| mark.is_some_and(|(place, _)| is_place(frame, place)));
        let name = mark.and_then(Option::take).map(|(_, name)| name);
        text.push(frame_line(index, frame, name, (function_width, max_width), ink));
    }
    text.into_iter().skip(from).collect()
}

fn frame_line(
    index: usize,
    frame: &Frame,
    mark: Option<&str>,
    (function_width, max_width): (usize, usize),
    ink: Ink,
) -> Line<'static> {
    let pointer = if mark.is_some() { ink.glyphs.pointer } else { " " };
    let function = clean(&frame.function, ink.glyphs.unicode);
    let function = pad(&function, function_width, false, Cut::Middle, ink.glyphs);
    let place = match (&frame.file, frame.line, &frame.module) {
        (Some(file), Some(line), _) => format!("{file}:{line}"),
        (Some(file), None, _) => file.to_string(),
        (None, _, Some(module)) => match &frame.build_id {
            Some(build_id) => format!("{module} build-id {build_id}"),
            None => module.to_string(),
        },
        (None, ..) => ink.glyphs.empty.to_owned(),
    };
    let mark = mark.map_or(String::new(), |mark| format!("  {mark}"));
    let room = max_width.saturating_sub(7 + function_width + width(&mark));
    let place = clean(&place, ink.glyphs.unicode);
    let place = fit(&place, room, Cut::Start, ink.glyphs).into_owned();
    let style = if mark.is_empty() { Style::new() } else { ink.theme.strong() };
    Line::from(vec![
        Span::styled(
            format!("{pointer}{index:>3} "),
            if mark.is_empty() { ink.theme.quiet() } else { ink.theme.accent() },
        ),
        Span::styled(format!("{function}  "), style),
        Span::styled(place, if mark.is_empty() { ink.theme.quiet() } else { style }),
        Span::styled(mark, ink.theme.accent()),
    ])
}
