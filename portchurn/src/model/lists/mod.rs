//! The lists beside the main table: whose TIME_WAIT there are, and how many ports are left. Each list is one file with
//! its rows and its fields; outputs take any of them and know none by name.

use crate::model::columns::{Align, Cell, Cut};
use crate::model::snapshot::Snapshot;

pub mod ports;
pub mod time_wait;

/// One field of a list.
pub struct Field<R> {
    /// Its name in CSV. Units stand in it.
    pub key: &'static str,
    /// Its name on the screen, short.
    pub header: &'static str,
    /// Where its text stands.
    pub align: Align,
    /// How its text is cut.
    pub cut: Cut,
    /// When the screen is narrow, fields with a higher number go first. 0 stays always.
    pub drop_order: u8,
    /// Its value.
    pub cell: fn(&R) -> Cell,
}

/// A list with its values, ready for any output.
pub struct Sheet {
    /// What it is about, in words: one line each.
    pub facts: Vec<String>,
    /// Its fields.
    pub heads: Vec<Head>,
    /// Its rows, a cell for each field.
    pub rows: Vec<SheetRow>,
    /// Why there is no row.
    pub empty: &'static str,
}

/// A field, without its value.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// As in [`Field`].
    pub key: &'static str,
    /// As in [`Field`].
    pub header: &'static str,
    /// As in [`Field`].
    pub align: Align,
    /// As in [`Field`].
    pub cut: Cut,
    /// As in [`Field`].
    pub drop_order: u8,
}

/// One row.
pub struct SheetRow {
    /// A cell for each field.
    pub cells: Vec<Cell>,
    /// Whether it says that something fails, or is about to.
    pub alarm: bool,
    /// What follows the row, in words.
    pub notes: Vec<String>,
}

/// A list by name, as commands ask for it.
pub type List = fn(&Snapshot) -> Sheet;

fn heads<R>(fields: &[Field<R>]) -> Vec<Head> {
    fields
        .iter()
        .map(|field| Head {
            key: field.key,
            header: field.header,
            align: field.align,
            cut: field.cut,
            drop_order: field.drop_order,
        })
        .collect()
}

fn cells<R>(fields: &[Field<R>], row: &R) -> Vec<Cell> {
    fields.iter().map(|field| (field.cell)(row)).collect()
}

const fn text<R>(key: &'static str, header: &'static str, drop_order: u8, cell: fn(&R) -> Cell) -> Field<R> {
    Field { key, header, align: Align::Left, cut: Cut::Middle, drop_order, cell }
}

const fn number<R>(
    key: &'static str,
    header: &'static str,
    drop_order: u8,
    cell: fn(&R) -> Cell,
) -> Field<R> {
    Field { key, header, align: Align::Right, cut: Cut::End, drop_order, cell }
}

#[cfg(test)]
mod tests {
    use super::{ports, time_wait};
    use crate::model::columns::Cell;
    use crate::model::snapshot::Snapshot;
    use crate::sinks::sample_with_ports;

    fn column(list: super::List, snapshot: &Snapshot, key: &str) -> Vec<Cell> {
        let sheet = list(snapshot);
        let at = sheet.heads.iter().position(|head| head.key == key).unwrap();
        sheet.rows.iter().map(|row| row.cells[at].clone()).collect()
    }

    #[test]
    fn every_row_has_every_field_and_no_key_comes_twice() {
        for list in [time_wait::sheet as super::List, ports::sheet] {
            let sheet = list(&sample_with_ports());
            let mut keys: Vec<_> = sheet.heads.iter().map(|head| head.key).collect();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), sheet.heads.len());
            assert!(!sheet.rows.is_empty() && !sheet.facts.is_empty());
            assert!(sheet.rows.iter().all(|row| row.cells.len() == keys.len()));
        }
    }

    #[test]
    fn time_wait_of_one_program_is_one_row_for_each_destination() {
        let counts = column(time_wait::sheet, &sample_with_ports(), "time_wait");
        assert_eq!(counts, [Cell::Count(14_000), Cell::Count(400), Cell::Count(2)]);
    }

    #[test]
    fn a_row_past_the_wall_alarms() {
        let sheet = ports::sheet(&sample_with_ports());
        assert!(sheet.rows[0].alarm && !sheet.rows[1].alarm);
    }

    #[test]
    fn before_the_first_reading_there_is_nothing_and_that_is_said() {
        let snapshot = Snapshot { time_wait: None, ports: None, ..sample_with_ports() };
        for list in [time_wait::sheet as super::List, ports::sheet] {
            let sheet = list(&snapshot);
            assert!(sheet.rows.is_empty() && sheet.facts[0].contains("not read"), "{:?}", sheet.facts);
        }
    }
}
