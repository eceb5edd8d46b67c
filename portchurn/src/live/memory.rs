//! Memory that was freed back to the kernel. The allocator keeps what it got, in pieces, for each thread that ever asked.

/// Gives back what can be given back. Takes a few milliseconds: for rare moments after much was freed.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions; it locks what it needs.
    unsafe {
        libc::malloc_trim(0);
    }
}
