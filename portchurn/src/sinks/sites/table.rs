//! Call sites for people: one line for each, the most passed first.

use std::io;
use std::io::Write;

use crate::model::row::destination_text;
use crate::sinks::sites::{Report, SitesOutput};
use crate::sinks::text::clean;

/// The table.
pub(super) const OUTPUT: SitesOutput = SitesOutput { format: super::Format::Table, write };

fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    if report.lines.is_empty() {
        return writeln!(out, "(no connection was opened or closed, or call sites are not taken)");
    }
    writeln!(
        out,
        "{:>9} {:>6} {:7} {:7}  {:24} {:22} CALL SITE",
        "COUNT", "SHARE", "", "AT", "PROGRAM", "DESTINATION"
    )?;
    for line in &report.lines {
        let site = line.site;
        let how = if site.exact { "exact" } else { "sampled" };
        let program = line.program_name();
        writeln!(
            out,
            "{:>9} {:>5.1}% {how:7} {:7}  {:24} {:22} {}",
            site.count,
            100.0 * site.share,
            site.at,
            clean(&program, report.unicode),
            destination_text(line.destination),
            clean(&site.described(), report.unicode),
        )?;
    }
    Ok(())
}
