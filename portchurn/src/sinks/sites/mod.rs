//! Call sites for `portchurn sites`: as a table, as JSON, and as what flame graphs are made of. Names come from programs
//! and files of others, so nothing is written that was not cleaned. A new format is one file here and one row in
//! `SITES_OUTPUTS`.

use std::io;
use std::io::Write;

use clap::ValueEnum;

use crate::model::lists::time_wait;
use crate::model::row::{destination_text, display_name};
use crate::model::sample::Frame;
use crate::model::snapshot::{CallSite, Destination, Program, Role, Snapshot};
use crate::model::sockets::TIME_WAIT_S;

mod folded;
mod json;
mod pprof;
mod profile;
#[cfg(feature = "flamegraph")]
mod svg;
mod table;

#[cfg(test)]
mod tests;

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
    /// A flame graph, for a browser
    #[cfg(feature = "flamegraph")]
    Svg,
}

/// One format.
struct SitesOutput {
    format: Format,
    write: fn(&Report<'_>, &mut dyn Write) -> io::Result<()>,
}

/// Every format.
const SITES_OUTPUTS: &[SitesOutput] = &[
    table::OUTPUT,
    json::OUTPUT,
    folded::OUTPUT,
    pprof::OUTPUT,
    #[cfg(feature = "flamegraph")]
    svg::OUTPUT,
];

/// What a stack weighs in a flame graph.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Weight {
    /// Connections
    #[default]
    Connections,
    /// Seconds for which the TIME_WAIT sockets that there are at the end keep their ports: 60 each
    TimeWait,
}

impl Weight {
    /// Name and unit of the numbers, as pprof has them.
    fn unit(self) -> (&'static str, &'static str) {
        match self {
            Self::Connections => ("connections", "count"),
            Self::TimeWait => ("time_wait", "seconds"),
        }
    }

    /// What stands behind a number.
    #[cfg(feature = "flamegraph")]
    fn unit_text(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::TimeWait => "port seconds in TIME_WAIT",
        }
    }
}

/// A site with what it belongs to.
struct Line<'a> {
    program: &'a Program,
    destination: &'a Destination,
    site: &'a CallSite,
}

impl Line<'_> {
    fn program_name(&self) -> String {
        display_name(&self.program.program, self.program.script.as_deref()).into_owned()
    }
}

/// A stack as flame graphs and profiles have it, and what it weighs.
struct Flame<'a> {
    program: String,
    destination: String,
    /// Innermost first.
    frames: &'a [Frame],
    /// Stands for frames where there are none.
    why_no_frames: String,
    weight: u64,
}

impl<'a> Flame<'a> {
    fn new(program: String, destination: String, site: &'a CallSite) -> Self {
        Self {
            program,
            destination,
            frames: site.frames.as_ref().map_or(&[][..], |stack| &stack.frames),
            why_no_frames: format!("[{}]", site.note.as_deref().unwrap_or("unknown")),
            weight: site.count,
        }
    }

    /// Program, frames, destination: outermost first.
    fn stack(&self) -> Vec<String> {
        let mut stack = vec![self.program.clone()];
        match self.frames {
            [] => stack.push(self.why_no_frames.clone()),
            frames => stack.extend(frames.iter().rev().map(frame_text)),
        }
        stack.push(self.destination.clone());
        stack
    }
}

/// `getSession (sync.py:41)`.
fn frame_text(frame: &Frame) -> String {
    let file = frame.file.as_deref().map(|file| file.rsplit('/').next().unwrap_or(file));
    match (file, frame.line) {
        (Some(file), Some(line)) => format!("{} ({file}:{line})", frame.function),
        (Some(file), None) => format!("{} ({file})", frame.function),
        _ => frame.function.to_string(),
    }
}

/// What formats write.
struct Report<'a> {
    snapshot: &'a Snapshot,
    lines: Vec<Line<'a>>,
    weight: Weight,
    unicode: bool,
}

impl<'a> Report<'a> {
    fn new(snapshot: &'a Snapshot, weight: Weight, unicode: bool) -> Self {
        let mut lines = Vec::new();
        for program in &snapshot.programs {
            for destination in &program.destinations {
                let sites = destination.call_sites.as_deref().unwrap_or_default();
                lines.extend(sites.iter().map(|site| Line { program, destination, site }));
            }
        }
        lines.sort_by(|a, b| b.site.at.cmp(a.site.at).then(b.site.count.cmp(&a.site.count)));
        Self { snapshot, lines, weight, unicode }
    }

    /// Flame graphs are of opens: who closes is another question, and both together would count twice.
    fn flames(&self) -> Vec<Flame<'a>> {
        match self.weight {
            Weight::Connections => {
                let opens = self.lines.iter().filter(|line| line.site.at == "open");
                let flame = |line: &Line<'a>| {
                    Flame::new(line.program_name(), destination_text(line.destination), line.site)
                };
                opens.map(flame).collect()
            }
            Weight::TimeWait => held(self.snapshot),
        }
    }
}

/// For how long owners keep ports of connections that were opened here.
fn held(snapshot: &Snapshot) -> Vec<Flame<'_>> {
    let mut flames = Vec::new();
    for owner in snapshot.time_wait.iter().flat_map(|time_wait| &time_wait.owners) {
        let program = || owner.program.clone().unwrap_or_else(|| "(not known)".to_owned());
        for destination in owner.destinations.iter().filter(|destination| destination.role == Role::Connect) {
            let to = time_wait::destination_text(destination);
            let sites = destination.call_sites.iter().flatten().filter(|site| site.at == "open");
            let flame = |site| Flame::new(program(), to.clone(), site);
            flames
                .extend(sites.map(flame).map(|flame| Flame { weight: flame.weight * TIME_WAIT_S, ..flame }));
        }
    }
    flames
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
    let output = SITES_OUTPUTS.iter().find(|output| output.format == format);
    let output = output.expect("every format has its row in SITES_OUTPUTS: a test walks them");
    (output.write)(&Report::new(snapshot, weight, unicode), out)?;
    out.flush()
}
