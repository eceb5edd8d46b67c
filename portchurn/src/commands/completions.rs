//! `portchurn completions SHELL`: a completion script, from the definitions of the command line.

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use crate::cli::Cli;
use crate::commands::DONE;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For which shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args) -> Result<u8> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "portchurn", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script)?;
    DONE
}
