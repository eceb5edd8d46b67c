//! Column `connect_p50_us`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Median duration of successful connects, to within a factor of two.
pub(super) const COLUMN: Column = Column {
    key: "connect_p50_us",
    header: "CONN p50",
    help: "Median duration of successful connects, to within a factor of two.",
    align: Align::Right,
    cut: Cut::End,
    width: 9,
    drop_order: 6,
    default: false,
    cell: |row| row.connect_p50_us().map_or(Cell::Empty, Cell::Micros),
};
