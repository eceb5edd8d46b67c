//! Identity of processes from `/proc`: what the kernel record could not carry, and everything for processes that were
//! there before the attach. It must not attribute to a process what its number's next holder shows.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use procfs::process::{Process as ProcProcess, Stat};

use crate::model::row::file_name;
use crate::model::sample::{Process, ProcessId};
use crate::sources::cgroup::{identify, pick_cgroup};
use crate::sources::cgroup_tree::CgroupTree;
pub use crate::sources::own_cost::{own_cpu_ns, own_rss_bytes};
use crate::sources::socket_owners::{SocketOwners, socket_owners_at};

/// How much of a command line is read. Bytes; a Java class path is often longer, and says no more.
const ARGV_MAX_BYTES: u64 = 16 << 10;
/// The kernel's record of the executable's name holds this many bytes at most (`EXE_LEN` less its zero).
const EXE_NAME_MAX_BYTES: usize = portchurn_common::record::EXE_LEN - 1;

/// What `/proc` says of a process that was seen by the kernel side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Presence {
    /// It is there. `exe_deleted`: its executable was replaced or removed since it started, as by an upgrade.
    Same {
        /// Whether the file is gone.
        exe_deleted: bool,
    },
    /// Its number belongs to another process now.
    Replaced,
    /// There is no such process.
    Gone,
}

/// `/proc` and the tree of cgroups, or trees that look like them.
#[derive(Debug)]
pub struct Procfs {
    root: PathBuf,
    cgroups: CgroupTree,
}

impl Default for Procfs {
    fn default() -> Self {
        Self::at("/proc", "/sys/fs/cgroup")
    }
}

impl Procfs {
    /// The trees below these directories.
    pub fn at(proc_root: impl Into<PathBuf>, cgroup_mount: impl AsRef<Path>) -> Self {
        Self { root: proc_root.into(), cgroups: CgroupTree::at(cgroup_mount.as_ref()) }
    }

    /// Fills what is missing in `process`, if it still is the process that `/proc` shows. A start of 0 is any.
    pub fn enrich(&self, process: &mut Process) -> Presence {
        let Some((entry, stat)) = self.open(process.id.tgid) else { return Presence::Gone };
        if process.id.start_ns != 0 && !is_start(process.id.start_ns, stat.starttime) {
            return Presence::Replaced;
        }
        let exe = read_exe(&entry);
        let exe_deleted = exe.as_ref().is_some_and(|(_, deleted)| *deleted);
        self.fill(process, &entry, &stat, exe.map(|(path, _)| path));
        Presence::Same { exe_deleted }
    }

    /// A process from `/proc` alone. Its start is cut to clock ticks: compare it by [`is_same_process`].
    pub fn identity(&self, tgid: u32) -> Option<Process> {
        let (_, stat) = self.open(tgid)?;
        let start_ns = stat.starttime.saturating_mul(tick_ns());
        let mut process = Process { id: ProcessId { tgid, start_ns }, ..Process::default() };
        matches!(self.enrich(&mut process), Presence::Same { .. }).then_some(process)
    }

    /// Fills the cgroup of a process from its v2 id, for one that ended before [`Self::enrich`] could ask. The root of
    /// that tree tells nothing: on a v1 host every process is there.
    pub fn locate(&mut self, process: &mut Process, cgroup_id: u64) {
        if process.cgroup.is_none() {
            process.cgroup = self.cgroup_path_of(cgroup_id).filter(|&path| path != "/").map(str::to_owned);
            identify_cgroup(process);
        }
    }

    /// Takes the arguments of the parent where those of a process that has ended could not be read.
    ///
    /// The kernel side reads memory without faulting. A page that a process inherits by fork() and has not touched faults
    /// once on an arm64 processor that does not set the access flag by itself (`pte_mkold` in `copy_present_pte`), so a
    /// short-lived worker has no arguments there. Whoever went through exec() has touched that page; what runs the same
    /// file with arguments of the same length without that is the parent's copy.
    pub fn inherit_argv(&self, process: &mut Process, argv_bytes: u32) {
        let (Some(parent), Some(exe)) = (process.parent_tgid, process.exe.as_deref()) else { return };
        if !process.argv.is_empty() || argv_bytes == 0 {
            return;
        }
        let Some((entry, _)) = self.open(parent) else { return };
        let path = read_exe(&entry).map(|(path, _)| path);
        let Some(bytes) = read_cmdline(&entry).filter(|bytes| bytes.len() == argv_bytes as usize) else {
            return;
        };
        if is_path_of(path.as_deref(), exe) {
            process.argv = arguments(&bytes);
            process.argv_truncated = false;
        }
    }

    /// Path of a v2 cgroup, also when it is gone by now but was seen before.
    pub fn cgroup_path_of(&mut self, cgroup_id: u64) -> Option<&str> {
        self.cgroups.path_of(cgroup_id)
    }

    /// Whether this very process still runs. One that has ended and waits for its parent does not.
    pub fn is_alive(&self, id: ProcessId) -> bool {
        self.open(id.tgid).is_some_and(|(_, stat)| {
            // A leader that left its threads behind looks dead, yet its process lives.
            let ended = matches!(stat.state, 'Z' | 'X') && stat.num_threads <= 1;
            !ended && (id.start_ns == 0 || is_start(id.start_ns, stat.starttime))
        })
    }

    /// Who holds which socket. One walk over every open file of the host.
    pub fn socket_owners(&self) -> SocketOwners {
        socket_owners_at(&self.root)
    }

    /// Every process there is.
    pub fn processes(&self) -> Vec<u32> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Name of the file that a process runs; `None`: it is gone, may not be looked at, or is the kernel's own.
    pub fn exe_of(&self, tgid: u32) -> Option<String> {
        let path = std::fs::read_link(self.path_of(tgid).join("exe")).ok()?;
        path.file_name().map(|name| name.to_string_lossy().into_owned())
    }

    /// The handle keeps meaning this process: once it has ended, reads through it fail.
    fn open(&self, tgid: u32) -> Option<(ProcProcess, Stat)> {
        let entry = ProcProcess::new_with_root(self.path_of(tgid)).ok()?;
        let stat = entry.stat().ok()?;
        Some((entry, stat))
    }

    fn path_of(&self, tgid: u32) -> PathBuf {
        self.root.join(tgid.to_string())
    }

    fn fill(&self, process: &mut Process, entry: &ProcProcess, stat: &Stat, exe: Option<String>) {
        if process.exe.as_deref().is_none_or(|name| is_path_of(exe.as_deref(), name)) {
            process.exe = exe.or_else(|| process.exe.take());
            fill_argv(process, entry);
        }
        if process.comm.is_empty() {
            process.comm.clone_from(&stat.comm);
        }
        if process.parent_tgid.is_none() {
            process.parent_tgid = u32::try_from(stat.ppid).ok();
        }
        if process.parent_comm.is_none() {
            let parent = process.parent_tgid.filter(|&tgid| tgid != 0).and_then(|tgid| self.open(tgid));
            process.parent_comm = parent.map(|(_, stat)| stat.comm);
        }
        if process.uid.is_none() {
            process.uid = entry.status().ok().map(|status| status.ruid);
        }
        fill_cgroup(process, entry);
    }
}

/// The process that a thread belongs to. /proc has threads beside processes, though it does not list them.
pub fn thread_group(tid: u32) -> Option<u32> {
    let status = ProcProcess::new(tid.try_into().ok()?).and_then(|thread| thread.status()).ok()?;
    status.tgid.try_into().ok()
}

/// Whether two ids name one process, although one start may have been cut to clock ticks, or be unknown (0).
pub fn is_same_process(a: ProcessId, b: ProcessId) -> bool {
    let unknown = a.start_ns == 0 || b.start_ns == 0;
    a.tgid == b.tgid && (unknown || is_start(a.start_ns, b.start_ns / tick_ns()))
}

/// Field 22 of `/proc/PID/stat` counts clock ticks since boot, cut off; one tick of tolerance for the rounding.
fn is_start(start_ns: u64, start_ticks: u64) -> bool {
    (start_ns / tick_ns()).abs_diff(start_ticks) <= 1
}

/// A start as `/proc` would show it: the kernel's nanoseconds, cut to clock ticks. All ids that leave `live` are cut, so
/// that a process is the same whoever reported it.
pub fn cut_to_ticks(start_ns: u64) -> u64 {
    start_ns / tick_ns() * tick_ns()
}

fn tick_ns() -> u64 {
    1_000_000_000 / procfs::ticks_per_second().max(1)
}

/// The path, without the mark that the kernel appends, and whether that mark was there.
fn read_exe(entry: &ProcProcess) -> Option<(String, bool)> {
    let path = entry.exe().ok()?.to_string_lossy().into_owned();
    match path.strip_suffix(" (deleted)") {
        Some(kept) => Some((kept.to_owned(), true)),
        None => Some((path, false)),
    }
}

/// Whether `path` may be the file that the kernel side calls `name`. If not, the process runs something else by now.
fn is_path_of(path: Option<&str>, name: &str) -> bool {
    let (Some(path), name) = (path, file_name(name)) else { return false };
    let shown = file_name(path);
    shown == name || (name.len() >= EXE_NAME_MAX_BYTES && shown.starts_with(name))
}

fn fill_argv(process: &mut Process, entry: &ProcProcess) {
    if !process.argv.is_empty() && !process.argv_truncated {
        return;
    }
    let Some(mut bytes) = read_cmdline(entry) else { return };
    process.argv_truncated = bytes.len() as u64 > ARGV_MAX_BYTES;
    bytes.truncate(ARGV_MAX_BYTES as usize);
    process.argv = arguments(&bytes);
}

/// The command line, or the beginning of it; `None` where there is none.
fn read_cmdline(entry: &ProcProcess) -> Option<Vec<u8>> {
    // Not `entry.cmdline()`: it fails on arguments that are not UTF-8 and forgets empty ones.
    let mut bytes = Vec::new();
    let file = entry.open_relative("cmdline").ok()?;
    let length = file.take(ARGV_MAX_BYTES + 1).read_to_end(&mut bytes).ok()?;
    (length > 0).then_some(bytes)
}

/// Each argument ends in a zero byte; a process that wrote itself a title may have left more of them.
fn arguments(bytes: &[u8]) -> Vec<String> {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    if end == 0 {
        return Vec::new();
    }
    bytes[..end].split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

fn fill_cgroup(process: &mut Process, entry: &ProcProcess) {
    if process.cgroup.is_none() {
        let mut text = String::new();
        let read = entry.open_relative("cgroup").map(|mut file| file.read_to_string(&mut text));
        process.cgroup = matches!(read, Ok(Ok(_))).then(|| pick_cgroup(&text).map(str::to_owned)).flatten();
    }
    identify_cgroup(process);
}

fn identify_cgroup(process: &mut Process) {
    let identity = process.cgroup.as_deref().map(identify).unwrap_or_default();
    process.unit = process.unit.take().or(identity.unit);
    process.container = process.container.take().or(identity.container);
}

#[cfg(test)]
#[path = "procfs_tests.rs"]
mod tests;
