//! Code objects of CPython: file, name and line table, told to the user side once.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user as read_user_bytes, bpf_ringbuf_output};
use portchurn_common::loss::Loss;
use portchurn_common::stack::{
    CODE_FILE_LEN, CODE_NAME_LEN, CODE_TABLE_LEN, CodeFrame, CodeRecord, FRAMES_MAX, Interpreter,
    StackRecordKind, TextRef,
};

use crate::maps::{CODES, CodeKey, INTERPRETERS, STACKS, Scratch};
use crate::stack::python::{half_word, read_object, word};
use crate::stack::{read, scratch};
use crate::{emit, who};

/// In any object: its type.
const OBJECT_TYPE: u64 = 8;
/// In bytes: length and contents.
const BYTES_LEN: u64 = 16;
const BYTES_DATA: u64 = 32;
/// In text: length. In its state: header and characters are one piece; those of names always are.
const TEXT_LEN: u64 = 16;
const TEXT_COMPACT: u32 = 1 << 5;
/// Some builds of 3.14 have 16 bits, most of them 0, where all others have 2: all else in the state is so much further up.
const TEXT_STATE_SHIFT: u32 = 14;

struct Send {
    interpreter: *const Interpreter,
    scratch: *mut Scratch,
}

/// Sends every code object of the record's frames that was not sent before. A global function: see
/// [`walk_interpreter`](super::walk_interpreter).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn send_code_objects() -> u32 {
    let (Some(scratch), Some(interpreter)) = (scratch(), INTERPRETERS.get_ptr(who::current_tgid())) else {
        return 0;
    };
    let mut send = Send { interpreter, scratch };
    // SAFETY: the callback gets what it expects.
    unsafe { bpf_loop(FRAMES_MAX as u32, send_step as *mut c_void, (&raw mut send).cast(), 0) };
    0
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
    let mut state = state as u32;
    if state & TEXT_COMPACT == 0 {
        state >>= TEXT_STATE_SHIFT;
        if state & TEXT_COMPACT == 0 {
            return nothing;
        }
    }
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
