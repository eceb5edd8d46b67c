//! Call sites for people: one line for each, the most passed first.

use std::io;
use std::io::Write;

use crate::model::row::destination_text;
use crate::sinks::sites::{Report, SitesOutput};
use crate::sinks::text::{clean, width};

/// The table.
pub(super) const OUTPUT: SitesOutput = SitesOutput { format: super::Format::Table, write };

fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    if report.lines.is_empty() {
        return writeln!(out, "(no connection was opened or closed, or call sites are not taken)");
    }
    let names: Vec<_> = report
        .lines
        .iter()
        .map(|line| {
            let program = clean(&line.program_name(), report.unicode).into_owned();
            (program, destination_text(line.destination))
        })
        .collect();
    let program_width = names.iter().map(|(program, _)| width(program)).fold("PROGRAM".len(), usize::max);
    let destination_width =
        names.iter().map(|(_, destination)| width(destination)).fold("DESTINATION".len(), usize::max);
    writeln!(
        out,
        "{:>9} {:>6} {:7} {:7}  {:program_width$} {:destination_width$} CALL SITE",
        "COUNT", "SHARE", "", "AT", "PROGRAM", "DESTINATION"
    )?;
    for (line, (program, destination)) in report.lines.iter().zip(&names) {
        let site = line.site;
        let how = if site.exact { "exact" } else { "sampled" };
        writeln!(
            out,
            "{:>9} {:>5.1}% {how:7} {:7}  {program:program_width$} {destination:destination_width$} {}",
            site.count,
            100.0 * site.share,
            site.at,
            clean(&site.described(), report.unicode),
        )?;
    }
    Ok(())
}
