//! The rows of the present place, the ways from place to place, and what keeps a row in sight: a pin holds it at the top
//! whatever the order, `n` and `N` find those that match what was looked for.

use crate::model::columns::Column;
use crate::model::row::{Level, Row};
use crate::sinks::tui::place::{Place, RowId};
use crate::sinks::tui::state::{Outside, State};
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

    pub(super) fn go_in(&mut self) {
        let place = self.selection().and_then(|selection| selection.rows.get(self.cursor).map(Place::inside));
        match place {
            Some(Some(place)) => {
                let outside = Outside { place, selected: self.selected.take(), cursor: self.cursor };
                self.places.push(outside);
                (self.cursor, self.scroll) = (0, 0);
            }
            // What was said already says more.
            Some(None) if self.notice.is_none() => self.notify("this is the innermost level", false),
            _ => {}
        }
    }

    pub(super) fn go_back(&mut self) {
        if !self.go_out() {
            self.view.filter = None;
            self.follow_filter();
        }
    }

    pub(super) fn go_out(&mut self) -> bool {
        let Some(outside) = self.places.pop() else { return false };
        self.selected = outside.selected;
        self.cursor = outside.cursor;
        self.follow_filter();
        true
    }

    pub(super) fn next_grouping(&mut self) {
        let at = Level::ALL.iter().position(|level| *level == self.view.level).unwrap_or_default();
        self.grouping_is_chosen = true;
        self.places.clear();
        self.group_by(Level::ALL[(at + 1) % Level::ALL.len()]);
    }

    /// Goes to the rows of which the filter speaks, as the same filter on the command line does: of a program with several
    /// destinations the numbers are of all of them. Inside of a row they are given by the row.
    pub(super) fn follow_filter(&mut self) {
        if self.grouping_is_chosen || !self.places.is_empty() {
            return;
        }
        let filter = self.view.filter.as_ref().and_then(|filter| (self.parse)(&filter.text).ok());
        let level = filter.map_or(Level::Program, |filter| filter.level);
        if level != self.view.level {
            self.group_by(level);
            self.notify(format!("{} now; Tab: another grouping", level.plural()), false);
        }
    }

    fn group_by(&mut self, level: Level) {
        self.view.level = level;
        self.selected = None;
        (self.cursor, self.scroll) = (0, 0);
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
        self.notify(if was_pinned { "let go" } else { "pinned to the top" }, false);
    }

    /// Goes to the next row that matches the filter, or what was filtered by last; from the end on to the beginning.
    pub(super) fn find_match(&mut self, forwards: bool) {
        let filter = self.view.filter.as_ref().map(|filter| filter.text.as_str());
        let Some(text) = filter.or(self.history.last().map(String::as_str)) else {
            return self.notify("nothing was looked for yet: / asks what for", false);
        };
        let (text, filter) = (text.to_owned(), (self.parse)(text));
        let (Some(selection), Ok(filter)) = (self.selection(), filter) else { return };
        let len = selection.rows.len();
        let steps = 1..=len;
        let mut others = steps.map(|step| {
            let step = if forwards { step } else { len - step };
            (self.cursor + step) % len
        });
        let found = others.find(|&at| (filter.matches)(&selection.rows[at]));
        let found = found.map(|at| (at, RowId::of(&selection.rows[at])));
        match found {
            Some((at, id)) => (self.cursor, self.selected) = (at, Some(id)),
            None => self.notify(format!("no row here matches {text}"), false),
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use crate::model::host_names::HostNames;
    use crate::model::row::Level;
    use crate::sinks::sample_snapshot;
    use crate::sinks::tui::State;
    use crate::sinks::tui::tests::{assert_shows, press, screen, state_with, type_text};
    use crate::sinks::view::Page;

    fn state() -> State {
        state_with(Page::default(), sample_snapshot())
    }

    /// Names of the rows from the top, as far as they are programs of the sample; the marks with each.
    fn order(state: &mut State) -> Vec<(String, String)> {
        let screen = screen(state, 120, 40);
        let named = |line: &str| {
            let name = ["worker.py", "curl", "nginx", "evil", "工作者"]
                .into_iter()
                .find(|name| line.contains(name))?;
            Some((line.chars().take(3).collect(), name.to_owned()))
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
        assert_eq!(
            order(&mut state)[0],
            ("▸ +".to_owned(), by_rate[2].clone()),
            "it is still the selected one"
        );
        assert_shows(&screen(&mut state, 80, 24), &["pinned to the top"]);
        type_text(&mut state, "j>>S");
        assert_eq!(order(&mut state)[0], ("  +".to_owned(), by_rate[2].clone()));
        type_text(&mut state, "gp");
        assert_shows(&screen(&mut state, 80, 24), &["let go"]);
        type_text(&mut state, "<<");
        assert!(order(&mut state).iter().all(|(marks, _)| !marks.contains('+')));
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
        let selected =
            |state: &mut State| order(state).into_iter().find(|(marks, _)| marks.starts_with('▸')).unwrap().1;
        let mut seen = Vec::new();
        for key in ["n", "n", "n", "N", "N"] {
            type_text(&mut state, key);
            seen.push(selected(&mut state));
        }
        assert_eq!(seen, ["curl", "worker.py", "curl", "worker.py", "curl"]);
    }

    /// Types a filter in the place of the present one.
    fn filter(state: &mut State, text: &str) {
        press(state, KeyCode::Char('/'));
        state.on_key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
        type_text(state, text);
        press(state, KeyCode::Enter);
    }

    #[test]
    fn a_filter_of_destinations_leads_to_them_and_its_end_leads_back() {
        let mut state = state();
        filter(&mut state, "@worker");
        let destinations = screen(&mut state, 80, 24);
        assert_shows(&destinations, &["── destinations ─", "2 of 6 rows", "destinations now; Tab: another"]);
        filter(&mut state, "worker");
        assert_shows(&screen(&mut state, 80, 24), &["── programs ─", "1 of 5 rows", "programs now"]);
        filter(&mut state, "@worker");
        press(&mut state, KeyCode::Esc);
        assert_shows(&screen(&mut state, 80, 24), &["── programs ─", "5 rows"]);
        filter(&mut state, "@worker");
        filter(&mut state, "");
        assert_shows(&screen(&mut state, 80, 24), &["── programs ─", "5 rows"]);
        // While it is typed nothing jumps, and one that is cancelled leads nowhere.
        type_text(&mut state, "/@worker");
        assert_eq!(state.level(), Level::Program);
        press(&mut state, KeyCode::Esc);
        assert_shows(&screen(&mut state, 80, 24), &["── programs ─", "5 rows"]);
    }

    #[test]
    fn a_grouping_that_the_user_chose_stays_whatever_the_filter() {
        let mut by_key = state();
        for _ in Level::ALL {
            press(&mut by_key, KeyCode::Tab);
        }
        let mut by_option = state();
        by_option.keep_grouping();
        for mut state in [by_key, by_option] {
            filter(&mut state, "@worker");
            assert_shows(&screen(&mut state, 80, 24), &["── programs ─", "1 of 5 rows"]);
            press(&mut state, KeyCode::Esc);
            assert_shows(&screen(&mut state, 80, 24), &["── programs ─", "5 rows"]);
        }
    }

    #[test]
    fn inside_of_a_row_a_filter_leads_out_to_where_it_holds() {
        let mut state = state();
        press(&mut state, KeyCode::Enter);
        filter(&mut state, "@worker");
        assert_shows(&screen(&mut state, 80, 24), &["programs → python3 worker.py"]);
        press(&mut state, KeyCode::Backspace);
        assert_shows(&screen(&mut state, 80, 24), &["── destinations ─", "2 of 6 rows"]);
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
