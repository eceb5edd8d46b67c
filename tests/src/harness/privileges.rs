//! A child that is nobody, but for a few capabilities.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};

/// `CAP_PERFMON` and `CAP_BPF` of include/uapi/linux/capability.h.
pub const CAP_PERFMON: u32 = 38;
/// See [`CAP_PERFMON`].
pub const CAP_BPF: u32 = 39;

/// Nobody's number, by which every Debian and every guest of ours knows nobody.
const NOBODY: libc::c_long = 65534;
/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;

/// Lets the child run as nobody, with these capabilities and no others, as `setpriv` would. It may lock as much memory as the
/// caller can let it, which is what kernels before 5.11 charge maps to.
pub fn only(command: &mut Command, capabilities: &'static [u32]) {
    let begin = || {
        // Many a host does not let anybody raise it, and needs nobody to.
        let _ = lock_at_most(None);
        become_nobody(capabilities)
    };
    // SAFETY: system calls only.
    unsafe { command.pre_exec(begin) };
}

/// The same, and it may lock hardly any memory.
pub fn only_with_little_memory(command: &mut Command, capabilities: &'static [u32]) {
    const USUAL_BYTES: u64 = 64 << 10;
    only(command, capabilities);
    // SAFETY: a system call only.
    unsafe { command.pre_exec(|| lock_at_most(Some(USUAL_BYTES))) };
}

fn lock_at_most(bytes: Option<u64>) -> io::Result<()> {
    Ok(setrlimit(Resource::Memlock, Rlimit { current: bytes, maximum: bytes })?)
}

fn become_nobody(capabilities: &[u32]) -> io::Result<()> {
    let set = capabilities.iter().fold(0_u64, |set, capability| set | 1 << capability);
    let halves = [set as u32, (set >> 32) as u32];
    // capget(2): version and process; then effective, permitted and inheritable, low halves first.
    let header = [VERSION, 0];
    let data = halves.map(|half| [half; 3]);
    // SAFETY: what is pointed to is alive and as long as the kernel expects.
    unsafe {
        // Raw calls: the library's own would tell threads that this process does not have.
        succeeded(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0).into())?;
        succeeded(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
        succeeded(libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY))?;
        succeeded(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY))?;
        succeeded(libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()))?;
        for capability in capabilities {
            // Else the exec would take them away again.
            let raise = libc::PR_CAP_AMBIENT_RAISE;
            succeeded(
                libc::prctl(libc::PR_CAP_AMBIENT, raise, libc::c_ulong::from(*capability), 0, 0).into(),
            )?;
        }
    }
    Ok(())
}

fn succeeded(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
