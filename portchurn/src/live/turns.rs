//! When a thread of ours gets its turn. What it must look at may be gone a few milliseconds later, and on a busy host that
//! is how long a thread waits.

/// The least that the kernel grants. Nanoseconds.
const SHORTEST_NS: u64 = 100_000;

/// Asks for short turns of the calling thread. It gets no more of a processor by that, but gets it sooner: a thread that
/// wakes up may go before one that asked for longer turns (kernel/sched/fair.c at v6.12: `PREEMPT_SHORT`). Older kernels
/// take no notice.
pub fn ask_for_short_ones() {
    let size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: integers only, for which zero is a value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the memory is as large as we say; 0 is this thread.
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if known != 0 || attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return;
    }
    // All else stays as it is: somebody may have made us nice.
    attributes.sched_runtime = SHORTEST_NS;
    // SAFETY: as above; the kernel only reads it.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set != 0 {
        log::debug!("no short turns: {}", std::io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::ask_for_short_ones;

    #[test]
    fn niceness_stays_as_it_is() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        ask_for_short_ones();
        assert_eq!(niceness(), before);
    }
}
