//! `tcp_connect(sk)`: a SYN is about to leave, so the local port is chosen. It never runs when ports have run out.
//! match-proto:v5.10:net/ipv4/tcp_output.c: int tcp_connect(struct sock *sk)

use aya_ebpf::macros::{fentry, kprobe};
use aya_ebpf::programs::{FEntryContext, ProbeContext};

use crate::conns;
use crate::kernel::{Access, Direct, Probe, register};
use crate::setting;

#[fentry(function = "tcp_connect")]
pub fn tcp_connect_entry(ctx: FEntryContext) -> i32 {
    on_tcp_connect::<Direct>(ctx.arg(0));
    0
}

#[kprobe]
pub fn tcp_connect_probe(ctx: ProbeContext) -> u32 {
    let sock = register(&ctx, setting!(registers.argument));
    if sock != 0 {
        on_tcp_connect::<Probe>(sock as *const u8);
    }
    0
}

#[inline(always)]
fn on_tcp_connect<A: Access>(sock: *const u8) {
    if let Some(found) = conns::find_any(conns::id_of::<A>(sock)) {
        // SAFETY: points into the map; the state change that follows comes on this same processor, later.
        unsafe { (*found.conn).local_port = A::load(sock, setting!(offsets.skc_num)) };
    }
}
