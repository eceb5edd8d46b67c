//! `sched_process_fork(parent, child)`: what is known of the parent's interpreter holds for the child, from its first
//! connect on.
//! match-proto:v5.10:include/trace/events/sched.h: TP_PROTO(struct task_struct *parent, struct task_struct *child)

use aya_ebpf::macros::{btf_tracepoint, raw_tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext};

use crate::kernel::{Access, Probe};
use crate::maps::INTERPRETERS;
use crate::{setting, who};

#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork_btf(ctx: BtfTracePointContext) -> i32 {
    on_fork(ctx.arg(1));
    0
}

#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn sched_process_fork_raw(ctx: RawTracePointContext) -> i32 {
    on_fork(ctx.arg(1));
    0
}

#[inline(always)]
fn on_fork(child: *const u8) {
    let Some(child) = Probe::load_known::<u32>(child, setting!(offsets.task_tgid)) else { return };
    let parent = who::current_tgid();
    // A thread is no new process.
    if child == 0 || child == parent {
        return;
    }
    if let Some(interpreter) = INTERPRETERS.get_ptr(parent) {
        // SAFETY: points into the map; a full table costs the child its names until the user side looks at it.
        let _ = INTERPRETERS.insert(child, unsafe { &*interpreter }, 0);
    }
}
