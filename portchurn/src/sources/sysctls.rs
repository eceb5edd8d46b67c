//! Settings of TCP in the network namespace of the thread that asks: `/proc/sys/net` shows each thread its own. It must
//! not judge them, and a setting that a kernel does not have is not an error.

use std::fs::read_to_string;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::model::sockets::Sysctls;

/// Reads them. To be called inside the namespace.
///
/// # Errors
/// When the range of local ports cannot be read: without it nothing can be said.
pub fn tcp_sysctls() -> Result<Sysctls> {
    tcp_sysctls_at(Path::new("/proc"))
}

/// The same, below another root.
pub fn tcp_sysctls_at(proc_root: &Path) -> Result<Sysctls> {
    let directory = proc_root.join("sys/net/ipv4");
    let text = |name: &str| read_to_string(directory.join(name)).ok();
    let number = |name: &str| text(name).and_then(|text| text.trim().parse::<u32>().ok());
    let range = text("ip_local_port_range").context("read ip_local_port_range")?;
    let (port_low, port_high) = parse_range(&range).context("read ip_local_port_range")?;
    Ok(Sysctls {
        port_low,
        port_high,
        reserved: parse_reserved(&text("ip_local_reserved_ports").unwrap_or_default()),
        tw_reuse: number("tcp_tw_reuse").unwrap_or(0) as u8,
        tw_reuse_delay_ms: number("tcp_tw_reuse_delay"),
        timestamps: number("tcp_timestamps").unwrap_or(1) as u8,
        max_tw_buckets: number("tcp_max_tw_buckets").unwrap_or(u32::MAX),
        recycled: recycled(&read_to_string(proc_root.join("thread-self/net/netstat")).unwrap_or_default()),
    })
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next()?.ok()?, numbers.next()?.ok()?) {
        (low, high) if low <= high => Some((low, high)),
        _ => None,
    }
}

/// `8080,9148,50000-50100`.
fn parse_reserved(text: &str) -> Vec<(u16, u16)> {
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        Some((low.parse().ok()?, high.parse().ok()?))
    };
    text.trim().split(',').filter_map(range).collect()
}

/// `TcpExt: … TWRecycled …` over a line of numbers.
fn recycled(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let at = lines.next()?.split(' ').position(|name| name == "TWRecycled")?;
    lines.next()?.split(' ').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{parse_range, parse_reserved, recycled, tcp_sysctls, tcp_sysctls_at};

    #[test]
    fn lists_of_ports_are_read() {
        assert_eq!(parse_range("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(parse_range("9 1"), None);
        assert_eq!(parse_range(""), None);
        assert_eq!(parse_reserved("8080,50000-50100\n"), [(8080, 8080), (50_000, 50_100)]);
        assert!(parse_reserved("\n").is_empty());
    }

    #[test]
    fn a_counter_is_found_by_its_name() {
        let text = "TcpExt: SyncookiesSent TW TWRecycled TWKilled\nTcpExt: 0 31856 7 0\nIpExt: TWRecycled\nIpExt: 9\n";
        assert_eq!(recycled(text), Some(7));
        assert_eq!(recycled("TcpExt: A\nTcpExt: 1\n"), None);
    }

    #[test]
    fn an_older_kernel_lacks_a_setting_and_that_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("sys/net/ipv4");
        std::fs::create_dir_all(&directory).unwrap();
        assert!(tcp_sysctls_at(root.path()).is_err());
        std::fs::write(directory.join("ip_local_port_range"), "10000 10099").unwrap();
        std::fs::write(directory.join("tcp_tw_reuse"), "2\n").unwrap();
        let read = tcp_sysctls_at(root.path()).unwrap();
        assert_eq!((read.port_low, read.port_high, read.tw_reuse), (10_000, 10_099, 2));
        assert_eq!((read.tw_reuse_delay_ms, read.recycled), (None, None));
    }

    #[test]
    fn this_machine_has_a_range() {
        assert!(tcp_sysctls().unwrap().port_low < 60_999);
    }
}
