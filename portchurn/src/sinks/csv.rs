//! Rows as comma-separated values (RFC 4180, lines end with a line feed): plain numbers, units in the column's key,
//! unknown is an empty field. Every line begins with `cumulative_s`, so that intervals can be told apart.

use std::borrow::Cow;
use std::io;
use std::io::Write;

use ::csv::Writer;

use crate::model::columns::Cell;
use crate::model::snapshot::Snapshot;
use crate::sinks::Sink;
use crate::sinks::text::clean;
use crate::sinks::view::View;

/// Starts a CSV file.
pub(super) fn open(out: Box<dyn Write>) -> Box<dyn Sink> {
    Box::new(Csv { out: Writer::from_writer(out), begun: false })
}

struct Csv {
    out: Writer<Box<dyn Write>>,
    begun: bool,
}

impl Sink for Csv {
    fn snapshot(&mut self, view: &View, snapshot: &Snapshot) -> io::Result<()> {
        let columns = view.columns_at(view.level);
        if view.page.header && !self.begun {
            let keys = columns.iter().map(|column| column.key);
            self.out.write_record(std::iter::once("cumulative_s").chain(keys))?;
        }
        self.begun = true;
        let at = format!("{:.3}", snapshot.cumulative_s);
        for row in &view.select(snapshot).rows {
            let fields = columns.iter().map(|column| field((column.cell)(row)));
            self.out.write_record(std::iter::once(at.clone()).chain(fields))?;
        }
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A cell as a plain value.
pub(super) fn field(cell: Cell) -> String {
    match cell {
        Cell::Text(text) => no_formula(&clean(&text, true)).into_owned(),
        Cell::Count(number) | Cell::Id(number) | Cell::Micros(number) => number.to_string(),
        Cell::PerSecond(number) | Cell::Seconds(number) | Cell::Ratio(number) if number.is_finite() => {
            number.to_string()
        }
        Cell::PerSecond(_) | Cell::Seconds(_) | Cell::Ratio(_) | Cell::Empty => String::new(),
    }
}

/// Spreadsheets run what begins like this, and anybody may call a program so; behind an apostrophe it is text
/// (owasp.org, "CSV Injection").
fn no_formula(text: &str) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@']) { format!("'{text}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::field;
    use crate::model::columns::{COLUMNS, Cell};
    use crate::model::row::Level;
    use crate::sinks::OutputFormat;
    use crate::sinks::tests::written;
    use crate::sinks::view::{Page, View, parse_columns};

    #[test]
    fn programs_as_values() {
        let text = written(OutputFormat::Csv, &View::new(Level::Program), 1);
        assert_eq!(text, include_str!("golden/programs.csv"));
    }

    #[test]
    fn a_name_is_no_formula() {
        let text = |name: &str| field(Cell::Text(name.to_owned()));
        assert_eq!(text("=HYPERLINK(\"http://192.0.2.1\")"), "'=HYPERLINK(\"http://192.0.2.1\")");
        assert_eq!((text("python3 -c"), text(":8080")), ("python3 -c".to_owned(), ":8080".to_owned()));
        assert_eq!(field(Cell::PerSecond(-1.5)), "-1.5", "numbers are numbers");
    }

    #[test]
    fn every_record_has_every_field_and_the_head_comes_once() {
        let view = View { columns: Some(COLUMNS.to_vec()), ..View::new(Level::Process) };
        let text = written(OutputFormat::Csv, &view, 2);
        let mut reader = ::csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap().len(), COLUMNS.len() + 1);
        assert_eq!(reader.records().map(Result::unwrap).count(), 2 * 6);
    }

    #[test]
    fn a_name_with_commas_and_quotes_stays_one_field() {
        let view = View {
            columns: Some(parse_columns("program,unit", Level::Program, false).unwrap()),
            page: Page { header: false, ..Page::default() },
            ..View::new(Level::Program)
        };
        let text = written(OutputFormat::Csv, &view, 1);
        let mut reader = ::csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
        let units: Vec<_> = reader.records().map(|record| record.unwrap()[2].to_owned()).collect();
        assert!(units.contains(&"odd,\"name\".service".to_owned()), "{units:?}");
    }
}
