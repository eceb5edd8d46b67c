//! `portchurn top`: who opens and closes connections, where to, how fast. A screen on a terminal, text everywhere else.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::commands::options::{
    FilterArgs, SelectArgs, Stack, StopArgs, TracerArgs, loader_options, parse_duration,
};
use crate::commands::session::{Event, Session, block_on};
use crate::commands::text::TextArgs;
use crate::commands::{EventsLost, Usage, logger, screen, terminal};
use crate::filter::{Filter, Scope};
use crate::model::row::Level;
use crate::sinks::view::{columns_help, parse_columns, parse_sort};
use crate::sinks::{Filtering, OutputFormat, View};
use crate::sources::host_names::host_names;

const EXAMPLES: &str = "\
Examples:
  portchurn top                                   who churns, where to, how fast
  portchurn top -D 3306,6379                      only connects to MySQL and Redis
  portchurn top --group-by process -f 'life<10ms' single processes with short-lived connections
  portchurn top --once -i 5s -o json | jq .totals five seconds as one JSON document
  portchurn top -b -o csv -w churn.csv            a table per second, into a file

In text mode, SIGUSR1 prints the table of the moment on stderr.";

/// Arguments of `top`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Time between refreshes, over which rates are taken
    #[arg(short, long, alias = "delay", short_alias = 'd', value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// Stop after this many refreshes
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Text instead of the screen; implied when stdout is no terminal
    #[arg(short, long)]
    batch: bool,
    /// One refresh as text, after one full interval
    #[arg(long, conflicts_with = "count")]
    once: bool,
    #[command(flatten)]
    stop: StopArgs,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    tracer: TracerArgs,
}

/// What to show, and how.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What to show")]
struct ShowArgs {
    /// What a row stands for [default: program, or what the filter asks for]
    #[arg(long, value_enum)]
    group_by: Option<Group>,
    /// Columns: a,b,c or +a,-b; `help` lists them
    #[arg(long, value_name = "COLUMNS", allow_hyphen_values = true)]
    columns: Option<String>,
    /// Order: a,-b; - is largest first [default: busiest first]
    #[arg(short, long, value_name = "COLUMNS", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Names of hosts and ports, from /etc/hosts and /etc/services, instead of numbers
    #[arg(long)]
    names: bool,
    /// At most so many rows
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Format of the text
    #[arg(short, long, value_enum)]
    output: Option<OutputFormat>,
    #[command(flatten)]
    text: TextArgs,
    /// Leave the mouse to the terminal, which needs it to select text
    #[arg(long)]
    no_mouse: bool,
    /// Draw the screen into this SVG file at the end
    #[arg(long, value_name = "FILE", hide = true)]
    picture: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Group {
    /// Processes that run the same thing
    Program,
    /// Programs and their destinations
    Destination,
    /// Single processes
    Process,
    /// Containers, and systemd units outside of them
    Container,
}

impl From<Group> for Level {
    fn from(group: Group) -> Self {
        match group {
            Group::Program => Self::Program,
            Group::Destination => Self::Destination,
            Group::Process => Self::Process,
            Group::Container => Self::Container,
        }
    }
}

/// Runs until it is told to stop.
pub fn run(args: Args, quiet: bool) -> Result<u8> {
    if args.show.columns.as_deref() == Some("help") {
        std::io::stdout().write_all(columns_help().as_bytes())?;
        return Ok(0);
    }
    let wants_text = args.batch || args.once || args.show.output.is_some() || args.show.text.has_file();
    let is_screen = !wants_text && terminal::is_interactive();
    if args.filter.is_help() {
        std::io::stdout().write_all(Filter::help().as_bytes())?;
        return Ok(0);
    }
    args.filter.check(Scope::Rows)?;
    let view = view(&args, is_screen)?;
    let options = loader_options(&args.select, &args.tracer, false)?;
    block_on(async {
        let mut output = if is_screen { None } else { Some(args.show.text.open()?) };
        let mut session = Session::start(&options, args.interval, args.stop.duration)?;
        match output.take() {
            None => {
                let base_command = args.select.command_line(&args.tracer.command_line("portchurn top"));
                let look = screen::Look {
                    count: args.count,
                    mouse: !args.show.no_mouse,
                    base_command,
                    keep_grouping: args.show.group_by.is_some(),
                };
                screen::run(&mut session, view, look, args.interval).await?;
            }
            Some(output) => {
                batch(&mut session, &args, &view, output).await?;
                if let Some(path) = &args.show.picture {
                    screen::picture(&session, view, args.interval, path)?;
                }
            }
        }
        if !quiet {
            logger::note(&session.summary.to_string());
        }
        match session.summary.lost() {
            lost if args.stop.strict && lost > 0 => Err(EventsLost(lost).into()),
            _ => Ok(0),
        }
    })
}

fn view(args: &Args, is_screen: bool) -> Result<View> {
    let show = &args.show;
    let filter = &args.filter.filter;
    let level =
        show.group_by.map_or_else(|| filter.as_ref().map_or(Level::Program, Filter::level), Level::from);
    let call_sites = args.tracer.stack != Some(Stack::Off);
    let columns = show.columns.as_deref().map(|text| parse_columns(text, level, call_sites));
    let columns = columns.transpose().map_err(Usage)?;
    let sort = show.sort.as_deref().map(parse_sort).transpose().map_err(Usage)?.unwrap_or_default();
    Ok(View {
        level,
        call_sites,
        names: show.names.then(|| Arc::new(host_names())),
        columns,
        sort,
        limit: show.limit,
        filter: filter.clone().map(filtering),
        include_exited: true,
        page: show.text.page(is_screen),
    })
}

/// A filter as outputs take it.
pub fn filtering(filter: Filter) -> Filtering {
    Filtering { text: filter.text().to_owned(), matches: Box::new(move |row| filter.matches(row)) }
}

async fn batch(session: &mut Session, args: &Args, view: &View, output: Box<dyn Write>) -> Result<()> {
    let mut sink = args.show.output.unwrap_or_default().open(output);
    let count = if args.once { Some(1) } else { args.count };
    let mut done = 0;
    while count.is_none_or(|count| done < count) {
        match session.next().await? {
            Event::Tick => {
                // What is written once must not tell of sockets as they were before.
                if args.once {
                    session.collector.read_sockets_now();
                }
                session.sample_settled()?;
                sink.snapshot(view, &session.model.snapshot())?;
                done += 1;
            }
            Event::Report => report(session, view)?,
            Event::Pump | Event::Suspend => {}
            Event::Stop => {
                session.sample_settled()?;
                if done == 0 {
                    sink.snapshot(view, &session.model.snapshot())?;
                }
                break;
            }
        }
    }
    sink.finish()?;
    Ok(())
}

/// The current table, on stderr, in between.
fn report(session: &mut Session, view: &View) -> Result<()> {
    let mut sink = OutputFormat::Table.open(Box::new(std::io::stderr()));
    sink.snapshot(view, &session.model.snapshot())?;
    sink.finish()?;
    Ok(())
}
