//! The terminal while the screen has it: raw mode and the alternate screen, given back however the program ends.
//! Draws nothing itself.

use std::io;
use std::io::stdout;

use ratatui::DefaultTerminal;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;

/// Has the terminal; gives it back when dropped. A panic gives it back before its message is printed.
pub struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// Takes the terminal.
    pub fn open() -> io::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self { terminal }),
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
        ratatui::crossterm::terminal::enable_raw_mode()?;
        execute!(stdout(), ratatui::crossterm::terminal::EnterAlternateScreen)?;
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// There is nobody left to tell if this fails: the terminal is gone.
fn give_back() {
    let _ = ratatui::try_restore();
    let _ = execute!(stdout(), Show);
}
