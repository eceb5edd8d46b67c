//! What this kernel and these privileges allow, found out by asking, not by comparing versions: one line for each
//! requirement, what is lost without it, and how to get it.

use std::path::Path;

use caps::{CapSet, Capability};
use serde::Serialize;

use crate::live::error::is_permission;

/// How a requirement stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Met.
    Ok,
    /// Not met; something is lost.
    Degraded,
    /// Not met; nothing works.
    Missing,
}

/// One requirement.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What is asked.
    pub name: &'static str,
    /// How it stands.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What is lost without it.
    pub lost: Option<&'static str>,
    /// How to get it.
    pub remedy: Option<String>,
}

/// Capabilities, and what each is for.
const CAPABILITIES: &[(Capability, Status, &str)] = &[
    (Capability::CAP_BPF, Status::Missing, "nothing can be loaded"),
    (Capability::CAP_PERFMON, Status::Missing, "nothing can be attached"),
    (
        Capability::CAP_SYS_PTRACE,
        Status::Degraded,
        "full path, arguments and lines of code of other users' processes",
    ),
    (Capability::CAP_DAC_READ_SEARCH, Status::Degraded, "owners of sockets from before the attach"),
    (
        Capability::CAP_SYS_ADMIN,
        Status::Degraded,
        "of other network namespaces: sockets from before the attach, owners of TIME_WAIT, ports left",
    ),
];

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Whether a privilege is there, by itself or through CAP_SYS_ADMIN, which contains the two that BPF needs.
fn is_granted(capability: Capability) -> bool {
    let in_sys_admin = matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
    has(capability) || in_sys_admin && has(Capability::CAP_SYS_ADMIN)
}

/// Gives the program all the capabilities that it can make use of; those that it had before are taken away.
pub const SETCAP: &str =
    "setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search+ep $(command -v portchurn)";

/// Capabilities without which nothing works and that are not there.
pub fn missing_capabilities() -> Vec<&'static str> {
    CAPABILITIES
        .iter()
        .filter(|(capability, status, _)| *status == Status::Missing && !is_granted(*capability))
        .map(|(capability, ..)| name_of(*capability))
        .collect()
}

fn name_of(capability: Capability) -> &'static str {
    match capability {
        Capability::CAP_BPF => "CAP_BPF",
        Capability::CAP_PERFMON => "CAP_PERFMON",
        Capability::CAP_SYS_PTRACE => "CAP_SYS_PTRACE",
        Capability::CAP_DAC_READ_SEARCH => "CAP_DAC_READ_SEARCH",
        Capability::CAP_SYS_ADMIN => "CAP_SYS_ADMIN",
        _ => "another capability",
    }
}

/// Everything but the attach itself.
pub fn checks() -> Vec<Check> {
    let mut checks: Vec<_> =
        CAPABILITIES.iter().map(|&(c, status, lost)| capability(c, status, lost)).collect();
    checks.push(nosuid());
    checks.push(btf());
    checks.push(tracefs());
    checks.push(lockdown());
    checks.push(memlock());
    checks
}

fn check(
    name: &'static str,
    is_met: bool,
    otherwise: Status,
    found: String,
    lost: &'static str,
    remedy: impl Into<String>,
) -> Check {
    let status = if is_met { Status::Ok } else { otherwise };
    let (lost, remedy) = if is_met { (None, None) } else { (Some(lost), Some(remedy.into())) };
    Check { name, status, found, lost, remedy }
}

fn capability(capability: Capability, otherwise: Status, lost: &'static str) -> Check {
    let granted = is_granted(capability);
    let name = name_of(capability);
    let found = match (granted, has(capability)) {
        (true, true) => "effective",
        (true, false) => "through CAP_SYS_ADMIN",
        _ => "not effective",
    };
    // What that gives is all that is needed to trace; this one is as much as root.
    let remedy = if capability == Capability::CAP_SYS_ADMIN {
        "sudo".to_owned()
    } else {
        format!("sudo, or: sudo {SETCAP}")
    };
    check(name, granted, otherwise, found.to_owned(), lost, remedy)
}

/// File capabilities are ignored, silently, on a file system that is mounted nosuid.
fn nosuid() -> Check {
    let path = std::env::current_exe().unwrap_or_default();
    let is_nosuid = rustix::fs::statvfs(&path)
        .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID));
    check(
        "file capabilities",
        !is_nosuid,
        Status::Degraded,
        if is_nosuid { "the program lies on a nosuid mount" } else { "honoured here" }.to_owned(),
        "setcap has no effect here",
        "sudo, or copy the program to a mount without nosuid, such as /usr/local/bin",
    )
}

fn btf() -> Check {
    let path = "/sys/kernel/btf/vmlinux";
    let is_there = Path::new(path).exists();
    check(
        "kernel types (BTF)",
        is_there,
        Status::Degraded,
        if is_there { path.to_owned() } else { format!("{path} does not exist") },
        "the fast hook, errno of failures, process details; counts come from the classic tracepoint, which may skip some",
        "a kernel with CONFIG_DEBUG_INFO_BTF=y",
    )
}

fn tracefs() -> Check {
    let layout = crate::live::tracefs::state_change_layout();
    let remedy = match &layout {
        Err(err) if is_permission(err) => "sudo",
        _ => "mount -t tracefs tracefs /sys/kernel/tracing",
    };
    check(
        "tracefs",
        layout.is_ok(),
        Status::Degraded,
        layout.map_or_else(|err| what_is_wrong(&err), |_| "readable".to_owned()),
        "the classic tracepoint, the last resort when the better hooks are refused",
        remedy,
    )
}

/// Without what to try, which stands in a line of its own here.
fn what_is_wrong(err: &anyhow::Error) -> String {
    let said = format!("{err:#}");
    said.split_once("; try: ").map_or(said.as_str(), |(wrong, _)| wrong).to_owned()
}

fn lockdown() -> Check {
    let mode = lockdown_mode();
    check(
        "lockdown",
        mode != CONFIDENTIALITY,
        Status::Missing,
        mode,
        "reading kernel memory is forbidden",
        format!("boot with {UNLOCKED}"),
    )
}

/// How a kernel is started that lets its memory be read.
pub const UNLOCKED: &str = "lockdown=integrity or off";
/// The mode in which it does not.
const CONFIDENTIALITY: &str = "confidentiality";

/// Whether this kernel lets nobody read its memory.
pub fn is_locked_down() -> bool {
    lockdown_mode() == CONFIDENTIALITY
}

fn lockdown_mode() -> String {
    let text = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let mode = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    mode.map_or("off", |(mode, _)| mode).to_owned()
}

/// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK; newer ones ignore it.
fn memlock() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    check(
        "locked memory",
        locked_memory_max().is_none(),
        Status::Missing,
        limit.map_or_else(|| "unlimited".to_owned(), |bytes| format!("{bytes} bytes")),
        "nothing can be loaded: maps are charged to it",
        "sudo, or ulimit -l unlimited",
    )
}

/// As much as all maps take on a large host, and some more. Bytes.
const ENOUGH_LOCKED_BYTES: u64 = 64 << 20;

/// How much memory may be locked, where this kernel charges maps to it and that is too little. Who has CAP_SYS_RESOURCE raises it.
pub fn locked_memory_max() -> Option<u64> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let charges = is_before_5_11(&release) && !has(Capability::CAP_SYS_RESOURCE);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    limit.filter(|&bytes| charges && bytes < ENOUGH_LOCKED_BYTES)
}

/// The change left no trace to ask for.
fn is_before_5_11(release: &str) -> bool {
    version(release) < (5, 11)
}

/// Whether a kernel of this release counts what it skips at the guard that classic tracepoints and kprobes share, for all
/// that its version says: older ones that took the change over have it in their types.
pub fn counts_skips_at_shared_guard(release: &str) -> bool {
    version(release) >= (6, 7)
}

/// Whether tasks are preempted in the programs of a tracepoint on a kernel of this release: nothing in its types says so. Where
/// they are not, keeping the processor costs a little and changes nothing.
pub fn preempts_at_tracepoints(release: &str) -> bool {
    version(release) >= (7, 0)
}

/// The one place where versions are read: everything that can be asked for is asked for.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::{Status, checks, counts_skips_at_shared_guard, is_before_5_11, preempts_at_tracepoints};

    #[test]
    fn whatever_is_not_met_says_what_is_lost_and_how_to_get_it() {
        for check in checks() {
            let met = check.status == Status::Ok;
            assert_eq!(check.lost.is_none(), met, "{}", check.name);
            assert_eq!(check.remedy.is_none(), met, "{}", check.name);
        }
    }

    #[test]
    fn releases_are_compared_by_number() {
        assert!(is_before_5_11("5.10.0-32-cloud-amd64"));
        assert!(is_before_5_11("4.19.1"));
        assert!(!is_before_5_11("5.11.0"));
        assert!(!is_before_5_11("6.1.0-56"));
        assert!(!counts_skips_at_shared_guard("6.1.0-56-cloud-amd64"));
        assert!(counts_skips_at_shared_guard("6.12.117+deb12-cloud-amd64"));
        assert!(preempts_at_tracepoints("7.0-amd64"));
        assert!(!preempts_at_tracepoints("6.18.12-cloud-amd64"));
    }
}
