//! `portchurn completions SHELL`: a completion script, from the definitions of the command line.

use anyhow::Result;
use clap::{Command, CommandFactory as _};
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
    generate(args.shell, &mut without_hidden(&Cli::command()), "portchurn", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script)?;
    DONE
}

/// What the help hides is not completed either; clap's generator for bash would.
fn without_hidden(command: &Command) -> Command {
    let about = command.get_about().cloned().unwrap_or_default();
    Command::new(command.get_name().to_owned())
        .about(about)
        .visible_aliases(command.get_visible_aliases().map(str::to_owned).collect::<Vec<_>>())
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned())
        .subcommands(command.get_subcommands().map(without_hidden))
}
