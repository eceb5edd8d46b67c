//! The rows of the present place, and what keeps one in sight: a pin holds it at the top whatever the order, `n` and `N` find
//! those that match what was looked for.

use crate::model::columns::Column;
use crate::model::row::{Level, Row};
use crate::sinks::tui::place::RowId;
use crate::sinks::tui::state::State;
use crate::sinks::view::Selection;

impl State {
    /// The rows of the present place, in the present order. Empty before the first snapshot.
    pub(super) fn selection(&self) -> Option<Selection<'_>> {
        let snapshot = self.snapshot.as_ref()?;
        let mut selection = match self.places.last() {
            None => self.view.select(snapshot),
            Some(outside) => self.view.arrange(outside.place.rows(snapshot)),
        };
        if !self.pins.is_empty() {
            // Stable: among themselves they keep their order.
            selection.rows.sort_by_key(|row| !self.is_pinned(row));
        }
        Some(selection)
    }

    /// What the present rows stand for.
    pub(super) fn level(&self) -> Level {
        self.places.last().map_or(self.view.level, |outside| outside.place.level())
    }

    /// The columns that are shown if there is room.
    pub(super) fn columns(&self) -> Vec<&'static Column> {
        self.view.columns_at(self.level())
    }

    pub(super) fn is_pinned(&self, row: &Row<'_>) -> bool {
        self.pins.iter().any(|pin| pin.is(row))
    }

    /// Pins the selected row, or lets it go.
    pub(super) fn toggle_pin(&mut self) {
        let Some(selection) = self.selection() else { return };
        let Some(row) = selection.rows.get(self.cursor) else { return };
        let (id, was_pinned) = (RowId::of(row), self.is_pinned(row));
        if was_pinned {
            self.pins.retain(|pin| *pin != id);
        } else {
            self.pins.push(id.clone());
        }
        self.selected = Some(id);
    }

    /// Goes to the next row that matches the filter, or what was filtered by last; from the end on to the beginning.
    pub(super) fn find_match(&mut self, forwards: bool) {
        let filter = self.view.filter.as_ref().map(|filter| filter.text.as_str());
        let Some(text) = filter.or(self.history.last().map(String::as_str)) else {
            return self.notify("nothing was looked for yet: / asks what for", false);
        };
        let (text, matches) = (text.to_owned(), (self.parse)(text));
        let (Some(selection), Ok(matches)) = (self.selection(), matches) else { return };
        let len = selection.rows.len();
        let steps = 1..=len;
        let mut others = steps.map(|step| {
            let step = if forwards { step } else { len - step };
            (self.cursor + step) % len
        });
        let found = others.find(|&at| matches(&selection.rows[at]));
        let found = found.map(|at| (at, RowId::of(&selection.rows[at])));
        match found {
            Some((at, id)) => (self.cursor, self.selected) = (at, Some(id)),
            None => self.notify(format!("no row here matches {text}"), false),
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyCode;

    use crate::model::host_names::HostNames;
    use crate::sinks::sample_snapshot;
    use crate::sinks::tui::State;
    use crate::sinks::tui::tests::{assert_shows, press, screen, state_with, type_text};
    use crate::sinks::view::Page;

    fn state() -> State {
        state_with(Page::default(), sample_snapshot())
    }

    /// Names of the rows from the top, as far as they are programs of the sample; the second mark with each.
    fn order(state: &mut State) -> Vec<(char, String)> {
        let screen = screen(state, 120, 40);
        let named = |line: &str| {
            let name = ["worker.py", "curl", "nginx", "evil", "工作者"]
                .into_iter()
                .find(|name| line.contains(name))?;
            Some((line.chars().next()?, name.to_owned()))
        };
        screen
            .lines()
            .skip_while(|line| !line.contains("PROGRAM"))
            .skip(1)
            .take(5)
            .filter_map(named)
            .collect()
    }

    #[test]
    fn a_pinned_row_stays_at_the_top_whatever_the_order_until_it_is_let_go() {
        let mut state = state();
        let by_rate: Vec<_> = order(&mut state).into_iter().map(|(_, name)| name).collect();
        type_text(&mut state, "jjp");
        let first = order(&mut state);
        assert_eq!(first[0], ('▸', by_rate[2].clone()), "it is still the selected one");
        type_text(&mut state, "j>>S");
        assert_eq!(order(&mut state)[0], ('+', by_rate[2].clone()));
        type_text(&mut state, "gp<<");
        assert!(order(&mut state).iter().all(|(mark, _)| *mark != '+'));
    }

    #[test]
    fn what_was_looked_for_is_found_again_round_the_end() {
        let mut state = state();
        type_text(&mut state, "n");
        assert_shows(&screen(&mut state, 120, 40), &["nothing was looked for yet"]);
        type_text(&mut state, "/r");
        press(&mut state, KeyCode::Enter);
        let matching: Vec<_> = order(&mut state).into_iter().map(|(_, name)| name).collect();
        assert_eq!(matching, ["worker.py", "curl"]);
        press(&mut state, KeyCode::Esc);
        let selected = |state: &mut State| order(state).into_iter().find(|(mark, _)| *mark == '▸').unwrap().1;
        let mut seen = Vec::new();
        for key in ["n", "n", "n", "N", "N"] {
            type_text(&mut state, key);
            seen.push(selected(&mut state));
        }
        assert_eq!(seen, ["curl", "worker.py", "curl", "worker.py", "curl"]);
    }

    #[test]
    fn names_stand_for_numbers_and_go_again() {
        let mut state = state();
        state.set_host_names(|| HostNames::parse("10.0.0.2 db1", "mysql 3306/tcp"));
        type_text(&mut state, "x");
        assert_shows(&screen(&mut state, 120, 40), &["db1:mysql +1"]);
        type_text(&mut state, "y");
        assert_shows(&screen(&mut state, 120, 40), &["portchurn top --names"]);
        press(&mut state, KeyCode::Esc);
        type_text(&mut state, "x");
        assert_shows(&screen(&mut state, 120, 40), &["10.0.0.2:3306 +1"]);
    }

    #[test]
    fn a_container_leads_to_its_programs_and_a_digit_to_each_list() {
        let mut state = state();
        for _ in 0..3 {
            press(&mut state, KeyCode::Tab);
        }
        assert_shows(
            &screen(&mut state, 120, 40),
            &["4f2a9c", "app-worker.service", "(no container, no unit)"],
        );
        press(&mut state, KeyCode::Enter);
        assert_shows(
            &screen(&mut state, 120, 40),
            &["containers and units → app-worker.service", "worker.py", "1 row "],
        );
        type_text(&mut state, "y");
        assert_shows(&screen(&mut state, 120, 40), &["--group-by program", "unit=app-worker.service"]);
        press(&mut state, KeyCode::Esc);
        for (key, heading) in [
            ("2", "lines of code that connect"),
            ("3", "whose every TIME_WAIT is"),
            ("4", "local ports are left"),
        ] {
            type_text(&mut state, key);
            assert_shows(&screen(&mut state, 120, 40), &[heading]);
        }
        type_text(&mut state, "1");
        assert_shows(&screen(&mut state, 120, 40), &["containers and units → app-worker.service"]);
    }
}
