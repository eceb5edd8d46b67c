//! Interpreter frames of CPython, walked in the thread that connects: names and lines survive a script that ends at
//! once. Where things lie comes from the user side, for this very process; what is read is checked to be a code object.
//!
//! ```text
//! thread   the thread's state, and the frame it is in
//! code     code objects, told to the user side once
//! ```

mod code;
mod thread;

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user as read_user_bytes};
use portchurn_common::settings::UNKNOWN;
use portchurn_common::stack::{CodeFrame, FRAMES_MAX, Interpreter, OBJECT_LEN, WalkEnd, mix, stack_flag};

pub use self::code::send_code_objects;
use crate::maps::{INTERPRETERS, Scratch};
use crate::stack::scratch;
use crate::who;

/// Frames that are no function's (where C entered the interpreter) are walked over, too.
const STEPS_MAX: u32 = FRAMES_MAX as u32 + 64;

/// Walks the frames of the current thread into this processor's scratch memory; a [`WalkEnd`] by number.
///
/// A global function without arguments: the verifier goes through it once, by itself, and not once more for each way that
/// leads to it and away from it, for which 6.1 has no time.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_interpreter() -> u32 {
    let Some(scratch) = scratch() else { return WalkEnd::NoInterpreter as u32 };
    let Some(interpreter) = INTERPRETERS.get_ptr(who::current_tgid()) else {
        return WalkEnd::NoInterpreter as u32;
    };
    // SAFETY: both point into maps; the scratch memory is this processor's.
    unsafe { walk(interpreter, scratch) as u32 }
}

/// # Safety
/// Both must be valid.
#[inline(always)]
unsafe fn walk(interpreter: *const Interpreter, scratch: *mut Scratch) -> WalkEnd {
    // SAFETY: the caller's promise.
    unsafe {
        let record = &raw mut (*scratch).record;
        (*record).flags = stack_flag::INTERPRETER;
        (*record).image = (*interpreter).image;
        let first = match thread::current_frame(interpreter) {
            None => return WalkEnd::NoThreadState,
            Some(0) => return WalkEnd::NoFrame,
            Some(first) => first,
        };
        let mut walk = Walk {
            interpreter,
            scratch,
            frame: first,
            hash: (*interpreter).image,
            end: WalkEnd::Complete as u32,
        };
        bpf_loop(STEPS_MAX, step as *mut c_void, (&raw mut walk).cast(), 0);
        (*scratch).hash = core::ptr::read_volatile(&raw const walk.hash);
        if core::ptr::read_volatile(&raw const walk.end) != WalkEnd::Complete as u32 {
            return WalkEnd::Unreadable;
        }
        if core::ptr::read_volatile(&raw const walk.frame) != 0 {
            (*record).flags |= stack_flag::FRAMES_TRUNCATED;
        }
        if (&raw const (*record).frames_len).read_volatile() == 0 {
            return WalkEnd::NoFrame;
        }
        WalkEnd::Complete
    }
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
