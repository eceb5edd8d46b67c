//! The program: reads the command line, runs the command, turns its end into an exit status. Nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use portchurn::cli::Cli;

fn main() -> ExitCode {
    portchurn::live::memory::share_one_heap();
    portchurn::live::memory::outlive_files_that_shrink();
    portchurn::commands::run(Cli::parse())
}
