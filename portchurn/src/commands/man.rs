//! `portchurn man`: the man pages, from the definitions of the command line.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::commands::DONE;

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write every page into this folder, portchurn.1 and portchurn-top.1 and so on, instead of the first to stdout
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Writes the pages.
pub fn run(args: &Args) -> Result<u8> {
    let command = Cli::command();
    let Some(folder) = &args.folder else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        std::io::stdout().write_all(&page)?;
        return DONE;
    };
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("write man pages to {}", folder.display()))?;
    DONE
}
