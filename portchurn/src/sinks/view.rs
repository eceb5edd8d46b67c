//! What of a snapshot is wanted, and in which order: the same for every output. Knows nothing of how it is written, and
//! sorts by what columns say, not by fields.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::model::churn::busier;
use crate::model::columns::{self, Align, Cell, Column};
use crate::model::host_names::HostNames;
use crate::model::row::{Level, Row, rows};
use crate::model::snapshot::Snapshot;
use crate::sinks::text::{ASCII, Glyphs, UNICODE};

/// Says whether a row is wanted.
pub type RowFilter = Box<dyn Fn(&Row<'_>) -> bool + Send + Sync>;

/// A filter, and the text it was made from.
pub struct Filtering {
    /// As the user wrote it.
    pub text: String,
    /// Says whether a row is wanted.
    pub matches: RowFilter,
}

/// One criterion of an order.
#[derive(Clone, Copy)]
pub struct SortKey {
    /// What to compare.
    pub column: &'static Column,
    /// Largest first.
    pub descending: bool,
}

impl SortKey {
    /// A column in the direction in which one wants to see it first: numbers from the largest, text from A.
    pub fn natural(column: &'static Column) -> Self {
        Self { column, descending: column.align == Align::Right }
    }
}

/// The paper that is written on.
#[derive(Clone, Debug)]
pub struct Page {
    /// Name of the host, for headings.
    pub host: Option<String>,
    /// Cells of a line. `None`: never cut.
    pub width: Option<u16>,
    /// Whether headings are written.
    pub header: bool,
    /// Whether colour may be used.
    pub colour: bool,
    /// Whether characters beyond ASCII may be used.
    pub unicode: bool,
    /// Whether a person reads along: JSON is indented.
    pub terminal: bool,
}

impl Default for Page {
    fn default() -> Self {
        Self { host: None, width: None, header: true, colour: false, unicode: true, terminal: false }
    }
}

impl Page {
    /// The characters that may be used.
    pub fn glyphs(&self) -> &'static Glyphs {
        if self.unicode { &UNICODE } else { &ASCII }
    }
}

/// What of a snapshot is wanted, in which order, on which paper.
pub struct View {
    /// What a row stands for.
    pub level: Level,
    /// Which columns. `None`: those that fit the level.
    pub columns: Option<Vec<&'static Column>>,
    /// The order. Empty: busiest first.
    pub sort: Vec<SortKey>,
    /// At most so many rows.
    pub limit: Option<usize>,
    /// Which rows.
    pub filter: Option<Filtering>,
    /// Whether rows are shown of which every process has ended. They are: a short-lived process may be the culprit.
    pub include_exited: bool,
    /// Whether call sites are taken: then they have a column.
    pub call_sites: bool,
    /// Set: what hosts and ports are called stands where their numbers would.
    pub names: Option<Arc<HostNames>>,
    /// On what.
    pub page: Page,
}

/// The rows of a view, and how many there were.
pub struct Selection<'a> {
    /// The rows to show, in order.
    pub rows: Vec<Row<'a>>,
    /// Rows before anything was left out.
    pub total: usize,
    /// Rows that the filter let through, before the limit.
    pub matching: usize,
}

impl View {
    /// Everything at one level, busiest first.
    pub fn new(level: Level) -> Self {
        Self {
            level,
            columns: None,
            sort: Vec::new(),
            limit: None,
            filter: None,
            include_exited: true,
            call_sites: false,
            names: None,
            page: Page::default(),
        }
    }

    /// The columns to show of rows of this level.
    pub fn columns_at(&self, level: Level) -> Vec<&'static Column> {
        self.columns.clone().unwrap_or_else(|| columns::defaults(level, self.call_sites))
    }

    /// The wanted rows of a snapshot, in order.
    pub fn select<'a>(&self, snapshot: &'a Snapshot) -> Selection<'a> {
        self.arrange(rows(snapshot, self.level))
    }

    /// The wanted ones of these rows, in order.
    pub fn arrange<'a>(&self, mut rows: Vec<Row<'a>>) -> Selection<'a> {
        let total = rows.len();
        rows.retain(|row| self.wants(row));
        let matching = rows.len();
        rows.iter_mut().for_each(|row| row.names.clone_from(&self.names));
        let mut rows = sorted(rows, &self.sort);
        rows.truncate(self.limit.unwrap_or(usize::MAX));
        Selection { rows, total, matching }
    }

    fn wants(&self, row: &Row<'_>) -> bool {
        (self.include_exited || !row.exited)
            && self.filter.as_ref().is_none_or(|filter| (filter.matches)(row))
    }
}

/// How much goes on behind a row, failures included: what the default order looks at.
pub fn activity(row: &Row<'_>) -> f64 {
    row.tally.opened_per_s + row.tally.accepted_per_s + row.tally.failed_per_s
}

fn sorted<'a>(rows: Vec<Row<'a>>, sort: &[SortKey]) -> Vec<Row<'a>> {
    let keys = |row: &Row<'a>| sort.iter().map(|key| (key.column.cell)(row)).collect::<Vec<_>>();
    let mut decorated: Vec<_> = rows.into_iter().map(|row| (keys(&row), row)).collect();
    decorated.sort_by(|(a_keys, a), (b_keys, b)| {
        let by_keys = sort.iter().zip(a_keys.iter().zip(b_keys));
        by_keys
            .map(|(key, (a, b))| compare(a, b, key.descending))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| busiest_first(a, b))
    });
    decorated.into_iter().map(|(_, row)| row).collect()
}

/// Ties end at the name, so that rows do not dance while nothing happens.
fn busiest_first(a: &Row<'_>, b: &Row<'_>) -> Ordering {
    busier(&a.tally, &b.tally).then_with(|| a.program.cmp(&b.program))
}

/// What is not known comes last in either direction.
fn compare(a: &Cell, b: &Cell, descending: bool) -> Ordering {
    let ascending = match (a, b) {
        (Cell::Empty, Cell::Empty) => Ordering::Equal,
        (Cell::Empty, _) => return Ordering::Greater,
        (_, Cell::Empty) => return Ordering::Less,
        (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
        (Cell::Count(a) | Cell::Id(a) | Cell::Micros(a), Cell::Count(b) | Cell::Id(b) | Cell::Micros(b)) => {
            a.cmp(b)
        }
        (Cell::PerSecond(a), Cell::PerSecond(b))
        | (Cell::Seconds(a), Cell::Seconds(b))
        | (Cell::Ratio(a), Cell::Ratio(b)) => a.total_cmp(b),
        // A column always gives the same kind of cell; its own test would be the place to notice.
        _ => Ordering::Equal,
    };
    if descending { ascending.reverse() } else { ascending }
}

/// Reads `-failed,program`: columns to sort by, `-` for largest first.
pub fn parse_sort(text: &str) -> Result<Vec<SortKey>, String> {
    names(text)
        .map(|name| {
            let (descending, key) = name.strip_prefix('-').map_or((false, name), |key| (true, key));
            Ok(SortKey { column: find(key)?, descending })
        })
        .collect()
}

/// Reads `program,failed` (these columns) or `+closed,-closer` (the usual ones at this level, with changes).
/// `with_sites`: call sites are taken.
pub fn parse_columns(text: &str, level: Level, with_sites: bool) -> Result<Vec<&'static Column>, String> {
    let is_change = |name: &str| name.starts_with(['+', '-']);
    let all_change = names(text).all(is_change);
    if !all_change && names(text).any(is_change) {
        return Err("either names only, or every name with + or -".to_owned());
    }
    let mut chosen = if all_change { columns::defaults(level, with_sites) } else { Vec::new() };
    for name in names(text) {
        let column = find(name.trim_start_matches(['+', '-']))?;
        chosen.retain(|other| other.key != column.key);
        if !name.starts_with('-') {
            chosen.push(column);
        }
    }
    if chosen.is_empty() { Err("no column is left".to_owned()) } else { Ok(chosen) }
}

/// What `--columns help` prints: every column, one line each.
pub fn columns_help() -> String {
    let width = columns::COLUMNS.iter().map(|column| column.key.len()).max().unwrap_or(0);
    columns::COLUMNS.iter().map(|column| format!("{:width$}  {}\n", column.key, column.help)).collect()
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty())
}

fn find(key: &str) -> Result<&'static Column, String> {
    columns::find(key).ok_or_else(|| {
        let keys: Vec<_> = columns::COLUMNS.iter().map(|column| column.key).collect();
        format!("no column `{key}`; there are: {}", keys.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::{Filtering, View, columns_help, parse_columns, parse_sort};
    use crate::model::columns::COLUMNS;
    use crate::model::row::Level;
    use crate::sinks::sample_snapshot;

    fn programs(view: &View) -> Vec<String> {
        view.select(&sample_snapshot()).rows.iter().map(|row| row.program.to_string()).collect()
    }

    fn keys(text: &str) -> Vec<&'static str> {
        parse_columns(text, Level::Program, false).unwrap().iter().map(|column| column.key).collect()
    }

    #[test]
    fn the_busiest_and_the_failing_come_first() {
        let names = programs(&View::new(Level::Program));
        assert_eq!(names[..3], ["python3 worker.py", "curl", "nginx"]);
    }

    #[test]
    fn a_sort_key_has_a_direction_and_unknown_values_come_last_in_both() {
        for (text, first) in
            [("-failed", "curl"), ("program", "\u{1b}[31mevil\n\u{202e}gpj"), ("-program", "工作者")]
        {
            let view = View { sort: parse_sort(text).unwrap(), ..View::new(Level::Program) };
            assert_eq!(programs(&view)[0], first, "{text}");
        }
        for text in ["lifetime_p50_us", "-lifetime_p50_us"] {
            let view = View { sort: parse_sort(text).unwrap(), ..View::new(Level::Program) };
            assert_eq!(programs(&view).last().map(String::as_str), Some("curl"), "{text}");
        }
    }

    #[test]
    fn filter_and_limit_say_how_much_they_left_out() {
        let matches = Box::new(|row: &crate::model::row::Row<'_>| row.tally.opened > 0);
        let filter = Some(Filtering { text: "opened>0".to_owned(), matches });
        let view = View { filter, limit: Some(1), ..View::new(Level::Program) };
        let snapshot = sample_snapshot();
        let selection = view.select(&snapshot);
        assert_eq!((selection.rows.len(), selection.matching, selection.total), (1, 3, 5));
    }

    #[test]
    fn ended_programs_can_be_left_out() {
        let view = View { include_exited: false, ..View::new(Level::Program) };
        assert!(!programs(&view).contains(&"curl".to_owned()));
        assert!(programs(&View::new(Level::Program)).contains(&"curl".to_owned()));
    }

    #[test]
    fn columns_are_named_or_changed() {
        assert_eq!(keys("failed, program"), ["failed", "program"]);
        assert!(keys("+closed").ends_with(&["closed"]) && keys("+closed").contains(&"program"));
        assert!(!keys("-closer").contains(&"closer"));
        assert!(parse_columns("closed,-closer", Level::Program, false).is_err());
        assert!(parse_sort("colour").err().unwrap().contains("opened_per_s"));
        assert!(COLUMNS.iter().all(|column| columns_help().contains(column.key)));
    }
}
