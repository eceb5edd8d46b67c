//! `portchurn trace`: one line for each connect, accept, close and failure. For a look at single connections; every
//! event crosses to user space, which `top` avoids.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use portchurn_common::record::FlowRecord;

use crate::commands::options::{FilterArgs, SelectArgs, StopArgs, TracerArgs, loader_options};
use crate::commands::output::open_output;
use crate::commands::session::{Event, Session, block_on, now_ns};
use crate::commands::trace_names::Names;
use crate::commands::waiting::Waiting;
use crate::commands::{EventsLost, logger, terminal};
use crate::filter::{Filter, Scope};
use crate::model::Model;
use crate::model::budget::Exhaustion;
use crate::model::event::TraceEvent;
use crate::model::lists::ports::event_text;
use crate::model::sample::ProcessId;
use crate::sinks::Page;
use crate::sinks::events::{EventFormat, EventSink};
use crate::sinks::text::clean;

const EXAMPLES: &str = "\
Examples:
  portchurn trace                          everything
  portchurn trace -p 4711 -n 100           a hundred events of one process
  portchurn trace -D 3306 -f 'event=fail'  connects to MySQL that fail
  portchurn trace --stack auto -D 3306     and the line of code behind each connect and close
  portchurn trace -o jsonl | jq .remote_address

Events that come faster than they can be written are counted as lost; counts of `top` are not touched by that.";

/// Arguments of `trace`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Stop after this many events
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Format of the lines
    #[arg(short, long, value_enum, default_value_t)]
    output: EventFormat,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Times in UTC instead of local time
    #[arg(long)]
    utc: bool,
    /// No heading
    #[arg(long)]
    no_header: bool,
    #[command(flatten)]
    stop: StopArgs,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    tracer: TracerArgs,
}

/// Names are read, and events are written, at this pace; also when nothing happens.
const INTERVAL: Duration = Duration::from_millis(100);

/// Runs until it is told to stop.
pub fn run(args: Args, quiet: bool) -> Result<u8> {
    if args.filter.is_help() {
        std::io::stdout().write_all(Filter::help().as_bytes())?;
        return Ok(0);
    }
    args.filter.check(Scope::Events)?;
    let options = loader_options(&args.select, &args.tracer, true)?;
    block_on(async {
        let output = open_output(args.write.as_deref())?;
        let to_terminal = args.write.is_none() && std::io::stdout().is_terminal();
        let page = Page {
            width: if to_terminal { terminal::width() } else { None },
            header: !args.no_header,
            unicode: terminal::speaks_unicode(),
            terminal: to_terminal,
            ..Page::default()
        };
        let mut session = Session::start(&options, INTERVAL, args.stop.duration)?;
        let mut tracer = Tracer {
            sink: EventSink::new(output, args.output, page, session.takes_stacks()),
            waiting: Waiting::new(session.takes_stacks()),
            clock: Clock::new(args.utc),
            names: Names::default(),
            filter: args.filter.filter.clone(),
            wants_owner: !args.select.pids.is_empty() || args.select.comm.is_some(),
            left: args.count,
            alerts: HashMap::new(),
            quiet,
        };
        trace(&mut session, &mut tracer).await?;
        if !quiet {
            logger::note(&session.summary.to_string());
        }
        match session.summary.lost() {
            lost if args.stop.strict && lost > 0 => Err(EventsLost(lost).into()),
            _ => Ok(0),
        }
    })
}

async fn trace(session: &mut Session, tracer: &mut Tracer) -> Result<()> {
    while tracer.left != Some(0) {
        let event = session.next().await?;
        if matches!(event, Event::Pump | Event::Report | Event::Suspend) {
            continue;
        }
        let at_end = matches!(event, Event::Stop);
        let sample = if at_end { session.sample_settled()? } else { session.sample()? };
        tracer.clock.compare();
        tracer.names.learn(&sample);
        tracer.waiting.learn(session.collector.take_flow_sites());
        for record in session.collector.take_flows() {
            tracer.take(&record, sample.at_ns);
        }
        while let Some(event) = tracer.waiting.pop(&session.model, sample.at_ns, at_end) {
            tracer.write(&event)?;
        }
        tracer.sink.flush()?;
        tracer.alert(&session.model, sample.at_ns, at_end);
        tracer.names.forget(sample.at_ns);
        if at_end {
            break;
        }
    }
    Ok(())
}

/// How long an alert waits for who holds the ports, and for the name of the line that failed. Less than it takes for an
/// exhaustion to be over. Nanoseconds.
const EXPLAINED_IN_NS: u64 = 2_000_000_000;

/// Whether the holders were read since it began, as a list from before may lack most of them, and the line of code is known,
/// if any will be.
fn is_explained(event: &Exhaustion) -> bool {
    let lasted_s = event.last_s - event.first_s;
    let is_read = event.holders_read_ago_s.is_some_and(|ago_s| ago_s <= lasted_s);
    let sites = event.failed.first().and_then(|by| by.call_sites.as_ref());
    let is_placed = sites.is_none_or(|sites| sites.iter().any(|site| site.culprit.is_some()));
    is_read && !event.holders.is_empty() && is_placed
}

/// What exhaustions are told apart by.
type Target = (u32, Option<IpAddr>, Option<u16>);

/// An exhaustion that goes on.
struct Alert {
    seen_ns: u64,
    is_said: bool,
}

struct Tracer {
    sink: EventSink,
    waiting: Waiting,
    clock: Clock,
    names: Names,
    filter: Option<Filter>,
    /// Only some processes were asked for.
    wants_owner: bool,
    /// How many events are still wanted.
    left: Option<u64>,
    /// Exhaustions that go on, by destination.
    alerts: HashMap<Target, Alert>,
    quiet: bool,
}

impl Tracer {
    /// Says on stderr that ports have run out, once for as long as it goes on, as soon as it is known who holds them.
    fn alert(&mut self, model: &Model, now_ns: u64, at_end: bool) {
        for event in model.exhaustion() {
            let target = (event.netns, event.remote_address, event.remote_port);
            if !event.ongoing {
                self.alerts.remove(&target);
                continue;
            }
            let alert = self.alerts.entry(target).or_insert(Alert { seen_ns: now_ns, is_said: false });
            let has_waited = at_end || now_ns.saturating_sub(alert.seen_ns) > EXPLAINED_IN_NS;
            if !self.quiet && !alert.is_said && (has_waited || is_explained(&event)) {
                alert.is_said = true;
                logger::note(&clean(&event_text(&event), terminal::speaks_unicode()));
            }
        }
    }

    /// Finds out whose an event is, as long as that is known, and keeps it if it is wanted.
    fn take(&mut self, record: &FlowRecord, now_ns: u64) {
        // The kernel side lets pass what nobody has accepted yet: it may turn out to be wanted.
        if self.wants_owner && record.tgid == 0 {
            return;
        }
        let id = ProcessId { tgid: record.tgid, start_ns: record.start_ns };
        let (process, program) = self.names.of(id);
        let Some(event) = TraceEvent::new(record, process, program) else { return };
        if self.filter.as_ref().is_none_or(|filter| filter.matches_event(&event)) {
            self.waiting.push(event, now_ns);
        }
    }

    fn write(&mut self, event: &TraceEvent) -> Result<()> {
        if self.left == Some(0) {
            return Ok(());
        }
        let (time, rfc3339) = self.clock.tell(event.at_ns);
        self.sink.event(event, &time, &rfc3339)?;
        self.left = self.left.map(|left| left - 1);
        Ok(())
    }
}

/// Turns the kernel's clock, which stands still while the host sleeps, into that on the wall, which may be set.
struct Clock {
    anchor: Timestamp,
    anchor_ns: u64,
    zone: TimeZone,
}

/// They are not read at the same instant: less is no difference.
const SAME: SignedDuration = SignedDuration::from_millis(2);

impl Clock {
    fn new(utc: bool) -> Self {
        let zone = if utc { TimeZone::UTC } else { TimeZone::system() };
        Self { anchor: Timestamp::now(), anchor_ns: now_ns(), zone }
    }

    /// Compares the clocks once more: what is told from here on is told by what they say now.
    fn compare(&mut self) {
        let (before_ns, now, after_ns) = (now_ns(), Timestamp::now(), now_ns());
        // Whoever was kept waiting in between has compared nothing.
        if after_ns - before_ns < SAME.as_nanos() as u64 {
            self.follow(now, after_ns);
        }
    }

    fn follow(&mut self, now: Timestamp, now_ns: u64) {
        if self.at(now_ns).duration_until(now).abs() > SAME {
            (self.anchor, self.anchor_ns) = (now, now_ns);
        }
    }

    fn at(&self, at_ns: u64) -> Timestamp {
        let since_ns = at_ns.cast_signed() - self.anchor_ns.cast_signed();
        self.anchor.saturating_add(SignedDuration::from_nanos(since_ns)).unwrap_or(self.anchor)
    }

    fn tell(&self, at_ns: u64) -> (String, String) {
        let at = self.at(at_ns);
        let local = at.to_zoned(self.zone.clone());
        (local.strftime("%H:%M:%S%.6f").to_string(), local.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string())
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::Clock;

    #[test]
    fn after_a_sleep_of_the_host_times_are_those_on_the_wall() {
        let mut clock = Clock::new(true);
        let (anchor, anchor_ns) = (clock.anchor, clock.anchor_ns);
        let hour = SignedDuration::from_hours(1);
        clock.follow(anchor + SignedDuration::from_secs(5), anchor_ns + 5_000_000_000);
        assert_eq!(clock.at(anchor_ns), anchor, "both went on alike");
        clock.follow(anchor + hour, anchor_ns + 6_000_000_000);
        assert_eq!(clock.at(anchor_ns + 6_000_000_000), anchor + hour);
        assert_eq!(clock.at(anchor_ns + 7_000_000_000), anchor + hour + SignedDuration::from_secs(1));
    }
}
