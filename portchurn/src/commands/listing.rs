//! What `timewait` and `ports` share: a list that is written at every interval.

use std::time::Duration;

use anyhow::Result;

use crate::commands::options::{SelectArgs, StopArgs, TracerArgs, loader_options, parse_duration};
use crate::commands::session::{Event, Session, block_on};
use crate::commands::text::TextArgs;
use crate::commands::{EventsLost, logger};
use crate::model::lists::List;
use crate::sinks::OutputFormat;
use crate::sinks::sheet::{Part, SheetSink};

/// Arguments of both.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Time between two lists
    #[arg(short, long, alias = "delay", short_alias = 'd', value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    interval: Duration,
    /// Stop after this many lists
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// One list, after one full interval
    #[arg(long, conflicts_with = "count")]
    once: bool,
    /// At most so many rows [default: 40 in a table, all elsewhere]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Format of the text
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    stop: StopArgs,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    tracer: TracerArgs,
}

/// Writes a list until it is told to stop.
pub fn run(args: &ListArgs, list: List, part: Part, quiet: bool) -> Result<u8> {
    let options = loader_options(&args.select, &args.tracer, false)?;
    block_on(async {
        let output = args.text.open()?;
        let mut sink = SheetSink::new(output, args.output, args.text.page(false), list, part, limit(args));
        let mut session = Session::start(&options, args.interval, args.stop.duration)?;
        write(&mut session, args, &mut sink).await?;
        if !quiet {
            logger::note(&session.summary.to_string());
        }
        match session.summary.lost() {
            lost if args.stop.strict && lost > 0 => Err(EventsLost(lost).into()),
            _ => Ok(0),
        }
    })
}

fn limit(args: &ListArgs) -> Option<usize> {
    const ROWS: usize = 40;
    args.limit.or((args.output == OutputFormat::Table).then_some(ROWS))
}

async fn write(session: &mut Session, args: &ListArgs, sink: &mut SheetSink) -> Result<()> {
    let mut left = if args.once { Some(1) } else { args.count };
    while left != Some(0) {
        match session.next().await? {
            Event::Tick => {
                session.sample()?;
                if left == Some(1) {
                    read_now(session)?;
                }
                sink.snapshot(&session.model.snapshot())?;
                left = left.map(|left| left - 1);
            }
            Event::Pump | Event::Report | Event::Suspend => {}
            Event::Stop => {
                session.sample()?;
                read_now(session)?;
                return Ok(sink.snapshot(&session.model.snapshot())?);
            }
        }
    }
    Ok(())
}

/// The last list is no estimate. What was counted before belongs into a sample of its own: of one that holds a reading,
/// the model can but guess which part came after it.
fn read_now(session: &mut Session) -> Result<()> {
    session.collector.read_sockets_now();
    session.sample_settled().map(drop)
}
