//! A role is a process of its own with one part in a workload: it does its part, hands over what it did, and ends.

use std::io::{PipeReader, Read, Write, pipe};
use std::mem;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Unavailable;
use crate::truth::ProcessTruth;

/// Seconds after which a role that hangs is ended by the kernel.
const PATIENCE_S: u32 = 240;

/// A process at work.
#[derive(Debug)]
pub struct Role {
    name: String,
    pid: Pid,
    report: PipeReader,
}

impl Role {
    /// Starts a process that does `body`, on this processor only if one is given. What it did is reported although
    /// it ends without giving anything back: sockets that `body` forgets are open when the process ends.
    pub fn start(
        name: &str,
        cpu: Option<usize>,
        body: impl FnOnce(&mut ProcessTruth) -> Result<()>,
    ) -> Result<Self> {
        let (report, mut pen) = pipe().context("make a pipe")?;
        // SAFETY: a workload has one thread, so the child may do whatever the parent could.
        let pid = unsafe { libc::fork() };
        ensure!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            drop(report);
            let mut truth = ProcessTruth::new(name);
            let outcome = settle(cpu).and_then(|()| body(&mut truth));
            let status = match outcome {
                Ok(()) => write!(pen, "{}", serde_json::json!(truth)).map_or(1, |()| 0),
                Err(error) => {
                    let status = if error.is::<Unavailable>() { Unavailable::EXIT_CODE } else { 1 };
                    let _ = write!(pen, "{error:#}");
                    status
                }
            };
            mem::forget(pen);
            // SAFETY: ends this process, and runs nothing of what the parent had registered.
            unsafe { libc::_exit(status) };
        }
        let pid = Pid::from_raw(pid).context("a child has a number")?;
        Ok(Self { name: name.to_owned(), pid, report })
    }

    /// The process.
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for the end of the process, and tells what it did.
    pub fn finish(mut self) -> Result<ProcessTruth> {
        let mut report = String::new();
        self.report.read_to_string(&mut report).context("read a report")?;
        let (_, status) = waitpid(Some(self.pid), WaitOptions::empty())
            .context("wait for a role")?
            .context("the role is gone")?;
        match status.exit_status() {
            Some(0) => serde_json::from_str(&report).context("understand a report"),
            Some(Unavailable::EXIT_CODE) => Err(Unavailable(report).into()),
            _ => Err(anyhow!("{}: {report} ({status:?})", self.name)),
        }
    }
}

/// Waits for the end of several processes. When one fails, the others, which may wait for it, are ended.
pub fn finish_all(roles: impl IntoIterator<Item = Role>) -> Result<Vec<ProcessTruth>> {
    let mut waiting: Vec<Role> = roles.into_iter().collect();
    let mut truths = Vec::new();
    while !waiting.is_empty() {
        let role = waiting.swap_remove(next_to_report(&waiting)?);
        match role.finish() {
            Ok(truth) => truths.push(truth),
            Err(error) => return Err(cause(error, waiting)),
        }
    }
    Ok(truths)
}

/// So long others may take to say that they failed themselves.
const LAST_WORDS: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Ends the others, which may wait for the one that failed. One that failed itself may be why: it hangs up before it says so.
fn cause(mut error: anyhow::Error, others: Vec<Role>) -> anyhow::Error {
    for other in others {
        let says = poll(&mut [PollFd::new(&other.report, PollFlags::IN)], Some(&LAST_WORDS));
        if says != Ok(1) {
            let _ = kill_process(other.pid, Signal::KILL);
        }
        match other.finish() {
            Err(why) if why.is::<Unavailable>() => return why,
            // What we ended has nothing to say.
            Err(why) if !why.to_string().contains("signaled: true") => error = error.context(why.to_string()),
            _ => {}
        }
    }
    error
}

fn next_to_report(roles: &[Role]) -> Result<usize> {
    let mut polled: Vec<_> = roles.iter().map(|role| PollFd::new(&role.report, PollFlags::IN)).collect();
    rustix::io::retry_on_intr(|| poll(&mut polled, None)).context("wait for the roles")?;
    polled.iter().position(|one| !one.revents().is_empty()).context("a role reports")
}

fn settle(cpu: Option<usize>) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("tie a role to its parent")?;
    // SAFETY: has no preconditions.
    unsafe { libc::alarm(PATIENCE_S) };
    if let Some(cpu) = cpu {
        pin(cpu)?;
    }
    Ok(())
}

/// Lets this role live so many seconds longer than others.
pub fn last(seconds: u64) {
    let patience_s = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_add(PATIENCE_S);
    // SAFETY: has no preconditions.
    unsafe { libc::alarm(patience_s) };
}

/// Keeps this process on one processor.
fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
        .map_err(|errno| Unavailable(format!("cannot stay on processor {cpu}: {errno}")).into())
}
