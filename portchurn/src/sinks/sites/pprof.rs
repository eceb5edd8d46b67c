//! Call sites as a pprof profile, for `go tool pprof`, speedscope, Pyroscope and Parca.

use std::io;
use std::io::Write;

use crate::model::sample::Frame;
use crate::sinks::sites::profile::Profile;
use crate::sinks::sites::{Flame, Report, SitesOutput};

/// The profile.
pub(super) const OUTPUT: SitesOutput = SitesOutput { format: super::Format::Pprof, write };

fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (name, unit) = report.weight.unit();
    let mut profile = Profile::new(name, unit);
    for flame in report.flames() {
        let labels = [("program", flame.program.as_str()), ("destination", flame.destination.as_str())];
        match flame.frames {
            // Readers drop samples without a frame.
            _ if flame.weight == 0 => {}
            [] => profile.add(&[nameless(&flame)], &labels, flame.weight),
            frames => profile.add(frames, &labels, flame.weight),
        }
    }
    out.write_all(&profile.finish((report.snapshot.cumulative_s * 1e9) as u64))
}

/// Stands for a stack that is not known.
fn nameless(flame: &Flame<'_>) -> Frame {
    Frame::native(flame.why_no_frames.clone(), None)
}
