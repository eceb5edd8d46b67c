//! Any list of `model::lists` as a table or as CSV, and a part of a snapshot as JSON. Names no field.

use std::io;
use std::io::Write;

use serde::Serialize;

use crate::model::columns::Align;
use crate::model::lists::{Head, List, Sheet};
use crate::model::snapshot::{Lost, OwnCost, Snapshot};
use crate::sinks::OutputFormat;
use crate::sinks::csv::field;
use crate::sinks::human;
use crate::sinks::json::escaped;
use crate::sinks::text::{clean, pad, width};
use crate::sinks::view::Page;

const GAP: usize = 2;
const LEAST_TEXT_WIDTH: usize = 8;
const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// What of a snapshot becomes the JSON document.
pub type Part = fn(&Snapshot) -> serde_json::Result<serde_json::Value>;

/// Writes one list, interval after interval.
pub struct SheetSink {
    out: Box<dyn Write>,
    format: OutputFormat,
    page: Page,
    list: List,
    part: Part,
    limit: usize,
    begun: bool,
}

/// What every document has besides its part.
#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    kernel: &'a str,
    window_s: f64,
    cumulative_s: f64,
    #[serde(flatten)]
    part: serde_json::Value,
    lost: &'a Lost,
    own_cost: &'a OwnCost,
}

impl SheetSink {
    /// On this writer, on this paper.
    pub fn new(
        out: Box<dyn Write>,
        format: OutputFormat,
        page: Page,
        list: List,
        part: Part,
        limit: Option<usize>,
    ) -> Self {
        Self { out, format, page, list, part, limit: limit.unwrap_or(usize::MAX), begun: false }
    }

    /// Writes one interval.
    pub fn snapshot(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let text = match self.format {
            OutputFormat::Table => self.table(&(self.list)(snapshot)),
            OutputFormat::Csv => self.csv(&(self.list)(snapshot), snapshot.cumulative_s)?,
            OutputFormat::Json => self.document(snapshot, self.page.terminal)?,
            OutputFormat::Jsonl => self.document(snapshot, false)?,
        };
        self.begun = true;
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    fn document(&self, snapshot: &Snapshot, pretty: bool) -> io::Result<String> {
        let document = Document {
            schema_version: snapshot.schema_version,
            kernel: &snapshot.kernel,
            window_s: snapshot.window_s,
            cumulative_s: snapshot.cumulative_s,
            part: (self.part)(snapshot)?,
            lost: &snapshot.lost,
            own_cost: &snapshot.own_cost,
        };
        let text =
            if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) }?;
        Ok(escaped(text) + "\n")
    }

    fn csv(&self, sheet: &Sheet, at_s: f64) -> io::Result<String> {
        let mut writer = ::csv::Writer::from_writer(Vec::new());
        if !self.begun && self.page.header {
            writer.write_record(
                std::iter::once("cumulative_s").chain(sheet.heads.iter().map(|head| head.key)),
            )?;
        }
        for row in sheet.rows.iter().take(self.limit) {
            let fields = row.cells.iter().cloned().map(field);
            writer.write_record(std::iter::once(format!("{at_s:.3}")).chain(fields))?;
        }
        let bytes = writer.into_inner().map_err(|err| io::Error::other(err.to_string()))?;
        String::from_utf8(bytes).map_err(io::Error::other)
    }

    fn table(&self, sheet: &Sheet) -> String {
        let mut text = if self.begun { "\n".to_owned() } else { String::new() };
        for (kind, line) in lines(sheet, &self.page, self.limit) {
            text += &match kind {
                Kind::Alarm => self.painted(&line, RED),
                Kind::Head => self.painted(&line, BOLD),
                Kind::Fact | Kind::Row | Kind::Note => line + "\n",
            };
        }
        text
    }

    fn painted(&self, text: &str, with: &str) -> String {
        if self.page.colour { format!("{with}{text}{PLAIN}\n") } else { format!("{text}\n") }
    }
}

/// What a line of a list is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// What the list is about, or why it is empty.
    Fact,
    /// The names of the fields.
    Head,
    /// A row.
    Row,
    /// A row that says that something fails, or is about to.
    Alarm,
    /// What follows a row, in words.
    Note,
}

/// A list as text, line by line. Rows are no wider than the page; what is said in words is not cut.
pub fn lines(sheet: &Sheet, page: &Page, limit: usize) -> Vec<(Kind, String)> {
    let glyphs = page.glyphs();
    let fact = |text: &str| (Kind::Fact, clean(text, page.unicode).into_owned());
    let mut text = Vec::new();
    if page.header {
        text.extend(sheet.facts.iter().map(|said| fact(said)));
    }
    if sheet.rows.is_empty() {
        text.extend(page.header.then(|| fact(&format!("({})", sheet.empty))));
        return text;
    }
    let texts: Vec<Vec<String>> = sheet
        .rows
        .iter()
        .take(limit)
        .map(|row| row.cells.iter().map(|cell| human::cell(cell, usize::MAX, glyphs)).collect())
        .collect();
    let places = places(&sheet.heads, &texts, page.width.map(usize::from));
    let line = |cells: &[String]| {
        let cells = places.iter().map(|place| {
            let head = &sheet.heads[place.at];
            pad(&cells[place.at], place.width, head.align == Align::Right, head.cut, glyphs)
        });
        cells.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end().to_owned()
    };
    if page.header {
        let heads: Vec<_> = sheet.heads.iter().map(|head| head.header.to_owned()).collect();
        text.push((Kind::Head, line(&heads)));
    }
    for (row, cells) in sheet.rows.iter().zip(&texts) {
        text.push((if row.alarm { Kind::Alarm } else { Kind::Row }, line(cells)));
        let notes = row.notes.iter().map(|note| format!("    {}", clean(note, page.unicode)));
        text.extend(notes.map(|note| (Kind::Note, note)));
    }
    let left_out = sheet.rows.len() - texts.len();
    if left_out > 0 && page.header {
        text.push(fact(&format!("({left_out} more rows; see --limit)")));
    }
    text
}

struct Place {
    at: usize,
    width: usize,
}

/// Which fields fit, and how wide they are: first whole fields go, then text is cut.
fn places(heads: &[Head], texts: &[Vec<String>], max_width: Option<usize>) -> Vec<Place> {
    let natural = |at: usize| {
        texts.iter().map(|cells| width(&cells[at])).max().unwrap_or(0).max(width(heads[at].header))
    };
    let mut places: Vec<_> = (0..heads.len()).map(|at| Place { at, width: natural(at) }).collect();
    let total =
        |places: &[Place]| places.iter().map(|place| place.width + GAP).sum::<usize>().saturating_sub(GAP);
    let Some(max_width) = max_width else { return places };
    while total(&places) > max_width {
        let droppable = places.iter().enumerate().filter(|(_, place)| heads[place.at].drop_order > 0);
        let Some((last, _)) = droppable.max_by_key(|(_, place)| heads[place.at].drop_order) else { break };
        places.remove(last);
    }
    while total(&places) > max_width {
        let texts = places.iter_mut().filter(|place| heads[place.at].align == Align::Left);
        match texts.max_by_key(|place| place.width).filter(|place| place.width > LEAST_TEXT_WIDTH) {
            Some(widest) => widest.width -= 1,
            None => break,
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::{Part, SheetSink};
    use crate::model::lists::{List, ports, time_wait};
    use crate::sinks::tests::Shared;
    use crate::sinks::text::width;
    use crate::sinks::view::Page;
    use crate::sinks::{OutputFormat, sample_with_ports};

    const PART: Part = |snapshot| Ok(serde_json::json!({ "time_wait": snapshot.time_wait }));

    fn written(format: OutputFormat, list: List, page: Page) -> String {
        let shared = Shared::default();
        let mut sink = SheetSink::new(Box::new(shared.clone()), format, page, list, PART, None);
        for _ in 0..2 {
            sink.snapshot(&sample_with_ports()).unwrap();
        }
        shared.text()
    }

    #[test]
    fn tables_keep_their_width_and_their_most_important_fields() {
        for list in [time_wait::sheet as List, ports::sheet] {
            for columns in [60, 80, 120, 200] {
                let page = Page { width: Some(columns), ..Page::default() };
                let text = written(OutputFormat::Table, list, page);
                let rows = text.lines().filter(|line| line.contains("10.0.0.2") && !line.contains(": "));
                assert!(rows.map(width).all(|cells| cells <= usize::from(columns)), "{text}");
            }
        }
    }

    #[test]
    fn csv_has_its_head_once_and_plain_numbers() {
        let text = written(OutputFormat::Csv, time_wait::sheet, Page::default());
        assert_eq!(text.matches("cumulative_s").count(), 1);
        assert!(text.contains(",14000,"), "{text}");
    }

    #[test]
    fn json_has_the_part_and_what_every_document_has() {
        let text = written(OutputFormat::Jsonl, time_wait::sheet, Page::default());
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((&first["schema_version"], &first["time_wait"]["owned"]), (&1.into(), &14_400.into()));
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn no_control_character_of_a_name_gets_through() {
        for format in [OutputFormat::Table, OutputFormat::Csv, OutputFormat::Jsonl] {
            let text = written(format, time_wait::sheet, Page::default());
            assert!(text.contains("evil"));
            assert!(!text.chars().any(|c| c != '\n' && crate::sinks::text::is_hostile(c)), "{text}");
        }
    }
}
