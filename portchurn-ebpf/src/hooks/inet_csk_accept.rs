//! `inet_csk_accept`, at its return: who accepted a connection. Without it the owner shows at the close.
//! match-proto:v5.10:net/ipv4/inet_connection_sock.c: struct sock *inet_csk_accept(struct sock *sk, int flags, int *err, bool kern)
//! match-proto:v6.10:net/ipv4/inet_connection_sock.c: struct sock *inet_csk_accept(struct sock *sk, struct proto_accept_arg *arg)

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::{fexit, kretprobe};
use aya_ebpf::programs::{FExitContext, RetProbeContext};

use crate::kernel::{Access, Direct, Probe, register};
use crate::sock::{KernelSock, Sock};
use crate::{conns, lifecycle, setting, who};

/// The result follows the arguments, whose number changed after 6.8.
#[fexit(function = "inet_csk_accept")]
pub fn inet_csk_accept_exit(ctx: FExitContext) -> i32 {
    let result = Direct::load::<u64>(ctx.as_ptr().cast(), 8 * setting!(offsets.accept_result_index));
    if result != 0 {
        on_accept::<KernelSock<Direct>>(result as *const u8);
    }
    0
}

#[kretprobe]
pub fn inet_csk_accept_return(ctx: RetProbeContext) -> u32 {
    let result = register(&ctx, setting!(registers.result));
    if result != 0 {
        on_accept::<KernelSock<Probe>>(result as *const u8);
    }
    0
}

#[inline(always)]
fn on_accept<S: Sock>(sock: *const u8) {
    let id = conns::id_of(sock);
    let Some(found) = conns::find_any(id) else { return };
    lifecycle::take_ownership::<S>(found, id, who::current_tgid());
}
