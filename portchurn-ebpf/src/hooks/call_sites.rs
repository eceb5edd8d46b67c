//! `inet_sock_set_state(sk, oldstate, newstate)` once more, for call sites. Attached after the counting program, so the
//! kernel runs it after that one.
//! match-proto:v5.10:include/trace/events/sock.h: TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use crate::preemption::held;
use crate::stack;

/// Since 5.17 (`bpf_loop`): native and interpreter frames.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn call_sites(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    held(|| stack::on_state_change::<true>(ctx.arg(0), old as u8, new as u8));
    0
}

/// Since 5.15 (`bpf_task_pt_regs`): native frames.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn call_sites_native(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    held(|| stack::on_state_change::<false>(ctx.arg(0), old as u8, new as u8));
    0
}
