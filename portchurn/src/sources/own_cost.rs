//! What this process costs so far: processor time and resident memory. Differences and ratios are for others.

use procfs::process::Process;
use rustix::time::ClockId;

use crate::sources::clock::now_ns;

/// Processor time of all threads. Nanoseconds. From CLOCK_PROCESS_CPUTIME_ID.
pub fn own_cpu_ns() -> u64 {
    now_ns(ClockId::ProcessCPUTime)
}

/// Resident memory. Bytes. From `/proc/self/statm`.
pub fn own_rss_bytes() -> Option<u64> {
    let statm = Process::myself().and_then(|myself| myself.statm()).ok()?;
    Some(statm.resident * procfs::page_size())
}

#[cfg(test)]
mod tests {
    use super::{own_cpu_ns, own_rss_bytes};

    #[test]
    fn work_and_memory_show() {
        let (cpu_ns, rss_bytes) = (own_cpu_ns(), own_rss_bytes().unwrap());
        let mut block = vec![0u8; 32 << 20];
        while own_cpu_ns() == cpu_ns {
            block.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
        }
        block.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
        let grown_bytes = own_rss_bytes().unwrap() - rss_bytes;
        assert!(grown_bytes >= 16 << 20, "{grown_bytes}");
        assert!(own_cpu_ns() > cpu_ns);
        drop(block);
    }
}
