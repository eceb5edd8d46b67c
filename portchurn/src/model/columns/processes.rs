//! Column `processes`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Processes seen since the attach, ended ones included.
pub(super) const COLUMN: Column = Column {
    key: "processes",
    header: "PROCS",
    help: "Processes seen since the attach, ended ones included.",
    align: Align::Right,
    cut: Cut::End,
    width: 6,
    drop_order: 7,
    default: true,
    cell: |row| Cell::Count(row.process_count),
};
