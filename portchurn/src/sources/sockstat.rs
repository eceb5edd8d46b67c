//! How many TIME_WAIT sockets a network namespace has, by the kernel's own count: what a list would show, at no cost.

use std::fs::read_to_string;
use std::path::Path;

use crate::sources::netns::{in_namespace, inode_of_link, own_namespace};

/// In the network namespace of this thread. `None`: it could not be read.
pub fn time_wait_here() -> Option<u64> {
    time_wait(&read_to_string("/proc/thread-self/net/sockstat").ok()?)
}

/// In the network namespace with this inode, to which this file led (`/proc/PID/ns/net`, `/run/netns/NAME`). `None`: it
/// does not any more.
///
/// No file is kept open: one that shows a namespace keeps it alive.
pub fn time_wait_of(netns: u32, namespace: &Path) -> Option<u64> {
    if !namespace.ends_with("ns/net") {
        return in_namespace(namespace, || (own_namespace() == Some(netns)).then(time_wait_here)).ok()??;
    }
    let process = namespace.parent()?.parent()?;
    let text = read_to_string(process.join("net/sockstat")).ok()?;
    // Its number may be another's by now.
    time_wait(&text).filter(|_| inode_of_link(namespace) == Some(netns))
}

/// `TCP: inuse 4 orphan 0 tw 7 alloc 5 mem 0`. Counted for each namespace since 4.10, mini-sockets in FIN_WAIT2 included.
fn time_wait(sockstat: &str) -> Option<u64> {
    let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    tcp.split(' ').skip_while(|word| *word != "tw").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{time_wait, time_wait_here, time_wait_of};
    use crate::sources::netns::own_namespace;

    #[test]
    fn the_count_is_found_by_its_name() {
        let text = "sockets: used 9\nTCP: inuse 4 orphan 0 tw 131072 alloc 5 mem 0\nUDP: inuse 1 tw 3\n";
        assert_eq!(time_wait(text), Some(131_072));
        assert_eq!(time_wait("UDP: inuse 1 tw 3\n"), None);
        assert_eq!(time_wait("TCP: inuse 4\n"), None);
    }

    #[test]
    fn only_of_the_namespace_that_was_meant() {
        let own = own_namespace().unwrap();
        assert!(time_wait_here().is_some());
        let path = Path::new("/proc/self/ns/net");
        assert!(time_wait_of(own, path).is_some());
        assert_eq!(time_wait_of(own.wrapping_add(1), path), None);
    }
}
