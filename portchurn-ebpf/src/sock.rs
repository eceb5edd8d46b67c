//! One socket, as each tier can see it. Byte order and IPv4-mapped addresses end here.

use core::marker::PhantomData;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_probe_read_kernel, generated::bpf_get_socket_cookie};
use aya_ebpf::programs::TracePointContext;
use portchurn_common::conn::COOKIE;
use portchurn_common::flow::{AF_INET, AF_INET6, Address, IPPROTO_TCP};
use portchurn_common::settings::UNKNOWN;

use crate::kernel::{Access, Direct, Probe};
use crate::setting;

/// What the lifecycle needs to know of a socket.
pub trait Sock {
    /// How this tier reads a task.
    type Access: Access;
    /// Whether [`Sock::id`] is a cookie. A cookie is never used again; an address is.
    const COOKIES: bool;

    /// Where the kernel keeps it. Costs nothing, unlike [`Sock::id`].
    fn address(&self) -> *const u8;
    /// Identity for the life of the socket.
    fn id(&self) -> u64;
    /// Whether it certainly was not connected before. To be asked before [`Sock::id`].
    fn is_new(&self) -> bool;
    /// Whether this is TCP over IP. An MPTCP socket is not: its subflows are.
    fn is_tcp(&self) -> bool;
    /// Remote address.
    fn remote(&self) -> Address;
    /// Local address.
    fn local(&self) -> Address;
    /// Remote port, host order.
    fn remote_port(&self) -> u16;
    /// Local port, host order. 0 once the port was given back.
    fn local_port(&self) -> u16;
    /// Local port, host order, also after it was given back; 0 if none was ever found.
    fn last_local_port(&self) -> u16;
    /// Network namespace, inode number; 0 if unknown.
    fn netns(&self) -> u32;
    /// `sk_err`.
    fn error(&self) -> Option<u32>;
    /// Whether user space holds the socket: a connection in the accept queue has no `struct socket` yet.
    fn is_held(&self) -> Option<bool>;
    /// Whether a segment ever left.
    fn sent_syn(&self) -> Option<bool>;
}

/// A `struct sock` by its address.
pub struct KernelSock<A> {
    address: *const u8,
    access: PhantomData<A>,
}

impl<A: Access> KernelSock<A> {
    #[inline(always)]
    pub fn new(address: *const u8) -> Self {
        Self { address, access: PhantomData }
    }

    #[inline(always)]
    fn load<T: Copy + Default>(&self, offset: u32) -> T {
        A::load(self.address, offset)
    }

    #[inline(always)]
    fn load_address(&self, v4: u32, v6: u32) -> Address {
        if self.load::<u16>(setting!(offsets.skc_family)) == AF_INET {
            return Address::from_v4(self.load::<u32>(v4).to_ne_bytes());
        }
        // Word by word: the verifier knows this field as an array of words.
        let mut wire = [0; 16];
        let mut word = 0;
        while word < 4 {
            let bytes = self.load::<u32>(v6 + 4 * word as u32).to_ne_bytes();
            wire[4 * word] = bytes[0];
            wire[4 * word + 1] = bytes[1];
            wire[4 * word + 2] = bytes[2];
            wire[4 * word + 3] = bytes[3];
            word += 1;
        }
        Address::from_v6(wire)
    }

    /// Beyond `struct sock` the verifier knows no type, so even `Direct` asks the helper.
    #[inline(always)]
    fn load_beyond<T: Copy + Default>(&self, offset: u32) -> Option<T> {
        Probe::load_known(self.address, offset)
    }

    #[inline(always)]
    fn is_ip(&self) -> bool {
        let family = self.load::<u16>(setting!(offsets.skc_family));
        family == AF_INET || family == AF_INET6
    }
}

/// How an access turns a socket into an identity.
pub trait Identify {
    const COOKIES: bool;
    fn id(address: *const u8) -> u64;
    fn is_new(address: *const u8) -> bool;
}

impl Identify for Direct {
    const COOKIES: bool = true;
    #[inline(always)]
    fn id(address: *const u8) -> u64 {
        // The helper is a call that costs several times as much as a load.
        let known = Self::load_known::<u64>(address, setting!(offsets.skc_cookie)).unwrap_or(0);
        if known != 0 {
            return known & COOKIE;
        }
        // SAFETY: the kernel handed this socket to a typed program; the helper makes the cookie if there is none yet.
        unsafe { bpf_get_socket_cookie(address.cast_mut().cast()) & COOKIE }
    }

    /// Without a cookie nobody has looked at it yet, neither have we.
    #[inline(always)]
    fn is_new(address: *const u8) -> bool {
        Self::load_known::<u64>(address, setting!(offsets.skc_cookie)) == Some(0)
    }
}

impl Identify for Probe {
    const COOKIES: bool = false;
    #[inline(always)]
    fn id(address: *const u8) -> u64 {
        address as u64
    }

    #[inline(always)]
    fn is_new(_address: *const u8) -> bool {
        false
    }
}

impl<A: Access + Identify> KernelSock<A> {
    /// Whether it speaks IPv4, as far as that is settled before a connect: an IPv6 socket may be bound to a mapped address.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        self.load::<u16>(setting!(offsets.skc_family)) == AF_INET || self.local().is_v4()
    }
}

impl<A: Access + Identify> Sock for KernelSock<A> {
    type Access = A;
    const COOKIES: bool = A::COOKIES;

    #[inline(always)]
    fn address(&self) -> *const u8 {
        self.address
    }

    #[inline(always)]
    fn id(&self) -> u64 {
        A::id(self.address)
    }

    #[inline(always)]
    fn is_new(&self) -> bool {
        A::is_new(self.address)
    }

    #[inline(always)]
    fn is_tcp(&self) -> bool {
        self.load::<u16>(setting!(offsets.sk_protocol)) == IPPROTO_TCP && self.is_ip()
    }

    #[inline(always)]
    fn remote(&self) -> Address {
        self.load_address(setting!(offsets.skc_daddr), setting!(offsets.skc_v6_daddr))
    }

    #[inline(always)]
    fn local(&self) -> Address {
        self.load_address(setting!(offsets.skc_rcv_saddr), setting!(offsets.skc_v6_rcv_saddr))
    }

    #[inline(always)]
    fn remote_port(&self) -> u16 {
        u16::from_be(self.load(setting!(offsets.skc_dport)))
    }

    #[inline(always)]
    fn local_port(&self) -> u16 {
        self.load(setting!(offsets.skc_num))
    }

    #[inline(always)]
    fn last_local_port(&self) -> u16 {
        u16::from_be(self.load_beyond(setting!(offsets.inet_sport)).unwrap_or_default())
    }

    #[inline(always)]
    fn netns(&self) -> u32 {
        if setting!(offsets.skc_net) == UNKNOWN || setting!(offsets.net_inum) == UNKNOWN {
            return 0;
        }
        let net = self.load::<u64>(setting!(offsets.skc_net)) as *const u8;
        A::load(net, setting!(offsets.net_inum))
    }

    #[inline(always)]
    fn error(&self) -> Option<u32> {
        A::load_known(self.address, setting!(offsets.sk_err))
    }

    #[inline(always)]
    fn is_held(&self) -> Option<bool> {
        A::load_known::<u64>(self.address, setting!(offsets.sk_socket)).map(|socket| socket != 0)
    }

    #[inline(always)]
    fn sent_syn(&self) -> Option<bool> {
        self.load_beyond::<u32>(setting!(offsets.segs_out)).map(|segments| segments != 0)
    }
}

/// What the classic tracepoint copies into its record. Needs no type information; with it, the rest comes from the
/// socket itself.
pub struct TracedSock<'a> {
    context: &'a TracePointContext,
    sock: KernelSock<Probe>,
}

impl<'a> TracedSock<'a> {
    #[inline(always)]
    pub fn new(context: &'a TracePointContext) -> Self {
        let address: u64 = field(context, setting!(tracepoint.skaddr));
        Self { context, sock: KernelSock::new(address as *const u8) }
    }
}

/// One field of a tracepoint record.
#[inline(always)]
pub fn field<T: Copy + Default>(context: &TracePointContext, offset: u32) -> T {
    // SAFETY: the helper checks the address; offsets come from the format file.
    unsafe { bpf_probe_read_kernel(context.as_ptr().cast::<u8>().wrapping_add(offset as usize).cast()) }
        .unwrap_or_default()
}

impl Sock for TracedSock<'_> {
    type Access = Probe;
    const COOKIES: bool = false;

    #[inline(always)]
    fn address(&self) -> *const u8 {
        self.sock.address()
    }

    #[inline(always)]
    fn id(&self) -> u64 {
        self.sock.id()
    }

    #[inline(always)]
    fn is_new(&self) -> bool {
        self.sock.is_new()
    }

    #[inline(always)]
    fn is_tcp(&self) -> bool {
        let protocol = if setting!(tracepoint.protocol_size) == 1 {
            u16::from(field::<u8>(self.context, setting!(tracepoint.protocol)))
        } else {
            field(self.context, setting!(tracepoint.protocol))
        };
        let family: u16 = field(self.context, setting!(tracepoint.family));
        protocol == IPPROTO_TCP && (family == AF_INET || family == AF_INET6)
    }

    #[inline(always)]
    fn remote(&self) -> Address {
        Address::from_v6(field(self.context, setting!(tracepoint.daddr_v6)))
    }

    #[inline(always)]
    fn local(&self) -> Address {
        Address::from_v6(field(self.context, setting!(tracepoint.saddr_v6)))
    }

    #[inline(always)]
    fn remote_port(&self) -> u16 {
        field(self.context, setting!(tracepoint.dport))
    }

    #[inline(always)]
    fn local_port(&self) -> u16 {
        Probe::load_known(self.address(), setting!(offsets.skc_num)).unwrap_or_else(|| self.last_local_port())
    }

    #[inline(always)]
    fn last_local_port(&self) -> u16 {
        field(self.context, setting!(tracepoint.sport))
    }

    #[inline(always)]
    fn netns(&self) -> u32 {
        self.sock.netns()
    }

    #[inline(always)]
    fn error(&self) -> Option<u32> {
        self.sock.error()
    }

    #[inline(always)]
    fn is_held(&self) -> Option<bool> {
        self.sock.is_held()
    }

    #[inline(always)]
    fn sent_syn(&self) -> Option<bool> {
        self.sock.sent_syn()
    }
}
