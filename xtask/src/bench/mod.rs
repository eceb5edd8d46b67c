//! `cargo xtask bench`: what tracing costs. Paired and interleaved: the same load runs without and with a tracer, in
//! turns, so that whatever else the machine does meets both. Medians and quartiles, never a single number.
//! The design's budget, but for its 100,000 destinations, which are Criterion's; nothing here is a test, and no test asserts a time.

mod agents;
pub(crate) mod load;
mod proc;
mod report;
mod sites;
mod stats;
mod tracer;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::repo;
use crate::run;
use agents::Agent;
use load::Program;
use report::{Report, Round, Series, Traced};
use tracer::{Kind, Tracer};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pairs of rounds, without and with
    #[arg(long, default_value_t = 15)]
    pairs: usize,
    /// Connections in a round: each is connect, accept and two closes
    #[arg(long, default_value_t = 50_000)]
    cycles: u32,
    /// A smoke run: 2 pairs of 5,000, short rows for the agent. Its numbers mean nothing
    #[arg(long)]
    quick: bool,
    /// One JSON document instead of a table
    #[arg(long)]
    json: bool,
    /// Processor that the load stays on [default: the last]
    #[arg(long)]
    cpu: Option<usize>,
    /// Another portchurn than the one built here
    #[arg(long, value_name = "FILE")]
    portchurn: Option<PathBuf>,
    /// Only these rows
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["cycle", "call-sites", "agent"])]
    rows: Vec<Rows>,
    /// Leave tcplife out, even where it is installed
    #[arg(long)]
    no_tcplife: bool,
    /// More arguments for `portchurn top`
    #[arg(last = true)]
    extra: Vec<String>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Rows {
    /// A connection, untraced and traced
    Cycle,
    /// The same with lines of code
    CallSites,
    /// What portchurn itself uses
    Agent,
}

/// The plan, with all that was left open filled in.
struct Plan {
    pairs: usize,
    cycles: u32,
    cpu: usize,
    idle: Duration,
    is_quick: bool,
    portchurn: PathBuf,
    tracers: Vec<Kind>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "bench attaches tracers: run it as root");
    let plan = plan(args)?;
    let has = |rows| args.rows.contains(&rows);
    let series = if has(Rows::Cycle) { paired(&plan)? } else { Vec::new() };
    let call_sites = if has(Rows::CallSites) { sites::measure(&plan, &args.extra)? } else { Vec::new() };
    let agents = if has(Rows::Agent) { agents::measure(&plan, &args.extra)? } else { Vec::new() };
    let report = Report::new(plan.cycles, plan.cpu, series, call_sites, agents)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    report.print()
}

fn plan(args: &Args) -> Result<Plan> {
    let portchurn = match &args.portchurn {
        Some(path) => path.clone(),
        None => build()?,
    };
    let mut tracers = vec![Kind::portchurn(portchurn.clone(), "off", &args.extra)];
    match Kind::tcplife().filter(|_| !args.no_tcplife) {
        Some(tcplife) => tracers.push(tcplife),
        None => eprintln!("bench: no tcplife beside it (Debian: apt-get install libbpf-tools)"),
    }
    let cpu = match args.cpu {
        Some(cpu) => cpu,
        None => load::processors()? - 1,
    };
    let (pairs, cycles, idle) = if args.quick { (2, 5_000, 3) } else { (args.pairs, args.cycles, 30) };
    ensure!(pairs > 0 && cycles > 0, "bench needs at least one pair and one connection");
    Ok(Plan { pairs, cycles, cpu, idle: Duration::from_secs(idle), is_quick: args.quick, portchurn, tracers })
}

fn build() -> Result<PathBuf> {
    let root = repo::root()?;
    eprintln!("bench: build portchurn");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(&root).env("CARGO_TARGET_DIR", root.join("target"));
    run::run(command.args(["build", "--quiet", "--locked", "--release", "--package=portchurn"]))?;
    Ok(root.join("target/release/portchurn"))
}

/// All rounds of all tracers: without, with the first, with the second; then the other way round, so that what changes
/// slowly favours nobody.
fn paired(plan: &Plan) -> Result<Vec<Series>> {
    eprintln!("bench: warm-up");
    load::run(Program::Native, plan.cycles, plan.cpu)?;
    let mut series: Vec<Series> = plan.tracers.iter().map(Series::new).collect();
    for pair in 1..=plan.pairs {
        let mut turns: Vec<Option<usize>> =
            std::iter::once(None).chain((0..plan.tracers.len()).map(Some)).collect();
        if pair % 2 == 0 {
            turns.reverse();
        }
        let (mut plain, mut traced) = (None, Vec::new());
        for turn in turns {
            match turn {
                None => plain = Some(load::run(Program::Native, plan.cycles, plan.cpu)?),
                Some(index) => traced.push((index, with_tracer(&plan.tracers[index], plan)?)),
            }
        }
        let plain = plain.context("one turn is without a tracer")?;
        for (index, traced) in traced {
            let plain_batches_us = plain.batches_us_per_cycle().collect();
            let round = Round { plain_us: plain.cpu_us_per_cycle(), plain_batches_us, traced };
            eprintln!("bench: pair {pair}/{}: {}", plan.pairs, round.line(&series[index].name));
            series[index].rounds.push(round);
        }
    }
    Ok(series)
}

/// One round with a tracer.
fn with_tracer(kind: &Kind, plan: &Plan) -> Result<Traced> {
    let mut tracer = Tracer::start(kind)?;
    let at = tracer.usage()?;
    let load = load::run(Program::Native, plan.cycles, plan.cpu)?;
    let agent = Agent::between(&at, &tracer.usage()?);
    tracer.wait_for_count(&load);
    let (attach, own) = (tracer.attach, tracer.own_figures());
    let (counted, detach) = tracer.stop_and_count(&load)?;
    Ok(Traced {
        traced_us: load.cpu_us_per_cycle(),
        traced_batches_us: load.batches_us_per_cycle().collect(),
        agent_cpu_ratio: agent.cpu_ratio,
        rss_bytes: agent.rss_bytes,
        map_bytes: own.map_bytes,
        lost: own.lost,
        counted,
        expected: kind.expects(&load),
        attach_ms: 1e3 * attach.as_secs_f64(),
        detach_ms: 1e3 * detach.as_secs_f64(),
    })
}
