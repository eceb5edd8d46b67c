//! Call sites as a pprof profile, for `go tool pprof`, speedscope, Pyroscope and Parca.

use std::io;
use std::io::Write;

use crate::model::row::destination_text;
use crate::model::sample::Frame;
use crate::sinks::sites::profile::Profile;
use crate::sinks::sites::{Line, Report, SitesOutput};

/// The profile.
pub(super) const OUTPUT: SitesOutput = SitesOutput { format: super::Format::Pprof, write };

fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (name, unit) = report.weight.unit();
    let mut profile = Profile::new(name, unit);
    for line in report.opens() {
        let value = line.weight(report.weight);
        let (program, destination) = (line.program_name(), destination_text(line.destination));
        let labels = [("program", program.as_str()), ("destination", destination.as_str())];
        match line.frames() {
            // Readers drop samples without a frame.
            _ if value == 0 => {}
            [] => profile.add(&[nameless(line)], &labels, value),
            frames => profile.add(frames, &labels, value),
        }
    }
    out.write_all(&profile.finish((report.snapshot.cumulative_s * 1e9) as u64))
}

/// Stands for a stack that is not known.
fn nameless(line: &Line<'_>) -> Frame {
    Frame::native(line.why_no_frames(), None)
}
