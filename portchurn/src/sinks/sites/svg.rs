//! Call sites as a flame graph that one can search and zoom in a browser. Drawn by a library; nothing is fetched when it
//! is looked at.

use std::io;
use std::io::Write;

use inferno::flamegraph::{Options, from_lines};

use crate::sinks::sites::folded::folded;
use crate::sinks::sites::{Report, SitesOutput, Weight};

/// The flame graph.
pub(super) const OUTPUT: SitesOutput = SitesOutput { format: super::Format::Svg, write };

/// Shown instead of a graph of nothing, which the library refuses to draw.
const NOTHING: &str = "<svg version=\"1.1\" width=\"720\" height=\"40\" xmlns=\"http://www.w3.org/2000/svg\">\
    <text x=\"10\" y=\"25\" font-family=\"monospace\">No connection was opened, or nothing of it weighs anything.\
    </text></svg>\n";

fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    let lines = folded(report);
    if lines.is_empty() {
        return out.write_all(NOTHING.as_bytes());
    }
    let mut options = Options::default();
    options.title = title(report.weight).to_owned();
    options.count_name = report.weight.unit_text().to_owned();
    options.name_type = "Frame:".to_owned();
    // Equal runs make equal files.
    options.deterministic = true;
    from_lines(&mut options, lines.iter().map(String::as_str), &mut *out)?;
    writeln!(out)
}

/// What the numbers are, for a title.
fn title(weight: Weight) -> &'static str {
    match weight {
        Weight::Connections => "Connections by the code that opens them",
        Weight::TimeWait => "Port seconds in TIME_WAIT by the code that opened the connections",
    }
}
