//! Connection → where in the code it was opened and closed, for as long as its place in the table is its own.

use portchurn_common::conn::BUSY;
use portchurn_common::stack::SiteKey;

use crate::atomic;
use crate::maps::CONN_SITES;

/// Notes a passage at its connection. What the place knew of another connection, or of an earlier one of the same socket,
/// is forgotten.
///
/// The moment is calculated with, never asked for: the verifier would go through everything before once for each.
#[inline(never)]
pub fn note(place: u32, id: u64, key: &SiteKey) {
    let Some(sites) = CONN_SITES.get_ptr_mut(place) else { return };
    // `At::Open` is 1, `At::Close` is 2.
    let at_close = core::hint::black_box(0u64.wrapping_sub(u64::from(key.at) >> 1 & 1));
    let at_open = core::hint::black_box(!at_close);
    // SAFETY: points into the map. A connection's changes come one after the other; a reader compares `id` before and after.
    unsafe {
        let seen = core::ptr::read_volatile(&raw const (*sites).id);
        let known = if seen == id { core::ptr::read_volatile(&raw const (*sites).opened) } else { 0 };
        // Atomically, because that keeps the order of what is written.
        if !atomic::claim_u64(&raw mut (*sites).id, seen, id | BUSY) {
            return;
        }
        core::ptr::write_volatile(&raw mut (*sites).opened, key.stack & at_open | known & at_close);
        core::ptr::write_volatile(&raw mut (*sites).closed, key.stack & at_close);
        atomic::claim_u64(&raw mut (*sites).id, id | BUSY, id);
    }
}
