//! Which columns fit, and how wide each is. Pure arithmetic over what columns ask for; used by table and screen alike.

use crate::model::columns::{Align, Column, Cut};
use crate::model::row::Row;
use crate::sinks::human;
use crate::sinks::text::{Glyphs, pad, width};
use crate::sinks::view::SortKey;

/// Blanks between two columns.
pub const GAP: usize = 2;

/// Text columns are not squeezed below this, as long as another one can give.
const LEAST_TEXT_WIDTH: usize = 6;

/// A column and its place.
#[derive(Clone, Copy)]
pub struct Placed {
    /// The column.
    pub column: &'static Column,
    /// Cells it gets.
    pub width: usize,
    /// Cells its widest content would like.
    natural: usize,
}

/// Chooses columns and widths for these rows, which are in this order. `max_width` `None`: everything, uncut.
pub fn place(
    columns: &[&'static Column],
    sort: &[SortKey],
    rows: &[Row<'_>],
    max_width: Option<usize>,
    glyphs: &Glyphs,
) -> Vec<Placed> {
    let mut placed: Vec<_> = columns.iter().map(|column| natural(column, rows, max_width, glyphs)).collect();
    let Some(max_width) = max_width else { return placed };
    while total(&placed) > max_width {
        let Some(first_to_go) = droppable(&placed, sort) else { break };
        placed.remove(first_to_go);
    }
    squeeze(&mut placed, max_width);
    stretch(&mut placed, max_width);
    placed
}

/// The line of headings.
pub fn heading(placed: &[Placed], glyphs: &Glyphs) -> String {
    line(placed, glyphs, |_| Cut::End, |placed| placed.column.header.to_owned())
}

/// One row, every column cut or filled to its width.
pub fn row_text(placed: &[Placed], row: &Row<'_>, glyphs: &Glyphs) -> String {
    let cut = |placed: &Placed| placed.column.cut;
    line(placed, glyphs, cut, |placed| human::cell(&(placed.column.cell)(row), placed.width, glyphs))
}

/// Cells that these columns take together.
pub fn total(placed: &[Placed]) -> usize {
    let gaps = GAP * placed.len().saturating_sub(1);
    placed.iter().map(|placed| placed.width).sum::<usize>() + gaps
}

fn line(
    placed: &[Placed],
    glyphs: &Glyphs,
    cut: impl Fn(&Placed) -> Cut,
    text: impl Fn(&Placed) -> String,
) -> String {
    let cells: Vec<_> = placed
        .iter()
        .map(|placed| {
            let right = placed.column.align == Align::Right;
            pad(&text(placed), placed.width, right, cut(placed), glyphs)
        })
        .collect();
    cells.join(&" ".repeat(GAP))
}

fn natural(column: &'static Column, rows: &[Row<'_>], max_width: Option<usize>, glyphs: &Glyphs) -> Placed {
    let wanted = usize::from(column.width);
    let number_width = if max_width.is_some() { wanted } else { usize::MAX };
    let content = rows.iter().map(|row| width(&human::cell(&(column.cell)(row), number_width, glyphs))).max();
    let natural = content.unwrap_or(0).max(width(column.header));
    let least = match (max_width, column.align) {
        (None, _) => natural,
        (_, Align::Right) => natural.min(wanted),
        // Text may give three tenths of its place before a whole column goes; `stretch` returns what is not needed.
        (_, Align::Left) => natural.min((wanted * 7).div_ceil(10)),
    };
    Placed { column, width: least, natural }
}

/// The column that goes first when the line is too narrow; of equal ones the rightmost. What rows are sorted by is to be seen.
fn droppable(placed: &[Placed], sort: &[SortKey]) -> Option<usize> {
    let is_sorted_by = |column: &Column| sort.iter().any(|key| key.column.key == column.key);
    let may_go = |column: &Column| column.drop_order > 0 && !is_sorted_by(column);
    let candidates = placed.iter().enumerate().filter(|(_, placed)| may_go(placed.column));
    candidates.max_by_key(|(_, placed)| placed.column.drop_order).map(|(at, _)| at)
}

/// Takes from the widest text column, cell by cell; when none can give any more, leaves out columns from the right.
fn squeeze(placed: &mut Vec<Placed>, max_width: usize) {
    while total(placed) > max_width {
        let texts = placed.iter_mut().filter(|placed| placed.column.align == Align::Left);
        if let Some(widest) =
            texts.max_by_key(|placed| placed.width).filter(|widest| widest.width > LEAST_TEXT_WIDTH)
        {
            widest.width -= 1;
        } else if placed.len() > 1 {
            placed.pop();
        } else {
            placed.iter_mut().for_each(|placed| placed.width = placed.width.min(max_width));
        }
    }
}

/// Gives what is left to the text columns that are cut, evenly.
fn stretch(placed: &mut [Placed], max_width: usize) {
    for _ in total(placed)..max_width {
        let short = placed.iter_mut().filter(|placed| placed.width < placed.natural);
        match short.min_by_key(|placed| placed.width) {
            Some(shortest) => shortest.width += 1,
            None => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{heading, place, row_text, total};
    use crate::model::columns::{COLUMNS, defaults};
    use crate::model::row::{Level, rows};
    use crate::sinks::sample_snapshot;
    use crate::sinks::text::{ASCII, UNICODE, width};
    use crate::sinks::view::parse_sort;

    #[test]
    fn lines_never_exceed_the_width_whatever_the_columns() {
        let snapshot = sample_snapshot();
        for level in Level::ALL {
            let rows = rows(&snapshot, level);
            for columns in [defaults(level, true), COLUMNS.to_vec(), COLUMNS[..1].to_vec()] {
                for max_width in 0..200 {
                    for glyphs in [&UNICODE, &ASCII] {
                        let placed = place(&columns, &[], &rows, Some(max_width), glyphs);
                        assert_eq!(width(&heading(&placed, glyphs)), total(&placed));
                        for row in &rows {
                            assert!(width(&row_text(&placed, row, glyphs)) <= max_width, "{max_width}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_must_stay_stays_at_80_and_everything_at_200() {
        let snapshot = sample_snapshot();
        let rows = rows(&snapshot, Level::Program);
        let columns = defaults(Level::Program, false);
        let keys = |max_width| {
            let placed = place(&columns, &[], &rows, Some(max_width), &UNICODE);
            placed.iter().map(|placed| placed.column.key).collect::<Vec<_>>()
        };
        let at_80 = keys(80);
        for column in columns.iter().filter(|column| column.drop_order == 0) {
            assert!(at_80.contains(&column.key), "{} is missing of {at_80:?}", column.key);
        }
        assert_eq!(keys(200).len(), columns.len());
    }

    #[test]
    fn without_a_width_nothing_is_cut() {
        let snapshot = sample_snapshot();
        let rows = rows(&snapshot, Level::Destination);
        let placed = place(COLUMNS, &[], &rows, None, &UNICODE);
        assert_eq!(placed.len(), COLUMNS.len());
        assert!(rows.iter().all(|row| !row_text(&placed, row, &UNICODE).contains('…')));
    }

    #[test]
    fn what_rows_are_sorted_by_is_to_be_seen() {
        let snapshot = sample_snapshot();
        let rows = rows(&snapshot, Level::Program);
        let columns = defaults(Level::Program, true);
        let keys = |sort: &str| {
            let sort = parse_sort(sort).unwrap();
            let placed = place(&columns, &sort, &rows, Some(80), &UNICODE);
            assert!(total(&placed) <= 80);
            placed.iter().map(|placed| placed.column.key).collect::<Vec<_>>()
        };
        assert!(!keys("opened_per_s").contains(&"processes"));
        assert!(keys("processes").contains(&"processes"));
    }
}
