//! Column `destination`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Remote address and port of connects, local port of accepts; +n: further ones.
pub(super) const COLUMN: Column = Column {
    key: "destination",
    header: "DESTINATION",
    help: "Remote address and port of connects, local port of accepts; +n: further ones.",
    align: Align::Left,
    cut: Cut::Middle,
    width: 22,
    drop_order: 0,
    default: true,
    cell: |row| match (row.destination, row.destination_count) {
        (None, _) => Cell::Empty,
        (Some(destination), 1) => Cell::Text(row.destination_text(destination)),
        (Some(destination), count) => {
            Cell::Text(format!("{} +{}", row.destination_text(destination), count - 1))
        }
    },
};
