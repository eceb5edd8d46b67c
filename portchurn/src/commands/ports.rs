//! `portchurn ports`: how many local ports are left for each destination, and when they run out.

use anyhow::Result;
use serde_json::json;

use crate::commands::listing::{self, ListArgs};
use crate::model::lists::ports;

const EXAMPLES: &str = "\
Examples:
  portchurn ports                       every two seconds, nearest to its end first
  portchurn ports -D 3306 -i 10s        connects to MySQL, over ten seconds
  portchurn ports -n 1 -o json | jq '.ports[] | select(.pressure_ratio > 0.45)'

A time to the end holds if everything goes on as now; what that means stands under each row that is short of ports.";

/// Arguments of `ports`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    list: ListArgs,
}

/// Runs until it is told to stop.
pub fn run(args: Args, quiet: bool) -> Result<u8> {
    let part = |snapshot: &crate::model::snapshot::Snapshot| {
        Ok(json!({ "ports": snapshot.ports, "exhaustion": snapshot.exhaustion }))
    };
    listing::run(&args.list, ports::sheet, part, quiet)
}
