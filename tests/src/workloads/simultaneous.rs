//! Both sides close at once, on purpose every time: each FIN is caught before it arrives, and delivered when both are
//! on their way. A race would do it only now and then.

use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, getsockname, ipproto,
    recv, sendto, shutdown, socket_with,
};

use super::pair::{Connection, connect_to_self};
use super::role::{Role, finish_all};
use super::sockets::{Family, Incoming, await_state, expect_state, let_in, listener, state, wait_for};
use super::{Plan, Workload, unavailable};
use crate::truth::{CloseKind, ProcessTruth};

/// The workloads of this file.
pub const WORKLOADS: &[Workload] =
    &[Workload { name: "simultaneous", about: "both sides close at once (IPv4)", run: simultaneous }];

fn simultaneous(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    ensure!(plan.family == Family::V4 && !plan.mptcp, "simultaneous is for plain IPv4");
    let both = Role::start("both", plan.client_cpu, |truth| {
        let (listener, target) = listener(plan.family, false)?;
        let wire = Wire::tap()?;
        for _ in 0..plan.count {
            let (near, far) = connect_to_self(plan, truth, &listener, target)?;
            close_at_once(&wire, &near, &far)?;
            truth.closed(near.end, CloseKind::Simultaneous);
            truth.closed(far.end, CloseKind::Simultaneous);
        }
        Ok(())
    })?;
    finish_all([both])
}

fn close_at_once(wire: &Wire, near: &Connection, far: &Connection) -> Result<()> {
    let (near, far) = (&near.socket, &far.socket);
    for side in [near, far] {
        let_in(side, Incoming::Nothing)?;
    }
    for side in [near, far] {
        shutdown(side, Shutdown::Write).context("shutdown")?;
        expect_state(side, state::FIN_WAIT1)?;
    }
    let (from_near, from_far) = (wire.catch_fin(port(near)?)?, wire.catch_fin(port(far)?)?);
    // The near side must not see that its FIN was received before it sees the other's.
    let_in(near, Incoming::OnlyFin)?;
    let_in(far, Incoming::Everything)?;
    wire.deliver(&from_near)?;
    await_state(far, state::CLOSING)?;
    wire.deliver(&from_far)?;
    await_state(near, state::CLOSING)?;
    await_state(far, state::CLOSE)?;
    let_in(near, Incoming::Everything)?;
    // As if sent again: what it is answered with ends the near side too.
    wire.deliver(&from_near)?;
    await_state(near, state::CLOSE)
}

fn port(socket: &OwnedFd) -> Result<u16> {
    let name = getsockname(socket).context("getsockname")?;
    Ok(SocketAddr::try_from(name).context("address of a socket")?.port())
}

/// Sees every TCP packet that arrives, and can make some arrive.
struct Wire {
    tap: OwnedFd,
    source: OwnedFd,
}

impl Wire {
    fn tap() -> Result<Self> {
        let raw = |protocol: Protocol| match socket_with(
            AddressFamily::INET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(protocol),
        ) {
            Err(errno @ (Errno::PERM | Errno::PROTONOSUPPORT)) => {
                Err(unavailable(format!("no raw socket: {errno}")))
            }
            other => other.context("make a raw socket"),
        };
        Ok(Self { tap: raw(ipproto::TCP)?, source: raw(ipproto::RAW)? })
    }

    /// The next packet with a FIN from this port.
    fn catch_fin(&self, from: u16) -> Result<Vec<u8>> {
        let mut buffer = [MaybeUninit::uninit(); 512];
        loop {
            wait_for(&self.tap, PollFlags::IN)?;
            let ((packet, _), _) =
                recv(&self.tap, &mut buffer[..], RecvFlags::empty()).context("catch a packet")?;
            let segment = &packet[header_len(packet)..];
            if segment[13] & 1 != 0 && u16::from_be_bytes([segment[0], segment[1]]) == from {
                let mut packet = packet.to_vec();
                complete_checksum(&mut packet);
                return Ok(packet);
            }
        }
    }

    fn deliver(&self, packet: &[u8]) -> Result<()> {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let sent = sendto(&self.source, packet, SendFlags::empty(), &target).context("deliver a packet")?;
        ensure!(sent == packet.len(), "only {sent} bytes were delivered");
        Ok(())
    }
}

/// Length of the IP header.
fn header_len(packet: &[u8]) -> usize {
    usize::from(packet[0] & 0x0f) * 4
}

/// Writes the TCP checksum (RFC 9293, section 3.1), which the kernel leaves out on loopback.
fn complete_checksum(packet: &mut [u8]) {
    let start = header_len(packet);
    packet[start + 16..start + 18].fill(0);
    let length = (packet.len() - start) as u32;
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
    };
    let mut sum = words(&packet[12..20]) + 6 + length + words(&packet[start..]);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[start + 16..start + 18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
