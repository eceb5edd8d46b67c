//! Column `closed`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Connections ended since the attach.
pub(super) const COLUMN: Column = Column {
    key: "closed",
    header: "CLOSED",
    help: "Connections ended since the attach.",
    align: Align::Right,
    cut: Cut::End,
    width: 9,
    drop_order: 8,
    default: false,
    cell: |row| Cell::Count(row.tally.closed),
};
