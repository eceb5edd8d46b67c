//! Column `time_wait_entered`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// Closes since the attach after which a TIME_WAIT of this side is expected.
pub(super) const COLUMN: Column = Column {
    key: "time_wait_entered",
    header: "TIME_WAIT",
    help: "Closes since the attach after which a TIME_WAIT of this side is expected.",
    align: Align::Right,
    cut: Cut::End,
    width: 9,
    drop_order: 1,
    default: true,
    cell: |row| Cell::Count(row.time_wait_entered()),
};
