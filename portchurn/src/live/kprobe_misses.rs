//! What kprobes miss before they come to a BPF program: the kernel does not run one while the processor is in another
//! (`kprobe_running` in kernel/trace), and counts that at the probe, not at the program. Links tell it in their
//! `/proc/self/fdinfo` since 6.17 (`bpf_perf_link_fdinfo_kprobe` in kernel/bpf/syscall.c).

use std::fs::{read_dir, read_to_string};
use std::os::fd::RawFd;

/// A kprobe of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KprobeLink {
    fd: RawFd,
}

impl KprobeLink {
    /// Those that run the program with this id, of which the kernel tells what they missed.
    pub fn of_program(program_id: u32) -> Vec<Self> {
        let Ok(entries) = read_dir("/proc/self/fdinfo") else { return Vec::new() };
        let fds = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let is_its = |fd: &RawFd| {
            let link = fdinfo(*fd).unwrap_or_default();
            field(&link, "prog_id:") == Some(program_id.into())
                && field(&link, "link_id:").is_some()
                && field(&link, "missed:").is_some()
        };
        fds.filter(is_its).map(|fd| Self { fd }).collect()
    }

    /// How often it was not run.
    pub fn missed(self) -> u64 {
        fdinfo(self.fd).and_then(|text| field(&text, "missed:")).unwrap_or_default()
    }
}

/// What the kernel tells about a descriptor of ours.
pub fn fdinfo(fd: RawFd) -> Option<String> {
    read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()
}

/// A number in it.
pub fn field(fdinfo: &str, name: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::{KprobeLink, field};

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        let text = "pos:\t0\nlink_type:\tperf\nlink_id:\t12\nprog_id:\t34\nmissed:\t5\n";
        assert_eq!((field(text, "prog_id:"), field(text, "missed:")), (Some(34), Some(5)));
        assert_eq!(field(text, "miss:"), None);
    }

    #[test]
    fn a_program_that_is_not_ours_has_no_links_here() {
        assert_eq!(KprobeLink::of_program(u32::MAX), []);
    }
}
