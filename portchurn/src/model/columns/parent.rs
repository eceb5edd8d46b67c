//! Column `parent`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Program of the parent process.
pub(super) const COLUMN: Column = Column {
    key: "parent",
    header: "PARENT",
    help: "Program of the parent process.",
    align: Align::Left,
    cut: Cut::End,
    width: 12,
    drop_order: 9,
    default: false,
    cell: |row| row.parent.map_or(Cell::Empty, |parent| Cell::Text(parent.to_owned())),
};
