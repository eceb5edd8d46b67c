//! The current process, and its identity for the user side. Only to be asked where the context is the process's own:
//! connect, listen, accept and the program's own close. Anywhere else the answer is a plausible wrong process.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_probe_read_kernel_str_bytes,
    generated::{bpf_get_current_cgroup_id, bpf_probe_read_user},
};
use portchurn_common::glob::COMM_LEN;
use portchurn_common::loss::Loss;
use portchurn_common::record::{ARGV_LEN, ProcessRecord, RecordKind};
use portchurn_common::settings::UNKNOWN;

use crate::kernel::{Access, Probe};
use crate::maps::{PROCESSES, ProcessKey};
use crate::{emit, setting};

/// `PF_EXITING` of include/linux/sched.h.
const PF_EXITING: u32 = 0x4;
/// `PF_KTHREAD` of include/linux/sched.h.
const PF_KTHREAD: u32 = 0x0020_0000;

/// A process: its number alone is used again, with its start it is unique.
#[derive(Clone, Copy)]
pub struct Process {
    pub tgid: u32,
    pub start_ns: u64,
}

/// The current process.
#[inline(always)]
pub fn current<A: Access>() -> Process {
    Process { tgid: current_tgid(), start_ns: start_ns::<A>(A::current_task()) }
}

/// The current process, its number only.
#[inline(always)]
pub fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

#[inline(always)]
fn start_ns<A: Access>(task: *const u8) -> u64 {
    if setting!(offsets.task_group_leader) == UNKNOWN || setting!(offsets.task_start_boottime) == UNKNOWN {
        return 0;
    }
    let leader = A::load::<u64>(task, setting!(offsets.task_group_leader)) as *const u8;
    A::load(leader, setting!(offsets.task_start_boottime))
}

/// What the current task is doing.
#[derive(Clone, Copy)]
pub struct TaskState(u32);

impl TaskState {
    #[inline(always)]
    pub fn current<A: Access>() -> Self {
        Self(A::load_known(A::current_task(), setting!(offsets.task_flags)).unwrap_or_default())
    }

    /// Whether it is ending.
    #[inline(always)]
    pub fn is_exiting(self) -> bool {
        self.0 & PF_EXITING != 0
    }

    /// Whether it is a kernel thread: MPTCP closes its subflows from one. Where the flags cannot be read, its name
    /// tells.
    #[inline(always)]
    pub fn is_kernel_thread(self) -> bool {
        if setting!(offsets.task_flags) == UNKNOWN {
            let comm = aya_ebpf::helpers::bpf_get_current_comm().unwrap_or_default();
            return u64::from_ne_bytes([
                comm[0], comm[1], comm[2], comm[3], comm[4], comm[5], comm[6], comm[7],
            ]) == u64::from_ne_bytes(*b"kworker/");
        }
        self.0 & PF_KTHREAD != 0
    }
}

/// `comm` of the current thread group leader; empty where it cannot be read.
#[inline(always)]
pub fn current_comm() -> [u8; COMM_LEN] {
    leader_comm(Probe::current_task())
}

#[inline(always)]
fn leader_comm(task: *const u8) -> [u8; COMM_LEN] {
    if setting!(offsets.task_group_leader) == UNKNOWN || setting!(offsets.task_comm) == UNKNOWN {
        return aya_ebpf::helpers::bpf_get_current_comm().unwrap_or_default();
    }
    let leader = Probe::load::<u64>(task, setting!(offsets.task_group_leader)) as *const u8;
    Probe::load(leader, setting!(offsets.task_comm))
}

/// Sends the identity of the current process, unless that was done before.
///
/// Inlined: the frames of all calls that are under way share 512 bytes.
#[inline(always)]
pub fn introduce(tgid: u32, start_ns: u64) {
    let key = ProcessKey { start_ns, tgid, zero: 0 };
    // SAFETY: the value is a byte that nobody reads.
    if unsafe { PROCESSES.get(&key) }.is_some() {
        return;
    }
    // A full table costs repeated records, a missing record is tried again: neither loses a process.
    if send_identity(tgid, start_ns) != 0 {
        let _ = PROCESSES.insert(&key, &1, 0);
    }
}

/// Whether the user side was told about this process.
#[inline(always)]
pub fn is_introduced(process: Process) -> bool {
    let key = ProcessKey { start_ns: process.start_ns, tgid: process.tgid, zero: 0 };
    // SAFETY: the value is a byte that nobody reads.
    unsafe { PROCESSES.get(&key) }.is_some()
}

/// Sends the identity of the current process; 0 when the ring buffer is full. A global function: see
/// [`find_further`](crate::conns::find_further).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn send_identity(tgid: u32, start_ns: u64) -> u32 {
    let Some(mut entry) = emit::reserve::<ProcessRecord>(Loss::ProcessRecord) else { return 0 };
    let record = entry.as_mut_ptr();
    let task = Probe::current_task();
    // SAFETY: `record` points to reserved memory of this size; every field is written before the submit.
    unsafe {
        (*record).kind = RecordKind::Process as u32;
        (*record).tgid = tgid;
        (*record).start_ns = start_ns;
        (*record).cgroup_id = bpf_get_current_cgroup_id();
        (*record).uid = bpf_get_current_uid_gid() as u32;
        (*record).comm = leader_comm(task);
        (*record).parent_tgid = 0;
        (*record).parent_comm = [0; COMM_LEN];
        (*record).exe = [0; portchurn_common::record::EXE_LEN];
        (*record).argv_total = 0;
        (*record).argv_len = 0;
        read_parent(task, record);
        read_image(task, record);
    }
    entry.submit(0);
    1
}

/// # Safety
/// `record` must be valid.
#[inline(always)]
unsafe fn read_parent(task: *const u8, record: *mut ProcessRecord) {
    if setting!(offsets.task_real_parent) == UNKNOWN || setting!(offsets.task_tgid) == UNKNOWN {
        return;
    }
    let parent = Probe::load::<u64>(task, setting!(offsets.task_real_parent)) as *const u8;
    // SAFETY: the caller's promise.
    unsafe {
        (*record).parent_tgid = Probe::load(parent, setting!(offsets.task_tgid));
        (*record).parent_comm = leader_comm(parent);
    }
}

/// The file name and the arguments. A process without memory (a kernel thread, or one that is ending) has neither.
///
/// # Safety
/// `record` must be valid.
#[inline(always)]
unsafe fn read_image(task: *const u8, record: *mut ProcessRecord) {
    if setting!(offsets.task_mm) == UNKNOWN || setting!(offsets.mm_arg_start) == UNKNOWN {
        return;
    }
    let mm = Probe::load::<u64>(task, setting!(offsets.task_mm)) as *const u8;
    if mm.is_null() {
        return;
    }
    // SAFETY: the caller's promise; lengths are masked so that the verifier sees their bound.
    unsafe {
        if setting!(offsets.mm_exe_file) != UNKNOWN && setting!(offsets.dentry_name) != UNKNOWN {
            let file = Probe::load::<u64>(mm, setting!(offsets.mm_exe_file)) as *const u8;
            let dentry = Probe::load::<u64>(file, setting!(offsets.file_dentry)) as *const u8;
            let name = Probe::load::<u64>(dentry, setting!(offsets.dentry_name)) as *const u8;
            let _ = bpf_probe_read_kernel_str_bytes(name, &mut (*record).exe);
        }
        let start: u64 = Probe::load(mm, setting!(offsets.mm_arg_start));
        let end: u64 = Probe::load(mm, setting!(offsets.mm_arg_end));
        let total = end.saturating_sub(start);
        (*record).argv_total = total as u32;
        let wanted = if total >= ARGV_LEN as u64 { ARGV_LEN as u32 - 1 } else { total as u32 };
        let wanted = core::hint::black_box(wanted) & (ARGV_LEN as u32 - 1);
        if bpf_probe_read_user((&raw mut (*record).argv).cast(), wanted, start as *const _) == 0 {
            (*record).argv_len = wanted;
        }
    }
}
