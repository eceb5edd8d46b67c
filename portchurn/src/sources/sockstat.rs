//! How many sockets there are, by the kernel's own counts: what a list would show, at no cost.

use std::fs::read_to_string;
use std::path::Path;

use crate::sources::netns::{in_namespace, inode_of_link, own_namespace};

/// In the network namespace of this thread. `None`: it could not be read.
pub fn time_wait_here() -> Option<u64> {
    time_wait(&read_to_string("/proc/thread-self/net/sockstat").ok()?)
}

/// In the network namespace with this inode, to which this file led (`/proc/PID/ns/net`, `/run/netns/NAME`). `None`: it
/// does not any more.
pub fn time_wait_of(netns: u32, namespace: &Path) -> Option<u64> {
    time_wait(&table_of(netns, namespace, "sockstat")?)
}

/// Whether the same one has any TCP socket but TIME_WAIT, listeners included. `None`: it could not be read.
pub fn has_tcp(netns: u32, namespace: &Path) -> Option<bool> {
    let v4 = number(&table_of(netns, namespace, "sockstat")?, "TCP:", "inuse")?;
    // Without IPv6 there is no such file.
    let v6 = table_of(netns, namespace, "sockstat6").and_then(|text| number(&text, "TCP6:", "inuse"));
    Some(v4 + v6.unwrap_or(0) > 0)
}

/// A table of that namespace. No file is kept open: one that shows a namespace keeps it alive.
fn table_of(netns: u32, namespace: &Path, name: &str) -> Option<String> {
    if !namespace.ends_with("ns/net") {
        let read = || read_to_string(format!("/proc/thread-self/net/{name}")).ok();
        return in_namespace(namespace, || if own_namespace() == Some(netns) { read() } else { None })
            .ok()?;
    }
    let process = namespace.parent()?.parent()?;
    let text = read_to_string(process.join("net").join(name)).ok()?;
    // Its number may be another's by now.
    Some(text).filter(|_| inode_of_link(namespace) == Some(netns))
}

/// Counted for each namespace since 4.10, mini-sockets in FIN_WAIT2 included.
fn time_wait(sockstat: &str) -> Option<u64> {
    number(sockstat, "TCP:", "tw")
}

/// TCP sockets of the whole host, of both families and all namespaces, TIME_WAIT left out.
pub fn allocated(sockstat: &str) -> Option<u64> {
    number(sockstat, "TCP:", "alloc")
}

/// `TCP: inuse 4 orphan 0 tw 7 alloc 5 mem 0`.
fn number(sockstat: &str, line: &str, name: &str) -> Option<u64> {
    let numbers = sockstat.lines().find_map(|text| text.strip_prefix(line))?;
    numbers.split_whitespace().skip_while(|word| *word != name).nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{allocated, has_tcp, time_wait, time_wait_here, time_wait_of};
    use crate::sources::netns::own_namespace;

    #[test]
    fn the_count_is_found_by_its_name() {
        let text = "sockets: used 9\nTCP: inuse 4 orphan 0 tw 131072 alloc 5 mem 0\nUDP: inuse 1 tw 3\n";
        assert_eq!(time_wait(text), Some(131_072));
        assert_eq!(time_wait("UDP: inuse 1 tw 3\n"), None);
        assert_eq!(time_wait("TCP: inuse 4\n"), None);
        assert_eq!(allocated(text), Some(5));
        assert_eq!(allocated(""), None);
    }

    #[test]
    fn only_of_the_namespace_that_was_meant() {
        let own = own_namespace().unwrap();
        assert!(time_wait_here().is_some());
        let path = Path::new("/proc/self/ns/net");
        assert!(time_wait_of(own, path).is_some());
        assert_eq!(time_wait_of(own.wrapping_add(1), path), None);
        let _listens = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(has_tcp(own, path), Some(true));
        assert_eq!(has_tcp(own.wrapping_add(1), path), None);
    }
}
