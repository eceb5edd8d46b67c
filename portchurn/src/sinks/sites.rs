//! Call sites for `portchurn sites`: as a table, as JSON, and as flame graph input (folded stacks, pprof). Names come
//! from programs and files of others, so nothing is written that was not cleaned.

use std::collections::BTreeMap;
use std::io;
use std::io::Write;

use clap::ValueEnum;
use serde::Serialize;

use crate::model::row::destination_text;
use crate::model::sample::Frame;
use crate::model::snapshot::{
    CallSite, Destination, Lost, OwnCost, Place, Program, SCHEMA_VERSION, Snapshot,
};
use crate::sinks::json::escaped;
use crate::sinks::pprof::Profile;
use crate::sinks::text::clean;

/// Formats of `portchurn sites`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One document
    Json,
    /// One line per stack, for flamegraph.pl, inferno and speedscope
    Folded,
    /// For `go tool pprof`, speedscope, Pyroscope, Parca
    Pprof,
}

/// What a stack weighs in a flame graph.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Weight {
    /// Connections
    #[default]
    Connections,
    /// Seconds for which a local port is kept in TIME_WAIT
    TimeWait,
}

impl Weight {
    fn unit(self) -> (&'static str, &'static str) {
        match self {
            Self::Connections => ("connections", "count"),
            Self::TimeWait => ("time_wait", "seconds"),
        }
    }
}

/// Seconds that a socket stays in TIME_WAIT: `TCP_TIMEWAIT_LEN` of include/net/tcp.h, a constant.
const TIME_WAIT_S: f64 = 60.0;

/// A site with what it belongs to.
struct Line<'a> {
    program: &'a Program,
    destination: &'a Destination,
    site: &'a CallSite,
}

impl Line<'_> {
    fn weight(&self, weight: Weight) -> u64 {
        match weight {
            Weight::Connections => self.site.count,
            Weight::TimeWait => {
                (self.destination.time_wait_entered as f64 * TIME_WAIT_S * self.site.share).round() as u64
            }
        }
    }

    fn program_name(&self) -> String {
        let script = self.program.script.as_deref().map(|script| script.rsplit('/').next().unwrap_or(script));
        script.map_or_else(
            || self.program.program.clone(),
            |script| format!("{} {script}", self.program.program),
        )
    }
}

fn lines(snapshot: &Snapshot) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for program in &snapshot.programs {
        for destination in &program.destinations {
            let sites = destination.call_sites.as_deref().unwrap_or_default();
            lines.extend(sites.iter().map(|site| Line { program, destination, site }));
        }
    }
    lines.sort_by(|a, b| b.site.at.cmp(a.site.at).then(b.site.count.cmp(&a.site.count)));
    lines
}

/// Writes the call sites of a snapshot.
///
/// # Errors
/// Those of the writer.
pub fn write(
    snapshot: &Snapshot,
    format: Format,
    weight: Weight,
    unicode: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let lines = lines(snapshot);
    match format {
        Format::Table => table(&lines, unicode, out)?,
        Format::Json => json(snapshot, &lines, out)?,
        Format::Folded => folded(&lines, weight, out)?,
        Format::Pprof => out.write_all(&pprof(snapshot, &lines, weight))?,
    }
    out.flush()
}

fn table(lines: &[Line<'_>], unicode: bool, out: &mut dyn Write) -> io::Result<()> {
    if lines.is_empty() {
        return writeln!(out, "(no connection was opened or closed, or call sites are not taken)");
    }
    writeln!(
        out,
        "{:>9} {:>6} {:7} {:5}  {:24} {:22} CALL SITE",
        "COUNT", "SHARE", "", "AT", "PROGRAM", "DESTINATION"
    )?;
    for line in lines {
        let site = line.site;
        let how = if site.exact { "exact" } else { "sampled" };
        let program = line.program_name();
        writeln!(
            out,
            "{:>9} {:>5.1}% {how:7} {:5}  {:24} {:22} {}",
            site.count,
            100.0 * site.share,
            site.at,
            clean(&program, unicode),
            destination_text(line.destination),
            clean(&described(site), unicode),
        )?;
    }
    Ok(())
}

/// The culprit, who called it, and what to know about it.
fn described(site: &CallSite) -> String {
    let mut parts = Vec::new();
    parts.extend(site.culprit.as_ref().map(Place::to_string));
    parts.extend(site.called_from.as_ref().map(|place| format!("from {place}")));
    parts.extend(site.sampled.map(|read| format!("({read} of {} read)", site.count)));
    parts.extend(site.note.as_ref().map(|note| format!("[{note}]")));
    parts.join("  ")
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    kernel: &'a str,
    cumulative_s: f64,
    sites: Vec<Entry<'a>>,
    lost: &'a Lost,
    own_cost: OwnCost,
}

#[derive(Serialize)]
struct Entry<'a> {
    program: &'a str,
    script: Option<&'a str>,
    destination: String,
    time_wait_entered: u64,
    #[serde(flatten)]
    site: &'a CallSite,
}

fn json(snapshot: &Snapshot, lines: &[Line<'_>], out: &mut dyn Write) -> io::Result<()> {
    let sites = lines.iter().map(|line| Entry {
        program: &line.program.program,
        script: line.program.script.as_deref(),
        destination: destination_text(line.destination),
        time_wait_entered: line.destination.time_wait_entered,
        site: line.site,
    });
    let document = Document {
        schema_version: SCHEMA_VERSION,
        kernel: &snapshot.kernel,
        cumulative_s: snapshot.cumulative_s,
        sites: sites.collect(),
        lost: &snapshot.lost,
        own_cost: snapshot.own_cost,
    };
    writeln!(out, "{}", escaped(serde_json::to_string_pretty(&document)?))
}

/// Stacks of opens, or of what stands for them: outermost first.
fn stack_of(line: &Line<'_>) -> Vec<String> {
    let mut frames = vec![line.program_name()];
    match &line.site.frames {
        Some(stack) if !stack.frames.is_empty() => frames.extend(stack.frames.iter().rev().map(frame_text)),
        _ => frames.push(format!("[{}]", line.site.note.as_deref().unwrap_or("unknown"))),
    }
    frames.push(destination_text(line.destination));
    frames
}

/// `getSession (sync.py:41)`.
fn frame_text(frame: &Frame) -> String {
    let file = frame.file.as_deref().map(|file| file.rsplit('/').next().unwrap_or(file));
    match (file, frame.line) {
        (Some(file), Some(line)) => format!("{} ({file}:{line})", frame.function),
        (Some(file), None) => format!("{} ({file})", frame.function),
        _ => frame.function.clone(),
    }
}

fn folded(lines: &[Line<'_>], weight: Weight, out: &mut dyn Write) -> io::Result<()> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.site.at == "open") {
        let frames: Vec<_> =
            stack_of(line).iter().map(|frame| clean(frame, true).replace(';', ",")).collect();
        *sums.entry(frames.join(";")).or_default() += line.weight(weight);
    }
    for (stack, sum) in sums.into_iter().filter(|(_, sum)| *sum > 0) {
        writeln!(out, "{stack} {sum}")?;
    }
    Ok(())
}

fn pprof(snapshot: &Snapshot, lines: &[Line<'_>], weight: Weight) -> Vec<u8> {
    let (name, unit) = weight.unit();
    let mut profile = Profile::new(name, unit);
    for line in lines.iter().filter(|line| line.site.at == "open") {
        let program = line.program_name();
        let destination = destination_text(line.destination);
        let frames = line.site.frames.as_ref().map_or(&[][..], |stack| &stack.frames);
        let value = line.weight(weight);
        if value > 0 {
            profile.add(frames, &[("program", &program), ("destination", &destination)], value);
        }
    }
    profile.finish((snapshot.cumulative_s * 1e9) as u64)
}
