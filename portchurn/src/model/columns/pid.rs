//! Column `pid`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Process, where the row is one.
pub(super) const COLUMN: Column = Column {
    key: "pid",
    header: "PID",
    help: "Process, where the row is one.",
    align: Align::Right,
    cut: Cut::End,
    width: 8,
    drop_order: 0,
    default: false,
    cell: |row| row.tgid.filter(|&tgid| tgid != 0).map_or(Cell::Empty, |tgid| Cell::Id(u64::from(tgid))),
};
