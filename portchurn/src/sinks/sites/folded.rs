//! Call sites as folded stacks: one line for each different stack, outermost frame first, and what it weighs. For
//! flamegraph.pl, speedscope and whatever else draws flame graphs.

use std::collections::BTreeMap;
use std::io;
use std::io::Write;

use crate::sinks::sites::{Report, SitesOutput};
use crate::sinks::text::clean;

/// Folded stacks.
pub(super) const OUTPUT: SitesOutput = SitesOutput { format: super::Format::Folded, write };

fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    for line in folded(report) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The lines. What weighs nothing is left out.
pub(super) fn folded(report: &Report<'_>) -> Vec<String> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for flame in report.flames() {
        let frames: Vec<_> = flame.stack().iter().map(|frame| part(frame)).collect();
        *sums.entry(frames.join(";")).or_default() += flame.weight;
    }
    sums.into_iter().filter(|(_, sum)| *sum > 0).map(|(stack, sum)| format!("{stack} {sum}")).collect()
}

/// One frame. Between frames stands `;`, and a line that begins with `#` is a remark to some readers.
fn part(frame: &str) -> String {
    let safe = clean(frame, true).replace(';', ",");
    match safe.strip_prefix('#') {
        Some(rest) => format!("\\x23{rest}"),
        None => safe,
    }
}
