//! `inet_csk_get_port(sk, snum)`, at its return: a `bind()` to port 0, or a `listen()` without a bind, that found no port.
//! No state changes then, so no other hook sees it. Process context. Asked for a certain port (`snum` is not 0), a failure
//! says nothing about how many are left.
//! match-proto:v5.10:net/ipv4/inet_connection_sock.c: int inet_csk_get_port(struct sock *sk, unsigned short snum)

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::{fexit, kprobe, kretprobe};
use aya_ebpf::programs::{FExitContext, ProbeContext, RetProbeContext};
use portchurn_common::flow::{Address, ChurnKey, KeyRef, Role};
use portchurn_common::tcp::FailKind;

use crate::kernel::{Access, Direct, Probe, register};
use crate::keys::{self, add};
use crate::maps::BINDS;
use crate::sock::{Identify, KernelSock, Sock};
use crate::{setting, who};

#[fexit(function = "inet_csk_get_port")]
pub fn inet_csk_get_port_exit(ctx: FExitContext) -> i32 {
    let (wanted, failed): (u16, i32) = (ctx.arg(1), ctx.arg(2));
    if wanted == 0 && failed != 0 {
        on_no_port(&KernelSock::<Direct>::new(ctx.arg(0)));
    }
    0
}

/// At the return the arguments are gone, so the entry notes the socket of a call that asks for any port.
#[kprobe]
pub fn inet_csk_get_port_entry(ctx: ProbeContext) -> u32 {
    if register(&ctx, setting!(registers.second_argument)) as u16 == 0 {
        let sock = register(&ctx, setting!(registers.argument));
        let _ = BINDS.insert(bpf_get_current_pid_tgid(), sock, 0);
    }
    0
}

#[kretprobe]
pub fn inet_csk_get_port_return(ctx: RetProbeContext) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: a thread is in one such call at a time, so nobody else writes this value.
    let Some(sock) = (unsafe { BINDS.get(thread) }).copied() else { return 0 };
    let _ = BINDS.remove(thread);
    if register(&ctx, setting!(registers.result)) as u32 != 0 {
        on_no_port(&KernelSock::<Probe>::new(sock as *const u8));
    }
    0
}

/// Where it was to connect to nobody knows yet: the destination stays open.
#[inline(always)]
fn on_no_port<A: Access + Identify>(sock: &KernelSock<A>) {
    if !sock.is_tcp() || !keys::passes_ip_version(sock.is_v4()) {
        return;
    }
    let process = who::current::<A>();
    let key_ref = keys::intern(&ChurnKey {
        start_ns: process.start_ns,
        tgid: process.tgid,
        netns: sock.netns(),
        remote: Address::UNSPECIFIED,
        port: 0,
        role: Role::Connect as u8,
        ..ChurnKey::default()
    });
    if key_ref == KeyRef::FILTERED {
        return;
    }
    let Some(counters) = keys::counters(key_ref) else { return };
    // SAFETY: points into the map.
    unsafe {
        add(&raw mut (*counters).attempts, 1);
        add(&raw mut (*counters).failed, 1);
        add((&raw mut (*counters).failed_by).cast::<u32>().add(FailKind::Eaddrinuse as usize), 1);
    }
}
