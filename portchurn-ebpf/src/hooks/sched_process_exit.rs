//! `sched_process_exit(task)`: a thread ends. The last one of a process that was introduced tells the user side.
//! It runs before the files are closed, so the connections of the process close after it.
//! match-proto:v5.10:include/trace/events/sched.h: TP_PROTO(struct task_struct *p)

use aya_ebpf::macros::{btf_tracepoint, raw_tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext};
use portchurn_common::settings::UNKNOWN;

use crate::kernel::{Access, Direct, Probe};
use crate::{emit, setting, who};

#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit_btf(_ctx: BtfTracePointContext) -> i32 {
    on_exit::<Direct>();
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn sched_process_exit_raw(_ctx: RawTracePointContext) -> i32 {
    on_exit::<Probe>();
    0
}

#[inline(always)]
fn on_exit<A: Access>() {
    if setting!(offsets.task_signal) == UNKNOWN || setting!(offsets.signal_live) == UNKNOWN {
        return;
    }
    let task = A::current_task();
    let signal = A::load::<u64>(task, setting!(offsets.task_signal)) as *const u8;
    if A::load::<u32>(signal, setting!(offsets.signal_live)) != 0 {
        return;
    }
    let process = who::current::<A>();
    // User space knows processes from before the attach by a start that is cut to clock ticks, and notes them with 0.
    if who::is_introduced(process) || who::is_introduced(who::Process { start_ns: 0, ..process }) {
        emit::exit(process);
    }
}
