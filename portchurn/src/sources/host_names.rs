//! `/etc/hosts` and `/etc/services`, read once. A host that has neither has no names.

use std::fs::read_to_string;

use crate::model::host_names::HostNames;

/// Reads both.
pub fn host_names() -> HostNames {
    let read = |path| read_to_string(path).unwrap_or_default();
    HostNames::parse(&read("/etc/hosts"), &read("/etc/services"))
}
