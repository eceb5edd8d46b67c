//! The state that CPython keeps of a thread, and the frame the thread is in.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use portchurn_common::settings::UNKNOWN;
use portchurn_common::stack::Interpreter;

use crate::kernel::{Access, Probe};
use crate::setting;
use crate::stack::read;

/// Thread states that are looked at when they must be searched for.
const THREADS_MAX: u32 = 1024;
/// Thread-specific data: keys per block, and size of an entry. glibc's nptl.
const KEYS_PER_BLOCK: u64 = 32;
const KEY_SIZE: u64 = 16;

/// The innermost frame of the current thread; 0: none. The interpreter's own "current thread" is empty at this moment,
/// because it lets go of its lock around `connect()`.
///
/// # Safety
/// `interpreter` must be valid.
#[inline(always)]
pub unsafe fn current_frame(interpreter: *const Interpreter) -> Option<u64> {
    if setting!(offsets.task_thread_pointer) == UNKNOWN {
        return None;
    }
    let thread_pointer: u64 = Probe::load(Probe::current_task(), setting!(offsets.task_thread_pointer));
    // SAFETY: the caller's promise.
    unsafe {
        match thread_by_key(interpreter, thread_pointer) {
            Some(thread) => frame_of(interpreter, thread),
            None => frame_by_list(interpreter, thread_pointer),
        }
    }
}

/// The frame that a thread state leads to; 0: none.
///
/// # Safety
/// `interpreter` must be valid.
#[inline(always)]
unsafe fn frame_of(interpreter: *const Interpreter, thread: u64) -> Option<u64> {
    // SAFETY: the caller's promise.
    unsafe {
        let frame: u64 = read(thread + u64::from((*interpreter).thread_frame))?;
        if (*interpreter).cframe_frame == UNKNOWN || frame == 0 {
            return Some(frame);
        }
        read(frame + u64::from((*interpreter).cframe_frame))
    }
}

/// The thread state by thread-specific data, if that leads to this thread's.
///
/// # Safety
/// `interpreter` must be valid.
#[inline(always)]
unsafe fn thread_by_key(interpreter: *const Interpreter, thread_pointer: u64) -> Option<u64> {
    // SAFETY: the caller's promise.
    let interpreter = unsafe { &*interpreter };
    if interpreter.thread_key == 0 {
        return None;
    }
    let key = u64::from(read::<u32>(interpreter.thread_key)?);
    if key >= 1024 {
        return None;
    }
    let blocks = thread_pointer + u64::from(interpreter.thread_data);
    let block: u64 = read(blocks + key / KEYS_PER_BLOCK * 8)?;
    let thread: u64 = read(block + key % KEYS_PER_BLOCK * KEY_SIZE + 8)?;
    let id: u64 = read(thread + u64::from(interpreter.thread_id))?;
    (id == thread_pointer).then_some(thread)
}

struct Search {
    interpreter: *const Interpreter,
    wanted: u64,
    state: u64,
    thread: u64,
    frame: u64,
    is_known: u64,
}

/// The frame of the first thread state of this thread that has one: with several interpreters a thread may have several.
///
/// # Safety
/// `interpreter` must be valid.
#[inline(always)]
unsafe fn frame_by_list(interpreter: *const Interpreter, wanted: u64) -> Option<u64> {
    // SAFETY: the caller's promise.
    unsafe {
        let state: u64 = read((*interpreter).interpreters)?;
        if state == 0 {
            return None;
        }
        let thread: u64 = read(state + u64::from((*interpreter).interpreter_threads))?;
        let mut search = Search { interpreter, wanted, state, thread, frame: 0, is_known: 0 };
        bpf_loop(THREADS_MAX, search_step as *mut c_void, (&raw mut search).cast(), 0);
        let is_known = core::ptr::read_volatile(&raw const search.is_known) != 0;
        is_known.then_some(core::ptr::read_volatile(&raw const search.frame))
    }
}

/// One thread state, or the next interpreter when its list is at its end.
extern "C" fn search_step(_index: u64, search: *mut Search) -> i64 {
    // SAFETY: the caller of `bpf_loop` owns it.
    let search = unsafe { &mut *search };
    // SAFETY: points into the map.
    let interpreter = unsafe { &*search.interpreter };
    if search.thread == 0 {
        let Some(state) = read::<u64>(search.state + u64::from(interpreter.interpreter_next)) else {
            return 1;
        };
        search.state = state;
        if state == 0 {
            return 1;
        }
        let Some(thread) = read::<u64>(state + u64::from(interpreter.interpreter_threads)) else { return 1 };
        search.thread = thread;
        return 0;
    }
    let Some(id) = read::<u64>(search.thread + u64::from(interpreter.thread_id)) else { return 1 };
    if id == search.wanted {
        search.is_known = 1;
        // SAFETY: as above.
        search.frame = unsafe { frame_of(interpreter, search.thread) }.unwrap_or(0);
        if search.frame != 0 {
            return 1;
        }
    }
    match read::<u64>(search.thread + u64::from(interpreter.thread_next)) {
        Some(next) => search.thread = next,
        None => return 1,
    }
    0
}
