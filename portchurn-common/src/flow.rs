//! Addresses, roles and the key under which the kernel counts. Byte order is settled here, once: ports are in host
//! order everywhere outside a `struct sock`, addresses are bytes as they stand on the wire.

/// An IP address, 16 bytes in network order. IPv4 is stored as its IPv4-mapped form `::ffff:a.b.c.d`, so that a
/// dual-stack socket and a plain IPv4 socket to the same host are one destination.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C, align(4))]
pub struct Address(pub [u8; 16]);

impl Address {
    /// `::`, also used for "not known".
    pub const UNSPECIFIED: Self = Self([0; 16]);

    /// From `skc_daddr` or `skc_rcv_saddr` as they lie in memory. 0.0.0.0 is the unspecified address.
    #[inline(always)]
    pub const fn from_v4(wire: [u8; 4]) -> Self {
        let [a, b, c, d] = wire;
        if a | b | c | d == 0 {
            return Self::UNSPECIFIED;
        }
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// From `skc_v6_daddr` or `skc_v6_rcv_saddr`; a mapped address is canonical already.
    #[inline(always)]
    pub const fn from_v6(wire: [u8; 16]) -> Self {
        Self(wire)
    }

    /// Whether this is an IPv4 address.
    pub fn is_v4(&self) -> bool {
        self.0[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
    }

    /// Whether nothing is known, or the wildcard is meant.
    pub fn is_unspecified(&self) -> bool {
        *self == Self::UNSPECIFIED
    }
}

#[cfg(not(target_arch = "bpf"))]
impl From<Address> for std::net::IpAddr {
    fn from(address: Address) -> Self {
        let v6 = std::net::Ipv6Addr::from(address.0);
        v6.to_ipv4_mapped().map_or(Self::V6(v6), Self::V4)
    }
}

#[cfg(not(target_arch = "bpf"))]
impl From<std::net::IpAddr> for Address {
    fn from(address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            std::net::IpAddr::V6(v6) => Self::from_v6(v6.octets()),
        }
    }
}

/// Which side of the handshake we are.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Role {
    /// Active open.
    Connect = 1,
    /// Passive open.
    Accept = 2,
}

impl Role {
    /// The role with this number.
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Connect),
            2 => Some(Self::Accept),
            _ => None,
        }
    }
}

/// `AF_INET`.
pub const AF_INET: u16 = 2;
/// `AF_INET6`.
pub const AF_INET6: u16 = 10;
/// `IPPROTO_TCP`. An MPTCP socket (262) repeats what its TCP subflows report, so only this one counts.
pub const IPPROTO_TCP: u16 = 6;

/// What the kernel counts under: one process, one role, one remote address and port (connect) or one local port
/// (accept), in one network namespace.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct ChurnKey {
    /// Start of the process. Nanoseconds since boot. From `task->group_leader->start_boottime`; 0 where the
    /// kernel's type information is missing.
    pub start_ns: u64,
    /// Process. From `bpf_get_current_pid_tgid`. 0: not attributed.
    pub tgid: u32,
    /// Network namespace, its inode number. From `sk->skc_net->ns.inum`; 0 where that cannot be read.
    pub netns: u32,
    /// Connect: the remote address. Accept: unspecified.
    pub remote: Address,
    /// Connect: the remote port. Accept: the local port. Host order.
    pub port: u16,
    /// A [`Role`] by number; 0 marks an unused entry.
    pub role: u8,
    /// Keeps the key free of hidden padding: maps compare bytes.
    pub zero: u8,
    /// The same.
    pub zero_tail: u32,
}

const _: () = assert!(size_of::<ChurnKey>() == 40);

/// A key together with the reference that connections hold.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct KeySlot {
    /// The reference under which this entry is in use.
    pub key_ref: KeyRef,
    /// The key itself.
    pub key: ChurnKey,
}

const MARKS: u64 = crate::conn::SEALED | crate::conn::CERTAIN;

/// Names one use of one entry of the counter table: the index in the low half, a generation in the high half.
/// User space raises the generation when it reuses an index, so an old reference never finds a new owner.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct KeyRef(pub u64);

impl KeyRef {
    /// Where connections are counted for which the key table had no room. Never handed out, never reused.
    pub const OVERFLOW: Self = Self(0);
    /// A key that a filter excludes. Not an index.
    pub const FILTERED: Self = Self(u64::MAX);

    /// The reference to `index` in its `generation`, of which the two highest bits are left out: they are a connection's
    /// ([`crate::conn::SEALED`], [`crate::conn::CERTAIN`]).
    pub const fn new(index: u32, generation: u32) -> Self {
        Self(((generation as u64) << 32 | index as u64) & !MARKS)
    }

    /// Without what a connection has marked on it.
    #[inline(always)]
    pub const fn bare(self) -> Self {
        Self(self.0 & !MARKS)
    }

    /// The entry in the tables.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    /// How often the entry was reused.
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What a listener is found by when a connection arrives.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct ListenKey {
    /// Network namespace, its inode number.
    pub netns: u32,
    /// Local port. Host order.
    pub port: u16,
    /// No hidden padding.
    pub zero: u16,
}

/// Who listens on a port.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Listener {
    /// Where accepted connections are counted until somebody accepts them.
    pub key_ref: KeyRef,
    /// Process that called `listen()`, 0 if several different ones did.
    pub tgid: u32,
    /// Listening sockets on this port.
    pub sockets: u32,
}

#[cfg(test)]
mod tests {
    use super::{Address, KeyRef};
    use crate::conn::{CERTAIN, SEALED};
    use std::net::IpAddr;

    #[test]
    fn mapped_and_plain_ipv4_are_one_address() {
        let plain = Address::from_v4([10, 0, 0, 7]);
        let mapped = Address::from("::ffff:10.0.0.7".parse::<IpAddr>().unwrap());
        assert_eq!(plain, mapped);
        assert!(plain.is_v4());
        assert_eq!(IpAddr::from(mapped).to_string(), "10.0.0.7");
    }

    #[test]
    fn ipv6_stays_ipv6() {
        let address = Address::from("fe80::1".parse::<IpAddr>().unwrap());
        assert!(!address.is_v4());
        assert_eq!(IpAddr::from(address).to_string(), "fe80::1");
    }

    #[test]
    fn both_wildcards_are_the_unspecified_address() {
        assert!(Address::from_v4([0; 4]).is_unspecified());
        assert!(Address::from_v6([0; 16]).is_unspecified());
    }

    #[test]
    fn a_reference_carries_index_and_generation() {
        let reference = KeyRef::new(7, 9);
        assert_eq!((reference.index(), reference.generation()), (7, 9));
        assert_ne!(reference, KeyRef::new(7, 10));
        assert_eq!(KeyRef::new(7, u32::MAX).generation(), u32::MAX >> 2, "the highest bits stay free");
        assert_eq!(KeyRef(reference.0 | SEALED | CERTAIN).bare(), reference);
    }
}
