//! A child with process numbers and mounts of its own, as in a container.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Starts the command in a new mount namespace and as the first process of a new pid namespace, with a /proc of that.
/// The command itself becomes a process in between, which waits for it and ends as it does.
pub fn contained(command: &mut Command) {
    // SAFETY: only makes system calls, and leaves the child by `_exit` or by going on to the exec.
    unsafe { command.pre_exec(contain) };
}

fn contain() -> io::Result<()> {
    // SAFETY: unshares no file descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWPID) }?;
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // The new numbers begin with the next child.
    // SAFETY: this process has one thread, as after every fork.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: one system call.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            mount(c"proc", c"/proc", c"proc", MountFlags::empty(), None)?;
            Ok(())
        }
        _ => wait_and_end(child),
    }
}

/// Ends as the child does.
fn wait_and_end(child: i32) -> ! {
    let mut status = 0;
    // SAFETY: the pointer is valid; the rest has no preconditions.
    unsafe {
        // Whoever starts the command waits for the end of a pipe until it is the wanted program.
        libc::close_range(3, u32::MAX, 0);
        while libc::waitpid(child, &raw mut status, 0) == -1 {
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                libc::_exit(1);
            }
        }
        libc::_exit(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 1 })
    }
}
