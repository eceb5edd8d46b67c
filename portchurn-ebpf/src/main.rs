//! The kernel side: glue only. It notes who, asks `portchurn_common::tcp::step` what a state change means, and
//! counts. It must not judge, and it must not hold a struct offset of its own: all come through `SETTINGS`.
//!
//! ```text
//! hooks/      one file per kernel function: thin entry points, one for each tier
//! lifecycle   the heart: a state change becomes counts
//! ownership   whose a connection is
//! looks       several programs look at each change; which of them has it
//! preemption  a run in one piece
//! listeners   who listens on which port
//! kernel      reading kernel memory: directly where the verifier knows the type, else by helper
//! sock        one socket, as each tier can see it
//! who         the current process, and its identity for the user side
//! keys        process and destination become an index into the counters
//! conns       the table of connections
//! stack       call sites: a program of its own
//! maps        every map, with its life story
//! emit        ring buffer records
//! atomic      the atomic instructions that Rust does not give this target
//! ```
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod conns;
mod emit;
mod hooks;
mod kernel;
mod keys;
mod lifecycle;
mod listeners;
mod looks;
mod maps;
mod ownership;
mod preemption;
mod sock;
mod stack;
mod who;

use portchurn_common::settings::Settings;

/// Patched by the loader, then frozen: the verifier treats every field as a constant.
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings::UNSET;

/// Reads a field of [`SETTINGS`] in a way the compiler cannot fold and the verifier can.
#[inline(always)]
fn read_setting<T: Copy>(field: &'static T) -> T {
    // SAFETY: a reference is valid; volatile because the loader changes the value after compilation.
    unsafe { core::ptr::read_volatile(field) }
}

/// One field of [`SETTINGS`], by its path.
#[macro_export]
macro_rules! setting {
    ($($field:tt)+) => { $crate::read_setting(&$crate::SETTINGS.$($field)+) };
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier rejects any program from which this could be reached.
    unsafe { core::hint::unreachable_unchecked() }
}

/// The kernel lends its GPL helpers only to programs that say so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
