//! `portchurn timewait`: whose every TIME_WAIT is. The kernel has forgotten it; the cookie of the socket proves it.

use anyhow::Result;
use serde_json::json;

use crate::commands::listing::{self, ListArgs};
use crate::model::lists::time_wait;

const EXAMPLES: &str = "\
Examples:
  portchurn timewait                    every two seconds, by program and destination
  portchurn timewait -i 65s --once      once all that was there before has ended: whose is every one
  portchurn timewait -n 1 -o json | jq .time_wait.owners
  portchurn timewait -D 3306            those of connects to MySQL

A TIME_WAIT lasts a minute, so a minute after the start none is left from before.";

/// Arguments of `timewait`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    list: ListArgs,
}

/// Runs until it is told to stop.
pub fn run(args: Args, quiet: bool) -> Result<u8> {
    listing::run(
        &args.list,
        time_wait::sheet,
        |snapshot| Ok(json!({ "time_wait": snapshot.time_wait })),
        quiet,
    )
}
