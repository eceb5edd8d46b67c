//! `tcp_time_wait(sk, state, timeo)`: a mini-socket is about to take over, as TIME_WAIT or as FIN_WAIT2 on its way there. The
//! change to CLOSE follows in the same call. Any context. Without it the states must do, which also go from FIN_WAIT2 to
//! CLOSE when the kernel drops an orphan.
//! match-proto:v5.10:net/ipv4/tcp_minisocks.c: void tcp_time_wait(struct sock *sk, int state, int timeo)

use aya_ebpf::macros::{fentry, kprobe};
use aya_ebpf::programs::{FEntryContext, ProbeContext};
use portchurn_common::conn::flag;
use portchurn_common::settings::UNKNOWN;

use crate::kernel::{Access, Direct, Probe, register};
use crate::{conns, setting};

#[fentry(function = "tcp_time_wait")]
pub fn tcp_time_wait_entry(ctx: FEntryContext) -> i32 {
    on_time_wait::<Direct>(ctx.arg(0));
    0
}

/// The kernel skips a program that the processor is running already, and then this one is free: without a mark, a TIME_WAIT
/// would be missing. What the first has marked costs it a look.
#[fentry(function = "tcp_time_wait")]
pub fn tcp_time_wait_entry_again(ctx: FEntryContext) -> i32 {
    on_time_wait::<Direct>(ctx.arg(0));
    0
}

#[kprobe]
pub fn tcp_time_wait_probe(ctx: ProbeContext) -> u32 {
    let sock = register(&ctx, setting!(registers.argument));
    if sock != 0 {
        on_time_wait::<Probe>(sock as *const u8);
    }
    0
}

#[inline(always)]
fn on_time_wait<A: Access>(sock: *const u8) {
    let Some(found) = conns::find_any(conns::id_of::<A>(sock)) else { return };
    // SAFETY: points into the map, and a socket's changes come one after the other.
    unsafe {
        if (*found.conn).flags & flag::TIME_WAIT == 0 && has_room::<A>(sock) {
            (*found.conn).flags |= flag::TIME_WAIT;
        }
    }
}

/// Whether the kernel will make the mini-socket: at `tcp_max_tw_buckets` it drops the connection instead
/// (`inet_twsk_alloc` in net/ipv4/inet_timewait_sock.c). It compares a moment later, so where several processors stand at the
/// limit this may be wrong by as many.
#[inline(always)]
fn has_room<A: Access>(sock: *const u8) -> bool {
    if setting!(offsets.skc_net) == UNKNOWN
        || setting!(offsets.net_time_wait) == UNKNOWN
        || setting!(offsets.net_time_wait_max) == UNKNOWN
    {
        return true;
    }
    let net = A::load::<u64>(sock, setting!(offsets.skc_net)) as *const u8;
    let held: u32 = A::load(net, setting!(offsets.net_time_wait));
    let most: u32 = A::load(net, setting!(offsets.net_time_wait_max));
    held.wrapping_sub(setting!(offsets.net_time_wait_none)) < most
}
