//! The subcommands: the only place where parts meet. Each file owns its arguments and its run; this one turns how a
//! run ended into an exit status.

use std::fmt;
use std::io;
use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Cli, Command};

pub mod check;
pub mod completions;
pub mod listing;
pub mod logger;
pub mod man;
pub mod options;
pub mod output;
pub mod ports;
pub mod screen;
pub mod session;
pub mod sites;
mod stop;
pub mod summary;
pub mod terminal;
pub mod text;
pub mod timewait;
pub mod top;
pub mod trace;
mod trace_names;
mod waiting;
mod watchers;
pub mod who;

/// Something was lost and `--strict` was given: exit status 6.
#[derive(Debug)]
pub struct EventsLost(pub u64);

impl fmt::Display for EventsLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events were lost, and --strict was given", self.0)
    }
}

impl std::error::Error for EventsLost {}

/// What was asked for makes no sense, which the parser of the command line could not know: exit status 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Runs the command; a status, and on stderr why it is not 0.
pub fn run(cli: Cli) -> ExitCode {
    logger::start(cli.verbose, cli.quiet);
    let quiet = cli.quiet;
    let outcome = match cli.command {
        Command::Top(args) => top::run(args, quiet),
        Command::Trace(args) => trace::run(args, quiet),
        Command::TimeWait(args) => timewait::run(args, quiet),
        Command::Ports(args) => ports::run(args, quiet),
        Command::Who(args) => who::run(&args),
        Command::Sites(args) => sites::run(args, quiet),
        Command::Check(args) => check::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(err) => report(&err),
    }
}

fn report(err: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(err) {
        return ExitCode::SUCCESS;
    }
    logger::error(&format!("{err:#}"));
    ExitCode::from(status(err))
}

fn status(err: &anyhow::Error) -> u8 {
    if err.is::<Usage>() {
        return 2;
    }
    if err.is::<EventsLost>() {
        return 6;
    }
    if let Some(err) = err.downcast_ref::<crate::live::error::LoadError>() {
        return err.status();
    }
    1
}

/// The reader went away, as `head` does: that is no error.
fn is_broken_pipe(err: &anyhow::Error) -> bool {
    err.chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|err| err.kind() == io::ErrorKind::BrokenPipe)
}

/// Everything went well.
pub const DONE: Result<u8> = Ok(0);
