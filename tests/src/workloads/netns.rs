//! A network namespace of our own: nobody else counts there, its settings are ours, and its TIME_WAIT sockets go with
//! it. It must not need any program such as `ip`.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::sockets::state;
use super::unavailable;
use crate::truth::KernelCounters;

/// How long ends may be under way after the last process is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Moves this process, which must have one thread only, to a new network namespace whose loopback is up.
pub fn enter_new() -> Result<()> {
    // SAFETY: no file descriptors are unshared, so none changes under anybody's hands.
    match unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
        Ok(()) => {}
        Err(errno @ (Errno::PERM | Errno::INVAL | Errno::NOSYS)) => {
            return Err(unavailable(format!("no network namespace of our own: {errno}")));
        }
        Err(errno) => return Err(errno).context("make a network namespace"),
    }
    raise("lo")
}

/// Brings a network device of this namespace up.
pub fn raise(name: &str) -> Result<()> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).context("make a socket")?;
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is complete and alive during the call.
    let failed = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    ensure!(failed == 0, "bring {name} up: {}", std::io::Error::last_os_error());
    Ok(())
}

/// The inode number of the network namespace of this process.
pub fn inode() -> Result<u32> {
    let metadata = fs::metadata("/proc/self/ns/net").context("look up the network namespace")?;
    Ok(metadata.ino() as u32)
}

/// Sets a variable such as `net/ipv4/tcp_tw_reuse`. Only to be used in a namespace of our own.
pub fn set(variable: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/{variable}"), value).with_context(|| format!("set {variable} to {value}"))
}

/// What the kernel counted in this namespace since it exists, once nothing is under way any more.
pub fn counters() -> Result<KernelCounters> {
    await_ends()?;
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/self/net/{name}")).with_context(|| format!("read {name}"))
    };
    let (snmp, netstat, sockstat) = (read("snmp")?, read("netstat")?, read("sockstat")?);
    let counters = || -> Option<KernelCounters> {
        Some(KernelCounters {
            active_opens: headed(&snmp, "Tcp:", "ActiveOpens")?,
            passive_opens: headed(&snmp, "Tcp:", "PassiveOpens")?,
            attempt_fails: headed(&snmp, "Tcp:", "AttemptFails")?,
            listen_overflows: headed(&netstat, "TcpExt:", "ListenOverflows")?,
            time_wait: worded(&sockstat, "TCP:", "tw")?,
        })
    };
    counters().context("read the kernel's own counters")
}

/// A busy machine delivers over loopback when it comes to it (ksoftirqd): a process may be gone before its FIN has arrived.
fn await_ends() -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let mut is_ending = false;
        for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
            // A kernel without IPv6 has one table.
            match fs::read_to_string(table) {
                Ok(sockets) => is_ending |= has_ending(&sockets),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("read {table}")),
            }
        }
        if !is_ending {
            break;
        }
        thread::yield_now();
    }
    Ok(())
}

/// Whether a table of sockets has one whose FIN is out and not yet acknowledged.
fn has_ending(table: &str) -> bool {
    const ENDING: [u8; 3] = [state::FIN_WAIT1, state::CLOSING, state::LAST_ACK];
    let states = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(3));
    states.filter_map(|state| u8::from_str_radix(state, 16).ok()).any(|state| ENDING.contains(&state))
}

/// A counter of a file where a line of names precedes a line of values.
fn headed(text: &str, prefix: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(prefix));
    let index = lines.next()?.split_whitespace().position(|word| word == name)?;
    lines.next()?.split_whitespace().nth(index)?.parse().ok()
}

/// A counter of a file where each value follows its name.
fn worded(text: &str, prefix: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(prefix))?;
    line.split_whitespace().skip_while(|word| *word != name).nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{has_ending, headed, worded};

    #[test]
    fn a_fin_that_is_under_way_is_seen() {
        let table = |state: &str| {
            format!(
                "  sl  local_address rem_address   st tx_queue\n   0: 0100007F:9C40 0100007F:0CEA {state} 0\n"
            )
        };
        assert!(has_ending(&table("04")) && has_ending(&table("09")) && has_ending(&table("0B")));
        assert!(!has_ending(&table("06")) && !has_ending(&table("01")) && !has_ending("sl\n"));
    }

    #[test]
    fn counters_are_found_by_name() {
        let snmp = "Ip: Forwarding\nIp: 1\nTcp: RtoMin ActiveOpens PassiveOpens\nTcp: 200 23 101\n";
        assert_eq!(headed(snmp, "Tcp:", "PassiveOpens"), Some(101));
        assert_eq!(headed(snmp, "Tcp:", "Nothing"), None);
        let sockstat = "sockets: used 14\nTCP: inuse 1 orphan 0 tw 7 alloc 1 mem 373\n";
        assert_eq!(worded(sockstat, "TCP:", "tw"), Some(7));
    }
}
