//! Network devices, by the kernel's own interfaces: rtnetlink(7) makes a pair, netdevice(7) sets it up. It must not know
//! what they are for.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket, socket_with,
};

use super::skip;
use crate::workloads::netns;

/// `VETH_INFO_PEER` of include/uapi/linux/veth.h.
const PEER: u16 = 1;
/// `struct nlmsghdr` and `struct ifinfomsg`.
const HEADER: usize = 16;
const LINK: [u8; 16] = [0; 16];

/// Makes a device here whose other end, of the same name, is in another network namespace.
pub fn make_pair(name: &str, other_netns: &File) -> Result<()> {
    let named = attribute(libc::IFLA_IFNAME, &[name.as_bytes(), &[0]]);
    let there = attribute(libc::IFLA_NET_NS_FD, &[&other_netns.as_raw_fd().to_ne_bytes()]);
    let peer = attribute(PEER, &[&LINK, &named, &there]);
    let kind = attribute(libc::IFLA_INFO_KIND, &[b"veth"]);
    let data = attribute(libc::IFLA_INFO_DATA, &[&peer]);
    let info = attribute(libc::IFLA_LINKINFO, &[&kind, &data]);
    match ask(libc::RTM_NEWLINK, &[&LINK[..], &named, &info].concat())? {
        Err(Errno::OPNOTSUPP) => Err(skip("this kernel has no veth")),
        answer => answer.context("make a veth pair"),
    }
}

/// Gives a device an address in a network of 24 bits, and brings it up.
pub fn set_up(name: &str, address: Ipv4Addr) -> Result<()> {
    let line = line()?;
    let mut request = request(name);
    for (what, value) in
        [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, Ipv4Addr::new(255, 255, 255, 0))]
    {
        request.ifr_ifru.ifru_addr = socket_address(value);
        tell(&line, what, &request).with_context(|| format!("give {name} the address {value}"))?;
    }
    netns::raise(name)
}

/// Gives a device one more address, in a network of 64 bits, that may be used at once. Nothing where the kernel has no IPv6.
pub fn add_v6(name: &str, address: Ipv6Addr) -> Result<()> {
    let name = CString::new(name).context("a name without a zero")?;
    // SAFETY: a string that ends, and lives during the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // `struct ifaddrmsg`: family, length of the prefix, flags, scope, device.
    let head = [libc::AF_INET6 as u8, 64, libc::IFA_F_NODAD as u8, 0];
    let local = attribute(libc::IFA_LOCAL, &[&address.octets()]);
    match ask(libc::RTM_NEWADDR, &[&head[..], &index.to_ne_bytes(), &local].concat())? {
        Err(Errno::AFNOSUPPORT | Errno::OPNOTSUPP | Errno::ACCESS) => Ok(()),
        answer => answer.with_context(|| format!("give a device the address {address}")),
    }
}

/// Any socket is a line to the kernel's network devices.
fn line() -> Result<OwnedFd> {
    socket(AddressFamily::INET, SocketType::DGRAM, None).context("make a socket")
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let [a, b, c, d] = address.octets().map(|byte| byte as libc::c_char);
    // `struct sockaddr_in`: a port, the address, padding.
    let sa_data = [0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data }
}

fn tell(line: &OwnedFd, what: libc::c_ulong, request: &libc::ifreq) -> io::Result<()> {
    // SAFETY: the request is complete and alive during the call, which only reads it.
    let failed = unsafe { libc::ioctl(line.as_raw_fd(), what as _, std::ptr::from_ref(request)) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An attribute with its length, filled up to a multiple of four.
fn attribute(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = (4 + content.len()) as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &content].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Asks the kernel to make something; its answer.
fn ask(kind: u16, body: &[u8]) -> Result<rustix::io::Result<()>> {
    // Without a protocol it is the first one: `NETLINK_ROUTE`.
    let line = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .context("open rtnetlink")?;
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let length = (HEADER + body.len()) as u32;
    let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &(flags as u16).to_ne_bytes(), &[0; 8]];
    let message = [&header.concat(), body].concat();
    send(&line, &message, SendFlags::empty()).context("ask rtnetlink")?;
    let mut answer = [0; 1024];
    let (count, _) = recv(&line, &mut answer[..], RecvFlags::empty()).context("hear rtnetlink")?;
    // The header, then `struct nlmsgerr`, whose first member is an errno, negative, or 0.
    ensure!(count >= HEADER + 4, "rtnetlink answered {count} bytes");
    let errno = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    Ok(if errno == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-errno)) })
}
