//! The last lines: what is typed, what there is to say, or which keys there are. Changes nothing.

use ratatui::text::{Line, Span};

use crate::model::columns::Cut;
use crate::sinks::text::{clean, fit, width};
use crate::sinks::tui::draw::Ink;
use crate::sinks::tui::edit::Edit;
use crate::sinks::tui::keys::{BROWSE, Binding, Command, EDIT, LISTS, MENU, SITES};
use crate::sinks::tui::state::{Mode, State};

const FILTER_PROMPT: &str = "filter: ";
const WHO_PROMPT: &str = "who opened ADDR:PORT: ";
const WRITE_PROMPT: &str = "write JSON to: ";

/// The lines; two while a filter is not understood, else one.
pub(super) fn lines(state: &State, max_width: u16, ink: Ink) -> Vec<Line<'static>> {
    let at_close = MENU.iter().position(|binding| binding.command == Command::Close).unwrap_or(0);
    // A text has nothing to choose.
    let close = &MENU[at_close..=at_close];
    match (&state.mode, &state.notice) {
        (Mode::Filter(filter), _) => {
            let typed = prompt(FILTER_PROMPT, &filter.edit, max_width, ink);
            match &filter.error {
                Some(error) => {
                    vec![typed, caret(filter.edit.text(), error.offset, &error.message, max_width, ink)]
                }
                None => vec![with_hints(typed, EDIT, max_width, ink)],
            }
        }
        (Mode::Write(edit), _) => {
            vec![with_hints(prompt(WRITE_PROMPT, edit, max_width, ink), EDIT, max_width, ink)]
        }
        (Mode::Who(edit), _) => {
            vec![with_hints(prompt(WHO_PROMPT, edit, max_width, ink), EDIT, max_width, ink)]
        }
        (_, Some(notice)) => {
            let style = if notice.alarm { ink.theme.alarm() } else { ink.theme.notice() };
            vec![Line::styled(format!(" {}", clean(&notice.text, ink.glyphs.unicode)), style)]
        }
        (Mode::Browse, None) if state.sites.is_some() => {
            // Inside of a stack there is nothing further to enter.
            let is_innermost = state.sites.as_ref().is_some_and(|pane| pane.stack.is_some());
            let keys = SITES.iter().filter(|binding| !is_innermost || binding.command != Command::Open);
            vec![with_hints(Line::raw(" "), keys, max_width, ink)]
        }
        (Mode::Browse, None) => vec![with_hints(Line::raw(" "), BROWSE, max_width, ink)],
        (Mode::Help { .. } | Mode::Reproduce { .. } | Mode::Text(_), None) => {
            vec![with_hints(Line::raw(" "), close, max_width, ink)]
        }
        (Mode::List(_), None) => vec![with_hints(Line::raw(" "), LISTS, max_width, ink)],
        (_, None) => vec![with_hints(Line::raw(" "), MENU, max_width, ink)],
    }
}

/// What is typed, so that the cursor is always to be seen.
fn prompt(name: &str, edit: &Edit, max_width: u16, ink: Ink) -> Line<'static> {
    let room = usize::from(max_width).saturating_sub(width(name) + 1);
    let before = clean(edit.before(), ink.glyphs.unicode);
    let mut after = edit.after().chars();
    let under_cursor = after.next().map_or(" ".to_owned(), String::from);
    Line::from(vec![
        Span::styled(name.to_owned(), ink.theme.accent().patch(ink.theme.strong())),
        Span::raw(fit(&before, room, Cut::Start, ink.glyphs).into_owned()),
        Span::styled(clean(&under_cursor, ink.glyphs.unicode).into_owned(), ink.theme.cursor()),
        Span::raw(clean(after.as_str(), ink.glyphs.unicode).into_owned() + "   "),
    ])
}

/// Points at what was not understood, under the line that was typed. The message stands on the side where it fits.
fn caret(text: &str, offset: usize, message: &str, max_width: u16, ink: Ink) -> Line<'static> {
    let before = text.get(..offset).unwrap_or(text);
    let column = width(FILTER_PROMPT) + width(&clean(before, ink.glyphs.unicode));
    let message = clean(message, ink.glyphs.unicode);
    let line = if column + 2 + width(&message) <= usize::from(max_width) {
        format!("{}^ {message}", " ".repeat(column))
    } else if width(&message) < column && column < usize::from(max_width) {
        format!("{}{message} ^", " ".repeat(column - 1 - width(&message)))
    } else {
        message.into_owned()
    };
    Line::styled(line, ink.theme.notice())
}

/// The keys that have a hint, as many as fit.
fn with_hints(
    mut line: Line<'static>,
    table: impl IntoIterator<Item = &'static Binding>,
    max_width: u16,
    ink: Ink,
) -> Line<'static> {
    for binding in table.into_iter().filter(|binding| !binding.hint.is_empty()) {
        let (key, hint) = (binding.first_name(), format!(" {}  ", binding.hint));
        if line.width() + width(&key) + width(&hint) > usize::from(max_width) + 2 {
            break;
        }
        line.push_span(Span::styled(key, ink.theme.accent()));
        line.push_span(Span::styled(hint, ink.theme.quiet()));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::{caret, prompt};
    use crate::sinks::text::UNICODE;
    use crate::sinks::tui::draw::Ink;
    use crate::sinks::tui::edit::Edit;
    use crate::sinks::tui::theme::Theme;

    const INK: Ink = Ink { glyphs: &UNICODE, theme: Theme::new(false) };

    #[test]
    fn the_message_stands_where_it_fits() {
        let at =
            |offset, max_width| caret("dport=33O6 and x", offset, "no number", max_width, INK).to_string();
        assert_eq!(at(6, 40), "              ^ no number");
        assert_eq!(at(15, 24), "             no number ^");
        assert_eq!(at(1, 12), "no number");
        assert_eq!(at(99, 80), "                        ^ no number", "an offset past the end is the end");
    }

    #[test]
    fn of_a_long_line_the_end_is_seen() {
        let line = prompt("filter: ", &Edit::new("dport=3306 and life<10ms"), 20, INK).to_string();
        assert_eq!(line.trim_end(), "filter: … life<10ms");
    }
}
