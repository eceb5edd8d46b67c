//! The kernel's clocks.

use rustix::time::{ClockId, clock_gettime};

/// What a clock shows. Nanoseconds.
pub fn now_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
