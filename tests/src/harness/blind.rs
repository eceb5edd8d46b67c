//! Where no BPF program sees anything. A machine may exempt its own supervisor (process 1) from tracing: a state change
//! that falls into a soft interrupt while a thread of it is current is then seen by ftrace, but by no program. Of half a
//! million changes on a crowded machine of that kind, two were. What happens there says nothing about portchurn.

use std::fmt;
use std::fs;
use std::io::{Read, Write as _, stderr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::{Skip, is_guest, skip};

/// Runs that are made until one is undisturbed.
const ATTEMPTS: usize = 8;
/// Instances made so far: tests of one program may wait for their turn side by side.
static STARTED: AtomicU32 = AtomicU32::new(0);
/// An instance of ours; the number of the process that made it follows.
const INSTANCE: &str = "instances/portchurn-tests-";
const EVENT: &str = "events/sock/inet_sock_set_state";

/// Runs `test` again while something fell into the blind spot during it and it failed. One that never gets an undisturbed
/// run says nothing: it is skipped.
///
/// # Errors
/// Those of the test, from the first run in which it could have seen everything.
pub fn undisturbed(test: impl Fn() -> Result<()>) -> Result<()> {
    match again_if_disturbed(ATTEMPTS, test) {
        Err(error) if error.is::<Disturbed>() => Err(skip(error.to_string())),
        result => result,
    }
}

/// Something fell where no program sees it, in each of so many runs.
#[derive(Debug)]
struct Disturbed(usize);

impl fmt::Display for Disturbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in each of {} runs something fell where no program sees it", self.0)
    }
}

/// Runs `test` at most `attempts` times, until it passes or nothing fell into the blind spot.
///
/// # Errors
/// Those of the last run.
pub fn again_if_disturbed(attempts: usize, test: impl Fn() -> Result<()>) -> Result<()> {
    // A guest has no supervisor of its machine in it: process 1 is ours, and traced.
    if is_guest() {
        return test();
    }
    for attempt in 1.. {
        let blind_spot = BlindSpot::watch().ok();
        let Err(error) = test() else { return Ok(()) };
        let count = blind_spot.map(|spot| spot.count()).transpose()?.unwrap_or(0);
        if count == 0 || error.is::<Skip>() {
            return Err(error);
        }
        if attempt == attempts {
            return Err(error.context(Disturbed(attempts)));
        }
        let line = format!("run again: {count} state changes fell where no program sees them: {error:#}\n");
        let _ = stderr().write_all(line.as_bytes());
    }
    Ok(())
}

/// An instance of ftrace that records the state changes in the context of process 1.
struct BlindSpot {
    tracefs: OwnedFd,
    instance: String,
}

impl BlindSpot {
    fn watch() -> Result<Self> {
        let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let tracefs = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        remove_abandoned(&tracefs);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let instance = format!("{INSTANCE}{}-{number}", std::process::id());
        mkdirat(&tracefs, &instance, Mode::RWXU).context("make an instance of ftrace")?;
        let this = Self { tracefs, instance };
        // Threads that it starts meanwhile count, too. Each number is added to those before, as nothing is truncated.
        this.write("options/event-fork", "1")?;
        for thread in fs::read_dir("/proc/1/task")? {
            this.write("set_event_pid", &thread?.file_name().to_string_lossy())?;
        }
        this.write(&format!("{EVENT}/enable"), "1")?;
        Ok(this)
    }

    fn open(&self, name: &str, flags: OFlags) -> Result<fs::File> {
        let path = format!("{}/{name}", self.instance);
        Ok(openat(&self.tracefs, &path, flags | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("open {path} of tracefs"))?
            .into())
    }

    fn write(&self, name: &str, value: &str) -> Result<()> {
        Ok(self.open(name, OFlags::WRONLY)?.write_all(value.as_bytes())?)
    }

    fn count(&self) -> Result<usize> {
        let mut trace = String::new();
        self.open("trace", OFlags::RDONLY)?.read_to_string(&mut trace)?;
        Ok(trace.lines().filter(|line| line.contains("inet_sock_set_state:")).count())
    }
}

impl Drop for BlindSpot {
    fn drop(&mut self) {
        remove(&self.tracefs, &self.instance);
    }
}

fn remove(tracefs: &OwnedFd, instance: &str) {
    let enable = format!("{instance}/{EVENT}/enable");
    if let Ok(enable) = openat(tracefs, &enable, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        let _ = fs::File::from(enable).write_all(b"0");
    }
    let _ = unlinkat(tracefs, instance, AtFlags::REMOVEDIR);
}

/// Test programs that were killed leave theirs behind, and each of them makes every state change of the machine dearer.
fn remove_abandoned(tracefs: &OwnedFd) {
    let names =
        openat(tracefs, "instances", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .and_then(Dir::new);
    for name in names.into_iter().flatten().flatten() {
        let instance = format!("instances/{}", name.file_name().to_string_lossy());
        let pid = instance.strip_prefix(INSTANCE).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(tracefs, &instance);
        }
    }
}
