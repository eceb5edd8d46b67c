//! The command line: the list of subcommands and what all of them share. Each subcommand owns its arguments; help,
//! completions and man pages are generated from these definitions and from nothing else.

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand};

use crate::commands::{check, completions, man, ports, sites, timewait, top, trace, who};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

/// What every subcommand ends with.
pub const EXIT_STATUS: &str = "\
Exit status:
  0  done, also after Ctrl-C
  1  runtime error; of `who`: not found
  2  usage
  4  not permitted
  5  this kernel cannot
  6  events were lost and --strict was given";

/// Which program, destination and process churns TCP connections, and at what rate.
///
/// portchurn counts in the kernel, so it misses no connection however short; it reads only, pins nothing, and is gone
/// without a trace when it ends.
#[derive(Debug, Parser)]
#[command(name = "portchurn", version, long_version = long_version(), styles = STYLES, after_help = EXIT_STATUS)]
#[command(arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// Say more on stderr: -v what ran where, -vv also what the verifier said
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Everything that portchurn does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Live screen: who opens and closes connections, where to, how fast
    Top(top::Args),
    /// One line for each connect, accept, close and failure
    ///
    /// A question mark behind a program: it listens there, and so is most likely the one that will accept.
    Trace(trace::Args),
    /// Whose every TIME_WAIT is, and who closed first
    #[command(name = "timewait")]
    TimeWait(timewait::Args),
    /// How many local ports are left for each destination, and when they run out
    Ports(ports::Args),
    /// Which process opened the connection that a server shows as ADDR:PORT
    Who(who::Args),
    /// The lines of code that open and close connections
    Sites(sites::Args),
    /// What this kernel and these privileges allow, and what to do about the rest
    #[command(visible_alias = "doctor")]
    Check(check::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Write the man pages
    Man(man::Args),
}

fn long_version() -> String {
    format!(
        "{}\nBPF object: {}\nbuilt for:  {}-{}\nkernel:     5.10 or later",
        env!("CARGO_PKG_VERSION"),
        object_digest(),
        std::env::consts::ARCH,
        std::env::consts::OS,
    )
}

/// The digest of the embedded object, as its lock states it.
fn object_digest() -> &'static str {
    let lock = include_str!("../bpf/portchurn.bpf.lock");
    lock.lines()
        .find(|line| line.contains("sha256"))
        .and_then(|line| line.split('"').rfind(|part| part.len() == 64))
        .unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{Cli, object_digest};

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_version_names_the_object() {
        assert_eq!(object_digest().len(), 64);
    }
}
