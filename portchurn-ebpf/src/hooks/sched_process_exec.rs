//! `sched_process_exec(task, old_pid, bprm)`: a process replaces its image. Its name and arguments are sent again if
//! they were sent before, and what was known of its interpreter is forgotten. Process context, the new image in place.
//! match-proto:v5.10:include/trace/events/sched.h: TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)

use aya_ebpf::macros::{btf_tracepoint, raw_tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext};

use crate::kernel::{Access, Direct, Probe};
use crate::maps::INTERPRETERS;
use crate::{emit, setting, who};

#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec_btf(_ctx: BtfTracePointContext) -> i32 {
    on_exec::<Direct>();
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn sched_process_exec_raw(_ctx: RawTracePointContext) -> i32 {
    on_exec::<Probe>();
    0
}

#[inline(always)]
fn on_exec<A: Access>() {
    let process = who::current::<A>();
    if setting!(stack_interpreters) != 0 {
        let _ = INTERPRETERS.remove(process.tgid);
        emit::image(process);
    }
    if who::is_introduced(process) {
        who::send_identity(process.tgid, process.start_ns);
    }
}
