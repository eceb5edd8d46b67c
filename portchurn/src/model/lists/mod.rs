//! The lists beside the main table: whose TIME_WAIT there are, how many ports are left, and which lines of
//! code connect. Each list is one file with
//! its rows and its fields; outputs take any of them and know none by name.

use crate::model::columns::{Align, Cell, Cut};
use crate::model::snapshot::Snapshot;

pub mod ports;
pub mod sites;
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
