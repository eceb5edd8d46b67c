//! The mouse: the wheel moves, a click on a row selects it, a click on a heading sorts. Nothing can be done with it that
//! no key does.

use ratatui::crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::{Position, Rect};

use crate::model::columns::Column;
use crate::sinks::tui::keys::Command;
use crate::sinks::tui::menu;
use crate::sinks::tui::place::RowId;
use crate::sinks::tui::state::{Mode, State};

/// Where heading and rows stand on the screen, for the mouse.
#[derive(Default)]
pub(super) struct RowPlaces {
    pub(super) heading: Rect,
    pub(super) rows: Rect,
    /// Columns, and the cell behind the last one of each.
    pub(super) columns: Vec<(&'static Column, u16)>,
}

impl State {
    /// Takes what the mouse did: the wheel moves, a click on a row selects it, a click on a heading sorts.
    pub fn on_mouse(&mut self, event: MouseEvent) {
        if !matches!(self.mode, Mode::Browse) {
            return;
        }
        let at = Position::new(event.column, event.row);
        let places = &self.row_places;
        match event.kind {
            MouseEventKind::ScrollDown if self.sites.is_some() => drop(self.in_sites(Command::Down)),
            MouseEventKind::ScrollUp if self.sites.is_some() => drop(self.in_sites(Command::Up)),
            MouseEventKind::ScrollDown => drop(self.move_cursor(Command::Down)),
            MouseEventKind::ScrollUp => drop(self.move_cursor(Command::Up)),
            MouseEventKind::Down(MouseButton::Left) if places.rows.contains(at) => {
                self.select(self.scroll + usize::from(at.y - places.rows.y));
            }
            MouseEventKind::Down(MouseButton::Left) if places.heading.contains(at) => {
                let hit = places.columns.iter().find(|(_, end)| at.x < *end).map(|(column, _)| *column);
                if hit.is_some() {
                    self.view.sort = menu::sort_by(hit, &self.view.sort);
                    self.find_selected();
                }
            }
            _ => {}
        }
    }

    fn select(&mut self, at: usize) {
        if let Some(id) = self.selection().and_then(|selection| selection.rows.get(at).map(RowId::of)) {
            (self.cursor, self.selected) = (at, Some(id));
        }
    }
}
