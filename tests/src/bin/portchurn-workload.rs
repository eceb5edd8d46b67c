//! Runs one workload. The last line of its output is what it did, as JSON (`portchurn_tests::truth`).

use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use clap::{Parser, ValueEnum};
use portchurn_tests::workloads::{self, Family, Plan, Unavailable};

/// Makes a known number of TCP connections in a known way, and prints what it did.
#[derive(Debug, Parser)]
#[command(after_help = list())]
struct Arguments {
    /// What to do
    #[arg(value_parser = PossibleValuesParser::new(workloads::all().map(|w| w.name)), hide_possible_values = true)]
    workload: String,
    /// How often
    #[arg(long, default_value_t = 23)]
    count: u64,
    /// Which addresses
    #[arg(long, value_enum, default_value_t = Family::V4)]
    family: Family,
    /// MPTCP instead of TCP
    #[arg(long)]
    mptcp: bool,
    /// Listening ports to spread over
    #[arg(long, default_value_t = 1)]
    ports: u8,
    /// Network namespace
    #[arg(long, value_enum, default_value_t = Netns::Host)]
    netns: Netns,
    /// The connections of `hold` are there before the tracer
    #[arg(long)]
    early: bool,
    /// Processor that clients stay on
    #[arg(long)]
    client_cpu: Option<usize>,
    /// Processor that servers stay on
    #[arg(long)]
    server_cpu: Option<usize>,
    /// Port of a server that runs already
    #[arg(long)]
    port: Option<u16>,
    /// How long `soak` goes on, at most
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// How many clients `soak` starts, at most
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    processes: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Netns {
    /// The one this was started in
    Host,
    /// A new one, with nothing but loopback
    Own,
}

fn list() -> String {
    let lines = workloads::all().map(|workload| format!("  {:20} {}", workload.name, workload.about));
    format!("Workloads:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "portchurn-workload: {error:#}");
            ExitCode::from(if error.is::<Unavailable>() { Unavailable::EXIT_CODE as u8 } else { 1 })
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let workload =
        workloads::all().find(|known| known.name == arguments.workload).context("find the workload")?;
    let plan = Plan {
        count: arguments.count,
        family: arguments.family,
        mptcp: arguments.mptcp,
        ports: usize::from(arguments.ports),
        own_netns: arguments.netns == Netns::Own,
        is_bulk: arguments.count > 1009,
        is_early: arguments.early,
        client_cpu: arguments.client_cpu,
        server_cpu: arguments.server_cpu,
        port: arguments.port,
        seconds: arguments.seconds,
        processes: arguments.processes,
    };
    let truth = workload.run(&plan)?;
    writeln!(stdout(), "{}", serde_json::to_string(&truth)?).context("print what was done")
}
