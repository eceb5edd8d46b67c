//! Leaving when asked to. The first signal ends a run in good order, which waits for names and for whoever reads the output; the
//! second one ends it at once. Nothing is left behind by either: the kernel takes away what is attached.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use signal_hook::low_level::{exit, register};

use crate::sinks::tui::terminal::give_back_in_handler;

/// As a shell tells the end by a signal.
const BY_SIGNAL: i32 = 128;

/// From now on the second SIGINT or SIGTERM ends the process, even while it waits for its output to be read. No terminal is left
/// garbled by it.
///
/// # Errors
/// When they cannot be caught.
pub(super) fn at_the_second_signal() -> Result<()> {
    let is_asked = Arc::new(AtomicBool::new(false));
    for signal in [Signal::INT, Signal::TERM].map(Signal::as_raw) {
        let is_asked = Arc::clone(&is_asked);
        let ask = move || {
            if is_asked.swap(true, Ordering::AcqRel) {
                give_back_in_handler();
                exit(BY_SIGNAL + signal);
            }
        };
        // SAFETY: an atomic, at most two system calls and _exit(2) may be used in a handler (signal-safety(7)).
        unsafe { register(signal, ask) }.context("catch signals")?;
    }
    Ok(())
}
