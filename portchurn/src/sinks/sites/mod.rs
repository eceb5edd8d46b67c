//! Call sites for `portchurn sites`: as a table, as JSON, and as what flame graphs are made of. Names come from programs
//! and files of others, so nothing is written that was not cleaned. A new format is one file here and one row in
//! `SITES_OUTPUTS`.

use std::io;
use std::io::Write;

use clap::ValueEnum;

use crate::model::row::{destination_text, display_name};
use crate::model::sample::Frame;
use crate::model::snapshot::{CallSite, Destination, Program, Snapshot};

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
    /// Seconds for which a local port is kept in TIME_WAIT
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
            Self::TimeWait => "seconds",
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

impl<'a> Line<'a> {
    fn weight(&self, weight: Weight) -> u64 {
        match weight {
            Weight::Connections => self.site.count,
            Weight::TimeWait => {
                (self.destination.time_wait_entered as f64 * TIME_WAIT_S * self.site.share).round() as u64
            }
        }
    }

    fn program_name(&self) -> String {
        display_name(&self.program.program, self.program.script.as_deref()).into_owned()
    }

    /// Innermost first.
    fn frames(&self) -> &'a [Frame] {
        self.site.frames.as_ref().map_or(&[][..], |stack| &stack.frames)
    }

    fn why_no_frames(&self) -> String {
        format!("[{}]", self.site.note.as_deref().unwrap_or("unknown"))
    }

    /// Program, frames, destination: outermost first.
    fn stack(&self) -> Vec<String> {
        let mut stack = vec![self.program_name()];
        match self.frames() {
            [] => stack.push(self.why_no_frames()),
            frames => stack.extend(frames.iter().rev().map(frame_text)),
        }
        stack.push(destination_text(self.destination));
        stack
    }
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
    fn opens(&self) -> impl Iterator<Item = &Line<'a>> {
        self.lines.iter().filter(|line| line.site.at == "open")
    }
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
