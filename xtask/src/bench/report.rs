//! What was measured, as a table for people or as JSON.

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::agents::Situation;
use super::sites;
use super::stats::{Spread, lowest_tenth, spread};
use super::tracer::Kind;

/// One round without a tracer, and one with.
#[derive(Serialize)]
pub(crate) struct Round {
    pub(crate) plain_us: f64,
    #[serde(skip)]
    pub(crate) plain_batches_us: Vec<f64>,
    #[serde(flatten)]
    pub(crate) traced: Traced,
}

/// What one round with a tracer showed.
#[derive(Serialize)]
pub(crate) struct Traced {
    pub(crate) traced_us: f64,
    #[serde(skip)]
    pub(crate) traced_batches_us: Vec<f64>,
    pub(crate) agent_cpu_ratio: f64,
    pub(crate) rss_bytes: u64,
    pub(crate) map_bytes: Option<u64>,
    pub(crate) lost: Option<u64>,
    pub(crate) counted: u64,
    pub(crate) expected: u64,
    pub(crate) attach_ms: f64,
    pub(crate) detach_ms: f64,
}

impl Round {
    fn ratio(&self) -> f64 {
        self.traced.traced_us / self.plain_us
    }

    pub(crate) fn line(&self, name: &str) -> String {
        let (plain, traced, ratio) = (self.plain_us, self.traced.traced_us, self.ratio());
        format!(
            "{plain:.2} → {traced:.2} µs with {name}, ratio {ratio:.3}, counted {} of {}",
            self.traced.counted, self.traced.expected
        )
    }
}

/// All rounds with one tracer.
#[derive(Serialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) rounds: Vec<Round>,
}

impl Series {
    pub(crate) fn new(kind: &Kind) -> Self {
        Self { name: kind.name.clone(), rounds: Vec::new() }
    }

    fn summary(&self) -> Result<Summary> {
        let of = |value: fn(&Round) -> f64| spread(self.rounds.iter().map(value)).context("no rounds");
        let traced = || self.rounds.iter().map(|round| &round.traced);
        Ok(Summary {
            tracer: self.name.clone(),
            plain_us: of(|round| round.plain_us)?,
            traced_us: of(|round| round.traced.traced_us)?,
            ratio: of(Round::ratio)?,
            fastest_plain_us: fastest(self.rounds.iter().flat_map(|round| &round.plain_batches_us))?,
            fastest_traced_us: fastest(traced().flat_map(|round| &round.traced_batches_us))?,
            agent_cpu_ratio: of(|round| round.traced.agent_cpu_ratio)?,
            attach_ms: of(|round| round.traced.attach_ms)?,
            detach_ms: of(|round| round.traced.detach_ms)?,
            rss_bytes: traced().map(|round| round.rss_bytes).max().unwrap_or_default(),
            map_bytes: traced().filter_map(|round| round.map_bytes).max(),
            lost: traced().map(|round| round.lost).sum(),
            expected: traced().map(|round| round.expected).sum(),
            missed: traced().map(|round| round.expected.saturating_sub(round.counted)).sum(),
        })
    }
}

/// What the fastest tenth of all batches stays below. Others on the same machine only ever make a batch slower, so this is its own
/// speed, also where they make medians worthless.
pub(crate) fn fastest<'a>(batches_us: impl Iterator<Item = &'a f64>) -> Result<f64> {
    lowest_tenth(batches_us.copied()).context("no batches")
}

#[derive(Serialize)]
struct Summary {
    tracer: String,
    plain_us: Spread,
    traced_us: Spread,
    ratio: Spread,
    fastest_plain_us: f64,
    fastest_traced_us: f64,
    agent_cpu_ratio: Spread,
    attach_ms: Spread,
    detach_ms: Spread,
    rss_bytes: u64,
    map_bytes: Option<u64>,
    lost: Option<u64>,
    expected: u64,
    missed: u64,
}

/// Everything.
#[derive(Serialize)]
pub(crate) struct Report {
    kernel: String,
    processors: usize,
    load_on_processor: usize,
    cycles: u32,
    summaries: Vec<Summary>,
    agents: Vec<Situation>,
    series: Vec<Series>,
    call_sites: Vec<sites::Series>,
}

impl Report {
    pub(crate) fn new(
        cycles: u32,
        cpu: usize,
        series: Vec<Series>,
        call_sites: Vec<sites::Series>,
        agents: Vec<Situation>,
    ) -> Result<Self> {
        Ok(Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            processors: super::load::processors()?,
            load_on_processor: cpu,
            cycles,
            summaries: series.iter().map(Series::summary).collect::<Result<_>>()?,
            agents,
            series,
            call_sites,
        })
    }

    pub(crate) fn print(&self) -> Result<()> {
        println!(
            "kernel {}, {} processors; {} connections a round on processor {}: connect, accept, two closes, both ends traced",
            self.kernel, self.processors, self.cycles, self.load_on_processor
        );
        for summary in &self.summaries {
            summary.print();
        }
        self.call_sites.iter().try_for_each(sites::Series::print)?;
        if !self.agents.is_empty() {
            println!("\nportchurn, agent alone: CPU of one processor, RSS");
        }
        self.agents.iter().for_each(Situation::print);
        Ok(())
    }
}

impl Summary {
    fn print(&self) {
        println!("\n{:<34}{:>10}   quartiles", self.tracer, "median");
        spread_row("  CPU per connection, without, µs", self.plain_us, 1.0, 2);
        spread_row("  CPU per connection, with, µs", self.traced_us, 1.0, 2);
        spread_row("  ratio", self.ratio, 1.0, 3);
        let (plain, traced) = (self.fastest_plain_us, self.fastest_traced_us);
        let ratio = format!("{:.3}", traced / plain);
        row("  ratio of the fastest tenths", &ratio, &format!("{plain:.2} → {traced:.2} µs"));
        spread_row("  agent CPU, % of one processor", self.agent_cpu_ratio, 100.0, 2);
        spread_row("  start to attached, ms", self.attach_ms, 1.0, 0);
        spread_row("  Ctrl-C to gone, ms", self.detach_ms, 1.0, 0);
        row("  RSS, most", &mib(self.rss_bytes), "");
        row("  maps, most", &self.map_bytes.map_or("not told".to_owned(), mib), "");
        row("  lost, as it says", &self.lost.map_or("not told".to_owned(), |lost| lost.to_string()), "");
        row("  missing from its counts", &self.missed.to_string(), &format!("of {}", self.expected));
    }
}

pub(crate) fn spread_row(label: &str, spread: Spread, factor: f64, digits: usize) {
    let [q1, median, q3] = [spread.q1, spread.median, spread.q3].map(|value| value * factor);
    println!("{label:<34}{median:>10.digits$}   {q1:.digits$} … {q3:.digits$}");
}

pub(crate) fn row(label: &str, value: &str, more: &str) {
    println!("{label:<34}{value:>10}   {more}");
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
