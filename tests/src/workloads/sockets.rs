//! Sockets as the workloads need them: every family, what state they are in, and what they let in.
//! It must not count anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, connect, getsockname,
    ipproto, listen, recv, send, socket_with, sockopt,
};

use super::unavailable;

/// TCP states, as in include/net/tcp_states.h.
pub mod state {
    /// Data may flow.
    pub const ESTABLISHED: u8 = 1;
    /// We sent a SYN.
    pub const SYN_SENT: u8 = 2;
    /// We sent a FIN.
    pub const FIN_WAIT1: u8 = 4;
    /// It was acknowledged.
    pub const FIN_WAIT2: u8 = 5;
    /// No connection.
    pub const CLOSE: u8 = 7;
    /// The peer sent a FIN.
    pub const CLOSE_WAIT: u8 = 8;
    /// The peer sent a FIN first, and ours is out.
    pub const LAST_ACK: u8 = 9;
    /// Both FINs crossed.
    pub const CLOSING: u8 = 11;
}

/// How long a peer may take before the workload gives up. Generous: it only ends a test that has failed anyway.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Kind of address.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
    /// IPv4 through IPv6 sockets.
    Mapped,
}

impl Family {
    /// The loopback address.
    pub const fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
            Self::Mapped => IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped()),
        }
    }

    const fn address_family(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::INET,
            Self::V6 | Self::Mapped => AddressFamily::INET6,
        }
    }
}

/// A stream socket, TCP or MPTCP.
pub fn stream(family: Family, mptcp: bool) -> Result<OwnedFd> {
    let protocol = if mptcp { ipproto::MPTCP } else { ipproto::TCP };
    let made = socket_with(family.address_family(), SocketType::STREAM, SocketFlags::CLOEXEC, Some(protocol));
    match made {
        Ok(socket) => Ok(socket),
        Err(errno @ (Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::NOPROTOOPT)) => {
            Err(unavailable(format!("no {family:?} socket, MPTCP {mptcp}: {errno}")))
        }
        Err(errno) => Err(errno).context("make a socket"),
    }
}

/// A listening socket on a port that the kernel chooses, and where to connect to.
pub fn listener(family: Family, mptcp: bool) -> Result<(OwnedFd, SocketAddr)> {
    let socket = stream(family, mptcp)?;
    let address = bind_any(&socket, family)?;
    listen(&socket, 4096).context("listen")?;
    Ok((socket, address))
}

/// Binds to loopback and a port that the kernel chooses.
pub fn bind_any(socket: &OwnedFd, family: Family) -> Result<SocketAddr> {
    match bind(socket, &SocketAddr::new(family.loopback(), 0)) {
        Ok(()) => {}
        Err(errno @ Errno::ADDRNOTAVAIL) => {
            return Err(unavailable(format!("no {family:?} loopback address: {errno}")));
        }
        Err(errno) => return Err(errno).context("bind"),
    }
    let name = getsockname(socket).context("getsockname")?;
    SocketAddr::try_from(name).context("address of a socket")
}

/// Accepts a connection.
pub fn accept_one(listener: &OwnedFd) -> Result<OwnedFd> {
    rustix::io::retry_on_intr(|| accept_with(listener, SocketFlags::CLOEXEC)).context("accept")
}

/// A blocking connect.
pub fn connect_to(socket: &OwnedFd, target: SocketAddr) -> rustix::io::Result<()> {
    connect(socket, &target)
}

/// Begins a connect that is not waited for.
pub fn begin_connect(socket: &OwnedFd, target: SocketAddr) -> Result<()> {
    set_nonblocking(socket, true)?;
    match connect(socket, &target) {
        Err(Errno::INPROGRESS) => Ok(()),
        Ok(()) => bail!("a non-blocking connect was over at once"),
        Err(errno) => Err(errno).context("begin a connect"),
    }
}

/// Waits for the end of a connect that was begun, and tells how it went.
pub fn end_connect(socket: &OwnedFd) -> Result<rustix::io::Result<()>> {
    wait_for(socket, PollFlags::OUT)?;
    let outcome = sockopt::socket_error(socket).context("SO_ERROR")?;
    set_nonblocking(socket, false)?;
    Ok(outcome)
}

fn set_nonblocking(socket: &OwnedFd, on: bool) -> Result<()> {
    rustix::io::ioctl_fionbio(socket, on).context("FIONBIO")
}

/// Waits until something can be done, or an error or a hang-up is there.
pub fn wait_for(fd: impl AsFd, what: PollFlags) -> Result<PollFlags> {
    let mut polled = [PollFd::from_borrowed_fd(fd.as_fd(), what)];
    let ready = rustix::io::retry_on_intr(|| poll(&mut polled, Some(&PATIENCE))).context("poll")?;
    ensure!(ready == 1, "nothing happened on the socket for {} s", PATIENCE.tv_sec);
    Ok(polled[0].revents())
}

/// Reads once, waiting as long as it takes.
pub fn read_some(socket: &OwnedFd) -> Result<rustix::io::Result<usize>> {
    wait_for(socket, PollFlags::IN)?;
    let mut buffer = [0; 256];
    let outcome = recv(socket, &mut buffer[..], RecvFlags::empty());
    Ok(outcome.map(|(count, _)| count))
}

/// Waits for the peer's FIN.
pub fn wait_for_end(socket: &OwnedFd) -> Result<()> {
    match read_some(socket)? {
        Ok(0) => Ok(()),
        Ok(count) => bail!("{count} bytes came instead of the end"),
        Err(errno) => Err(errno).context("wait for the end"),
    }
}

/// Sends one byte.
pub fn send_byte(socket: &OwnedFd) -> Result<()> {
    let sent = send(socket, &[1], SendFlags::NOSIGNAL).context("send")?;
    ensure!(sent == 1, "nothing was sent");
    Ok(())
}

/// From now on, close() sends a RST.
pub fn reset_at_close(socket: &OwnedFd) -> Result<()> {
    sockopt::set_socket_linger(socket, Some(Duration::ZERO)).context("SO_LINGER")
}

/// The state of a TCP socket, as the kernel has it.
pub fn tcp_state(socket: &OwnedFd) -> Result<u8> {
    let mut info = [0u8; 8];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the buffer is as long as we say, and the kernel writes no more than that.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    ensure!(failed == 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    Ok(info[0])
}

/// Checks the state of a TCP socket: what the workload believes of it must be true.
pub fn expect_state(socket: &OwnedFd, expected: u8) -> Result<()> {
    let state = tcp_state(socket)?;
    ensure!(state == expected, "the socket is in state {state}, not in {expected}");
    Ok(())
}

/// Waits for a state that the kernel reaches by itself within its next few steps.
pub fn await_state(socket: &OwnedFd, expected: u8) -> Result<()> {
    let deadline = std::time::Instant::now() + Duration::from_secs(PATIENCE.tv_sec as u64);
    while tcp_state(socket)? != expected {
        ensure!(std::time::Instant::now() < deadline, "state {expected} never came: {}", tcp_state(socket)?);
        std::thread::yield_now();
    }
    Ok(())
}

/// At most this many SYNs are sent again.
pub fn set_syn_retries(socket: &OwnedFd, retries: i32) -> Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_SYNCNT, &retries).context("TCP_SYNCNT")
}

/// Once closed, a socket does not wait in FIN_WAIT2 for the peer's FIN (tcp(7)): it is dropped, and the peer gets a RST.
pub fn never_wait_in_fin_wait2(socket: &OwnedFd) -> Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_LINGER2, &-1i32).context("TCP_LINGER2")
}

/// What of the incoming segments a socket gets to see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Incoming {
    /// None: packets vanish, as in a black hole.
    Nothing,
    /// Those with a FIN.
    OnlyFin,
    /// All.
    Everything,
}

/// Filters what a socket gets to see (Documentation/networking/filter.rst). For TCP sockets the filter sees the
/// segment from its TCP header on; byte 13 holds the flags.
pub fn let_in(socket: &OwnedFd, what: Incoming) -> Result<()> {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const fn op(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code, jt, jf, k }
    }
    let mut program = match what {
        Incoming::Everything => {
            return set_option(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0i32).context("let all in");
        }
        Incoming::Nothing => vec![op(RETURN, 0, 0, 0)],
        Incoming::OnlyFin => vec![
            op(LOAD_BYTE, 0, 0, 13),
            op(JUMP_IF_SET, 0, 1, 1),
            op(RETURN, 0, 0, u32::MAX),
            op(RETURN, 0, 0, 0),
        ],
    };
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter).context("filter a socket")
}

fn set_option<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) -> std::io::Result<()> {
    // SAFETY: the value is alive and as long as we say; the kernel only reads it.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if failed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
