//! Memory that is held without being needed. The allocator keeps what it got, in pieces, for each thread that ever asked:
//! with 500 new processes a second that was three times what is in use. And of a file that is mapped every page counts that
//! was looked at once, with its neighbours.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::symbolize::Memory;
use crate::symbolize::maps::{Mapping, parse};

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

/// Lets us outlive a file that becomes shorter while it is mapped for its names: whoever may write to a file that a process
/// has mapped can do that, and what lies beyond the end raises SIGBUS. Such a page is one of zeros from then on, which
/// readers of files take for broken contents, as there may be anyway.
pub fn outlive_files_that_shrink() {
    // SAFETY: all zeros is a valid `sigaction`, and the handler has the signature that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = zeros_instead as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

/// Makes no calls but those that signal-safety(7) lists, and mmap, which is a bare system call.
extern "C" fn zeros_instead(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands over what it says of a SIGBUS. The page is mapped, cannot be read, and stays where it is.
    unsafe {
        let page_len = libc::sysconf(libc::_SC_PAGESIZE) as usize;
        let page = (*info).si_addr().map_addr(|address| address & !(page_len - 1));
        let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        if (*info).si_code != libc::BUS_ADRERR
            || libc::mmap(page, page_len, libc::PROT_READ, how, -1, 0) == libc::MAP_FAILED
        {
            // Raised again by the same instruction, it ends us.
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
        }
    }
}

/// Our own memory.
pub struct Own;

/// How often pages are given back meanwhile. In this time some megabytes can be looked at.
const GIVE_BACK_EVERY: Duration = Duration::from_millis(2);

impl Memory for Own {
    fn give_back(&self) {
        give_back();
    }

    fn give_back_files(&self) {
        give_back_pages(&whole_files());
    }

    fn giving_back_files(&self, work: &mut dyn FnMut()) {
        let files = whole_files();
        let (done, is_done) = channel::<()>();
        std::thread::scope(|scope| {
            let files = &files;
            let give_back = move || {
                while is_done.recv_timeout(GIVE_BACK_EVERY) == Err(RecvTimeoutError::Timeout) {
                    give_back_pages(files);
                }
            };
            // Without such a thread the work takes more memory, that is all.
            let _ = std::thread::Builder::new().name("pages".to_owned()).spawn_scoped(scope, give_back);
            work();
            drop(done);
        });
        give_back_pages(&files);
    }
}

/// Lets go of pages. They stay in the kernel's memory for files, and are there again when they are looked at.
fn give_back_pages(files: &[Range<u64>]) {
    for file in files {
        // SAFETY: never written to, so that what is read next time is the same. By the promise of our callers it is still
        // mapped.
        unsafe {
            libc::madvise(
                file.start as *mut libc::c_void,
                (file.end - file.start) as usize,
                libc::MADV_DONTNEED,
            )
        };
    }
}

/// Where files are mapped whole.
fn whole_files() -> Vec<Range<u64>> {
    let maps = parse(&std::fs::read("/proc/self/maps").unwrap_or_default());
    whole(&maps).map(|mapping| mapping.addresses.clone()).collect()
}

/// Mappings from the beginning of a file on, for reading only, of files that are mapped in no other way. What the dynamic
/// linker loads is, and some of it was written to. Memory of the kernel's, such as a ring buffer, is no file.
fn whole(maps: &[Mapping]) -> impl Iterator<Item = &Mapping> {
    let is_whole = |mapping: &Mapping| mapping.is_read_only_data() && mapping.file_offset == 0;
    let loaded: HashSet<_> = maps.iter().filter(|mapping| !is_whole(mapping)).map(Mapping::inode).collect();
    let is_file = |mapping: &&Mapping| mapping.inode().is_some() && mapping.path.starts_with('/');
    maps.iter().filter(is_file).filter(move |mapping| !loaded.contains(&mapping.inode()))
}

#[cfg(test)]
mod tests {
    use super::{Own, outlive_files_that_shrink, whole};
    use crate::symbolize::Memory as _;
    use crate::symbolize::maps::parse;

    #[test]
    fn only_files_that_are_mapped_whole_and_never_written_are_given_back() {
        let text = b"\
1000-2000 r--p 00000000 fe:01 10 /usr/lib/libc.so.6\n\
2000-3000 r-xp 00001000 fe:01 10 /usr/lib/libc.so.6\n\
3000-9000 r--s 00000000 fe:01 11 /srv/program\n\
d000-e000 r--p 00000000 fe:01 11 /srv/program\n\
9000-a000 rw-p 00000000 fe:01 12 /srv/data\n\
a000-b000 r--s 00000000 00:0e 13 anon_inode:bpf-map\n\
b000-c000 r--p 00000000 00:00 0 \n\
c000-d000 r--p 00004000 fe:01 14 /srv/part\n";
        let maps = parse(text);
        let found: Vec<_> = whole(&maps).map(|mapping| mapping.path.as_str()).collect();
        assert_eq!(found, ["/srv/program"; 2]);
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_zeros_beyond_its_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 200_000]).unwrap();
        // SAFETY: that it changes is what is tested; nothing relies on its bytes.
        let mapped = unsafe { memmap2::Mmap::map(file.as_file()) }.unwrap();
        outlive_files_that_shrink();
        file.as_file().set_len(10).unwrap();
        let read = |at: usize| std::hint::black_box(&mapped)[at];
        assert_eq!((read(0), read(10), read(199_999), read(100_000)), (7, 0, 0, 0));
    }

    #[test]
    fn what_is_given_back_can_be_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 10_000]).unwrap();
        // SAFETY: nobody else knows the file.
        let mapped = unsafe { memmap2::Mmap::map(file.as_file()) }.unwrap();
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        assert_eq!(sum(&mapped), 70_000);
        Own.give_back_files();
        assert_eq!(sum(&mapped), 70_000);
        Own.giving_back_files(&mut || assert!((0..1000).all(|_| sum(&mapped) == 70_000)));
    }
}
