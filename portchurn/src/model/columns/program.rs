//! Column `program`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// What runs; for an interpreter also its script.
pub(super) const COLUMN: Column = Column {
    key: "program",
    header: "PROGRAM",
    help: "What runs; for an interpreter also its script.",
    align: Align::Left,
    cut: Cut::End,
    width: 20,
    drop_order: 0,
    default: true,
    cell: |row| Cell::Text(row.program.to_string()),
};
