//! The screen of `top`: feeds snapshots and keys to the view, and does what a key asks for that is more than looking.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use jiff::Zoned;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event as TerminalEvent, read};
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::mpsc::{Receiver, channel};

use crate::commands::session::{Event, Session};
use crate::commands::{logger, who};
use crate::filter::{Filter, Scope};
use crate::model::who::Query;
use crate::sinks::tui::{Action, FilterError, FilterParser, Screen, State, Understood, draw, render_to_svg};
use crate::sinks::{OutputFormat, View};
use crate::sources::host_names::host_names;

/// How the screen is used.
pub struct Look {
    /// Stop after this many refreshes.
    pub count: Option<u64>,
    /// Take the mouse.
    pub mouse: bool,
    /// The command line up to what the view knows by itself.
    pub base_command: String,
    /// The user said what rows stand for: a filter does not change it.
    pub keep_grouping: bool,
}

/// Runs until a key, a signal, the count or the time ends it.
pub async fn run(session: &mut Session, view: View, look: Look, interval: Duration) -> Result<()> {
    let _messages_wait = logger::hold_back();
    let mut screen = Screen::open(look.mouse).context("take the terminal")?;
    let mut state = State::new(view, interval, parser());
    state.set_base_command(&look.base_command);
    state.set_host_names(host_names);
    state.set_snapshot_name(snapshot_name);
    if look.keep_grouping {
        state.keep_grouping();
    }
    let mut view = Viewer { state, notes: Vec::new(), left: look.count };
    let mut events = terminal_events();
    session.catch_suspend()?;
    // What came during the attach is counted, but no rate: it must not fall into the first interval, nor into a moment.
    session.sample()?;
    loop {
        screen.terminal().draw(|frame| draw(frame, &mut view.state, &view.notes))?;
        let next = tokio::select! {
            event = events.recv() => match event {
                Some(event) => view.on_terminal_event(session, &event)?,
                None => Next::End,
            },
            event = session.next() => view.on_event(session, &event?)?,
        };
        match next {
            Next::GoOn => {}
            Next::Suspend => suspend(&mut screen)?,
            Next::End => return Ok(()),
        }
    }
}

/// What to do after an event.
enum Next {
    GoOn,
    Suspend,
    End,
}

/// Stops here, the terminal given back, until somebody lets this process go on.
fn suspend(screen: &mut Screen) -> Result<()> {
    screen.suspend();
    kill_process(getpid(), Signal::STOP).context("stop for a while")?;
    screen.resume().context("take the terminal again")
}

/// One screen, as a picture for documents.
pub fn picture(session: &Session, view: View, interval: Duration, path: &Path) -> Result<()> {
    const SIZE: (u16, u16) = (112, 26);
    let mut state = State::new(view, interval, parser());
    state.set_snapshot(Arc::new(session.model.snapshot()));
    let mut terminal = Terminal::new(TestBackend::new(SIZE.0, SIZE.1))?;
    terminal.draw(|frame| draw(frame, &mut state, &[]))?;
    let svg = render_to_svg(terminal.backend().buffer(), "The screen of portchurn top");
    std::fs::write(path, svg).with_context(|| format!("write to {}", path.display()))
}

struct Viewer {
    state: State,
    notes: Vec<String>,
    /// Refreshes still wanted.
    left: Option<u64>,
}

impl Viewer {
    fn refresh(&mut self, session: &mut Session) -> Result<()> {
        session.sample()?;
        self.state.set_snapshot(Arc::new(session.model.snapshot()));
        Ok(())
    }

    fn on_event(&mut self, session: &mut Session, event: &Event) -> Result<Next> {
        match event {
            Event::Tick => {
                self.refresh(session)?;
                self.left = self.left.map(|left| left - 1);
                Ok(if self.left == Some(0) { Next::End } else { Next::GoOn })
            }
            Event::Pump | Event::Report => Ok(Next::GoOn),
            Event::Suspend => Ok(Next::Suspend),
            Event::Stop => {
                session.sample()?;
                Ok(Next::End)
            }
        }
    }

    fn on_terminal_event(&mut self, session: &mut Session, event: &TerminalEvent) -> Result<Next> {
        let action = match event {
            TerminalEvent::Key(key) => {
                let showed_list = self.state.shows_list();
                let action = self.state.on_key(*key);
                if self.state.shows_list() && !showed_list {
                    session.collector.hurry_reading();
                }
                action
            }
            TerminalEvent::Mouse(mouse) => {
                self.state.on_mouse(*mouse);
                Action::None
            }
            _ => Action::None,
        };
        match action {
            Action::None => {}
            Action::SetInterval(interval) => session.set_interval(interval),
            Action::Reset => {
                session.model.restart();
                self.notes =
                    vec!["counting since the reset; connections that were open then are known".to_owned()];
                self.state.recount(Arc::new(session.model.snapshot()));
            }
            Action::WriteSnapshot(path) => match write(&self.state, &path) {
                Ok(()) => self.state.notify(format!("written to {}", path.display()), false),
                Err(err) => self.state.notify(format!("{err:#}"), true),
            },
            Action::Who(text) => match text.parse::<Query>() {
                Ok(query) => {
                    let lines = who::found_by(session, &query);
                    self.state.show_text(format!("who opened {text}"), lines);
                }
                Err(why) => self.state.notify(why, true),
            },
            Action::Suspend => return Ok(Next::Suspend),
            Action::Quit => {
                session.sample()?;
                return Ok(Next::End);
            }
        }
        Ok(Next::GoOn)
    }
}

/// Writes what is on the screen to a new file: an earlier one may be the evidence of an incident.
fn write(state: &State, path: &Path) -> Result<()> {
    let Some(snapshot) = state.snapshot() else { bail!("nothing is written: no interval is over yet") };
    let file = File::create_new(path).map_err(|err| match err.kind() {
        ErrorKind::AlreadyExists => anyhow!("{} exists already; w asks for another name", path.display()),
        _ => anyhow!(err).context(format!("write to {}", path.display())),
    })?;
    let mut sink = OutputFormat::Json.open(Box::new(file));
    sink.snapshot(state.view(), snapshot)?;
    Ok(sink.finish()?)
}

/// `portchurn-140359.json`: two of one incident have two names.
fn snapshot_name() -> String {
    Zoned::now().strftime("portchurn-%H%M%S.json").to_string()
}

/// Keys and sizes. Reading them blocks, so a thread of its own does it; it ends with the process.
fn terminal_events() -> Receiver<TerminalEvent> {
    let (sender, receiver) = channel(64);
    std::thread::spawn(move || {
        while let Ok(event) = read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

fn parser() -> FilterParser {
    Box::new(|text| {
        let told = |err: crate::filter::FilterError| FilterError { offset: err.offset, message: err.message };
        let filter = Filter::parse(text).map_err(told)?;
        filter.check(Scope::Rows).map_err(told)?;
        let level = filter.level();
        Ok(Understood { matches: Box::new(move |row| filter.matches(row)), level })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::{parser, snapshot_name, write};
    use crate::filter::Filter;
    use crate::model::row::Level;
    use crate::sinks::sample_snapshot;
    use crate::sinks::tui::State;
    use crate::sinks::view::View;

    fn state() -> State {
        State::new(View::new(Level::Program), Duration::from_secs(1), parser())
    }

    #[test]
    fn a_filter_means_the_same_on_the_screen_and_on_the_command_line() {
        for text in ["dport=3306", "pid=2000", "comm=curl", "comm=curl and dport=3306"] {
            let mut state = state();
            state.set_snapshot(Arc::new(sample_snapshot()));
            let keys = format!("/{text}").chars().map(KeyCode::Char).collect::<Vec<_>>();
            for code in keys.into_iter().chain([KeyCode::Enter]) {
                state.on_key(KeyEvent::new(code, KeyModifiers::NONE));
            }
            assert_eq!(state.view().level, Filter::parse(text).unwrap().level(), "{text}");
            state.on_key(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE));
            assert_eq!((state.view().level, state.view().filter.is_none()), (Level::Program, true), "{text}");
        }
    }

    #[test]
    fn a_snapshot_never_takes_the_place_of_another_file() {
        let folder = std::env::temp_dir().join(format!("portchurn-screen-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(snapshot_name());
        let early = write(&state(), &path).unwrap_err().to_string();
        assert!(early.contains("no interval is over yet") && !path.exists(), "{early}");
        let mut state = state();
        state.set_snapshot(Arc::new(sample_snapshot()));
        write(&state, &path).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        let again = write(&state, &path).unwrap_err().to_string();
        assert!(first.contains("worker.py") && again.contains("exists already"), "{again}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        let nowhere = write(&state, &path.join("x")).unwrap_err();
        assert!(format!("{nowhere:#}").starts_with("write to "), "{nowhere:#}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_snapshot_is_named_by_the_time_of_day() {
        let name = snapshot_name();
        let time = name.strip_prefix("portchurn-").and_then(|rest| rest.strip_suffix(".json")).unwrap();
        assert!(time.len() == 6 && time.bytes().all(|byte| byte.is_ascii_digit()), "{name}");
    }
}
