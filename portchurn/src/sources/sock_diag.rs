//! TCP sockets of a network namespace as the kernel lists them, TIME_WAIT included, over netlink `sock_diag`.
//! It must not start `ss`, and must not hide that a list is incomplete.

use std::io::{Error, ErrorKind};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{
    DoneBuffer, ErrorBuffer, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_OVERRUN, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    Parseable,
};
use netlink_packet_sock_diag::inet::{InetResponseHeader, Timer};
use netlink_sys::{Socket as NetlinkSocket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use portchurn_common::conn::COOKIE;
use portchurn_common::flow::Address;
use portchurn_common::tcp::TcpState;
use rustix::io::Errno;

use crate::sources::netns::in_namespace;

/// States to list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StateSet(u32);

impl StateSet {
    /// Every state.
    pub const ALL: Self = Self::of(&TcpState::ALL);
    /// Sockets that hold a local port for nobody.
    pub const TIME_WAIT: Self = Self::of(&[TcpState::TimeWait]);
    /// Everything that is, or was, a connection: all but listeners and closed sockets.
    pub const CONNECTIONS: Self = Self::ALL.without(TcpState::Listen).without(TcpState::Close);
    /// Every state, and sockets that took a local port and neither listen nor connect: these since 6.8, older kernels
    /// list none.
    pub const ALL_AND_BOUND: Self = Self(Self::ALL.0 | 1 << BOUND_INACTIVE);

    /// These states.
    pub const fn of(states: &[TcpState]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < states.len() {
            bits |= 1 << states[i].raw();
            i += 1;
        }
        Self(bits)
    }

    /// All of them but one.
    pub const fn without(self, state: TcpState) -> Self {
        Self(self.0 & !(1 << state.raw()))
    }

    /// Whether a state is among them.
    pub const fn contains(self, state: TcpState) -> bool {
        self.0 & (1 << state.raw()) != 0
    }
}

/// `TCP_BOUND_INACTIVE` of include/net/tcp_states.h: a pseudo-state for `sock_diag` alone.
const BOUND_INACTIVE: u8 = 13;

/// One TCP socket, or what is left of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Socket {
    /// Unique for the life of the host, and kept in TIME_WAIT.
    pub cookie: u64,
    /// State. A request socket is listed as SYN_RECV; a FIN_WAIT2 with inode 0 is a mini-socket already.
    pub state: TcpState,
    /// Local address; unspecified for a wildcard.
    pub local: Address,
    /// Remote address.
    pub remote: Address,
    /// Local port. Host order.
    pub local_port: u16,
    /// Remote port. Host order.
    pub remote_port: u16,
    /// Inode of the file, as in `/proc/PID/fd`; 0: no process holds it.
    pub inode: u32,
    /// User who made it; 0 for TIME_WAIT, where the kernel does not tell.
    pub uid: u32,
    /// Mini-sockets: what is left of their life. Milliseconds.
    pub expires_ms: Option<u32>,
}

/// Whether a list is the whole list.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Completeness {
    /// The table changed under the kernel's hands (NLM_F_DUMP_INTR): some sockets may be missing or listed twice.
    pub interrupted: bool,
    /// Replies were dropped or did not fit, or there were more than [`MAX_SOCKETS`].
    pub truncated: bool,
}

/// A list of sockets.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// The sockets. A busy table changes while it is read: a socket may appear twice.
    pub sockets: Vec<Socket>,
    /// See [`Completeness::interrupted`].
    pub interrupted: bool,
    /// See [`Completeness::truncated`].
    pub truncated: bool,
}

/// More sockets than this are not kept: 64 MB.
pub const MAX_SOCKETS: usize = 1 << 20;

/// The kernel fills at most 32 KiB per reply (`max_recvmsg_len` in net/netlink/af_netlink.c), and as much as that
/// only for a reader that offers it.
const REPLY_BYTES: usize = 32 << 10;

/// An open line to the socket tables of one network namespace: that in which it was opened, whatever thread uses it.
/// It keeps that namespace alive.
#[derive(Debug)]
pub struct SockDiag {
    socket: NetlinkSocket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl SockDiag {
    /// Opens it in the network namespace of this thread.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: connect()?, buffer: Vec::with_capacity(REPLY_BYTES), sequence: 0 })
    }

    /// Opens it in another network namespace, given by its file (`/proc/PID/ns/net`, `/run/netns/NAME`).
    pub fn open_in(namespace: &Path) -> Result<Self> {
        in_namespace(namespace, Self::open)?
    }

    /// Lists the sockets in these states.
    pub fn dump(&mut self, states: StateSet) -> Result<Dump> {
        let mut sockets = Vec::new();
        let mut dropped = false;
        let seen = self.visit(states, |socket| {
            if sockets.len() < MAX_SOCKETS {
                sockets.push(*socket);
            } else {
                dropped = true;
            }
        })?;
        Ok(Dump { sockets, interrupted: seen.interrupted, truncated: seen.truncated || dropped })
    }

    /// Shows every socket in these states to `visitor`, and keeps none: for a table of unknown size. Listeners come first,
    /// then what is bound and no more, then connections (`inet_diag_dump_icsk`, net/ipv4/inet_diag.c).
    pub fn visit(&mut self, states: StateSet, mut visitor: impl FnMut(&Socket)) -> Result<Completeness> {
        let mut seen = Completeness::default();
        self.request(states).context("ask for the list of TCP sockets")?;
        let ended = self.replies(&mut seen, &mut visitor).context("read the list of TCP sockets")?;
        if !ended {
            // The end of this list may still be on its way: it must not become the beginning of the next.
            self.socket = connect()?;
        }
        Ok(seen)
    }

    fn request(&mut self, states: StateSet) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(BothFamilies(states)));
        message.finalize();
        self.buffer.resize(message.buffer_len(), 0);
        message.serialize(&mut self.buffer);
        self.socket.send(&self.buffer, 0)?;
        Ok(())
    }

    /// Reads replies to the end of the list; false if the end was not seen.
    fn replies(&mut self, seen: &mut Completeness, visitor: &mut impl FnMut(&Socket)) -> Result<bool> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => seen.truncated = true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    seen.truncated = true;
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
            match read_reply(&self.buffer, self.sequence, seen, visitor)? {
                Progress::More if seen.truncated => return Ok(false),
                Progress::More => {}
                Progress::End => return Ok(true),
            }
        }
    }
}

/// Lists the TCP sockets in these states, in the network namespace of this thread.
pub fn dump(states: StateSet) -> Result<Dump> {
    SockDiag::open()?.dump(states)
}

/// `TCPDIAG_GETSOCK` of include/uapi/linux/inet_diag.h, the older request: the kernel answers it for IPv4 and IPv6 at once.
/// Asked for one family after the other, it walks twice through all sockets of both, which is what a list costs.
const TCPDIAG_GETSOCK: u16 = 18;

/// `struct inet_diag_req` of include/uapi/linux/inet_diag.h.
struct BothFamilies(StateSet);

/// `offsetof(struct inet_diag_req, idiag_states)`.
const STATES_AT: usize = 52;

impl NetlinkSerializable for BothFamilies {
    fn message_type(&self) -> u16 {
        TCPDIAG_GETSOCK
    }

    fn buffer_len(&self) -> usize {
        STATES_AT + 8
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
        buffer[STATES_AT..STATES_AT + 4].copy_from_slice(&self.0.0.to_ne_bytes());
    }
}

/// `MSG_TRUNC` of include/linux/socket.h: return the real length of a reply even if it did not fit.
const MSG_TRUNC: i32 = 0x20;

fn connect() -> Result<NetlinkSocket> {
    let socket = NetlinkSocket::new(NETLINK_SOCK_DIAG).context("open a sock_diag socket")?;
    // The kernel alone is listened to.
    socket.connect(&SocketAddr::new(0, 0)).context("connect a sock_diag socket")?;
    Ok(socket)
}

#[derive(Debug, Eq, PartialEq)]
enum Progress {
    More,
    End,
}

/// Reads one reply, which carries many messages.
fn read_reply(
    mut rest: &[u8],
    sequence: u32,
    seen: &mut Completeness,
    visitor: &mut impl FnMut(&Socket),
) -> Result<Progress> {
    while !rest.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(rest) else {
            if seen.truncated {
                break;
            }
            bail!("a reply of the kernel is malformed");
        };
        if message.sequence_number() == sequence {
            seen.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
            if read_message(&message, seen, visitor)? == Progress::End {
                return Ok(Progress::End);
            }
        }
        let length = (message.length() as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(Progress::More)
}

fn read_message(
    message: &NetlinkBuffer<&[u8]>,
    seen: &mut Completeness,
    visitor: &mut impl FnMut(&Socket),
) -> Result<Progress> {
    let payload = message.payload();
    match message.message_type() {
        TCPDIAG_GETSOCK => {
            // The header alone: the attributes, never asked for, would be allocated one by one.
            let header = InetResponseHeader::parse(payload).context("a socket is malformed")?;
            if let Some(socket) = socket_of(&header, payload) {
                visitor(&socket);
            }
            Ok(Progress::More)
        }
        NLMSG_DONE => {
            let code = DoneBuffer::new_checked(payload).map_or(0, |done| done.code());
            refused(code).map(|()| Progress::End)
        }
        NLMSG_ERROR => {
            let error = ErrorBuffer::new_checked(payload).context("an error is malformed")?;
            refused(error.code().map_or(0, Into::into)).map(|()| Progress::End)
        }
        NLMSG_OVERRUN => {
            seen.truncated = true;
            Ok(Progress::More)
        }
        _ => Ok(Progress::More),
    }
}

/// A negative code is an errno.
fn refused(code: i32) -> Result<()> {
    if code >= 0 {
        return Ok(());
    }
    let error = Error::from_raw_os_error(code.saturating_neg());
    match error.kind() {
        ErrorKind::NotFound => bail!("this kernel does not list TCP sockets (module tcp_diag is missing)"),
        _ => Err(error.into()),
    }
}

/// `None` for states that are no TCP states. A socket that is bound and no more (13) shows as closed.
fn socket_of(header: &InetResponseHeader, payload: &[u8]) -> Option<Socket> {
    let id = &header.socket_id;
    let is_mini = matches!(header.timer, Some(Timer::TimeWait));
    let expires = payload.get(EXPIRES_AT..EXPIRES_AT + 4).and_then(|bytes| bytes.try_into().ok());
    Some(Socket {
        cookie: cookie_of(id.cookie),
        state: match header.state {
            BOUND_INACTIVE => TcpState::Close,
            raw => TcpState::ALL.into_iter().find(|state| state.raw() == raw)?,
        },
        local: id.source_address.into(),
        remote: id.destination_address.into(),
        local_port: id.source_port,
        remote_port: id.destination_port,
        inode: header.inode,
        uid: header.uid,
        expires_ms: expires.filter(|_| is_mini).map(u32::from_ne_bytes),
    })
}

/// `offsetof(struct inet_diag_msg, idiag_expires)` of include/uapi/linux/inet_diag.h: the parser drops it for mini-sockets.
const EXPIRES_AT: usize = 52;

/// Two words in the byte order of the host, the low one first (`sock_diag_save_cookie`, net/core/sock_diag.c). As much of it as the
/// table of connections keeps.
fn cookie_of([a, b, c, d, e, f, g, h]: [u8; 8]) -> u64 {
    let low = u32::from_ne_bytes([a, b, c, d]);
    let high = u32::from_ne_bytes([e, f, g, h]);
    (u64::from(high) << 32 | u64::from(low)) & COOKIE
}

#[cfg(test)]
#[path = "sock_diag_tests.rs"]
mod tests;
