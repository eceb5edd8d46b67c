//! What is looked at: place, order, filter, selection, open menus. Pure: keys and snapshots come in, [`Action`]s go out;
//! nothing here draws, waits or writes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ratatui::crossterm::event::{KeyEvent, KeyEventKind};

use crate::model::host_names::HostNames;
use crate::model::row::Level;
use crate::model::snapshot::Snapshot;
use crate::sinks::tui::edit::Edit;
use crate::sinks::tui::keys::{self, BROWSE, Command, EDIT, LISTS, MENU, SITES};
use crate::sinks::tui::mouse::RowPlaces;
use crate::sinks::tui::pane::{Pane, Text};
use crate::sinks::tui::place::{Place, RowId};
use crate::sinks::tui::prompt::FilterPrompt;
use crate::sinks::tui::sites::SitesPane;
use crate::sinks::tui::{menu, reproduce};
use crate::sinks::view::{RowFilter, View};

/// What the command has to do after a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Draw again.
    None,
    /// Leave.
    Quit,
    /// Stop until somebody lets it go on.
    Suspend,
    /// Refresh this often from now on.
    SetInterval(Duration),
    /// Count from now on.
    Reset,
    /// Write [`State::snapshot`] as JSON to this file, then say with [`State::notify`] how it went.
    WriteSnapshot(PathBuf),
    /// Find out who opened this connection, an address and port as it was typed, then say it with [`State::show_text`].
    Who(String),
}

/// Why a filter was not understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FilterError {
    /// Where, in bytes from the start.
    pub offset: usize,
    /// What is wrong, one sentence.
    pub message: String,
}

/// A filter that was understood.
pub struct Understood {
    /// Says whether a row is wanted.
    pub matches: RowFilter,
    /// What rows must stand for, so that their numbers are of what it asks for.
    pub level: Level,
}

/// Understands filters. Given by the command, so that the screen does not depend on the language.
pub type FilterParser = Box<dyn Fn(&str) -> Result<Understood, FilterError>>;

/// What has the keyboard.
#[derive(Debug)]
pub(super) enum Mode {
    Browse,
    /// `over`: the list to come back to.
    Help {
        scroll: usize,
        over: Option<Pane>,
    },
    Reproduce {
        scroll: usize,
    },
    SortMenu {
        cursor: usize,
    },
    ColumnMenu {
        cursor: usize,
    },
    Filter(FilterPrompt),
    Write(Edit),
    List(Pane),
    Who(Edit),
    Text(Text),
}

/// A message in the last line, until the next key.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) alarm: bool,
}

/// Where one was before going into a row.
pub(super) struct Outside {
    pub(super) place: Place,
    pub(super) selected: Option<RowId>,
    pub(super) cursor: usize,
}

/// What is looked at.
pub struct State {
    pub(super) view: View,
    pub(super) interval: Duration,
    pub(super) mode: Mode,
    pub(super) notice: Option<Notice>,
    pub(super) frozen: bool,
    /// Position of the selected row in the present order.
    pub(super) cursor: usize,
    /// First row on the screen. Kept by `draw`.
    pub(super) scroll: usize,
    /// Rows that fit on the screen. Kept by `draw`.
    pub(super) page_rows: usize,
    /// Connects per second of past intervals, oldest first.
    pub(super) rates: VecDeque<f64>,
    pub(super) parse: FilterParser,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// Set: call sites are looked at, inside of a destination.
    pub(super) sites: Option<SitesPane>,
    /// The command line, without what the view knows.
    base: String,
    /// Where the rows stand on the screen. Kept by `draw`.
    pub(super) row_places: RowPlaces,
    /// The newest one, while the screen is frozen.
    held: Option<Arc<Snapshot>>,
    pub(super) places: Vec<Outside>,
    /// `None`: nothing was selected yet, the first row is, whichever it is.
    pub(super) selected: Option<RowId>,
    pub(super) history: Vec<String>,
    /// Rows that stay at the top.
    pub(super) pins: Vec<RowId>,
    /// For who wants names instead of numbers.
    host_names: fn() -> HostNames,
    /// The name that `w` proposes. It tells the time, which only the command knows.
    snapshot_name: fn() -> String,
    /// Whether the user chose what rows stand for. If not, the filter does.
    pub(super) grouping_is_chosen: bool,
}

/// Intervals that the little curve in the head remembers.
const RATES: usize = 120;

/// What `+` and `-` choose from.
const INTERVALS_MS: [u64; 9] = [250, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 30_000, 60_000];

impl State {
    /// Starts with a view as the command line asked for.
    pub fn new(view: View, interval: Duration, parse: FilterParser) -> Self {
        Self {
            view,
            interval,
            mode: Mode::Browse,
            notice: None,
            frozen: false,
            cursor: 0,
            scroll: 0,
            page_rows: 10,
            rates: VecDeque::new(),
            parse,
            snapshot: None,
            sites: None,
            base: "portchurn top".to_owned(),
            row_places: RowPlaces::default(),
            held: None,
            places: Vec::new(),
            selected: None,
            history: Vec::new(),
            pins: Vec::new(),
            host_names: HostNames::default,
            snapshot_name: || "portchurn.json".to_owned(),
            grouping_is_chosen: false,
        }
    }

    /// Says how the command was called, without what the view knows: `portchurn top -D 3306`. For `y`.
    pub fn set_base_command(&mut self, base: impl Into<String>) {
        self.base = base.into();
    }

    /// Says how to find out what addresses and ports are called here. For `x`.
    pub fn set_host_names(&mut self, read: fn() -> HostNames) {
        self.host_names = read;
    }

    /// Says how to name a snapshot. For `w`.
    pub fn set_snapshot_name(&mut self, name: fn() -> String) {
        self.snapshot_name = name;
    }

    /// Says that the user chose what rows stand for: no filter changes it.
    pub fn keep_grouping(&mut self) {
        self.grouping_is_chosen = true;
    }

    /// Takes the snapshot of the next interval. While the screen is frozen it is kept for later.
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.rates.push_back(snapshot.totals.tally.opened_per_s);
        if self.rates.len() > RATES {
            self.rates.pop_front();
        }
        self.show(snapshot);
    }

    /// Takes the same interval, counted anew. Before the first interval is over nothing was measured, so nothing is shown.
    pub fn recount(&mut self, snapshot: Arc<Snapshot>) {
        if self.snapshot.is_some() {
            self.show(snapshot);
        }
    }

    fn show(&mut self, snapshot: Arc<Snapshot>) {
        if self.frozen && self.snapshot.is_some() {
            self.held = Some(snapshot);
        } else {
            self.snapshot = Some(snapshot);
        }
        self.find_selected();
    }

    /// The snapshot on the screen.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// The view as it is now: for writing a snapshot with the same filter.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Shows a message until the next key.
    pub fn notify(&mut self, text: impl Into<String>, alarm: bool) {
        self.notice = Some(Notice { text: text.into(), alarm });
    }

    /// Takes a key.
    pub fn on_key(&mut self, event: KeyEvent) -> Action {
        if event.kind == KeyEventKind::Release {
            return Action::None;
        }
        self.notice = None;
        let browsing = matches!(self.mode, Mode::Browse);
        let (table, typing) = match self.mode {
            Mode::Browse => (if self.sites.is_some() { SITES } else { BROWSE }, false),
            Mode::Filter(_) | Mode::Write(_) | Mode::Who(_) => (EDIT, true),
            Mode::List(_) => (LISTS, false),
            _ => (MENU, false),
        };
        let action = match (keys::find(table, &event), keys::typed(&event)) {
            (Some(Command::Quit), _) => Action::Quit,
            (Some(Command::Suspend), _) => Action::Suspend,
            (Some(command), _) if typing => self.edit(command),
            (None, Some(c)) if typing => self.type_char(c),
            (Some(command), _) if browsing && self.sites.is_some() => self.in_sites(command),
            // The order stays as it is: no need to look for the selected row.
            (Some(command), _) if browsing && self.move_cursor(command) => return Action::None,
            (Some(command), _) if browsing => self.browse(command),
            (Some(command), _) => self.choose(command),
            (None, _) => Action::None,
        };
        self.find_selected();
        action
    }

    /// From the outermost to the present place.
    pub(super) fn titles(&self) -> impl Iterator<Item = &str> {
        self.places.iter().map(|outside| outside.place.title.as_str())
    }

    /// The command line that shows the same.
    pub(super) fn command_line(&self) -> String {
        let place = self.places.last().map(|outside| (&outside.place.row_words, outside.place.level()));
        reproduce::command_line(&self.base, &self.view, place, self.interval, |text| {
            (self.parse)(text).is_ok()
        })
    }

    /// Puts the cursor on the selected row, wherever it has gone; on its neighbour if it is no more.
    pub(super) fn find_selected(&mut self) {
        self.find_selected_site();
        let Some(wanted) = &self.selected else {
            self.cursor = 0;
            return;
        };
        let Some(rows) = self.selection().map(|selection| selection.rows) else { return };
        if let Some(found) = rows.iter().position(|row| wanted.is(row)) {
            self.cursor = found;
        } else {
            let neighbour = self.cursor.min(rows.len().saturating_sub(1));
            let id = rows.get(neighbour).map(RowId::of);
            self.cursor = neighbour;
            self.selected = id.or(self.selected.take());
        }
    }

    pub(super) fn browse(&mut self, command: Command) -> Action {
        match command {
            Command::Help => self.mode = Mode::Help { scroll: 0, over: None },
            Command::Open if self.go_to_sites() => {}
            Command::Open | Command::Processes => self.go_in(),
            Command::Out => drop(self.go_out()),
            Command::Back => self.go_back(),
            Command::Filter => self.start_filter(),
            Command::SortMenu => {
                self.mode = Mode::SortMenu { cursor: menu::sort_entry_of(&self.view.sort) };
            }
            Command::Columns => self.mode = Mode::ColumnMenu { cursor: 0 },
            Command::Reverse => self.reverse(),
            Command::SortLeft | Command::SortRight => {
                let to_right = command == Command::SortRight;
                self.view.sort = menu::sort_by_neighbour(&self.columns(), &self.view.sort, to_right);
            }
            Command::Grouping => self.next_grouping(),
            Command::Freeze => self.toggle_frozen(),
            Command::Exited => self.view.include_exited = !self.view.include_exited,
            Command::Reproduce => self.mode = Mode::Reproduce { scroll: 0 },
            Command::Write => self.mode = Mode::Write(Edit::new(&(self.snapshot_name)())),
            Command::Sites | Command::TimeWait | Command::Ports => self.open_list(command),
            Command::Pin => self.toggle_pin(),
            Command::FindNext | Command::FindPrevious => self.find_match(command == Command::FindNext),
            Command::Names => {
                let names = self.view.names.take().is_none().then(|| Arc::new((self.host_names)()));
                self.view.names = names;
            }
            Command::Who => self.mode = Mode::Who(Edit::new("")),
            Command::Slower | Command::Faster => return self.change_interval(command == Command::Slower),
            Command::Reset => return Action::Reset,
            _ => {}
        }
        Action::None
    }

    /// Moves the cursor if that is what the key is for; false if not.
    pub(super) fn move_cursor(&mut self, command: Command) -> bool {
        if moved(command, 0, 0, 0).is_none() {
            return false;
        }
        let Some(selection) = self.selection() else { return true };
        let to = moved(command, self.cursor, selection.rows.len(), self.page_rows);
        if let Some((to, row)) = to.and_then(|to| Some((to, selection.rows.get(to)?))) {
            (self.cursor, self.selected) = (to, Some(RowId::of(row)));
        }
        true
    }

    pub(super) fn reverse(&mut self) {
        match self.view.sort.first_mut() {
            Some(key) => key.descending = !key.descending,
            None => self.notify("busiest first has no reverse; choose a column with s", false),
        }
    }

    pub(super) fn toggle_frozen(&mut self) {
        self.frozen = !self.frozen;
        if let Some(newest) = self.held.take() {
            self.snapshot = Some(newest);
        }
    }

    fn change_interval(&mut self, slower: bool) -> Action {
        let now_ms = self.interval.as_millis() as u64;
        let next_ms = if slower {
            INTERVALS_MS.into_iter().find(|&ms| ms > now_ms)
        } else {
            INTERVALS_MS.into_iter().rev().find(|&ms| ms < now_ms)
        };
        let Some(next_ms) = next_ms else { return Action::None };
        self.interval = Duration::from_millis(next_ms);
        Action::SetInterval(self.interval)
    }
}

/// Where a moving key leads in a list of `len`; `None` if it is no moving key.
pub(super) fn moved(command: Command, from: usize, len: usize, page: usize) -> Option<usize> {
    let last = len.saturating_sub(1);
    let (page, half) = (page.max(1), (page / 2).max(1));
    let to = match command {
        Command::Up => from.saturating_sub(1),
        Command::Down => from.saturating_add(1),
        Command::PageUp => from.saturating_sub(page),
        Command::PageDown => from.saturating_add(page),
        Command::HalfUp => from.saturating_sub(half),
        Command::HalfDown => from.saturating_add(half),
        Command::First => 0,
        Command::Last => last,
        _ => return None,
    };
    Some(to.min(last))
}
