//! A view of the file system in which tracefs is there, or is not, for one child only.

use std::ffi::CStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

const TRACEFS: &CStr = c"/sys/kernel/tracing";
const DEBUGFS: &CStr = c"/sys/kernel/debug";

/// What the child finds at the place of tracefs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Tracefs {
    /// Whatever this machine has there.
    #[default]
    AsItIs,
    /// tracefs.
    Mounted,
    /// Nothing.
    Unmounted,
}

impl Tracefs {
    /// Makes it so for this child.
    pub fn prepare(self, command: &mut Command) {
        if self == Self::AsItIs {
            return;
        }
        // SAFETY: only makes system calls with constant arguments.
        unsafe { command.pre_exec(move || self.arrange()) };
    }

    fn arrange(self) -> io::Result<()> {
        // SAFETY: unshares no file descriptors.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        // There may be several, one above the other.
        for place in [c"/sys/kernel/debug/tracing", DEBUGFS, TRACEFS] {
            while unmount(place, UnmountFlags::DETACH).is_ok() {}
        }
        if self == Self::Mounted {
            mount(c"tracefs", TRACEFS, c"tracefs", MountFlags::empty(), None)?;
        }
        Ok(())
    }
}
