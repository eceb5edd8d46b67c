//! How text is written, for every command that prints tables.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use anyhow::Result;

use crate::commands::output::open_output;
use crate::commands::terminal;
use crate::sinks::Page;

/// Where text goes, and what it looks like.
#[derive(Debug, clap::Args)]
pub struct TextArgs {
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// No headings
    #[arg(long)]
    no_header: bool,
    /// Never cut text to the width of the terminal
    #[arg(long)]
    wide: bool,
    /// When to use colour
    #[arg(long, value_enum, default_value_t)]
    color: terminal::Color,
}

impl TextArgs {
    /// Whether it goes into a file that was named.
    pub fn has_file(&self) -> bool {
        self.write.is_some()
    }

    /// Opens it.
    ///
    /// # Errors
    /// As [`open_output`].
    pub fn open(&self) -> Result<Box<dyn io::Write>> {
        open_output(self.write.as_deref())
    }

    /// What a page can show. `is_screen`: it is drawn, not printed.
    pub fn page(&self, is_screen: bool) -> Page {
        let to_terminal = self.write.is_none() && io::stdout().is_terminal();
        Page {
            host: terminal::host(),
            width: if self.wide || !to_terminal { None } else { terminal::width() },
            header: !self.no_header,
            colour: self.color.is_on(to_terminal || is_screen),
            unicode: terminal::speaks_unicode(),
            terminal: to_terminal,
        }
    }
}
