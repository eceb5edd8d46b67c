//! Column `call_site`.

use crate::model::columns::{Align, Cell, Column, Cut};

/// The line of code behind most connections.
pub(super) const COLUMN: Column = Column {
    key: "call_site",
    header: "CALL SITE",
    help: "Line of code behind most connections of the busiest destination, and its share; not with `--stack off`.",
    align: Align::Left,
    cut: Cut::End,
    width: 32,
    drop_order: 0,
    default: false,
    cell: |row| {
        let sites = row.destination.and_then(|destination| destination.call_sites.as_deref());
        let named = sites.unwrap_or_default().iter().find(|site| site.culprit.is_some());
        named.map_or(Cell::Empty, |site| Cell::Text(site.label()))
    },
};
