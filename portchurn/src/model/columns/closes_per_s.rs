//! Column `closed_per_s`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Connections ended per second, in the window: the churn rate.
pub(super) const COLUMN: Column = Column {
    key: "closed_per_s",
    header: "CLOSES/s",
    help: "Connections ended per second, in the window: the churn rate.",
    align: Align::Right,
    cut: Cut::End,
    width: 9,
    drop_order: 6,
    default: false,
    cell: |row| Cell::PerSecond(row.tally.closed_per_s),
};
