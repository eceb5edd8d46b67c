//! Call site → counter. The counter is exact; that a stack was sent for it is noted beside it.

use aya_ebpf::bindings::BPF_NOEXIST;
use portchurn_common::loss::Loss;
use portchurn_common::stack::{Site, SiteKey};

use crate::maps::{FREE_SITES, SITE_KEYS, SITES};
use crate::{atomic, emit};

/// Counts one passage. `None` when the table is full.
#[inline(always)]
pub fn count(key: &SiteKey) -> Option<(u32, *mut Site)> {
    // SAFETY: the value is one word, written before it becomes visible.
    let index = match unsafe { SITE_KEYS.get(key) } {
        Some(index) => *index,
        None => intern(key)?,
    };
    let site = SITES.get_ptr_mut(index)?;
    // SAFETY: points into the map.
    unsafe { atomic::add_u32(&raw mut (*site).count, 1) };
    Some((index, site))
}

#[inline(never)]
fn intern(key: &SiteKey) -> Option<u32> {
    let Ok(Some(index)) = FREE_SITES.pop() else {
        emit::lose(Loss::SitesFull);
        return None;
    };
    if SITE_KEYS.insert(key, &index, u64::from(BPF_NOEXIST)).is_ok() {
        if let Some(site) = SITES.get_ptr_mut(index) {
            // SAFETY: the entry is empty, and its counters may be counted by another processor from now on.
            unsafe { (*site).key = *key };
        }
        return Some(index);
    }
    // Another processor was first, or the table is full.
    let _ = FREE_SITES.push(&index, 0);
    // SAFETY: as above.
    match unsafe { SITE_KEYS.get(key) } {
        Some(first) => Some(*first),
        None => {
            emit::lose(Loss::SitesFull);
            None
        }
    }
}

/// Whether the user side was never told of this site.
#[inline(always)]
pub fn is_new(site: *mut Site) -> bool {
    // SAFETY: points into the map.
    unsafe { core::ptr::read_volatile(&raw const (*site).sent) == 0 }
}

/// Whether its native stack should be read: at first sight, then now and then, to see that one fingerprint still
/// means one stack.
#[inline(always)]
pub fn wants_a_look(site: *mut Site) -> bool {
    // SAFETY: points into the map.
    let count = unsafe { core::ptr::read_volatile(&raw const (*site).count) };
    is_new(site) || count == EARLY_LOOK || count & LOOK_MASK == 0
}

/// The first look again, soon enough for a short run; what is new must not wait for what is looked at again.
const EARLY_LOOK: u32 = 8;
/// Every 64th.
const LOOK_MASK: u32 = 63;
