//! Reading kernel memory. A program that the kernel loads with type information may load a field directly; the
//! others must ask a helper. Which of the two is a type parameter, so each entry point is compiled for its own tier.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{
    bpf_probe_read_kernel,
    generated::{bpf_get_current_task, bpf_get_current_task_btf},
};
use portchurn_common::settings::UNKNOWN;

/// A way of reading kernel memory.
pub trait Access {
    /// Reads a `T` at `base + offset`; zero where that cannot be read.
    fn load<T: Copy + Default>(base: *const u8, offset: u32) -> T;

    /// The current `task_struct`.
    fn current_task() -> *const u8;

    /// The same as [`Access::load`]; `None` where the kernel does not tell the offset.
    #[inline(always)]
    fn load_known<T: Copy + Default>(base: *const u8, offset: u32) -> Option<T> {
        if offset == UNKNOWN { None } else { Some(Self::load(base, offset)) }
    }
}

/// Loads that the verifier checks against the kernel's types. Only for pointers that the kernel handed to a
/// `tp_btf`, `fentry` or `fexit` program, or that were loaded from such.
pub struct Direct;

impl Access for Direct {
    #[inline(always)]
    fn load<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        // SAFETY: the verifier knows the type behind `base` and rejects an offset outside of it; a fault reads 0.
        unsafe { core::ptr::read_volatile(base.add(offset as usize).cast()) }
    }

    #[inline(always)]
    fn current_task() -> *const u8 {
        // SAFETY: no preconditions.
        unsafe { bpf_get_current_task_btf() }.cast_const().cast()
    }
}

/// Loads by helper: any address, any program.
pub struct Probe;

impl Access for Probe {
    #[inline(always)]
    fn load<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast()) }.unwrap_or_default()
    }

    #[inline(always)]
    fn current_task() -> *const u8 {
        // SAFETY: no preconditions.
        unsafe { bpf_get_current_task() as *const u8 }
    }
}

/// A register of the function that a kprobe or kretprobe interrupts; `offset` is one of `setting!(registers)`.
/// By helper, because the verifier forbids a load from a context pointer that was moved.
#[inline(always)]
pub fn register(ctx: &impl EbpfContext, offset: u32) -> u64 {
    Probe::load(ctx.as_ptr().cast_const().cast(), offset)
}
