//! The terminal while the screen has it: raw mode and the alternate screen, given back however the program ends.
//! Draws nothing itself.

use std::io;
use std::io::{stdin, stdout};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{DisableMouseCapture, EnableMouseCapture};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, enable_raw_mode};
use ratatui::{DefaultTerminal, Terminal};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// How the terminal was before the first screen took it.
static BEFORE: OnceLock<Termios> = OnceLock::new();
/// Whether a screen has it.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);
/// No mouse, the main screen, the cursor: what [`give_back`] says, in one piece.
const LEAVE: &[u8] = b"\x1b[?1006l\x1b[?1015l\x1b[?1003l\x1b[?1002l\x1b[?1000l\x1b[?1049l\x1b[?25h";

/// Gives the terminal back, if a screen has it, where nothing else may be done any more: in a handler of a signal. Two system
/// calls of signal-safety(7).
pub fn give_back_in_handler() {
    let Some(before) = BEFORE.get() else { return };
    if IS_TAKEN.swap(false, Ordering::AcqRel) {
        let _ = rustix::io::write(stdout(), LEAVE);
        let _ = tcsetattr(stdin(), OptionalActions::Now, before);
    }
}

/// Has the terminal; gives it back when dropped. A panic gives it back before its message is printed.
pub struct Screen {
    terminal: DefaultTerminal,
    mouse: bool,
}

impl Screen {
    /// Takes the terminal; with `mouse` also the mouse, which then no longer selects text.
    pub fn open(mouse: bool) -> io::Result<Self> {
        match take(mouse) {
            Ok(terminal) => Ok(Self { terminal, mouse }),
            Err(error) => {
                // It may have got half way.
                give_back();
                Err(error)
            }
        }
    }

    /// The terminal, to draw on. It notices by itself when it was resized.
    pub fn terminal(&mut self) -> &mut DefaultTerminal {
        &mut self.terminal
    }

    /// Gives the terminal back for a while, as before SIGTSTP.
    pub fn suspend(&mut self) {
        give_back();
    }

    /// Takes it again, as after SIGCONT.
    pub fn resume(&mut self) -> io::Result<()> {
        IS_TAKEN.store(true, Ordering::Release);
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen)?;
        if self.mouse {
            execute!(stdout(), EnableMouseCapture)?;
        }
        // All of it is to be drawn anew. To clear the old one would ask the terminal for its cursor, and the answer would go to
        // whoever waits for keys.
        self.terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take(mouse: bool) -> io::Result<DefaultTerminal> {
    if let Ok(before) = tcgetattr(stdin()) {
        let _ = BEFORE.set(before);
    }
    IS_TAKEN.store(true, Ordering::Release);
    // It also has a panic give the terminal back.
    let terminal = ratatui::try_init()?;
    if mouse {
        execute!(stdout(), EnableMouseCapture)?;
        let give_back_the_rest = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = execute!(stdout(), DisableMouseCapture);
            give_back_the_rest(panic);
        }));
    }
    // A panic elsewhere does not end the program, so that it must not take the screen away.
    let (here, give_back) = (std::thread::current().id(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() == here {
            give_back(panic);
        } else {
            // Its text may be of a file that means harm.
            log::error!("{:?}", panic.to_string());
        }
    }));
    Ok(terminal)
}

/// There is nobody left to tell if this fails: the terminal is gone.
fn give_back() {
    // Without a mouse taken this says nothing that matters to a terminal.
    let _ = execute!(stdout(), DisableMouseCapture);
    let _ = ratatui::try_restore();
    let _ = execute!(stdout(), Show);
    IS_TAKEN.store(false, Ordering::Release);
}
