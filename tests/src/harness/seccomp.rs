//! System calls that a child must not make: one that does is ended by the kernel at that moment, with SIGSYS.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Calls that stop, signal, trace or write to another process. To open one's memory is judged by [`WRITING`].
const FORBIDDEN: &[libc::c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_writev,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    libc::SYS_sched_setaffinity,
];
/// Calls that open files, and which argument says whether for writing. Not in the list: `openat2`, whose argument lies in
/// memory, so it is forbidden altogether.
const OPENING: &[(libc::c_long, u32)] = &[
    (libc::SYS_openat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1),
];
/// Bits of `O_WRONLY` and `O_RDWR`: `/proc/PID/mem`, a freezer or a sysctl would be opened with one of them.
const WRITING: u32 = 3;

/// In `struct seccomp_data`, include/uapi/linux/seccomp.h: the number of the call, and its arguments.
const NUMBER: u32 = 0;
const ARGUMENTS: u32 = 16;

const fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

fn filter() -> Vec<libc::sock_filter> {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let any_bit = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    let end = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS);
    let mut program = vec![statement(load, NUMBER)];
    for call in FORBIDDEN.iter().chain([&libc::SYS_openat2]) {
        program.extend([jump(equal, *call as u32, 0, 1), end]);
    }
    for (call, argument) in OPENING {
        program.extend([
            jump(equal, *call as u32, 0, 3),
            statement(load, ARGUMENTS + 8 * argument),
            jump(any_bit, WRITING, 0, 1),
            end,
            // The number again, where the argument is.
            statement(load, NUMBER),
        ]);
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    program
}

/// Forbids the child these calls. Needs privileges.
pub fn harmless(command: &mut Command) {
    let program = filter();
    let install = move || {
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        // SAFETY: the program is alive and as long as it says.
        let result =
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: makes one system call.
    unsafe { command.pre_exec(install) };
}
