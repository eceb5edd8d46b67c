//! `portchurn sites`: the lines of code that open and close connections, after a time or at Ctrl-C.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::commands::options::{SelectArgs, Stack, TracerArgs, loader_options, parse_duration};
use crate::commands::output::open_output;
use crate::commands::session::{Event, Session, block_on};
use crate::commands::{Usage, logger, terminal};
use crate::sinks::sites::{Format, Weight, write};

const EXAMPLES: &str = "\
Examples:
  portchurn sites -D 3306                             which lines open connections to MySQL, for ten seconds
  portchurn sites --duration 1m -o json               everything of a minute, whole stacks
  portchurn sites -o svg -w sites.svg                 a flame graph for the browser, weighed by connections
  portchurn sites -o pprof --weight time-wait -w p.pb a profile of the ports that are kept in TIME_WAIT
  go tool pprof -http : p.pb                          look at it";

/// Arguments of `sites`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Look for so long, or until Ctrl-C
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// What a stack weighs in folded, pprof and svg
    #[arg(long, value_enum, default_value_t)]
    weight: Weight,
    /// Write to a file
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    tracer: TracerArgs,
}

/// How often is counted in between.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks, then prints.
pub fn run(args: Args, quiet: bool) -> Result<u8> {
    if args.tracer.stack == Some(Stack::Off) {
        return Err(Usage("without stacks there are no call sites: leave --stack off out".to_owned()).into());
    }
    let options = loader_options(&args.select, &args.tracer, false)?;
    block_on(async {
        let mut out = open_output(args.write.as_deref())?;
        let mut session = Session::start(&options, INTERVAL, Some(args.duration))?;
        if !quiet && std::io::stderr().is_terminal() {
            let duration_s = args.duration.as_secs_f64();
            logger::note(&format!("looking for {duration_s} s; Ctrl-C ends it and shows what there is"));
        }
        loop {
            match session.next().await? {
                Event::Tick => drop(session.sample()?),
                Event::Stop => break,
                Event::Pump | Event::Report | Event::Suspend => {}
            }
        }
        session.sample_settled()?;
        if args.weight == Weight::TimeWait {
            session.collector.read_sockets_now();
            session.sample()?;
        }
        let snapshot = session.model.snapshot();
        if let Some(hook) =
            snapshot.hooks.iter().find(|hook| hook.name == "call_sites" && hook.attached == "none")
        {
            let reason = hook.reason.as_deref().unwrap_or_default();
            logger::note(&format!("call sites cannot be taken on this kernel: {reason}"));
        }
        let to_terminal = args.write.is_none() && std::io::stdout().is_terminal();
        write(&snapshot, args.output, args.weight, !to_terminal || terminal::speaks_unicode(), &mut *out)?;
        if !quiet {
            logger::note(&session.summary.to_string());
        }
        Ok(0)
    })
}
