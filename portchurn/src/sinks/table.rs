//! Aligned columns, for people and for quick looks through a pipe. Never cut where nobody asked for a width.

use std::io;
use std::io::Write;

use crate::model::columns::{Align, Cut};
use crate::model::snapshot::Snapshot;
use crate::sinks::Sink;
use crate::sinks::layout::{GAP, heading, place, row_text};
use crate::sinks::summary::{self, Fact};
use crate::sinks::text::fit;
use crate::sinks::view::{Page, Selection, View};

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// Starts a table.
pub(super) fn open(out: Box<dyn Write>) -> Box<dyn Sink> {
    Box::new(Table { out, begun: false })
}

struct Table {
    out: Box<dyn Write>,
    begun: bool,
}

impl Sink for Table {
    fn snapshot(&mut self, view: &View, snapshot: &Snapshot) -> io::Result<()> {
        let mut text = String::new();
        if self.begun {
            text.push('\n');
        }
        self.begun = true;
        let selection = view.select(snapshot);
        if view.page.header {
            text.push_str(&facts_above(view, snapshot));
        }
        text.push_str(&body(view, snapshot, &selection));
        // One write per interval: a reader at the other end of the pipe never sees half a table.
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn facts_above(view: &View, snapshot: &Snapshot) -> String {
    let page = &view.page;
    let glyphs = page.glyphs();
    let lines = [
        summary::identity(snapshot, page),
        summary::totals(snapshot, glyphs),
        summary::alarm(snapshot, glyphs).into_iter().collect(),
        summary::hooks(snapshot, glyphs),
        summary::own_cost(snapshot),
    ];
    let lines = lines.into_iter().filter(|facts| !facts.is_empty());
    lines.map(|facts| facts_line(facts, page) + "\n").collect()
}

/// Facts side by side; where they do not fit, the least important are left out.
fn facts_line(facts: Vec<Fact>, page: &Page) -> String {
    let max_width = page.width.map(usize::from);
    let texts = summary::fitting(facts, max_width, GAP).into_iter().map(|fact| {
        let said = fact.said();
        // Only the fact that cannot be left out can still be too wide.
        let said = fit(&said, max_width.unwrap_or(usize::MAX), Cut::End, page.glyphs());
        if fact.alarm { painted(&said, RED, page) } else { said.into_owned() }
    });
    texts.collect::<Vec<_>>().join(&" ".repeat(GAP))
}

fn body(view: &View, snapshot: &Snapshot, selection: &Selection<'_>) -> String {
    let page = &view.page;
    let glyphs = page.glyphs();
    if let Some(why) = summary::nothing_to_show(snapshot, view, selection) {
        return if page.header { format!("({why})\n") } else { String::new() };
    }
    let columns = view.columns_at(view.level);
    let placed = place(&columns, &view.sort, &selection.rows, page.width.map(usize::from), glyphs);
    // Blanks after a text in the last column would be noise in a pipe.
    let trimmed = |line: String| match placed.last() {
        Some(last) if last.column.align == Align::Left => line.trim_end_matches(' ').to_owned(),
        _ => line,
    };
    let mut text = String::new();
    if page.header {
        text.push_str(&painted(&trimmed(heading(&placed, glyphs)), BOLD, page));
        text.push('\n');
    }
    for row in &selection.rows {
        let line = trimmed(row_text(&placed, row, glyphs));
        let fails = row.tally.failed_per_s > 0.0;
        text.push_str(&if fails { painted(&line, RED, page) } else { line });
        text.push('\n');
    }
    let left_out = selection.matching - selection.rows.len();
    if page.header && left_out > 0 {
        text.push_str(&format!("({left_out} more rows match; see --limit)\n"));
    }
    text
}

fn painted(text: &str, with: &str, page: &Page) -> String {
    if page.colour { [with, text, PLAIN].concat() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use crate::model::row::Level;
    use crate::sinks::OutputFormat;
    use crate::sinks::tests::written;
    use crate::sinks::text::width;
    use crate::sinks::view::{Page, View, parse_columns};

    fn table(level: Level, page: Page) -> String {
        written(OutputFormat::Table, &View { page, ..View::new(level) }, 1)
    }

    #[test]
    fn programs_uncut_as_a_pipe_gets_them() {
        let page = Page { host: Some("web-3".to_owned()), unicode: false, ..Page::default() };
        assert_eq!(table(Level::Program, page), include_str!("golden/table_programs.txt"));
    }

    #[test]
    fn destinations_in_80_cells() {
        let page = Page { width: Some(80), ..Page::default() };
        assert_eq!(table(Level::Destination, page), include_str!("golden/table_destinations_80.txt"));
    }

    #[test]
    fn no_line_is_wider_than_the_page() {
        for max in [20, 40, 80, 120] {
            for level in Level::ALL {
                let text = table(level, Page { width: Some(max), ..Page::default() });
                let widest = text.lines().map(width).max().unwrap_or(0);
                assert!(widest <= usize::from(max), "{widest} > {max}:\n{text}");
            }
        }
    }

    #[test]
    fn intervals_are_apart_and_headings_can_be_left_out() {
        let view = View::new(Level::Program);
        let twice = written(OutputFormat::Table, &view, 2);
        assert_eq!(twice.matches("PROGRAM").count(), 2);
        assert_eq!(twice.matches("\n\n").count(), 1);
        let bare = table(Level::Program, Page { header: false, ..Page::default() });
        assert_eq!(bare.lines().count(), 5);
        assert!(bare.starts_with("python3 worker.py"));
    }

    #[test]
    fn colour_is_only_used_when_allowed() {
        assert!(!table(Level::Program, Page::default()).contains('\x1b'));
        let coloured = table(Level::Program, Page { colour: true, ..Page::default() });
        let failing = coloured.lines().find(|line| line.contains("curl")).unwrap();
        assert!(failing.starts_with("\x1b[31m") && failing.ends_with("\x1b[0m"));
        assert!(!coloured.lines().any(|line| line.contains("nginx") && line.contains("\x1b[31m")));
    }

    #[test]
    fn a_limit_says_what_it_leaves_out_and_columns_are_as_asked() {
        let columns = Some(parse_columns("failed,program", Level::Program, false).unwrap());
        let view = View { limit: Some(2), columns, ..View::new(Level::Program) };
        let text = written(OutputFormat::Table, &view, 1);
        assert!(text.contains("FAILED  PROGRAM\n"), "{text}");
        assert!(text.ends_with("(3 more rows match; see --limit)\n"));
    }
}
