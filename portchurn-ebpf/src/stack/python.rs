//! Interpreter frames of CPython, walked in the thread that connects: names and lines survive a script that ends at
//! once. Where things lie comes from the user side, for this very process; what is read is checked to be a code object.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user as read_user_bytes, bpf_ringbuf_output};
use portchurn_common::loss::Loss;
use portchurn_common::settings::UNKNOWN;
use portchurn_common::stack::{
    CODE_FILE_LEN, CODE_NAME_LEN, CODE_TABLE_LEN, CodeFrame, CodeRecord, FRAMES_MAX, Interpreter, OBJECT_LEN,
    StackRecordKind, TextRef, WalkEnd, mix, stack_flag,
};

use crate::kernel::{Access, Probe};
use crate::maps::{CODES, CodeKey, STACKS, Scratch};
use crate::stack::read;
use crate::{emit, setting};

/// Thread states that are looked at when they must be searched for.
const THREADS_MAX: u32 = 1024;
/// Frames that are no function's (where C entered the interpreter) are walked over, too.
const STEPS_MAX: u32 = FRAMES_MAX as u32 + 64;
/// Thread-specific data: keys per block, and size of an entry. glibc's nptl.
const KEYS_PER_BLOCK: u64 = 32;
const KEY_SIZE: u64 = 16;
/// In any object: its type.
const OBJECT_TYPE: u64 = 8;
/// In bytes: length and contents.
const BYTES_LEN: u64 = 16;
const BYTES_DATA: u64 = 32;
/// In text: length.
const TEXT_LEN: u64 = 16;

/// What a walk came to.
pub struct Walked {
    pub end: WalkEnd,
    pub hash: u64,
}

/// Walks the frames of the current thread into the record of `scratch`.
///
/// # Safety
/// Both must be valid.
#[inline(always)]
pub unsafe fn walk(interpreter: *const Interpreter, scratch: *mut Scratch) -> Walked {
    // SAFETY: the caller's promise.
    unsafe {
        let Some(first) = current_frame(interpreter) else {
            return Walked { end: WalkEnd::NoThreadState, hash: 0 };
        };
        if first == 0 {
            return Walked { end: WalkEnd::NoFrame, hash: 0 };
        }
        let mut walk = Walk {
            interpreter,
            scratch,
            frame: first,
            hash: (*interpreter).image,
            end: WalkEnd::Complete as u32,
        };
        bpf_loop(STEPS_MAX, step as *mut c_void, (&raw mut walk).cast(), 0);
        let end = core::ptr::read_volatile(&raw const walk.end);
        let record = &raw mut (*scratch).record;
        let len = (&raw const (*record).frames_len).read_volatile();
        if core::ptr::read_volatile(&raw const walk.frame) != 0 && end == WalkEnd::Complete as u32 {
            (*record).flags |= stack_flag::FRAMES_TRUNCATED;
        }
        let end = if end != WalkEnd::Complete as u32 {
            WalkEnd::Unreadable
        } else if len == 0 {
            WalkEnd::NoFrame
        } else {
            WalkEnd::Complete
        };
        Walked { end, hash: core::ptr::read_volatile(&raw const walk.hash) }
    }
}

/// The innermost frame of the current thread; 0: none. The interpreter's own "current thread" is empty at this moment,
/// because it lets go of its lock around `connect()`.
///
/// # Safety
/// `interpreter` must be valid.
#[inline(always)]
unsafe fn current_frame(interpreter: *const Interpreter) -> Option<u64> {
    if setting!(offsets.task_thread_pointer) == UNKNOWN {
        return None;
    }
    let thread_pointer: u64 = Probe::load(Probe::current_task(), setting!(offsets.task_thread_pointer));
    // SAFETY: the caller's promise.
    unsafe {
        let thread = if (*interpreter).thread_key != 0 {
            thread_by_key(interpreter, thread_pointer)?
        } else {
            thread_by_list(interpreter, thread_pointer)?
        };
        let frame: u64 = read(thread + u64::from((*interpreter).thread_frame))?;
        if (*interpreter).cframe_frame == UNKNOWN || frame == 0 {
            return Some(frame);
        }
        read(frame + u64::from((*interpreter).cframe_frame))
    }
}

/// # Safety
/// `interpreter` must be valid.
#[inline(always)]
unsafe fn thread_by_key(interpreter: *const Interpreter, thread_pointer: u64) -> Option<u64> {
    // SAFETY: the caller's promise.
    let (key_at, blocks) = unsafe { ((*interpreter).thread_key, u64::from((*interpreter).thread_data)) };
    let key = u64::from(read::<u32>(key_at)?);
    if key >= 1024 {
        return None;
    }
    let block: u64 = read(thread_pointer + blocks + key / KEYS_PER_BLOCK * 8)?;
    if block == 0 {
        return None;
    }
    let thread: u64 = read(block + key % KEYS_PER_BLOCK * KEY_SIZE + 8)?;
    if thread == 0 { None } else { Some(thread) }
}

struct Search {
    interpreter: *const Interpreter,
    wanted: u64,
    state: u64,
    thread: u64,
    found: u64,
}

/// # Safety
/// `interpreter` must be valid.
#[inline(always)]
unsafe fn thread_by_list(interpreter: *const Interpreter, wanted: u64) -> Option<u64> {
    // SAFETY: the caller's promise.
    unsafe {
        let state: u64 = read((*interpreter).interpreters)?;
        if state == 0 {
            return None;
        }
        let thread: u64 = read(state + u64::from((*interpreter).interpreter_threads))?;
        let mut search = Search { interpreter, wanted, state, thread, found: 0 };
        bpf_loop(THREADS_MAX, search_step as *mut c_void, (&raw mut search).cast(), 0);
        let found = core::ptr::read_volatile(&raw const search.found);
        if found == 0 { None } else { Some(found) }
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
    match read::<u64>(search.thread + u64::from(interpreter.thread_id)) {
        Some(id) if id == search.wanted => {
            search.found = search.thread;
            return 1;
        }
        Some(_) => {}
        None => return 1,
    }
    match read::<u64>(search.thread + u64::from(interpreter.thread_next)) {
        Some(next) => search.thread = next,
        None => return 1,
    }
    0
}

struct Walk {
    interpreter: *const Interpreter,
    scratch: *mut Scratch,
    frame: u64,
    hash: u64,
    end: u32,
}

/// Reads part of an object into `to`.
///
/// # Safety
/// `to` must be valid.
#[inline(always)]
unsafe fn read_object(to: *mut [u8; OBJECT_LEN], from: u64, len: u32) -> bool {
    let len = core::hint::black_box(len) & (OBJECT_LEN as u32 - 1);
    // SAFETY: the caller's promise; the length is masked.
    unsafe { read_user_bytes(to.cast(), len, from as *const c_void) == 0 }
}

/// A word of what was read.
///
/// # Safety
/// `object` must be valid.
#[inline(always)]
unsafe fn word(object: *const [u8; OBJECT_LEN], offset: u32) -> u64 {
    let offset = core::hint::black_box(offset) & (OBJECT_LEN as u32 - 8);
    // SAFETY: the caller's promise; the offset is masked.
    unsafe { object.cast::<u8>().add(offset as usize).cast::<u64>().read_volatile() }
}

/// # Safety
/// `object` must be valid.
#[inline(always)]
unsafe fn half_word(object: *const [u8; OBJECT_LEN], offset: u32) -> u32 {
    let offset = core::hint::black_box(offset) & (OBJECT_LEN as u32 - 4);
    // SAFETY: the caller's promise; the offset is masked.
    unsafe { object.cast::<u8>().add(offset as usize).cast::<u32>().read_volatile() }
}

/// # Safety
/// `object` must be valid.
#[inline(always)]
unsafe fn byte(object: *const [u8; OBJECT_LEN], offset: u32) -> u32 {
    let offset = core::hint::black_box(offset) & (OBJECT_LEN as u32 - 1);
    // SAFETY: the caller's promise; the offset is masked.
    u32::from(unsafe { object.cast::<u8>().add(offset as usize).read_volatile() })
}

/// One frame. Two reads: the frame, and of its code object what tells it apart.
extern "C" fn step(_index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: the caller of `bpf_loop` owns it; its pointers lead into maps.
    unsafe {
        let walk = &mut *walk;
        let interpreter = &*walk.interpreter;
        let object = &raw mut (*walk.scratch).object;
        let frame = walk.frame;
        // Counted in map memory: the verifier takes it for any number and looks at this function once, not per frame.
        let count = &raw mut (*walk.scratch).record.frames_len;
        let len = count.read_volatile();
        if frame == 0 || len >= FRAMES_MAX as u32 {
            return 1;
        }
        if !read_object(object, frame + u64::from(interpreter.frame_base), interpreter.frame_len) {
            walk.end = WalkEnd::Unreadable as u32;
            return 1;
        }
        walk.frame = word(object, interpreter.frame_back);
        let frames = (&raw mut (*walk.scratch).record.frames).cast::<CodeFrame>();
        if interpreter.frame_owner != UNKNOWN
            && byte(object, interpreter.frame_owner) >= interpreter.shim_owner
        {
            if len > 0 {
                (*frames.add((len - 1) as usize & (FRAMES_MAX - 1))).check |= 1;
            }
            return 0;
        }
        // The lowest bits may hold a tag.
        let code = word(object, interpreter.frame_code) & !7;
        let position = if interpreter.position_is_pointer != 0 {
            let start = code + u64::from(interpreter.code_instructions);
            word(object, interpreter.frame_position).wrapping_sub(start) as i32
        } else {
            half_word(object, interpreter.frame_position) as i32
        };
        let is_entry = interpreter.frame_entry != UNKNOWN && byte(object, interpreter.frame_entry) != 0;
        if !read_object(object, code + u64::from(interpreter.code_base), interpreter.code_len) {
            walk.end = WalkEnd::Unreadable as u32;
            return 1;
        }
        let check = check(interpreter, object);
        walk.hash = mix(mix(walk.hash, code ^ u64::from(check) << 32), position as u32 as u64);
        *frames.add(len as usize & (FRAMES_MAX - 1)) =
            CodeFrame { code, position, check: check | is_entry as u32 };
        count.write_volatile(len + 1);
        0
    }
}

/// Hash of what may differ when the address of a code object is used again. Even.
///
/// # Safety
/// `object` must be valid.
#[inline(always)]
unsafe fn check(interpreter: &Interpreter, object: *const [u8; OBJECT_LEN]) -> u32 {
    // SAFETY: the caller's promise.
    let hash = unsafe {
        let names = mix(word(object, interpreter.code_file), word(object, interpreter.code_name));
        mix(
            mix(names, word(object, interpreter.code_table)),
            half_word(object, interpreter.code_first_line) as u64,
        )
    };
    (hash >> 32) as u32 & !1
}

struct Send {
    interpreter: *const Interpreter,
    scratch: *mut Scratch,
}

/// Sends every code object of the record's frames that was not sent before.
///
/// # Safety
/// Both must be valid.
#[inline(always)]
pub unsafe fn send_code(interpreter: *const Interpreter, scratch: *mut Scratch) {
    let mut send = Send { interpreter, scratch };
    // SAFETY: the callback gets what it expects.
    unsafe { bpf_loop(FRAMES_MAX as u32, send_step as *mut c_void, (&raw mut send).cast(), 0) };
}

extern "C" fn send_step(next: u64, send: *mut Send) -> i64 {
    // SAFETY: the caller of `bpf_loop` owns it; its pointers lead into maps.
    unsafe {
        let send = &mut *send;
        let scratch = send.scratch;
        if next as u32 >= (*scratch).record.frames_len {
            return 1;
        }
        let frames = (&raw const (*scratch).record.frames).cast::<CodeFrame>();
        let frame = *frames.add(next as usize & (FRAMES_MAX - 1));
        let interpreter = &*send.interpreter;
        let key = CodeKey { image: interpreter.image, code: frame.code, check: frame.check & !1, zero: 0 };
        if CODES.get(&key).is_none() && send_one(interpreter, scratch, &key) {
            let _ = CODES.insert(&key, &1, 0);
        }
        0
    }
}

/// # Safety
/// `scratch` must be valid.
#[inline(never)]
unsafe fn send_one(interpreter: &Interpreter, scratch: *mut Scratch, key: &CodeKey) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let object = &raw mut (*scratch).object;
        let record = &raw mut (*scratch).code;
        if read::<u64>(key.code + OBJECT_TYPE) != Some(interpreter.code_type)
            || !read_object(object, key.code + u64::from(interpreter.code_base), interpreter.code_len)
        {
            return false;
        }
        (*record).kind = StackRecordKind::Code as u32;
        (*record).version = interpreter.version;
        (*record).image = key.image;
        (*record).code = key.code;
        (*record).check = key.check;
        (*record).first_line = half_word(object, interpreter.code_first_line);
        let file = word(object, interpreter.code_file);
        let name = word(object, interpreter.code_name);
        let table = word(object, interpreter.code_table);
        (*record).file_text = read_text::<CODE_FILE_LEN>(interpreter, file, (&raw mut (*record).file).cast());
        (*record).name_text = read_text::<CODE_NAME_LEN>(interpreter, name, (&raw mut (*record).name).cast());
        let total = read::<u64>(table + BYTES_LEN).unwrap_or(0);
        let wanted = if total >= CODE_TABLE_LEN as u64 { CODE_TABLE_LEN as u32 - 1 } else { total as u32 };
        let wanted = core::hint::black_box(wanted) & (CODE_TABLE_LEN as u32 - 1);
        let got =
            read_user_bytes((&raw mut (*record).table).cast(), wanted, (table + BYTES_DATA) as *const c_void)
                == 0;
        (*record).table_total = total as u32;
        let table_len = if got { wanted } else { 0 };
        (*record).table_len = table_len;
        let table_len = core::hint::black_box(table_len) & (CODE_TABLE_LEN as u32 - 1);
        let len = core::mem::offset_of!(CodeRecord, table) as u64 + u64::from(table_len);
        let sent = bpf_ringbuf_output((&raw const STACKS).cast_mut().cast(), record.cast(), len, 0) == 0;
        if !sent {
            emit::lose(Loss::StackRecord);
        }
        sent
    }
}

/// Text, in whatever width the interpreter keeps it. Nothing where it cannot be read.
///
/// # Safety
/// `to` must be valid for `MAX` bytes.
#[inline(always)]
unsafe fn read_text<const MAX: usize>(interpreter: &Interpreter, text: u64, to: *mut u8) -> TextRef {
    let nothing = TextRef { len: 0, width: 1 };
    // Length, hash, state.
    let Some([chars, _, state]) = read::<[u64; 3]>(text + TEXT_LEN) else { return nothing };
    let state = (state as u32) >> (interpreter.text_state_shift & 31);
    let width = state >> 2 & 7;
    let is_ascii = state >> 6 & 1 != 0;
    let header = if is_ascii { interpreter.text_ascii } else { interpreter.text_compact };
    let shift = match width {
        1 => 0,
        2 => 1,
        4 => 2,
        _ => return nothing,
    };
    let most = MAX as u64 - 4;
    let bytes = if chars >= most >> shift { most } else { chars << shift };
    let len = core::hint::black_box(bytes as u32) & (MAX as u32 - 1);
    // SAFETY: the caller's promise; the length is masked.
    let got = unsafe { read_user_bytes(to.cast(), len, (text + u64::from(header)) as *const c_void) } == 0;
    if got { TextRef { len: len as u16, width: width as u16 } } else { nothing }
}
