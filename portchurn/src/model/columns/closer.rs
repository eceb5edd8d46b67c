//! Column `closer`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Who mostly ends the connections, and how.
pub(super) const COLUMN: Column = Column {
    key: "closer",
    header: "CLOSER",
    help: "Who mostly ends the connections, and how.",
    align: Align::Left,
    cut: Cut::End,
    width: 10,
    drop_order: 0,
    default: true,
    cell: |row| match row.closer() {
        Some((name, _)) => Cell::Text(name.to_owned()),
        None => Cell::Empty,
    },
};
