//! Which state change a processor saw last, so that a further look at the same change costs next to nothing.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;

use crate::maps::LOOKS;

/// The change that was seen last on one processor, alone on its cache line. Two words, because the verifier forbids
/// arithmetic on the address.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Look {
    pub sock: u64,
    pub change: u64,
}

/// Says that this program has this change in hand. Must come before anything else is done with it: then whoever skips
/// the program from here on finds another change than its own.
#[inline(always)]
pub fn take(sock: *const u8, old: u8, new: u8) {
    let Some(look) = last() else { return };
    // SAFETY: points into the map.
    unsafe {
        core::ptr::write_volatile(&raw mut (*look).sock, sock as u64);
        core::ptr::write_volatile(&raw mut (*look).change, change(old, new));
    }
}

/// Whether a program before this one took the change. False also where the task moved to another processor in between,
/// or another task ran: then the connection itself has to tell.
#[inline(always)]
pub fn is_taken(sock: *const u8, old: u8, new: u8) -> bool {
    let Some(look) = last() else { return false };
    // SAFETY: points into the map.
    let (seen, seen_change) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*look).sock),
            core::ptr::read_volatile(&raw const (*look).change),
        )
    };
    seen_change == change(old, new) && seen == sock as u64
}

#[inline(always)]
fn last() -> Option<*mut Look> {
    // SAFETY: no preconditions.
    LOOKS.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
}

#[inline(always)]
fn change(old: u8, new: u8) -> u64 {
    u64::from(old) << 8 | u64::from(new)
}
