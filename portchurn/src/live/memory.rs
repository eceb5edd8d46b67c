//! What the allocator keeps. It keeps what it got, in pieces, for each thread that ever asked: with 500 new processes a
//! second that was three times what is in use.

/// Lets all threads share one heap, and large pieces go back to the kernel when they are freed. To be called before
/// the first thread starts. Few threads allocate here, and none of them often.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain settings of the allocator; one that it does not know is ignored.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * LARGE_BYTES);
    }
}

/// From this size on a piece has memory of its own.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: i32 = 64 << 10;

/// Gives back what can be given back. Takes a few milliseconds: for rare moments after much was freed.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions; it locks what it needs.
    unsafe {
        libc::malloc_trim(0);
    }
}
