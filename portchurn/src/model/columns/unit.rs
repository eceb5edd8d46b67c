//! Column `unit`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// systemd unit or container.
pub(super) const COLUMN: Column = Column {
    key: "unit",
    header: "UNIT",
    help: "systemd unit or container.",
    align: Align::Left,
    cut: Cut::Start,
    width: 20,
    drop_order: 9,
    default: false,
    cell: |row| row.unit.or(row.container).map_or(Cell::Empty, |name| Cell::Text(name.to_owned())),
};
