//! A process of ours: in a group of its own, gone when we are gone, ended by its id. Must not end anything by name.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};

/// Ends with its whole group when dropped.
pub(crate) struct Process {
    child: Child,
    has_ended: bool,
}

impl Process {
    /// Starts it. The thread that calls must live as long as the process: the kernel ties the death signal to it.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        command.process_group(0);
        // SAFETY: between fork and exec only one system call is made.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { child, has_ended: false })
    }

    /// Its status, once it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().context("wait for a process")?;
        self.has_ended |= status.is_some();
        Ok(status)
    }

    /// Ends it now.
    pub(crate) fn end(&mut self) {
        if self.has_ended {
            return;
        }
        self.has_ended = true;
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            // It may have ended by itself just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
