//! A network namespace with a name, as `ip netns` makes one: a file in `/run/netns`. Gone when it is dropped. It must not
//! need any program such as `ip`: a guest of `cargo xtask vm` has none.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::skip;

const FOLDER: &str = "/run/netns";

/// A network namespace.
#[derive(Debug)]
pub struct Named {
    path: PathBuf,
}

impl Named {
    /// Makes one; everything in it is as the kernel has it, loopback down.
    pub fn new(name: &str) -> Result<Self> {
        fs::create_dir_all(FOLDER).with_context(|| format!("create {FOLDER}"))?;
        let path = Path::new(FOLDER).join(name);
        File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let this = Self { path };
        on_a_thread(|| {
            // SAFETY: unshares no file descriptors.
            match unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
                Err(errno @ (Errno::PERM | Errno::INVAL | Errno::NOSYS)) => {
                    return Err(skip(format!("no network namespace of our own: {errno}")));
                }
                made => made.context("make a network namespace")?,
            }
            mount_bind("/proc/thread-self/ns/net", &this.path).context("give a network namespace a name")
        })?;
        Ok(this)
    }

    /// What leads to it.
    pub fn open(&self) -> Result<File> {
        File::open(&self.path).with_context(|| format!("open {}", self.path.display()))
    }

    /// Does something in it, on a thread of its own, whose `/proc/thread-self/net` is this namespace's.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let netns = self.open()?;
        on_a_thread(|| {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                .context("enter a network namespace")?;
            work()
        })
    }

    /// Starts a command in it.
    pub fn enter(&self, command: &mut Command) -> Result<()> {
        let netns = self.open()?;
        let enter = move || Ok(move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?);
        // SAFETY: makes one system call.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = unmount(&self.path, UnmountFlags::DETACH);
        let _ = fs::remove_file(&self.path);
    }
}

/// A thread that changes its namespace ends in it.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join())
        .map_err(|_| anyhow!("a thread in a namespace panicked"))?
}
