//! The keys: one table for each thing that can have the keyboard. Dispatch and the help screen are made from these
//! tables, so a key that works is a key that is explained. What a key does is said in `state`.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Command {
    Accept,
    Back,
    ClearLine,
    Close,
    Columns,
    CursorEnd,
    CursorHome,
    CursorLeft,
    CursorRight,
    Down,
    EraseAfter,
    EraseBefore,
    EraseWord,
    Exited,
    Faster,
    Filter,
    FindNext,
    FindPrevious,
    First,
    Freeze,
    Grouping,
    HalfDown,
    HalfUp,
    Help,
    Last,
    Names,
    Open,
    Out,
    PageDown,
    PageUp,
    Pin,
    Ports,
    Processes,
    Quit,
    Reproduce,
    Reset,
    Reverse,
    Rows,
    Sites,
    Slower,
    SortLeft,
    SortMenu,
    SortRight,
    Suspend,
    TimeWait,
    Toggle,
    Up,
    Who,
    Write,
}

/// One key, with or without Ctrl. Shift is part of the character.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Key {
    code: KeyCode,
    ctrl: bool,
}

/// Keys that do the same, and what.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) keys: &'static [Key],
    pub(super) command: Command,
    /// For the help screen.
    pub(super) help: &'static str,
    /// For the line at the bottom; empty: not shown there.
    pub(super) hint: &'static str,
}

const fn key(code: KeyCode) -> Key {
    Key { code, ctrl: false }
}

const fn char(c: char) -> Key {
    key(KeyCode::Char(c))
}

const fn ctrl(c: char) -> Key {
    Key { code: KeyCode::Char(c), ctrl: true }
}

const fn bind(keys: &'static [Key], command: Command, help: &'static str, hint: &'static str) -> Binding {
    Binding { keys, command, help, hint }
}

const SUSPEND: Binding = bind(&[ctrl('z')], Command::Suspend, "back to the shell; `fg` goes on", "");

/// While rows are looked at.
pub(super) const BROWSE: &[Binding] = &[
    bind(&[char('q'), ctrl('c')], Command::Quit, "quit", "quit"),
    SUSPEND,
    bind(&[char('?'), char('h'), key(KeyCode::F(1))], Command::Help, "this help", "help"),
    bind(&[key(KeyCode::Enter), key(KeyCode::Right)], Command::Open, "go into the row", "open"),
    bind(&[key(KeyCode::Left), key(KeyCode::Backspace)], Command::Out, "go back out", ""),
    bind(&[char('o')], Command::Processes, "the processes behind the destination", ""),
    bind(&[char('p')], Command::Pin, "pin the row to the top, or let it go", ""),
    bind(&[key(KeyCode::Esc)], Command::Back, "go back out, then clear the filter; never quits", ""),
    bind(&[char('/')], Command::Filter, "filter while typing; Up and Down: earlier ones", "filter"),
    bind(&[char('n')], Command::FindNext, "to the next row that matches the filter, or the last one", ""),
    bind(&[char('N')], Command::FindPrevious, "to the one before", ""),
    bind(&[char('s')], Command::SortMenu, "choose the order", "sort"),
    bind(&[char('S')], Command::Reverse, "reverse the order", ""),
    bind(&[char('<')], Command::SortLeft, "sort by the column to the left", ""),
    bind(&[char('>')], Command::SortRight, "sort by the column to the right", ""),
    bind(&[key(KeyCode::Tab)], Command::Grouping, "programs, destinations, processes, containers", "group"),
    bind(&[char(' '), char('f')], Command::Freeze, "freeze the screen; counting goes on", "freeze"),
    bind(&[char('2'), char('L')], Command::Sites, "lines of code that connect", ""),
    bind(&[char('3'), char('T')], Command::TimeWait, "whose every TIME_WAIT is", "TIME_WAIT"),
    bind(&[char('4'), char('P')], Command::Ports, "how many local ports are left", "ports"),
    bind(&[char('W')], Command::Who, "who opened a connection: type ADDR:PORT", "who"),
    bind(&[char('c')], Command::Columns, "choose columns", "columns"),
    bind(&[char('t')], Command::Exited, "show or hide what has ended", ""),
    bind(&[char('x')], Command::Names, "names of hosts and ports, or numbers", ""),
    bind(&[char('y')], Command::Reproduce, "the command line that shows this view", ""),
    bind(&[char('w')], Command::Write, "write a snapshot as JSON to a file", "write"),
    bind(&[char('+'), char('=')], Command::Slower, "refresh less often", ""),
    bind(&[char('-')], Command::Faster, "refresh more often", ""),
    bind(&[char('r')], Command::Reset, "count from now on", ""),
    bind(&[char('j'), key(KeyCode::Down)], Command::Down, "down", ""),
    bind(&[char('k'), key(KeyCode::Up)], Command::Up, "up", ""),
    bind(&[key(KeyCode::PageDown)], Command::PageDown, "a page down", ""),
    bind(&[key(KeyCode::PageUp)], Command::PageUp, "a page up", ""),
    bind(&[ctrl('d')], Command::HalfDown, "half a page down", ""),
    bind(&[ctrl('u')], Command::HalfUp, "half a page up", ""),
    bind(&[char('g'), key(KeyCode::Home)], Command::First, "to the first row", ""),
    bind(&[char('G'), key(KeyCode::End)], Command::Last, "to the last row", ""),
];

/// While call sites are looked at.
pub(super) const SITES: &[Binding] = &[
    bind(&[char('q'), ctrl('c')], Command::Quit, "quit", "quit"),
    SUSPEND,
    bind(&[char('?'), char('h'), key(KeyCode::F(1))], Command::Help, "this help", "help"),
    bind(&[key(KeyCode::Enter), key(KeyCode::Right)], Command::Open, "the whole stack", "whole stack"),
    bind(
        &[key(KeyCode::Esc), key(KeyCode::Left), key(KeyCode::Backspace)],
        Command::Back,
        "go back out",
        "back",
    ),
    bind(&[char(' '), char('f')], Command::Freeze, "freeze the screen; counting goes on", "freeze"),
    bind(&[char('w')], Command::Write, "write a snapshot as JSON to a file", "write"),
    bind(&[char('y')], Command::Reproduce, "the command line that shows the view outside", ""),
    bind(&[char('+'), char('=')], Command::Slower, "refresh less often", ""),
    bind(&[char('-')], Command::Faster, "refresh more often", ""),
    bind(&[char('r')], Command::Reset, "count from now on", ""),
    bind(&[char('j'), key(KeyCode::Down)], Command::Down, "down", ""),
    bind(&[char('k'), key(KeyCode::Up)], Command::Up, "up", ""),
    bind(&[key(KeyCode::PageDown), ctrl('d')], Command::PageDown, "a page down", ""),
    bind(&[key(KeyCode::PageUp), ctrl('u')], Command::PageUp, "a page up", ""),
    bind(&[char('g'), key(KeyCode::Home)], Command::First, "to the first line", ""),
    bind(&[char('G'), key(KeyCode::End)], Command::Last, "to the last line", ""),
];

/// While a list of lines of code, TIME_WAIT or ports is looked at.
pub(super) const LISTS: &[Binding] = &[
    bind(&[char('q'), ctrl('c')], Command::Quit, "quit", "quit"),
    SUSPEND,
    bind(
        &[key(KeyCode::Esc), key(KeyCode::Left), key(KeyCode::Backspace)],
        Command::Close,
        "go back",
        "back",
    ),
    bind(&[char('1')], Command::Rows, "back to the rows", "rows"),
    bind(&[char('2'), char('L')], Command::Sites, "lines of code that connect", "lines"),
    bind(&[char('3'), char('T')], Command::TimeWait, "whose every TIME_WAIT is", "TIME_WAIT"),
    bind(&[char('4'), char('P')], Command::Ports, "how many local ports are left", "ports"),
    bind(&[char(' '), char('f')], Command::Freeze, "freeze the screen; counting goes on", "freeze"),
    bind(&[char('j'), key(KeyCode::Down)], Command::Down, "down", "scroll"),
    bind(&[char('k'), key(KeyCode::Up)], Command::Up, "up", ""),
    bind(&[key(KeyCode::PageDown), ctrl('d')], Command::PageDown, "a page down", ""),
    bind(&[key(KeyCode::PageUp), ctrl('u')], Command::PageUp, "a page up", ""),
    bind(&[char('g'), key(KeyCode::Home)], Command::First, "to the first line", ""),
    bind(&[char('G'), key(KeyCode::End)], Command::Last, "to the last line", ""),
    bind(&[char('?'), char('h'), key(KeyCode::F(1))], Command::Help, "this help", "help"),
];

/// While a menu, the help or another text is open.
pub(super) const MENU: &[Binding] = &[
    bind(&[ctrl('c')], Command::Quit, "quit", ""),
    SUSPEND,
    bind(&[key(KeyCode::Esc), char('q'), char('?'), key(KeyCode::F(1))], Command::Close, "close", "close"),
    bind(&[key(KeyCode::Enter)], Command::Accept, "choose", "choose"),
    bind(&[char(' ')], Command::Toggle, "on or off; in the order menu: choose", "on/off"),
    bind(&[char('S')], Command::Reverse, "reverse the order", ""),
    bind(&[char('j'), key(KeyCode::Down)], Command::Down, "down", ""),
    bind(&[char('k'), key(KeyCode::Up)], Command::Up, "up", ""),
    bind(&[key(KeyCode::PageDown), ctrl('d')], Command::PageDown, "a page down", ""),
    bind(&[key(KeyCode::PageUp), ctrl('u')], Command::PageUp, "a page up", ""),
    bind(&[char('g'), key(KeyCode::Home)], Command::First, "to the first line", ""),
    bind(&[char('G'), key(KeyCode::End)], Command::Last, "to the last line", ""),
];

/// While a line is typed.
pub(super) const EDIT: &[Binding] = &[
    bind(&[ctrl('c')], Command::Quit, "quit", ""),
    SUSPEND,
    bind(&[key(KeyCode::Enter)], Command::Accept, "accept", "accept"),
    bind(&[key(KeyCode::Esc)], Command::Close, "leave everything as it was", "cancel"),
    bind(&[key(KeyCode::Up)], Command::Up, "earlier filter", ""),
    bind(&[key(KeyCode::Down)], Command::Down, "later filter", ""),
    bind(&[key(KeyCode::Left)], Command::CursorLeft, "one character left", ""),
    bind(&[key(KeyCode::Right)], Command::CursorRight, "one character right", ""),
    bind(&[key(KeyCode::Home), ctrl('a')], Command::CursorHome, "to the start", ""),
    bind(&[key(KeyCode::End), ctrl('e')], Command::CursorEnd, "to the end", ""),
    bind(&[key(KeyCode::Backspace)], Command::EraseBefore, "erase backwards", ""),
    bind(&[key(KeyCode::Delete)], Command::EraseAfter, "erase forwards", ""),
    bind(&[ctrl('w')], Command::EraseWord, "erase a word", ""),
    bind(&[ctrl('u')], Command::ClearLine, "erase everything", "clear"),
];

/// The tables with their headings, as the help screen shows them.
pub(super) const TABLES: &[(&str, &[Binding])] = &[
    ("Rows", BROWSE),
    ("Call sites", SITES),
    ("Lists", LISTS),
    ("Menus and texts", MENU),
    ("While typing", EDIT),
];

/// What this key asks for, according to this table.
pub(super) fn find(table: &[Binding], event: &KeyEvent) -> Option<Command> {
    table.iter().find(|binding| binding.keys.iter().any(|key| key.is(event))).map(|binding| binding.command)
}

/// The character this key types, if it types one.
pub(super) fn typed(event: &KeyEvent) -> Option<char> {
    match event.code {
        KeyCode::Char(c) if !event.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) => Some(c),
        _ => None,
    }
}

impl Key {
    fn is(&self, event: &KeyEvent) -> bool {
        self.code == event.code
            && self.ctrl == event.modifiers.contains(KeyModifiers::CONTROL)
            && !event.modifiers.contains(KeyModifiers::ALT)
    }

    fn name(&self) -> String {
        let name = match self.code {
            KeyCode::Char(' ') => "space".to_owned(),
            KeyCode::Char(c) => c.to_string(),
            KeyCode::F(number) => format!("F{number}"),
            KeyCode::PageUp => "PgUp".to_owned(),
            KeyCode::PageDown => "PgDn".to_owned(),
            other => format!("{other:?}"),
        };
        if self.ctrl { format!("Ctrl-{name}") } else { name }
    }

    #[cfg(test)]
    pub(super) fn event(&self) -> KeyEvent {
        KeyEvent::new(self.code, if self.ctrl { KeyModifiers::CONTROL } else { KeyModifiers::NONE })
    }
}

impl Binding {
    /// Its keys, `q Ctrl-c`.
    pub(super) fn names(&self) -> String {
        self.keys.iter().map(Key::name).collect::<Vec<_>>().join(" ")
    }

    /// Its first key.
    pub(super) fn first_name(&self) -> String {
        self.keys.first().map(Key::name).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::{BROWSE, Command, TABLES, find, typed};

    #[test]
    fn no_key_means_two_things_and_every_key_is_explained() {
        for (heading, table) in TABLES {
            let names: Vec<_> = table.iter().flat_map(|binding| binding.keys).map(|key| key.name()).collect();
            for name in &names {
                assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{heading}: {name}");
            }
            for binding in *table {
                assert!(!binding.help.is_empty() && !binding.keys.is_empty(), "{:?}", binding.command);
                for key in binding.keys {
                    assert_eq!(find(table, &key.event()), Some(binding.command));
                }
            }
        }
    }

    #[test]
    fn shift_and_alt() {
        let event = |code, modifiers| KeyEvent::new(code, modifiers);
        assert_eq!(find(BROWSE, &event(KeyCode::Char('G'), KeyModifiers::SHIFT)), Some(Command::Last));
        assert_eq!(find(BROWSE, &event(KeyCode::Char('q'), KeyModifiers::ALT)), None);
        assert_eq!(typed(&event(KeyCode::Char('A'), KeyModifiers::SHIFT)), Some('A'));
        assert_eq!(typed(&event(KeyCode::Char('a'), KeyModifiers::CONTROL)), None);
    }
}
