//! One tracked connection: what the kernel side remembers between a socket's first and last state change, and after
//! it until the place is needed again.

use crate::flow::{Address, KeyRef};
use crate::tcp::{CloseKind, FailKind};

/// One cache line per connection. `id` is claimed first, by compare-and-swap; the rest is written by the claimer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C, align(64))]
pub struct Conn {
    /// The socket's identity: its cookie, or its address where cookies cannot be had. [`BUSY`] is set while the rest is
    /// written, [`CLOSED`] when the connection has ended; 0: never used.
    pub id: u64,
    /// Start of the connect, or arrival. Nanoseconds, CLOCK_MONOTONIC. From `bpf_ktime_get_ns`.
    pub opened_ns: u64,
    /// Whom it is counted under, with [`SEALED`] and [`CERTAIN`]: changed in one step, as `accept()` on one processor may meet the
    /// end on another.
    pub key_ref: KeyRef,
    /// End, same clock; 0 while open, and for ever if nobody saw it.
    pub closed_ns: u64,
    /// Process that is counted as owner. 0: not known yet.
    pub owner_tgid: u32,
    /// Process whose close was seen. 0: none, or closed by the peer alone.
    pub closer_tgid: u32,
    /// The address that the key does not have. Accept: the peer's. Connect: our own, once it is established.
    pub address: Address,
    /// Local port, host order; 0 until it is known.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// The `flag::*` bits.
    pub flags: u32,
}

const _: () = assert!(size_of::<Conn>() == 64);

/// Set in [`Conn::id`] when the connection has ended. Kernel addresses are compared whole; of cookies the bits of [`COOKIE`] are
/// an identity, so the two others are free.
pub const CLOSED: u64 = 1 << 63;

/// Set in [`Conn::id`] while the claimer writes the rest: whoever looks for the connection meanwhile, as `accept()` on another
/// processor may, must not find what the place held before.
pub const BUSY: u64 = 1 << 62;

/// What of a cookie is kept. Cookies count up from 1; one that a soft interrupt makes while another is being made counts down
/// from -1 (`gen_cookie_next` in include/linux/cookie.h). Neither comes near the other.
pub const COOKIE: u64 = !(CLOSED | BUSY);

/// Set in [`Conn::key_ref`] when the end is counted: the connection stays where it is counted.
pub const SEALED: u64 = 1 << 63;

/// Set in [`Conn::key_ref`] by `accept()`, as [`flag::OWNER_CERTAIN`].
pub const CERTAIN: u64 = 1 << 62;

/// The bits of [`Conn::flags`].
pub mod flag {
    /// A connect, not an accept.
    pub const CONNECT: u32 = 1;
    /// The handshake is complete: the connection counts as opened.
    pub const ESTABLISHED: u32 = 2;
    /// The owner is certain: it connected, it accepted, or it closed.
    pub const OWNER_CERTAIN: u32 = 4;
    /// Our side's close came from a process that was ending.
    pub const EXITING: u32 = 8;
    /// Open before the attach.
    pub const BEFORE_ATTACH: u32 = 16;
    /// The local port was bound before the connect.
    pub const BOUND: u32 = 32;
    /// The end leaves a TIME_WAIT mini-socket. Set by `tcp_time_wait` just before the end, or at it, by what the states
    /// suggest, where that hook is not attached.
    pub const TIME_WAIT: u32 = 64;
    /// Where a [`crate::tcp::CloseKind`] stands once the connection has ended; a [`crate::tcp::FailKind`] if it was never
    /// established.
    pub const CLOSE_KIND_SHIFT: u32 = 8;
    /// Where the local port stands that the socket had before this connect, 0 if it never had one: the kernel leaves it in
    /// `inet_sport` until it finds another.
    pub const EARLIER_PORT_SHIFT: u32 = 16;
}

impl Conn {
    /// Whether the owner is certain.
    #[inline(always)]
    pub const fn is_certain(&self) -> bool {
        self.flags & flag::OWNER_CERTAIN != 0 || self.key_ref.0 & CERTAIN != 0
    }

    /// The same with its key alone in `key_ref`, and what was marked there in `flags`.
    pub const fn plain(mut self) -> Self {
        if self.is_certain() {
            self.flags |= flag::OWNER_CERTAIN;
        }
        self.key_ref = self.key_ref.bare();
        self
    }

    /// How it ended, if it has.
    pub fn close_kind(&self) -> Option<CloseKind> {
        let kind = self.flags >> flag::CLOSE_KIND_SHIFT & 0xff;
        let ended = self.closed_ns != 0 && self.flags & flag::ESTABLISHED != 0;
        if ended { CloseKind::ALL.get(kind as usize).copied() } else { None }
    }

    /// Whether flags are those of a connect that found no local port.
    #[inline(always)]
    pub const fn found_no_port(flags: u32) -> bool {
        let kind = flags >> flag::CLOSE_KIND_SHIFT & 0xff;
        flags & flag::ESTABLISHED == 0 && kind == FailKind::Eaddrnotavail as u32
    }
}

/// Where in the code the connection at the same place of the table was opened, and where our side closed it: numbers of
/// stacks as in [`crate::stack::SiteKey::stack`], 0: not taken. They mean the same for ever, whatever becomes of the process
/// and of its keys.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ConnSites {
    /// Whose these are: a [`Conn::id`] without [`CLOSED`]. [`BUSY`] while the rest is written.
    pub id: u64,
    /// Where it was opened.
    pub opened: u64,
    /// Where it was closed.
    pub closed: u64,
}

const _: () = assert!(size_of::<ConnSites>() == 24);

/// How many places are tried before a connection goes to the overflow map.
pub const PROBES: u32 = 8;

/// Cookies that a processor takes at a time, as a power of two (`COOKIE_LOCAL_BATCH` in include/linux/cookie.h).
const BATCH_LOG2: u32 = 12;

/// How far they lie apart: farther than one batch goes, so that they are not all of one age. A processor that was idle for a
/// while goes on with cookies whose places another one may have filled a moment ago.
const STRIDE: u32 = (1 << BATCH_LOG2) + 1;

/// How much farther than the one before a batch begins. A table of 32 batches has several that are open at the same places, where
/// there are more processors than that, and all are filled from their beginning: so they lie half a thousand places apart.
const STAGGER_LOG2: u32 = 4;

/// The place that is tried as number `probe` for a cookie, in a table of `mask + 1`.
#[inline(always)]
pub const fn place(cookie: u64, probe: u32, mask: u32) -> u32 {
    let batch = (cookie >> BATCH_LOG2) as u32;
    (cookie as u32).wrapping_add(batch << STAGGER_LOG2).wrapping_add(probe.wrapping_mul(STRIDE)) & mask
}

/// So long the place of an end that left a TIME_WAIT is left alone as long as there is another one: until user space has read
/// whose it was. Nanoseconds.
pub const FRESH_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::{BATCH_LOG2, BUSY, CERTAIN, CLOSED, COOKIE, Conn, SEALED, flag, place};
    use crate::flow::KeyRef;
    use crate::tcp::FailKind;

    #[test]
    fn what_accept_marked_on_the_key_is_a_flag() {
        let key_ref = KeyRef::new(7, 9);
        let conn = Conn { key_ref: KeyRef(key_ref.0 | SEALED | CERTAIN), ..Conn::default() };
        assert!(conn.is_certain());
        assert_eq!(conn.plain(), Conn { key_ref, flags: flag::OWNER_CERTAIN, ..Conn::default() });
        assert!(!Conn { key_ref, ..Conn::default() }.is_certain());
    }

    #[test]
    fn batches_that_are_open_at_once_lie_apart() {
        let mask = (1 << 17) - 1;
        let mut begins: Vec<_> = (0..256).map(|batch| place(batch << BATCH_LOG2 | 1, 0, mask)).collect();
        begins.sort_unstable();
        let nearest = begins.windows(2).map(|two| two[1] - two[0]).min();
        assert!(nearest >= Some(500), "two of 256 processors are {nearest:?} places apart");
        assert_eq!(place(8, 0, mask), place(7, 0, mask) + 1, "a run stays a run");
    }

    #[test]
    fn a_cookie_that_was_made_inside_another_is_open_and_its_own() {
        for nested in [u64::MAX, u64::MAX - 1] {
            let id = nested & COOKIE;
            assert_eq!(id & (CLOSED | BUSY), 0);
            assert!(id > 1 << 61, "no other comes that far");
        }
    }

    #[test]
    fn only_a_connect_that_found_no_port_found_no_port() {
        let failed = |kind: FailKind| flag::CONNECT | (kind as u32) << flag::CLOSE_KIND_SHIFT;
        assert!(Conn::found_no_port(failed(FailKind::Eaddrnotavail)));
        assert!(!Conn::found_no_port(failed(FailKind::Econnrefused)));
        assert!(!Conn::found_no_port(failed(FailKind::Eaddrnotavail) | flag::ESTABLISHED));
    }
}
