//! Column `failed`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Connects that failed since the attach.
pub(super) const COLUMN: Column = Column {
    key: "failed",
    header: "FAILED",
    help: "Connects that failed since the attach.",
    align: Align::Right,
    cut: Cut::End,
    width: 8,
    drop_order: 3,
    default: true,
    cell: |row| Cell::Count(row.tally.failed),
};
