//! Column `opened`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Connects established since the attach.
pub(super) const COLUMN: Column = Column {
    key: "opened",
    header: "OPENED",
    help: "Connects established since the attach.",
    align: Align::Right,
    cut: Cut::End,
    width: 9,
    drop_order: 8,
    default: false,
    cell: |row| Cell::Count(row.tally.opened),
};
