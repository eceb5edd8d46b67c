//! Column `open_now`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Connections open at this moment.
pub(super) const COLUMN: Column = Column {
    key: "open_now",
    header: "OPEN",
    help: "Connections open at this moment.",
    align: Align::Right,
    cut: Cut::End,
    width: 7,
    drop_order: 4,
    default: true,
    cell: |row| Cell::Count(row.tally.open_now),
};
