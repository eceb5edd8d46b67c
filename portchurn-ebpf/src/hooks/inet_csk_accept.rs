//! `inet_csk_accept`, at its return: who accepted a connection. Without it the owner shows at the close.
//! match-proto:v5.10:net/ipv4/inet_connection_sock.c: struct sock *inet_csk_accept(struct sock *sk, int flags, int *err, bool kern)
//! match-proto:v6.10:net/ipv4/inet_connection_sock.c: struct sock *inet_csk_accept(struct sock *sk, struct proto_accept_arg *arg)

use core::arch::asm;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::{fexit, kretprobe};
use aya_ebpf::programs::{FExitContext, RetProbeContext};
use portchurn_common::conn::flag;

use crate::kernel::{Access, Direct, Probe, register};
use crate::{conns, ownership, setting, who};

#[fexit(function = "inet_csk_accept")]
pub fn inet_csk_accept_exit(ctx: FExitContext) -> i32 {
    let result = accepted(&ctx);
    if result != 0 {
        on_accept::<Direct, true>(result as *const u8);
    }
    0
}

/// Before 5.12: without the compare-and-swap, see [`ownership::take_accepted`].
#[fexit(function = "inet_csk_accept")]
pub fn inet_csk_accept_exit_plain(ctx: FExitContext) -> i32 {
    let result = accepted(&ctx);
    if result != 0 {
        on_accept::<Direct, false>(result as *const u8);
    }
    0
}

/// The result follows the arguments, of which there were four, and two since 6.10.
#[inline(always)]
fn accepted(ctx: &FExitContext) -> u64 {
    match setting!(offsets.accept_result_index) {
        2 => argument::<2>(ctx),
        4 => argument::<4>(ctx),
        _ => 0,
    }
}

/// Loads one argument at a fixed place. In assembly, since LLVM would join two such loads into one from a pointer that
/// was moved by a variable, which the verifier forbids for a context.
#[inline(always)]
fn argument<const INDEX: usize>(ctx: &FExitContext) -> u64 {
    let value;
    // SAFETY: reads the context, and the verifier knows its size.
    unsafe {
        asm!("{value} = *(u64 *)({ctx} + {offset})", value = out(reg) value, ctx = in(reg) ctx.as_ptr(),
            offset = const 8 * INDEX, options(readonly, nostack));
    }
    value
}

#[kretprobe]
pub fn inet_csk_accept_return(ctx: RetProbeContext) -> u32 {
    let result = register(&ctx, setting!(registers.result));
    if result != 0 {
        on_accept::<Probe, true>(result as *const u8);
    }
    0
}

/// Before 5.12, as above.
#[kretprobe]
pub fn inet_csk_accept_return_plain(ctx: RetProbeContext) -> u32 {
    let result = register(&ctx, setting!(registers.result));
    if result != 0 {
        on_accept::<Probe, false>(result as *const u8);
    }
    0
}

#[inline(always)]
fn on_accept<A: Access, const ATOMIC: bool>(sock: *const u8) {
    let id = conns::id_of::<A>(sock);
    let Some(found) = conns::find_any(id) else { return };
    // The kernel queues a connection for accept() before it changes its state, so on another processor it may not be
    // written down to the end. Its owner shows at the close, then.
    // SAFETY: points into the map.
    if unsafe { (*found.conn).flags } & flag::ESTABLISHED == 0 {
        return;
    }
    let tgid = who::current_tgid();
    if ATOMIC {
        ownership::take_accepted(found, id, tgid);
    } else {
        ownership::take_ownership(found, id, tgid);
    }
}
