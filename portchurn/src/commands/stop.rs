//! Leaving when asked to. The first signal ends a run in good order, which waits for names and for whoever reads the output; the
//! second one ends it at once. Nothing is left behind by either: the kernel takes away what is attached.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use signal_hook::flag::{register, register_conditional_shutdown};

/// As a shell tells the end by a signal.
const BY_SIGNAL: i32 = 128;

/// From now on the second SIGINT or SIGTERM ends the process, even while it waits for its output to be read.
///
/// # Errors
/// When they cannot be caught.
pub(super) fn at_the_second_signal() -> Result<()> {
    let is_asked = Arc::new(AtomicBool::new(false));
    for signal in [Signal::INT, Signal::TERM].map(Signal::as_raw) {
        // In this order: what is noted by the first is what the second looks at.
        register_conditional_shutdown(signal, BY_SIGNAL + signal, Arc::clone(&is_asked))
            .and_then(|_| register(signal, Arc::clone(&is_asked)))
            .context("catch signals")?;
    }
    Ok(())
}
