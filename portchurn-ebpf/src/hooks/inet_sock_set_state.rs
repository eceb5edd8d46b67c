//! `inet_sock_set_state(sk, oldstate, newstate)`: every change of a TCP state. The spine: all counts come from here.
//! match-proto:v5.10:include/trace/events/sock.h: TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)

use aya_ebpf::macros::{btf_tracepoint, raw_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext, TracePointContext};

use crate::kernel::{Direct, Probe};
use crate::lifecycle::{look_again, on_state_change};
use crate::preemption::held;
use crate::setting;
use crate::sock::{KernelSock, TracedSock, field};

/// Since 5.12 (`bpf_get_socket_cookie` in tracing programs). The fast one.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state_btf(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    held(|| on_state_change(&KernelSock::<Direct>::new(ctx.arg(0)), old as u8, new as u8));
    0
}

/// Beside [`inet_sock_set_state_btf`]: see [`look_again`].
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state_btf_again(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    held(|| look_again(&KernelSock::<Direct>::new(ctx.arg(0)), old as u8, new as u8));
    0
}

/// Since 5.10 with type information.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn inet_sock_set_state_raw(ctx: RawTracePointContext) -> i32 {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    held(|| on_state_change(&KernelSock::<Probe>::new(ctx.arg(0)), old as u8, new as u8));
    0
}

/// Beside [`inet_sock_set_state_raw`]: see [`look_again`].
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn inet_sock_set_state_raw_again(ctx: RawTracePointContext) -> i32 {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    held(|| look_again(&KernelSock::<Probe>::new(ctx.arg(0)), old as u8, new as u8));
    0
}

/// Since 5.10, with or without type information. The kernel skips it while any program of this kind runs on the
/// processor, so a second one would not help; what is skipped is counted.
#[tracepoint(category = "sock", name = "inet_sock_set_state")]
pub fn inet_sock_set_state_classic(ctx: TracePointContext) -> u32 {
    let old: i32 = field(&ctx, setting!(tracepoint.oldstate));
    let new: i32 = field(&ctx, setting!(tracepoint.newstate));
    on_state_change(&TracedSock::new(&ctx), old as u8, new as u8);
    0
}
