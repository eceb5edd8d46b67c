//! What /proc tells of a running tracer.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};

/// What a process had used up at one moment.
pub(crate) struct Usage {
    pub(crate) at: Instant,
    pub(crate) cpu_ns: u64,
    pub(crate) rss_bytes: u64,
    /// Of `cpu_ns`, what lists of sockets took, as it says itself.
    pub(crate) lists_ns: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32, lists_ns: u64) -> Result<Self> {
        Ok(Self { at: Instant::now(), cpu_ns: cpu_ns(pid)?, rss_bytes: rss_bytes(pid)?, lists_ns })
    }
}

/// User and system time of all threads that live. By the scheduler, as clock ticks are too coarse for an agent that does
/// next to nothing.
fn cpu_ns(pid: u32) -> Result<u64> {
    let folder = format!("/proc/{pid}/task");
    let mut total = 0;
    for thread in fs::read_dir(&folder).with_context(|| format!("list {folder}"))? {
        // A thread may end meanwhile.
        if let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) {
            total += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or_default();
        }
    }
    Ok(total)
}

fn rss_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("read VmRSS")?;
    Ok(kib * 1024)
}

/// How many BPF programs of a process are attached: its links.
pub(crate) fn attached(pid: u32) -> usize {
    let Ok(folder) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let targets = folder.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    targets.filter(|target| is_link(&target.to_string_lossy())).count()
}

/// Links are named `bpf_link` or, on old kernels, after their kind; perf events carry classic tracepoints.
fn is_link(target: &str) -> bool {
    ["bpf_link", "bpf-raw-tracepoint", "bpf-tracing-prog", "[perf_event]"]
        .iter()
        .any(|kind| target.contains(kind))
}
