//! The atomic instructions that Rust does not give this target (`atomic_cas: false`), as what they are.
//! `lock +=` is known to every kernel; `cmpxchg` needs 5.12, so only programs that need 5.12 anyway may use it.

use core::arch::asm;

/// `*target += value`, atomically.
///
/// # Safety
/// `target` must be valid for writes and aligned.
#[inline(always)]
pub unsafe fn add_u32(target: *mut u32, value: u32) {
    // SAFETY: the caller's promise; the verifier checks the bounds once more.
    unsafe {
        asm!("lock *(u32 *)({target} + 0) += {value}", target = in(reg) target, value = in(wreg) value)
    };
}

/// `*target += value`, atomically.
///
/// # Safety
/// `target` must be valid for writes and aligned.
#[inline(always)]
pub unsafe fn add_u64(target: *mut u64, value: u64) {
    // SAFETY: the caller's promise; the verifier checks the bounds once more.
    unsafe { asm!("lock *(u64 *)({target} + 0) += {value}", target = in(reg) target, value = in(reg) value) };
}

/// Stores `new` if `*target` is `expected`; tells whether it did.
///
/// # Safety
/// `target` must be valid for writes and aligned.
#[inline(always)]
pub unsafe fn claim_u64(target: *mut u64, expected: u64, new: u64) -> bool {
    let found: u64;
    // SAFETY: the caller's promise; the verifier checks the bounds once more.
    unsafe {
        asm!("r0 = cmpxchg_64({target} + 0, r0, {new})",
            target = in(reg) target, new = in(reg) new, inlateout("r0") expected => found);
    }
    found == expected
}
