//! Column `port_pressure_ratio`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Share of the local ports that are taken for the destination behind the row that is nearest to its end.
pub(super) const COLUMN: Column = Column {
    key: "port_pressure_ratio",
    header: "PORTS %",
    help: "Share of the local ports that are taken, for the destination behind the row that is nearest to its end.",
    align: Align::Right,
    cut: Cut::End,
    width: 7,
    drop_order: 1,
    default: true,
    cell: |row| row.port_pressure_ratio().map_or(Cell::Empty, Cell::Ratio),
};
