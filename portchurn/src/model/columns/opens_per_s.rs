//! Column `opened_per_s`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Connects established per second, in the window.
pub(super) const COLUMN: Column = Column {
    key: "opened_per_s",
    header: "OPENS/s",
    help: "Connects established per second, in the window.",
    align: Align::Right,
    cut: Cut::End,
    width: 9,
    drop_order: 0,
    default: true,
    cell: |row| Cell::PerSecond(row.tally.opened_per_s),
};
