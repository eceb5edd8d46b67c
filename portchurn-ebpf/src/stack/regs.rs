//! The native side of a stack: registers, a fingerprint that groups equal stacks without unwinding them, and the copy
//! from which the user side unwinds.

use aya_ebpf::helpers::generated::{
    bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_probe_read_user, bpf_task_pt_regs,
};
use portchurn_common::settings::UNKNOWN;
use portchurn_common::stack::{
    REGISTERS_MAX, STACK_BYTES_MAX, STACK_BYTES_SLACK, StackRecord, mix, stack_flag,
};

use crate::kernel::{Access, Probe};
use crate::setting;
use crate::stack::scratch;

/// Where a thread is.
#[derive(Clone, Copy)]
pub struct Position {
    pub stack_pointer: u64,
    pub instruction_pointer: u64,
}

/// Bound of a copy, as a mask.
pub const COPY_MASK: u32 = 2 * STACK_BYTES_MAX as u32 - 1;
/// Bound of what is sent, as a mask.
pub const LEN_MASK: u32 = STACK_BYTES_MAX as u32 - 1;
const PAGE: u32 = 4096;
/// Pages that are looked at, a first part included.
const PAGES: u32 = (STACK_BYTES_MAX as u32) / PAGE + 1;
/// Words at the innermost end of the stack that make the fingerprint.
const WORDS: usize = 512;

/// Reads the registers of the user side into the record.
///
/// # Safety
/// `record` must be valid.
#[inline(always)]
pub unsafe fn read(record: *mut StackRecord) -> Option<Position> {
    if setting!(registers.size) == 0 || setting!(registers.size) as usize > 8 * REGISTERS_MAX {
        return None;
    }
    // SAFETY: the caller's promise; the size is a constant to the verifier.
    unsafe {
        let registers = bpf_task_pt_regs(bpf_get_current_task_btf()) as u64;
        let to = (&raw mut (*record).registers).cast();
        if bpf_probe_read_kernel(to, setting!(registers.size), registers as *const _) != 0 {
            return None;
        }
        let base = registers as *const u8;
        Some(Position {
            stack_pointer: Probe::load(base, setting!(registers.stack_pointer)),
            instruction_pointer: Probe::load(base, setting!(registers.instruction_pointer)),
        })
    }
}

/// Copies the innermost two pages, the first of which is a part.
///
/// # Safety
/// `record` must be valid.
#[inline(always)]
pub unsafe fn copy_head(record: *mut StackRecord, stack_pointer: u64) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let first = PAGE - (stack_pointer as u32 & (PAGE - 1));
        let to = (&raw mut (*record).stack).cast::<u8>();
        if bpf_probe_read_user(to.cast(), first, stack_pointer as *const _) != 0 {
            return 0;
        }
        let second = to.add((first & (2 * PAGE - 1)) as usize);
        if bpf_probe_read_user(second.cast(), PAGE, stack_pointer.wrapping_add(u64::from(first)) as *const _)
            != 0
        {
            return first;
        }
        first + PAGE
    }
}

/// Goes on to copy where `have` bytes are there already, page by page: one read of everything would fail as a whole
/// at the end of the stack.
///
/// # Safety
/// `record` must be valid.
#[inline(always)]
pub unsafe fn copy(record: *mut StackRecord, stack_pointer: u64, have: u32) {
    let mut done = have;
    let mut page = 0;
    let mut ended = false;
    // SAFETY: the caller's promise; `done` is bounded before each use.
    unsafe {
        let to = (&raw mut (*record).stack).cast::<u8>();
        while page < PAGES {
            page += 1;
            let from = stack_pointer.wrapping_add(u64::from(done));
            let len = PAGE - (from as u32 & (PAGE - 1));
            let offset = core::hint::black_box(done) & COPY_MASK;
            if offset > STACK_BYTES_MAX as u32 {
                break;
            }
            if bpf_probe_read_user(to.add(offset as usize).cast(), len, from as *const _) != 0 {
                ended = true;
                break;
            }
            done += len;
        }
        const _: () = assert!(STACK_BYTES_SLACK >= PAGE as usize);
        if !ended {
            (*record).flags |= stack_flag::STACK_TRUNCATED;
        }
        (*record).stack_len = if done > LEN_MASK { LEN_MASK & !7 } else { done };
    }
}

/// Groups stacks: the instruction pointer, and every word near the innermost end that points into the program's own
/// code. Words left over from earlier calls may split one stack into several groups, which the user side joins again;
/// two stacks in one group show when one is looked at again.
///
/// Of the copy in this processor's scratch memory. A global function: see [`find_further`](crate::conns::find_further); each
/// turn of its loop is some sixty instructions.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fingerprint(instruction_pointer: u64, have: u32, tgid: u32) -> u64 {
    let Some(scratch) = scratch() else { return 0 };
    let (start, size) = program_code();
    let mut hash = mix(mix(u64::from(tgid), instruction_pointer), u64::from(have == 0));
    let whole_words = (have >> 3) as usize;
    // SAFETY: this processor's own memory; the index is bounded.
    unsafe {
        const { assert!(core::mem::offset_of!(StackRecord, stack) % 8 == 0) };
        let words = (&raw const (*scratch).record.stack).cast::<u64>();
        let mut index = 0;
        while index < WORDS {
            if index >= whole_words {
                break;
            }
            let word = *words.add(index);
            // Without a branch, which the verifier would follow both ways in each turn.
            let is_code = is_less(word.wrapping_sub(start), size).wrapping_neg();
            hash ^= (hash ^ mix(hash, word ^ (index as u64) << 48)) & is_code;
            index += 1;
        }
    }
    hash
}

/// 1 if `left < right`, else 0: the borrow of the subtraction.
#[inline(always)]
fn is_less(left: u64, right: u64) -> u64 {
    let difference = left.wrapping_sub(right);
    ((!left & right) | ((!left | right) & difference)) >> 63
}

/// Start and size of the code of the program itself, without its libraries.
#[inline(always)]
fn program_code() -> (u64, u64) {
    if setting!(offsets.task_mm) == UNKNOWN || setting!(offsets.mm_start_code) == UNKNOWN {
        return (0, u64::MAX);
    }
    let mm = Probe::load::<u64>(Probe::current_task(), setting!(offsets.task_mm)) as *const u8;
    let start: u64 = Probe::load(mm, setting!(offsets.mm_start_code));
    let end: u64 = Probe::load(mm, setting!(offsets.mm_end_code));
    (start, end.saturating_sub(start))
}
