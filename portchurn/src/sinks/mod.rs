//! The outputs. Each takes a [`View`] and a [`Snapshot`] and writes; none computes a number, names a column, knows
//! where the snapshot came from, or decides by itself whether it may use colour.
//!
//! Data goes to the writer that the command hands over, and an error of that writer comes back as it is: a broken pipe
//! is for the command to end quietly on. A new text output is one file here and one row in [`SINKS`].

use std::io;
use std::io::Write;

use clap::ValueEnum;

use crate::model::snapshot::Snapshot;

mod csv;
pub mod events;
pub mod human;
pub mod json;
pub mod layout;
pub mod sheet;
pub mod sites;
pub mod summary;
mod table;
pub mod text;
pub mod tui;
pub mod view;

#[cfg(test)]
mod lists_tests;
#[cfg(test)]
mod sample;

#[cfg(test)]
pub(crate) use sample::{sample_snapshot, sample_with_held, sample_with_ports, sample_with_sites};
pub use view::{Filtering, Page, RowFilter, SortKey, View};

/// Something that snapshots are written to.
pub trait Sink {
    /// Writes one interval.
    fn snapshot(&mut self, view: &View, snapshot: &Snapshot) -> io::Result<()>;

    /// Writes what is still to be written. To be called once, after the last interval.
    fn finish(&mut self) -> io::Result<()>;
}

/// The text outputs, as `--output` names them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum OutputFormat {
    /// Aligned columns, for people
    #[default]
    Table,
    /// One JSON document per interval
    Json,
    /// One JSON document per interval, each on its own line
    Jsonl,
    /// Comma-separated values, one line per row
    Csv,
}

/// One text output.
pub struct Output {
    /// The name by which it is asked for.
    pub format: OutputFormat,
    /// Starts it on a writer.
    pub open: fn(Box<dyn Write>) -> Box<dyn Sink>,
}

/// Every text output.
pub const SINKS: &[Output] = &[
    Output { format: OutputFormat::Table, open: table::open },
    Output { format: OutputFormat::Json, open: json::open },
    Output { format: OutputFormat::Jsonl, open: json::open_lines },
    Output { format: OutputFormat::Csv, open: csv::open },
];

impl OutputFormat {
    /// Starts this output on a writer.
    pub fn open(self, out: Box<dyn Write>) -> Box<dyn Sink> {
        let output = SINKS.iter().find(|output| output.format == self);
        let output = output.expect("every format has its row in SINKS: a test walks them");
        (output.open)(out)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;
    use std::io;
    use std::io::Write;
    use std::rc::Rc;

    use clap::ValueEnum;

    use super::{OutputFormat, SINKS, View, sample_snapshot};
    use crate::model::row::Level;

    /// A writer whose bytes stay readable after it was given away.
    #[derive(Clone, Default)]
    pub(crate) struct Shared(Rc<RefCell<Vec<u8>>>);

    impl Shared {
        /// What was written so far.
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What an output writes for these many intervals of the common snapshot.
    pub(crate) fn written(format: OutputFormat, view: &View, intervals: usize) -> String {
        let shared = Shared::default();
        let mut sink = format.open(Box::new(shared.clone()));
        for _ in 0..intervals {
            sink.snapshot(view, &sample_snapshot()).unwrap();
        }
        sink.finish().unwrap();
        String::from_utf8(shared.0.take()).unwrap()
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn every_format_has_exactly_one_row() {
        for format in OutputFormat::value_variants() {
            assert_eq!(SINKS.iter().filter(|output| output.format == *format).count(), 1, "{format:?}");
        }
    }

    #[test]
    fn a_broken_pipe_is_passed_up_by_every_output() {
        for output in SINKS {
            let mut sink = (output.open)(Box::new(Closed));
            let view = View::new(Level::Program);
            let error = sink.snapshot(&view, &sample_snapshot()).and_then(|()| sink.finish()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{:?}", output.format);
        }
    }

    #[test]
    fn no_output_lets_a_control_character_of_a_name_through() {
        for output in SINKS {
            for level in Level::ALL {
                let text = written(output.format, &View::new(level), 1);
                // A container may be called anything, too; the sample's odd one is a unit with a comma and quotes.
                let odd = if level == Level::Container { "odd" } else { "evil" };
                assert!(text.contains(odd), "{:?} {level:?}: {text}", output.format);
                let hostile = text.chars().find(|&c| c != '\n' && super::text::is_hostile(c));
                assert_eq!(hostile, None, "{:?} {level:?}: {text}", output.format);
            }
        }
    }
}
