//! Column `accepted_per_s`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Connections accepted per second, in the window.
pub(super) const COLUMN: Column = Column {
    key: "accepted_per_s",
    header: "ACC/s",
    help: "Connections accepted per second, in the window.",
    align: Align::Right,
    cut: Cut::End,
    width: 8,
    drop_order: 0,
    default: true,
    cell: |row| Cell::PerSecond(row.tally.accepted_per_s),
};
