//! One run of the tracer: the collector, the model and the clock, paced by an interval and ended by a count, a time or
//! a signal.

use std::time::Duration;

use anyhow::{Context as _, Result};
use portchurn_common::flow::Role;
use portchurn_common::settings::port_filter_key;
use portchurn_common::stack::Effort;
use rustix::process::{Resource, Rlimit, Signal as Sig, getrlimit, setrlimit};
use rustix::time::ClockId;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::commands::stop;
use crate::commands::summary::Summary;
use crate::live::collector::Collector;
use crate::live::loader::{Options, StackMode};
use crate::live::looks::{Look, Looker};
use crate::live::memory::{Own, give_back};
use crate::live::stacks::{Watcher, Watchers};
use crate::model::sample::{ProcessId, Sample};
use crate::model::scope::Scope;
use crate::model::snapshot::HookState;
use crate::model::sockets::SitePair;
use crate::model::who::{Answer, Query, Reply, merged};
use crate::model::{Context, Model};
use crate::sources::ask::{Counter, Question};
use crate::sources::clock;
use crate::symbolize::Attach;
use crate::symbolize::front::Front;
use crate::symbolize::look;
use crate::symbolize::namer::Namer;

/// How often the ring buffer is emptied, whatever the interval is.
const PUMP_EVERY: Duration = Duration::from_millis(100);
/// The same while nothing comes: its megabyte has room for what a thousand new processes say.
const PUMP_IDLE_EVERY: Duration = Duration::from_millis(300);
/// So many times without a record are taken for quiet.
const QUIET_PUMPS: u32 = 10;

/// Now. Nanoseconds, CLOCK_MONOTONIC: the clock of the kernel side.
pub fn now_ns() -> u64 {
    clock::now_ns(ClockId::Monotonic)
}

/// Files of the processes that are looked at are held open, and the usual 1024 are those of some dozen containers. Where that may
/// not be raised, some processes have no names.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// What happened.
pub enum Event {
    /// The interval is over.
    Tick,
    /// Time to empty the ring buffer; done already.
    Pump,
    /// Somebody wants an intermediate result on stderr.
    Report,
    /// SIGTSTP: to stop for a while.
    Suspend,
    /// SIGINT, SIGTERM, or the time is up.
    Stop,
}

/// A tracer that runs.
pub struct Session {
    /// What comes from the kernel.
    pub collector: Collector,
    /// What it means.
    pub model: Model,
    attached_ns: u64,
    namer: Option<Namer>,
    effort: Effort,
    max_cpu_ratio: Option<f64>,
    /// The last line.
    pub summary: Summary,
    questions: UnboundedReceiver<Question>,
    /// Kept for its `Drop`, which closes it. `None`: it could not be opened.
    _counter: Option<Counter>,
    ticks: Interval,
    pumps: Interval,
    /// How many times in a row the ring buffer was empty.
    empty_pumps: u32,
    is_tracing: bool,
    deadline: Option<Instant>,
    interrupt: Signal,
    terminate: Signal,
    report: Signal,
    /// Only whoever has the terminal must hear of it.
    suspend: Option<Signal>,
}

impl Session {
    /// Attaches, and starts the clock.
    ///
    /// # Errors
    /// As [`Collector::attach`].
    pub fn start(options: &Options, interval: Duration, duration: Option<Duration>) -> Result<Self> {
        // Before the attach: a signal that comes meanwhile must not be lost.
        let (interrupt, terminate, report) =
            (on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::user_defined1())?);
        stop::at_the_second_signal()?;
        let takes_stacks = options.stacks != StackMode::Off;
        if takes_stacks {
            allow_open_files();
        }
        let walks = options.stacks == StackMode::Auto;
        let namer = if takes_stacks { Some(Namer::start(&Own, walks)?) } else { None };
        let watchers = namer.as_ref().map(|namer| Watchers {
            // The kernel side tells of an exec where it has to forget an interpreter.
            stacks: Box::new(Stacks(namer.front(walks))),
            looker: Box::new(Looks { looker: namer.looker(), search_threads: options.search_threads }),
        });
        let mut collector = Collector::attach(options, watchers, now_ns())?;
        collector.read_sockets()?;
        let (asked, questions) = unbounded_channel();
        let counter = Counter::open(move |question| asked.send(question).is_ok())
            .inspect_err(|err| log::debug!("`portchurn who` cannot ask this one: {err:#}"))
            .ok();
        // What the start needed, such as the types of the whole kernel.
        give_back();
        let attached_ns = now_ns();
        let counts_skips =
            collector.hooks().iter().all(|hook| !hook.hook.required || hook.skips_counted() == Some(true));
        let model = Model::new(context(&collector, options, attached_ns));
        Ok(Self {
            collector,
            model,
            attached_ns,
            namer,
            effort: Effort::Full,
            max_cpu_ratio: options.max_cpu_ratio,
            summary: Summary::new(attached_ns, counts_skips),
            questions,
            _counter: counter,
            ticks: every(interval),
            pumps: every(PUMP_EVERY),
            empty_pumps: 0,
            is_tracing: options.trace,
            deadline: duration.map(|duration| Instant::now() + duration),
            interrupt,
            terminate,
            report,
            suspend: None,
        })
    }

    /// Whether call sites are taken.
    pub fn takes_stacks(&self) -> bool {
        self.collector.takes_stacks()
    }

    /// From now on SIGTSTP stops nothing by itself: it is told as [`Event::Suspend`].
    ///
    /// # Errors
    /// When it cannot be caught.
    pub fn catch_suspend(&mut self) -> Result<()> {
        self.suspend = Some(on(SignalKind::from_raw(Sig::TSTP.as_raw()))?);
        Ok(())
    }

    /// Changes the interval from now on.
    pub fn set_interval(&mut self, interval: Duration) {
        self.ticks = every(interval);
    }

    /// Waits for the next thing to do.
    pub async fn next(&mut self) -> Event {
        let deadline = self.deadline;
        let time_is_up = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let suspend = &mut self.suspend;
        let is_suspended = async {
            match suspend {
                Some(suspend) => suspend.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Event::Stop,
            _ = self.terminate.recv() => Event::Stop,
            _ = self.report.recv() => Event::Report,
            _ = is_suspended => Event::Suspend,
            _ = self.ticks.tick() => Event::Tick,
            () = time_is_up => Event::Stop,
            Some((query, reply)) = self.questions.recv() => {
                // Who asked may be gone again.
                let _ = reply.send(self.answer(&query));
                Event::Pump
            }
            _ = self.pumps.tick() => {
                let was_empty = self.collector.pump(now_ns()) == 0;
                self.pace(was_empty);
                Event::Pump
            }
        }
    }

    /// Looks less often while nothing comes. A line of `trace` does not wait.
    fn pace(&mut self, was_empty: bool) {
        let was_quiet = self.empty_pumps >= QUIET_PUMPS;
        self.empty_pumps = if was_empty { self.empty_pumps.saturating_add(1) } else { 0 };
        let is_quiet = self.empty_pumps >= QUIET_PUMPS;
        if is_quiet != was_quiet && !self.is_tracing {
            self.pumps = every(if is_quiet { PUMP_IDLE_EVERY } else { PUMP_EVERY });
        }
    }

    /// What is known of a connection.
    pub fn answer(&self, query: &Query) -> Reply {
        let now_ns = now_ns();
        let found = self.collector.search(query, now_ns);
        let named = |(id, mut answer, sites): (ProcessId, Answer, SitePair)| {
            (answer.program, answer.argv, answer.exited) = self.model.process(id);
            answer.opened_at = self.model.line_of(sites.opened);
            answer.closed_at = self.model.line_of(sites.closed);
            answer
        };
        Reply {
            answers: merged(found.answers.into_iter().map(named).collect()),
            // What was there before the attach may have ended long before.
            history_s: now_ns.saturating_sub(found.oldest_ns.max(self.attached_ns)) as f64 / 1e9,
        }
    }

    /// Past `--max-cpu` stacks stop first, counts never.
    fn keep_within_budget(&mut self, sample: &Sample) {
        let (Some(limit), Some(used)) = (self.max_cpu_ratio, sample.own_cost.cpu_ratio) else { return };
        let effort = match self.effort {
            Effort::Full if used > limit => Effort::Interpreters,
            Effort::Interpreters if used > limit => Effort::None,
            Effort::None if used < limit / 2.0 => Effort::Interpreters,
            Effort::Interpreters if used < limit / 2.0 => Effort::Full,
            same => same,
        };
        if effort != self.effort {
            log::info!("call sites: {effort:?}, at {:.1} % of a processor", 100.0 * used);
            self.effort = effort;
            self.collector.set_effort(effort);
        }
    }

    /// The same, after waiting for the names of all stacks that were taken so far: for output that is made once.
    ///
    /// # Errors
    /// As [`Collector::sample`].
    pub fn sample_settled(&mut self) -> Result<Sample> {
        if let Some(namer) = &mut self.namer {
            self.collector.flush_stacks();
            namer.settle(NAMES_PATIENCE);
        }
        self.sample()
    }

    /// Reads everything since the last time into the model.
    ///
    /// # Errors
    /// As [`Collector::sample`].
    pub fn sample(&mut self) -> Result<Sample> {
        let mut sample = self.collector.sample(now_ns())?;
        if let Some(wait) = self.collector.pump_in() {
            self.pumps.reset_after(wait);
        }
        if let Some(namer) = &mut self.namer {
            sample.stacks = namer.take();
            let cost = namer.cost();
            sample.own_cost.stacks_named = cost.stacks;
            sample.own_cost.naming_p99_us = cost.p99_us();
            sample.own_cost.stack_effort = self.collector.takes_stacks().then_some(self.effort.name());
            sample.own_cost.naming_max_us = (cost.stacks > 0).then_some(cost.max_us);
        }
        self.keep_within_budget(&sample);
        self.summary.add(&sample);
        self.model.apply(&sample);
        if let Some(expected) = self.model.expected_time_wait() {
            self.collector.expect(expected);
        }
        Ok(sample)
    }
}

/// How long output that is made once waits for names.
const NAMES_PATIENCE: Duration = Duration::from_secs(3);

/// Where the thread that takes stacks meets the code that understands them.
struct Stacks(Front);

impl Watcher for Stacks {
    fn record(&mut self, bytes: &[u8]) {
        self.0.record(bytes);
    }

    fn replaced(&mut self, tgid: u32) {
        self.0.replaced(tgid);
    }

    fn hand_over(&mut self) -> bool {
        self.0.hand_over()
    }
}

/// The same for the thread that looks for interpreters.
struct Looks {
    looker: look::Looker,
    /// Whether the state of a thread is never taken from thread-specific data.
    search_threads: bool,
}

impl Looker for Looks {
    fn look(&mut self, tgid: u32) -> Look {
        answer(self.looker.look(tgid), self.search_threads)
    }
}

fn answer(found: Attach, search_threads: bool) -> Look {
    match found {
        Attach::Found(mut interpreter) => {
            if search_threads {
                interpreter.thread_key = 0;
            }
            Look::Found(interpreter)
        }
        Attach::Later => Look::Later,
        Attach::Absent | Attach::Refused(_) => Look::Nothing,
    }
}

fn on(kind: SignalKind) -> Result<Signal> {
    signal(kind).context("catch signals")
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn context(collector: &Collector, options: &Options, attached_ns: u64) -> Context {
    let hooks = collector
        .hooks()
        .iter()
        .map(|attached| HookState {
            name: attached.hook.name,
            attached: attached.tier().map_or("none", |tier| tier.name()),
            required: attached.hook.required,
            reason: attached.reason.clone(),
            skips_counted: attached.skips_counted(),
        })
        .collect();
    Context {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        hooks,
        knows_errors: collector.knows_errors(),
        takes_stacks: collector.takes_stacks(),
        culprits: options.culprits.clone(),
        scope: scope(options),
        attached_ns,
    }
}

fn scope(options: &Options) -> Scope {
    let filters = &options.filters;
    let is_connect = |key: &u32| *key == port_filter_key(Role::Connect, *key as u16);
    let connects = options.filter_ports.iter().filter(|&key| is_connect(key)).map(|&key| key as u16);
    Scope {
        netns: (filters.netns != 0).then_some(filters.netns),
        remote_ports: (filters.connect_ports != 0).then(|| connects.collect()),
        ip_version: (filters.ip_version != 0).then_some(filters.ip_version as u8),
        is_partial: filters.tgids != 0 || filters.comm != 0 || filters.no_connects != 0,
    }
}

/// Runs a future to its end on this thread.
///
/// # Errors
/// When the runtime cannot be started, and those of the future.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(future)
}

#[cfg(test)]
mod tests {
    use portchurn_common::stack::Interpreter;

    use super::{Attach, Look, answer};

    #[test]
    fn without_the_key_of_thread_specific_data_the_thread_is_searched_for() {
        let key = |search| {
            let found = Interpreter { thread_key: 0x1000, ..Interpreter::UNKNOWN };
            match answer(Attach::Found(Box::new(found)), search) {
                Look::Found(interpreter) => interpreter.thread_key,
                Look::Nothing | Look::Later => panic!("it was found"),
            }
        };
        assert_eq!((key(false), key(true)), (0x1000, 0));
    }
}
