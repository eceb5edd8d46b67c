//! Screens on a test terminal: what a person would look for must stand there, whatever the size.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{
    KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::style::Color;

use crate::model::columns::COLUMNS;
use crate::model::row::{Level, Row};
use crate::model::snapshot::{Snapshot, Totals};
use crate::sinks::sample_snapshot;
use crate::sinks::text::is_hostile;
use crate::sinks::tui::keys::TABLES;
use crate::sinks::tui::{Action, FilterError, State, Understood, draw, render_to_svg};
use crate::sinks::view::{Page, View};

/// Understands `word` (part of the program's name) and `@word` (the same of destinations); `!` at its start is an error at
/// byte 1.
fn parse(text: &str) -> Result<Understood, FilterError> {
    if text.starts_with('!') {
        return Err(FilterError { offset: 1, message: "a field is missing here".to_owned() });
    }
    let level = if text.starts_with('@') { Level::Destination } else { Level::Program };
    let text = text.trim_start_matches('@').to_owned();
    Ok(Understood { matches: Box::new(move |row: &Row<'_>| row.program.contains(&text)), level })
}

pub(super) fn state_with(page: Page, snapshot: Snapshot) -> State {
    let view = View { page, ..View::new(Level::Program) };
    let mut state = State::new(view, Duration::from_secs(1), Box::new(parse));
    state.set_snapshot(Arc::new(snapshot));
    state
}

fn state() -> State {
    let host = Some("web-3".to_owned());
    state_with(Page { host, colour: true, ..Page::default() }, sample_snapshot())
}

pub(super) fn drawn(state: &mut State, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, &["counted since 12:00:03".to_owned()])).unwrap();
    terminal.backend().buffer().clone()
}

/// The lines of a screen. The blank that a wide character covers is left out.
pub(super) fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let mut text = String::new();
    for line in buffer.content().chunks(width) {
        let mut at = 0;
        while let Some(cell) = line.get(at) {
            text.push_str(cell.symbol());
            at += crate::sinks::text::width(cell.symbol()).max(1);
        }
        text.push('\n');
    }
    text
}

pub(super) fn screen(state: &mut State, width: u16, height: u16) -> String {
    text(&drawn(state, width, height))
}

pub(super) fn press(state: &mut State, code: KeyCode) -> Action {
    state.on_key(KeyEvent::new(code, KeyModifiers::NONE))
}

pub(super) fn type_text(state: &mut State, text: &str) {
    for c in text.chars() {
        press(state, KeyCode::Char(c));
    }
}

fn selected_line(state: &mut State) -> String {
    let screen = screen(state, 120, 40);
    screen.lines().find(|line| line.starts_with('▸')).unwrap_or_default().to_owned()
}

#[track_caller]
pub(super) fn assert_shows(screen: &str, wanted: &[&str]) {
    for text in wanted {
        assert!(screen.contains(text), "`{text}` is missing:\n{screen}");
    }
}

#[test]
fn the_first_screen_answers_the_question_at_80_by_24() {
    let screen = screen(&mut state(), 80, 24);
    assert_shows(&screen, &["web-3", "kernel 6.18.5", "up 00:01:12", "every 1.0 s"]);
    assert_shows(&screen, &["2319 opens/s", "41.0 accepts/s", "105 failed/s", "0 lost"]);
    assert_shows(&screen, &["inet_csk_accept: none"]);
    assert_shows(&screen, &["hooks tp_btf 3", "agent 0.4 % CPU", "310 ns/event"]);
    assert_shows(&screen, &["python3 worker.py", "10.0.0.2:3306 +1", "2318", "4.1 ms", "local", "TIME_WAIT"]);
    assert_shows(&screen, &["counted since 12:00:03", "busiest first", "5 rows"]);
    let quit = screen.lines().last().unwrap();
    assert!(quit.contains("q quit") && quit.contains("? help"), "{quit}");
    let first_row = screen.lines().position(|line| line.starts_with('▸')).unwrap();
    assert!(screen.lines().nth(first_row).unwrap().contains("python3 work"));
    assert!(screen.lines().nth(first_row + 1).unwrap().starts_with(" ! curl"), "{screen}");
}

#[test]
fn a_large_screen_shows_why_something_is_not_attached_and_bars() {
    let screen = screen(&mut state(), 160, 40);
    assert_shows(&screen, &["inet_csk_accept: none (fexit: EPERM; no kprobes)", "██"]);
    let headers = COLUMNS.iter().filter(|column| column.default).map(|column| column.header);
    assert_shows(&screen, &headers.collect::<Vec<_>>());
}

#[test]
fn the_selected_row_is_told_in_full() {
    let mut state = state();
    let worker = screen(&mut state, 120, 40);
    assert_shows(&worker, &["/usr/bin/python3", "unit app-worker.service", "parent systemd", "2 processes"]);
    assert_shows(&worker, &["python3 /srv/app/worker.py --db 10.0.0.2"]);
    assert_shows(
        &worker,
        &["local 14\u{a0}031 (97 %)", "reset 7", "theirs 6", "timed out 1", "process exit 2"],
    );
    assert_shows(
        &worker,
        &["p50 4.1 ms  p95 8.2 ms  p99 16.4 ms  max 36.9 ms  of 10.0.0.2:3306", "p50 850 µs"],
    );
    press(&mut state, KeyCode::Char('j'));
    let curl = screen(&mut state, 120, 40);
    assert_shows(
        &curl,
        &["EADDRNOTAVAIL 1000 · ECONNREFUSED 40", "none has ended", "1040 processes · ended · /usr/bin/curl"],
    );
}

#[test]
fn a_command_that_is_not_known_is_not_one_of_three() {
    let mut snapshot = sample_snapshot();
    let command = |state: &mut State| {
        let screen = screen(state, 80, 24);
        screen.lines().find(|line| line.starts_with(" command")).unwrap().trim_end().to_owned()
    };
    assert_eq!(
        command(&mut state_with(Page::default(), snapshot.clone())),
        " command    one of 2: python3 /srv/app/worker.py --db 10.0.0.2"
    );
    snapshot.programs[0].argv = Vec::new();
    assert_eq!(command(&mut state_with(Page::default(), snapshot)), " command    –");
    let mut containers = state();
    for _ in 0..3 {
        press(&mut containers, KeyCode::Tab);
    }
    assert_eq!(command(&mut containers), " command    –");
}

#[test]
fn enter_goes_in_and_back_comes_out_where_one_was() {
    let mut state = state();
    press(&mut state, KeyCode::Enter);
    let destinations = screen(&mut state, 120, 40);
    assert_shows(
        &destinations,
        &["programs → python3 worker.py", "[2001:db8::6379]:6379", "31.0 s", "2 rows"],
    );
    press(&mut state, KeyCode::Down);
    press(&mut state, KeyCode::Enter);
    let processes = screen(&mut state, 80, 24);
    assert_shows(&processes, &["worker.py → [2001:db8::6379]:6379", "PID", "2100", "1 row "]);
    press(&mut state, KeyCode::Backspace);
    assert!(selected_line(&mut state).contains("6379"));
    press(&mut state, KeyCode::Esc);
    assert_eq!(screen(&mut state, 120, 40), screen(&mut self::state(), 120, 40));
}

#[test]
fn the_selection_follows_its_row_when_the_order_changes() {
    let mut state = state();
    type_text(&mut state, "jj");
    assert!(selected_line(&mut state).contains("nginx"));
    let mut later = sample_snapshot();
    later.programs[2].tally.accepted_per_s = 9_000.0;
    state.set_snapshot(Arc::new(later.clone()));
    assert!(selected_line(&mut state).contains("nginx"));
    assert_eq!(state.cursor, 0);
    later.programs.remove(2);
    state.set_snapshot(Arc::new(later));
    assert!(selected_line(&mut state).contains("python3 worker.py"), "its neighbour takes its place");
}

#[test]
fn without_a_choice_the_cursor_stays_on_the_busiest() {
    let mut state = state();
    let mut later = sample_snapshot();
    later.programs[2].tally.accepted_per_s = 9_000.0;
    state.set_snapshot(Arc::new(later));
    assert!(selected_line(&mut state).contains("nginx"));
}

#[test]
fn past_rates_become_a_curve() {
    let mut state = state();
    let mut later = sample_snapshot();
    later.totals.tally.opened_per_s = 0.0;
    state.set_snapshot(Arc::new(later));
    let totals = screen(&mut state, 120, 40).lines().nth(1).unwrap().to_owned();
    assert!(totals.trim_end().ends_with("█▁"), "{totals}");
}

#[test]
fn no_rate_is_shown_or_remembered_that_was_not_measured_over_an_interval() {
    let mut state = State::new(View::new(Level::Program), Duration::from_secs(1), Box::new(parse));
    state.recount(Arc::new(sample_snapshot()));
    assert_shows(&screen(&mut state, 80, 24), &["the first interval is not over yet"]);
    type_text(&mut state, "  T");
    assert_shows(&screen(&mut state, 80, 24), &["the first interval is not over yet"]);
    press(&mut state, KeyCode::Esc);
    state.set_snapshot(Arc::new(sample_snapshot()));
    state.recount(Arc::new(sample_snapshot()));
    type_text(&mut state, "  ");
    assert_eq!(state.rates.len(), 1, "one interval, one rate");
    let mut again = sample_snapshot();
    again.kernel = "7.0.0".to_owned();
    state.recount(Arc::new(again));
    assert_shows(&screen(&mut state, 80, 24), &["kernel 7.0.0"]);
}

#[test]
fn a_frozen_screen_says_so_and_catches_up() {
    let mut state = state();
    press(&mut state, KeyCode::Char(' '));
    let mut later = sample_snapshot();
    later.kernel = "7.0.0".to_owned();
    state.set_snapshot(Arc::new(later));
    assert_shows(&screen(&mut state, 120, 40), &["FROZEN, still counting", "kernel 6.18.5"]);
    press(&mut state, KeyCode::Char('f'));
    assert_shows(&screen(&mut state, 120, 40), &["kernel 7.0.0"]);
}

#[test]
fn a_filter_works_while_it_is_typed_and_errors_point_at_their_place() {
    let mut state = state();
    press(&mut state, KeyCode::Char('/'));
    type_text(&mut state, "nginx");
    let filtered = screen(&mut state, 80, 24);
    assert_shows(&filtered, &["filter: nginx", "1 of 5 rows", ":8080"]);
    assert!(!filtered.contains("curl"));
    press(&mut state, KeyCode::Enter);
    press(&mut state, KeyCode::Char('/'));
    state.on_key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
    type_text(&mut state, "!x");
    let broken = screen(&mut state, 80, 24);
    let typed = broken.lines().position(|line| line.starts_with("filter: !x")).unwrap();
    let caret = broken.lines().nth(typed + 1).unwrap();
    assert_eq!(caret.trim_end(), "         ^ a field is missing here");
    press(&mut state, KeyCode::Enter);
    assert_shows(&screen(&mut state, 80, 24), &["filter: !x", "a field is missing here"]);
    press(&mut state, KeyCode::Esc);
    assert_shows(&screen(&mut state, 80, 24), &["1 of 5 rows", "filter: nginx"]);
    press(&mut state, KeyCode::Esc);
    assert_shows(&screen(&mut state, 80, 24), &["5 rows", "curl"]);
}

#[test]
fn earlier_filters_come_back() {
    let mut state = state();
    for word in ["nginx", "curl"] {
        press(&mut state, KeyCode::Char('/'));
        state.on_key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
        type_text(&mut state, word);
        press(&mut state, KeyCode::Enter);
    }
    press(&mut state, KeyCode::Char('/'));
    for (key, wanted) in [(KeyCode::Up, "curl"), (KeyCode::Up, "nginx"), (KeyCode::Up, "nginx")] {
        press(&mut state, key);
        assert_shows(&screen(&mut state, 80, 24), &[&format!("filter: {wanted}"), "1 of 5 rows"]);
    }
    press(&mut state, KeyCode::Down);
    assert_shows(&screen(&mut state, 80, 24), &["filter: curl"]);
}

#[test]
fn a_filter_that_matches_nothing_says_so() {
    let mut state = state();
    press(&mut state, KeyCode::Char('/'));
    type_text(&mut state, "postgres");
    assert_shows(&screen(&mut state, 80, 24), &["none of 5 rows matches the filter `postgres`"]);
}

#[test]
fn the_help_lists_every_key_of_every_table() {
    let mut state = state();
    press(&mut state, KeyCode::Char('?'));
    let all = screen(&mut state, 100, 150);
    for (heading, table) in TABLES {
        assert_shows(&all, &[heading]);
        for binding in *table {
            assert_shows(&all, &[&binding.names(), binding.help]);
        }
    }
    assert!(!screen(&mut state, 80, 24).contains("erase everything"));
    press(&mut state, KeyCode::Char('G'));
    assert_shows(&screen(&mut state, 80, 24), &["erase everything", "connects fail now"]);
    let end = screen(&mut state, 80, 24);
    press(&mut state, KeyCode::Char('k'));
    assert_ne!(screen(&mut state, 80, 24), end, "one line up is one line up");
    press(&mut state, KeyCode::Char('g'));
    assert_shows(&screen(&mut state, 80, 24), &["this help"]);
    press(&mut state, KeyCode::Esc);
    assert!(!screen(&mut state, 80, 24).contains("this help"));
}

#[test]
fn the_order_menu_and_its_neighbours() {
    let mut state = state();
    press(&mut state, KeyCode::Char('s'));
    assert_shows(&screen(&mut state, 120, 40), &["busiest first", "Connects that failed since the attach."]);
    let failed = COLUMNS.iter().position(|column| column.key == "failed").unwrap();
    for _ in 0..=failed {
        press(&mut state, KeyCode::Down);
    }
    press(&mut state, KeyCode::Enter);
    assert_shows(&screen(&mut state, 120, 40), &["by FAILED, largest first"]);
    assert!(selected_line(&mut state).contains("curl"));
    press(&mut state, KeyCode::Char('S'));
    assert_shows(&screen(&mut state, 120, 40), &["by FAILED, smallest first"]);
    press(&mut state, KeyCode::Char('>'));
    assert_shows(&screen(&mut state, 120, 40), &["by LIFE p50, largest first"]);
}

#[test]
fn columns_come_and_go() {
    let mut state = state();
    let closes = COLUMNS.iter().position(|column| column.key == "closed_per_s").unwrap();
    assert!(!screen(&mut state, 160, 40).contains("CLOSES/s"));
    press(&mut state, KeyCode::Char('c'));
    for _ in 0..closes {
        press(&mut state, KeyCode::Down);
    }
    press(&mut state, KeyCode::Char(' '));
    assert_shows(&screen(&mut state, 160, 40), &["[x] CLOSES/s"]);
    press(&mut state, KeyCode::Enter);
    assert_shows(&screen(&mut state, 160, 40), &["CLOSES/s"]);
}

#[test]
fn grouping_goes_round_and_ended_ones_can_be_hidden() {
    let mut state = state();
    let groupings = [
        ("destinations", "6 rows"),
        ("processes", "6 rows"),
        ("containers and units", "4 rows"),
        ("programs", "5 rows"),
    ];
    for (heading, rows) in groupings {
        press(&mut state, KeyCode::Tab);
        assert_shows(&screen(&mut state, 120, 40), &[&format!("── {heading} ─"), rows]);
    }
    press(&mut state, KeyCode::Char('t'));
    let without = screen(&mut state, 120, 40);
    assert_shows(&without, &["ended ones hidden", "4 of 5 rows"]);
    assert!(!without.contains("curl"));
}

#[test]
fn what_the_command_has_to_do_is_asked_of_it() {
    let mut state = state();
    assert_eq!(press(&mut state, KeyCode::Char('r')), Action::Reset);
    assert_eq!(press(&mut state, KeyCode::Char('+')), Action::SetInterval(Duration::from_secs(2)));
    assert_eq!(press(&mut state, KeyCode::Char('-')), Action::SetInterval(Duration::from_secs(1)));
    press(&mut state, KeyCode::Char('w'));
    assert_shows(&screen(&mut state, 80, 24), &["write JSON to: portchurn.json"]);
    press(&mut state, KeyCode::Esc);
    state.set_snapshot_name(|| "portchurn-140359.json".to_owned());
    press(&mut state, KeyCode::Char('w'));
    assert_shows(&screen(&mut state, 80, 24), &["write JSON to: portchurn-140359.json"]);
    state.on_key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
    type_text(&mut state, "/tmp/q.json");
    assert_eq!(press(&mut state, KeyCode::Enter), Action::WriteSnapshot(PathBuf::from("/tmp/q.json")));
    state.notify("cannot write /tmp/q.json: no space", true);
    assert_shows(&screen(&mut state, 80, 24), &["cannot write /tmp/q.json: no space"]);
    assert_eq!(press(&mut state, KeyCode::Char('q')), Action::Quit);
    let release = KeyEvent { kind: KeyEventKind::Release, ..KeyEvent::from(KeyCode::Char('q')) };
    assert_eq!(state.on_key(release), Action::None);
}

#[test]
fn ctrl_c_quits_wherever_one_is() {
    for key in ['x', '?', 's', 'c', '/', 'w', 'y'] {
        let mut state = state();
        press(&mut state, KeyCode::Char(key));
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(state.on_key(ctrl_c), Action::Quit, "after {key}");
    }
}

#[test]
fn the_view_can_be_had_again_from_the_command_line() {
    let mut state = state();
    press(&mut state, KeyCode::Tab);
    press(&mut state, KeyCode::Char('>'));
    press(&mut state, KeyCode::Char('y'));
    assert_shows(&screen(&mut state, 120, 40), &["portchurn top --group-by destination --sort=program"]);
    state.set_base_command("portchurn top -D 3306");
    assert_shows(&screen(&mut state, 120, 40), &["portchurn top -D 3306 --group-by destination"]);
}

#[test]
fn the_mouse_selects_sorts_and_scrolls() {
    let mut state = state();
    let screen = screen(&mut state, 120, 40);
    let at = |text: &str| {
        let row = screen.lines().position(|line| line.contains(text)).unwrap();
        let before = screen.lines().nth(row).unwrap().split(text).next().unwrap();
        (before.chars().count() as u16, row as u16)
    };
    let mouse = |kind, (column, row)| MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE };
    let click = MouseEventKind::Down(MouseButton::Left);
    state.on_mouse(mouse(click, at("nginx")));
    assert!(selected_line(&mut state).contains("nginx"));
    state.on_mouse(mouse(MouseEventKind::ScrollUp, (0, 0)));
    assert!(selected_line(&mut state).contains("curl"));
    state.on_mouse(mouse(MouseEventKind::ScrollDown, (0, 0)));
    assert!(selected_line(&mut state).contains("nginx"));
    for (heading, title) in
        [("FAILED", "by FAILED, largest"), ("FAILED", "by FAILED, smallest"), ("LIFE", "by LIFE")]
    {
        state.on_mouse(mouse(click, at(heading)));
        assert_shows(&self::screen(&mut state, 120, 40), &[title]);
    }
    assert!(selected_line(&mut state).contains("nginx"), "whatever the order");
    let before = self::screen(&mut state, 120, 40);
    state.on_mouse(mouse(click, (119, 39)));
    state.on_mouse(mouse(click, (0, 20)));
    assert_eq!(self::screen(&mut state, 120, 40), before, "nothing stands there");
}

#[test]
fn before_and_without_connections_the_screen_helps() {
    let mut none = sample_snapshot();
    (none.programs, none.processes, none.totals) = (Vec::new(), Vec::new(), Totals::default());
    let mut empty = state_with(Page::default(), none);
    assert_shows(&screen(&mut empty, 80, 24), &["no connection was opened", "00:01:12 ago", "will be seen"]);
    let mut early = State::new(View::new(Level::Program), Duration::from_secs(1), Box::new(parse));
    assert_shows(&screen(&mut early, 80, 24), &["the first interval is not over yet", "q quit"]);
    assert_eq!(press(&mut early, KeyCode::Enter), Action::None);
}

#[test]
fn hostile_names_stay_text_everywhere() {
    let mut state = state();
    type_text(&mut state, "jjj");
    for key in [KeyCode::Left, KeyCode::Enter, KeyCode::Enter, KeyCode::Enter, KeyCode::Char('y')] {
        press(&mut state, key);
        let screen = screen(&mut state, 160, 40);
        assert_shows(&screen, &["\\x1b[31mevil\\n\\u{202e}gpj"]);
        assert_eq!(screen.chars().find(|&c| c != '\n' && is_hostile(c)), None, "{screen}");
    }
    press(&mut state, KeyCode::Esc);
    assert_shows(&screen(&mut state, 160, 40), &["\\x9b2J --x\\ty"]);
}

#[test]
fn red_is_kept_for_what_fails_and_is_never_alone() {
    let mut healthy = sample_snapshot();
    healthy.programs.remove(1);
    healthy.totals.tally.failed_per_s = 0.0;
    let page = Page { colour: true, ..Page::default() };
    let is_red = |buffer: &Buffer| buffer.content().iter().any(|cell| cell.fg == Color::Red);
    assert!(!is_red(&drawn(&mut state_with(page, healthy), 120, 40)));
    let buffer = drawn(&mut state(), 120, 40);
    assert!(is_red(&buffer));
    for (at, cell) in buffer.content().iter().enumerate().filter(|(_, cell)| cell.fg == Color::Red) {
        let line = text(&buffer).lines().nth(at / 120).unwrap().to_owned();
        assert!(line.contains('!') || line.contains("failed"), "{:?}: {line}", cell.symbol());
    }
}

#[test]
fn without_colour_there_is_none() {
    let mut state = state_with(Page::default(), sample_snapshot());
    for key in ['x', '?', 's'] {
        press(&mut state, KeyCode::Char(key));
        let buffer = drawn(&mut state, 120, 40);
        assert!(buffer.content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
        press(&mut state, KeyCode::Esc);
    }
}

#[test]
fn a_terminal_without_unicode_gets_ascii() {
    let mut state = state_with(Page { unicode: false, ..Page::default() }, sample_snapshot());
    for width in [80, 160] {
        for keys in ["", "j", "?", "G\u{1b}", "s", "c", "/!"] {
            for key in keys.chars() {
                press(&mut state, if key == '\u{1b}' { KeyCode::Esc } else { KeyCode::Char(key) });
            }
            let screen = screen(&mut state, width, 40);
            assert!(screen.is_ascii(), "{keys}: {:?}", screen.chars().find(|c| !c.is_ascii()));
            press(&mut state, KeyCode::Esc);
        }
    }
}

#[test]
fn a_narrow_screen_keeps_name_and_rate() {
    let screen = screen(&mut state(), 40, 10);
    assert_shows(&screen, &["2319 opens/s", "python", "2318", "curl"]);
}

#[test]
fn long_lists_scroll_with_the_cursor() {
    let mut snapshot = sample_snapshot();
    for number in 0..200 {
        let mut program = snapshot.programs[4].clone();
        program.program = format!("job-{number:03}");
        snapshot.programs.push(program);
    }
    let mut state = state_with(Page::default(), snapshot);
    for (key, wanted) in [(KeyCode::End, "工作者"), (KeyCode::Up, "job-199"), (KeyCode::Home, "python3 work")]
    {
        press(&mut state, key);
        let screen = screen(&mut state, 80, 24);
        let selected = screen.lines().find(|line| line.starts_with('▸')).unwrap();
        assert!(selected.contains(wanted), "{selected}");
    }
    press(&mut state, KeyCode::PageDown);
    assert_eq!(state.cursor, state.page_rows);
}

#[test]
fn no_size_and_no_state_panics() {
    let keys =
        ["", "j", "\n", "\n\n", "?", "?G", "s", "sG", "c", "cG", "/", "/!x", "/工", "w", "y", "t", " ", "\t"];
    for unicode in [true, false] {
        for keys in keys {
            let mut state = state_with(Page { unicode, ..Page::default() }, sample_snapshot());
            for key in keys.chars() {
                match key {
                    '\n' => press(&mut state, KeyCode::Enter),
                    '\t' => press(&mut state, KeyCode::Tab),
                    _ => press(&mut state, KeyCode::Char(key)),
                };
            }
            for width in 1..=30 {
                for height in 1..=10 {
                    drawn(&mut state, width, height);
                }
            }
            for (width, height) in [(1, 60), (200, 1), (40, 10), (80, 24), (80, 21), (250, 70)] {
                drawn(&mut state, width, height);
            }
        }
    }
}

#[test]
fn a_screen_becomes_a_picture() {
    let svg = render_to_svg(&drawn(&mut state(), 100, 30), "portchurn top");
    assert_shows(&svg, &["python3 worker.py", "#ff7b72", "4.1 ms", "</svg>"]);
}
