//! Lists to choose from, and keys while one is open: the order and the columns. Which columns there are comes from the column table.

use crate::model::columns::{COLUMNS, Column};
use crate::sinks::tui::keys::Command;
use crate::sinks::tui::pane::Text;
use crate::sinks::tui::state::{Action, Mode, State, moved};
use crate::sinks::view::SortKey;

impl State {
    /// Takes a key while a menu or a text is open.
    pub(super) fn choose(&mut self, command: Command) -> Action {
        if command == Command::Close {
            self.mode = match self.mode {
                Mode::Help { over: Some(list), .. } => Mode::List(list),
                _ => Mode::Browse,
            };
            return Action::None;
        }
        let page_rows = self.page_rows;
        match &mut self.mode {
            Mode::List(_) => self.in_list(command),
            Mode::Reproduce { scroll } | Mode::Text(Text { scroll, .. }) => {
                match moved(command, *scroll, usize::MAX, page_rows) {
                    Some(to) => *scroll = to,
                    None => self.mode = Mode::Browse,
                }
            }
            // `draw` knows how long the text is and stops there.
            Mode::Help { scroll, .. } => {
                *scroll = moved(command, *scroll, usize::MAX, page_rows).unwrap_or(*scroll);
            }
            Mode::SortMenu { cursor } => {
                let at = *cursor;
                match moved(command, at, sort_len(), page_rows) {
                    Some(to) => *cursor = to,
                    None => self.choose_sort(command, at),
                }
            }
            Mode::ColumnMenu { cursor } => {
                let at = *cursor;
                match (moved(command, at, COLUMNS.len(), page_rows), command) {
                    (Some(to), _) => *cursor = to,
                    (None, Command::Toggle) => self.toggle_column(at),
                    (None, _) => self.mode = Mode::Browse,
                }
            }
            _ => self.mode = Mode::Browse,
        }
        Action::None
    }

    fn choose_sort(&mut self, command: Command, at: usize) {
        if command == Command::Reverse {
            self.reverse();
        } else if let Some(entry) = sort_entries().nth(at) {
            self.view.sort = sort_by(entry, &self.view.sort);
            self.mode = Mode::Browse;
        }
    }

    fn toggle_column(&mut self, at: usize) {
        if let Some(column) = COLUMNS.get(at) {
            self.view.columns = Some(toggled(&self.columns(), column));
        }
    }
}

/// An entry of the order menu: the usual order, or a column.
pub(super) fn sort_entries() -> impl Iterator<Item = Option<&'static Column>> {
    std::iter::once(None).chain(COLUMNS.iter().copied().map(Some))
}

/// The line of the order menu that is in force.
pub(super) fn sort_entry_of(present: &[SortKey]) -> usize {
    let key = present.first().map(|key| key.column.key);
    sort_entries().position(|entry| entry.map(|column| column.key) == key).unwrap_or(0)
}

/// Number of lines of the order menu.
pub(super) fn sort_len() -> usize {
    COLUMNS.len() + 1
}

/// The order that an entry stands for. Choosing the present column again reverses it.
pub(super) fn sort_by(entry: Option<&'static Column>, present: &[SortKey]) -> Vec<SortKey> {
    let Some(column) = entry else { return Vec::new() };
    match present.first() {
        Some(key) if key.column.key == column.key => {
            vec![SortKey { column, descending: !key.descending }]
        }
        _ => vec![SortKey::natural(column)],
    }
}

/// The order by a neighbour of the present column, among those shown.
pub(super) fn sort_by_neighbour(
    shown: &[&'static Column],
    present: &[SortKey],
    to_right: bool,
) -> Vec<SortKey> {
    let at = present.first().and_then(|key| shown.iter().position(|column| column.key == key.column.key));
    let next = match at {
        None => 0,
        Some(at) if to_right => (at + 1) % shown.len(),
        Some(at) => (at + shown.len() - 1) % shown.len(),
    };
    shown.get(next).map(|column| SortKey::natural(column)).into_iter().collect()
}

/// These columns with one more or one less, in the usual order of columns; the last one stays.
pub(super) fn toggled(shown: &[&'static Column], entry: &'static Column) -> Vec<&'static Column> {
    let is_shown = |column: &Column| shown.iter().any(|other| other.key == column.key);
    let wanted = |column: &Column| if column.key == entry.key { !is_shown(column) } else { is_shown(column) };
    let toggled: Vec<_> = COLUMNS.iter().copied().filter(|column| wanted(column)).collect();
    if toggled.is_empty() { shown.to_vec() } else { toggled }
}

#[cfg(test)]
mod tests {
    use super::{sort_by, sort_by_neighbour, sort_entries, sort_entry_of, sort_len, toggled};
    use crate::model::columns::COLUMNS;

    #[test]
    fn choosing_twice_reverses_and_the_first_entry_is_the_usual_order() {
        let once = sort_by(Some(COLUMNS[0]), &[]);
        let twice = sort_by(Some(COLUMNS[0]), &once);
        assert_ne!(once[0].descending, twice[0].descending);
        assert!(sort_by(None, &once).is_empty());
        assert_eq!((sort_entry_of(&[]), sort_entry_of(&once)), (0, 1));
        assert_eq!(sort_entries().count(), sort_len());
    }

    #[test]
    fn neighbours_go_round() {
        let shown = &COLUMNS[..3];
        let mut sort = Vec::new();
        let mut seen = Vec::new();
        for _ in 0..4 {
            sort = sort_by_neighbour(shown, &sort, true);
            seen.push(sort[0].column.key);
        }
        assert_eq!(seen, [shown[0].key, shown[1].key, shown[2].key, shown[0].key]);
        assert_eq!(sort_by_neighbour(shown, &sort, false)[0].column.key, shown[2].key);
        assert!(sort_by_neighbour(&[], &[], true).is_empty());
    }

    #[test]
    fn a_column_goes_and_comes_back_in_its_place_and_the_last_stays() {
        let shown = COLUMNS[..3].to_vec();
        let fewer = toggled(&shown, shown[1]);
        assert_eq!(fewer.iter().map(|c| c.key).collect::<Vec<_>>(), [shown[0].key, shown[2].key]);
        let again = toggled(&fewer, shown[1]);
        assert_eq!(
            again.iter().map(|c| c.key).collect::<Vec<_>>(),
            shown.iter().map(|c| c.key).collect::<Vec<_>>()
        );
        assert_eq!(toggled(&COLUMNS[..1], COLUMNS[0]).len(), 1);
    }
}
