//! What is counted for each key. Counters only ever grow and wrap; user space takes wrapping differences, so it must
//! look at least once in 2³¹ events.

use crate::histogram::Histogram;
use crate::tcp::{CloseKind, FailKind};

/// The counters of one key on one shard of processors. The first cache line alone tells whether anything changed.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Counters {
    /// Connects begun: CLOSE→SYN_SENT.
    pub attempts: u32,
    /// Connects that reached ESTABLISHED.
    pub opened: u32,
    /// Passive opens that reached ESTABLISHED. Goes down when a connection moves to its real owner.
    pub accepted: u32,
    /// Connections that were open before the attach and were given to this key.
    pub before_attach: u32,
    /// Connects that failed, all reasons.
    pub failed: u32,
    /// Connections closed, by [`CloseKind`].
    pub closed: [u32; CloseKind::COUNT],
    /// Closes that left a TIME_WAIT mini-socket; without the hook `tcp_time_wait` those after which one is expected.
    pub time_wait: u32,
    /// Connections begun that could not be followed.
    pub lost: u32,
    /// Longest life of a connection. Microseconds.
    pub lifetime_max_us: u32,
    /// Longest successful connect. Microseconds.
    pub connect_max_us: u32,
    /// Connects that failed, by [`FailKind`].
    pub failed_by: [u32; FailKind::COUNT],
    /// Life of closed connections, from `connect()` or the arrival to CLOSE.
    pub lifetime: Histogram,
    /// Duration of successful connects, CLOSE→SYN_SENT to ESTABLISHED: port search and handshake.
    pub connect: Histogram,
}

const _: () = {
    assert!(core::mem::offset_of!(Counters, failed_by) == 64);
    assert!(size_of::<Counters>() == 384);
};

impl Counters {
    /// All zero.
    pub const ZERO: Self = Self {
        attempts: 0,
        opened: 0,
        accepted: 0,
        before_attach: 0,
        failed: 0,
        closed: [0; CloseKind::COUNT],
        time_wait: 0,
        lost: 0,
        lifetime_max_us: 0,
        connect_max_us: 0,
        failed_by: [0; FailKind::COUNT],
        lifetime: Histogram::ZERO,
        connect: Histogram::ZERO,
    };
}
