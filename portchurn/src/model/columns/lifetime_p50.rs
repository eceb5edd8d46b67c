//! Column `lifetime_p50_us`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Median life of closed connections, to within a factor of two.
pub(super) const COLUMN: Column = Column {
    key: "lifetime_p50_us",
    header: "LIFE p50",
    help: "Median life of closed connections, to within a factor of two.",
    align: Align::Right,
    cut: Cut::End,
    width: 9,
    drop_order: 0,
    default: true,
    cell: |row| row.lifetime_p50_us().map_or(Cell::Empty, Cell::Micros),
};
