//! Call sites: the line of code behind an open or a close. What identifies one, how its stack travels to the user side,
//! and what the kernel side must be told of an interpreter before it can walk its frames.

pub use crate::budget::{Budget, Effort, StackControl};
use crate::flow::KeyRef;
use crate::settings::UNKNOWN;

/// At which moment of a connection the stack was taken.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u32)]
pub enum At {
    /// CLOSE→SYN_SENT, inside `connect()`.
    Open = 1,
    /// Our side's first or only close.
    Close = 2,
    /// SYN_SENT→CLOSE without a local port, still inside `connect()`: it was an [`At::Open`] just before.
    NoPort = 3,
}

impl At {
    /// The moment with this number.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Open),
            2 => Some(Self::Close),
            3 => Some(Self::NoPort),
            _ => None,
        }
    }

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::NoPort => "no_port",
        }
    }
}

/// Stands for a stack in [`SiteKey::stack`] where there is none: the process is ending, its memory is gone already.
pub const STACK_EXITING: u64 = 1;
/// There is no user stack: a kernel thread, such as an io_uring worker, acted for the process.
pub const STACK_NONE: u64 = 2;
/// Real stacks are numbered from here.
pub const STACK_FIRST: u64 = 16;

/// What the kernel counts call sites under.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct SiteKey {
    /// Process and destination.
    pub key_ref: KeyRef,
    /// Hash of the stack, or one of the `STACK_*`.
    pub stack: u64,
    /// An [`At`] by number; 0 marks an unused entry.
    pub at: u32,
    /// 1: `stack` is a hash of every interpreter frame. 0: a fingerprint of the native stack, which is read only now and
    /// then.
    pub counted: u32,
}

/// One call site: how often it was passed. Lies in an array that user space maps.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Site {
    /// Which.
    pub key: SiteKey,
    /// How often. Wraps.
    pub count: u32,
    /// How many stack records were sent for it.
    pub sent: u32,
}

const _: () = {
    assert!(size_of::<SiteKey>() == 24);
    assert!(size_of::<Site>() == 32);
};

/// Kinds of records in the ring buffer of stacks: the first four bytes of each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum StackRecordKind {
    /// [`StackRecord`].
    Stack = 1,
    /// [`CodeRecord`].
    Code = 2,
    /// [`ImageRecord`].
    Image = 3,
}

/// Interpreter frames that are kept. Web frameworks put 40 to 80 frames of their own below an application's.
pub const FRAMES_MAX: usize = 128;
/// User stack that is copied. Bytes.
pub const STACK_BYTES_MAX: usize = 32 << 10;
/// Room behind it, so that the last page is copied whole.
pub const STACK_BYTES_SLACK: usize = 4 << 10;
/// Registers of the user side that are copied: enough words for `struct pt_regs` of x86-64 and arm64.
pub const REGISTERS_MAX: usize = 34;

/// One interpreter frame.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct CodeFrame {
    /// Address of the code object.
    pub code: u64,
    /// Where in it: as this version of the interpreter counts, see [`Interpreter::position_is_pointer`].
    pub position: i32,
    /// Tells code objects apart that had the same address, see [`CodeRecord::check`]. The lowest bit: the interpreter
    /// was entered from C at this frame.
    pub check: u32,
}

/// A stack that was taken. What follows `stack_len` bytes of `stack` is not sent.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct StackRecord {
    /// [`StackRecordKind::Stack`].
    pub kind: u32,
    /// Process whose stack it is: at a close not always the owner of the connection.
    pub tgid: u32,
    /// Its start. Nanoseconds since boot.
    pub start_ns: u64,
    /// The site.
    pub site: SiteKey,
    /// The interpreter that was walked; 0: none.
    pub image: u64,
    /// Index of the site in its table.
    pub site_index: u32,
    /// Thread.
    pub tid: u32,
    /// How many of `frames` are valid.
    pub frames_len: u32,
    /// How many bytes of `stack` are valid.
    pub stack_len: u32,
    /// A [`WalkEnd`] by number.
    pub walk_end: u32,
    /// The `stack_flag::*` bits.
    pub flags: u32,
    /// Registers at the system call, as `struct pt_regs` has them.
    pub registers: [u64; REGISTERS_MAX],
    /// Interpreter frames, innermost first.
    pub frames: [CodeFrame; FRAMES_MAX],
    /// The user stack, from the stack pointer upwards.
    pub stack: [u8; STACK_BYTES_MAX + STACK_BYTES_SLACK],
}

/// The bits of [`StackRecord::flags`].
pub mod stack_flag {
    /// More frames followed.
    pub const FRAMES_TRUNCATED: u32 = 1;
    /// The budget did not allow a copy of the stack.
    pub const OVER_BUDGET: u32 = 2;
    /// More stack followed.
    pub const STACK_TRUNCATED: u32 = 4;
    /// The process is known to run an interpreter.
    pub const INTERPRETER: u32 = 8;
    /// Native stacks were not asked for.
    pub const NATIVE_OFF: u32 = 16;
}

/// How the walk through interpreter frames ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum WalkEnd {
    /// At the outermost frame.
    Complete = 0,
    /// There was nothing to walk: no interpreter is known for the process.
    NoInterpreter = 1,
    /// The interpreter has no state for this thread: it starts, it ends, or the thread is none of its own.
    NoThreadState = 2,
    /// Memory could not be read: it was never touched, or it is swapped out.
    Unreadable = 3,
    /// What should have been a code object was none: the offsets do not fit this interpreter.
    NotCode = 4,
    /// The thread runs no interpreter frame.
    NoFrame = 5,
}

impl WalkEnd {
    /// The end with this number.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Complete,
            2 => Self::NoThreadState,
            3 => Self::Unreadable,
            4 => Self::NotCode,
            5 => Self::NoFrame,
            _ => Self::NoInterpreter,
        }
    }
}

/// Longest file name of a code object. Bytes, minus one.
pub const CODE_FILE_LEN: usize = 1024;
/// Longest name of a code object. Bytes, minus one.
pub const CODE_NAME_LEN: usize = 512;
/// Longest line table of a code object. Bytes, minus one.
pub const CODE_TABLE_LEN: usize = 32 << 10;

/// A piece of text as the interpreter holds it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct TextRef {
    /// How many bytes were read.
    pub len: u16,
    /// Bytes per character: 1 (Latin-1), 2 or 4.
    pub width: u16,
}

/// A code object, sent once. What follows `table_len` bytes of `table` is not sent.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CodeRecord {
    /// [`StackRecordKind::Code`].
    pub kind: u32,
    /// [`Interpreter::version`].
    pub version: u32,
    /// Which process image it belongs to; children by fork have their parent's.
    pub image: u64,
    /// Address of the code object.
    pub code: u64,
    /// Hash of what may differ when the address is used again. Even.
    pub check: u32,
    /// First line of the function.
    pub first_line: u32,
    /// Of `file`.
    pub file_text: TextRef,
    /// Of `name`.
    pub name_text: TextRef,
    /// How many bytes of `table` are valid.
    pub table_len: u32,
    /// How long the table is in the process. Bytes.
    pub table_total: u32,
    /// `co_filename`.
    pub file: [u8; CODE_FILE_LEN],
    /// `co_qualname` or `co_name`.
    pub name: [u8; CODE_NAME_LEN],
    /// `co_lnotab` or `co_linetable`.
    pub table: [u8; CODE_TABLE_LEN],
}

/// A process replaced its image.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ImageRecord {
    /// [`StackRecordKind::Image`].
    pub kind: u32,
    /// Process.
    pub tgid: u32,
    /// Start. Nanoseconds since boot.
    pub start_ns: u64,
}

const _: () = {
    assert!(core::mem::offset_of!(StackRecord, stack) == 72 + 8 * REGISTERS_MAX + 16 * FRAMES_MAX);
    assert!(core::mem::offset_of!(CodeRecord, file) == 48);
    assert!(size_of::<ImageRecord>() == 16);
};

/// How many bytes of a frame or a code object are read at once, at most.
pub const OBJECT_LEN: usize = 128;

/// An interpreter in a process: where its state lies, and how its objects are laid out. Offsets in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Interpreter {
    /// Names this process image; children by fork keep it.
    pub image: u64,
    /// Address of the pointer to the first interpreter state.
    pub interpreters: u64,
    /// Address of the key of thread-specific data that holds the thread state; 0: walk the list of thread states, as where
    /// it leads to the state of no or another thread.
    pub thread_key: u64,
    /// Address of the type of code objects, by which each is known to be one.
    pub code_type: u64,
    /// Version, as 0x30b for 3.11.
    pub version: u32,
    /// Offset of thread-specific data from the thread pointer.
    pub thread_data: u32,
    /// In an interpreter state: the next one.
    pub interpreter_next: u32,
    /// In an interpreter state: its first thread state.
    pub interpreter_threads: u32,
    /// In a thread state: the next one.
    pub thread_next: u32,
    /// In a thread state: `pthread_self()` of its thread.
    pub thread_id: u32,
    /// In a thread state: the current frame, or what leads there.
    pub thread_frame: u32,
    /// Where that leads further, the current frame in it; [`UNKNOWN`]: it is the frame.
    pub cframe_frame: u32,
    /// In a frame: from where it is read.
    pub frame_base: u32,
    /// How much of it. At most [`OBJECT_LEN`] minus one.
    pub frame_len: u32,
    /// From `frame_base`: the code object.
    pub frame_code: u32,
    /// From `frame_base`: the calling frame.
    pub frame_back: u32,
    /// From `frame_base`: where in the code.
    pub frame_position: u32,
    /// From `frame_base`: who owns the frame, a byte; [`UNKNOWN`]: there is no such field.
    pub frame_owner: u32,
    /// From `frame_base`: whether C entered the interpreter here, a byte; [`UNKNOWN`]: there is no such field.
    pub frame_entry: u32,
    /// Owners from this number on mark frames that are no function's, where C entered the interpreter.
    pub shim_owner: u32,
    /// 1: the position is the address of an instruction. 0: it is an index, 32 bits.
    pub position_is_pointer: u32,
    /// In a code object: from where it is read.
    pub code_base: u32,
    /// How much of it. At most [`OBJECT_LEN`] minus one.
    pub code_len: u32,
    /// From `code_base`: the file name.
    pub code_file: u32,
    /// From `code_base`: the name.
    pub code_name: u32,
    /// From `code_base`: the line table.
    pub code_table: u32,
    /// From `code_base`: the first line, 32 bits.
    pub code_first_line: u32,
    /// In a code object: its instructions.
    pub code_instructions: u32,
    /// Size of the header of text that is ASCII.
    pub text_ascii: u32,
    /// Size of the header of other text.
    pub text_compact: u32,
}

impl Interpreter {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        image: 0,
        interpreters: 0,
        thread_key: 0,
        code_type: 0,
        version: 0,
        thread_data: 0,
        interpreter_next: 0,
        interpreter_threads: 0,
        thread_next: 0,
        thread_id: 0,
        thread_frame: 0,
        cframe_frame: UNKNOWN,
        frame_base: 0,
        frame_len: 0,
        frame_code: 0,
        frame_back: 0,
        frame_position: 0,
        frame_owner: UNKNOWN,
        frame_entry: UNKNOWN,
        shim_owner: UNKNOWN,
        position_is_pointer: 0,
        code_base: 0,
        code_len: 0,
        code_file: 0,
        code_name: 0,
        code_table: 0,
        code_first_line: 0,
        code_instructions: 0,
        text_ascii: 48,
        text_compact: 72,
    };
}

/// One step of the hash that identifies stacks.
#[inline(always)]
pub const fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 29
}

/// A hash as [`SiteKey::stack`]: never one of the `STACK_*`. The lowest bit is set where it stands for every frame, and
/// clear where it is a fingerprint, so that the number alone says how much it proves.
#[inline(always)]
pub const fn stack_id(hash: u64, counted: bool) -> u64 {
    let hash = if hash < STACK_FIRST { hash + STACK_FIRST } else { hash };
    hash & !1 | counted as u64
}

/// Whether a [`SiteKey::stack`] means one stack and no other.
pub const fn is_counted(stack: u64) -> bool {
    stack < STACK_FIRST || stack & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::{At, Budget, STACK_EXITING, STACK_FIRST, is_counted, mix, stack_id};
    use crate::budget::SECOND_NS;

    #[test]
    fn a_budget_gives_its_rate_and_no_more() {
        let mut budget = Budget::default();
        let start_ns = 5 * SECOND_NS;
        let burst = (0..100).filter(|_| budget.take(start_ns, 20)).count();
        assert_eq!(burst, 20);
        let taken = (1..=10_000).filter(|step| budget.take(start_ns + step * SECOND_NS / 1000, 20)).count();
        assert!((199..=201).contains(&taken), "{taken} in ten seconds at 20 per second");
    }

    #[test]
    fn a_budget_of_nothing_gives_nothing() {
        let mut budget = Budget::default();
        assert!((1..100).all(|second| !budget.take(second * SECOND_NS, 0)));
    }

    #[test]
    fn order_matters_and_reserved_numbers_stay_free() {
        assert_ne!(mix(mix(0, 1), 2), mix(mix(0, 2), 1));
        assert!(stack_id(1, true) >= STACK_FIRST);
        assert_eq!(stack_id(1 << 40, false), 1 << 40);
    }

    #[test]
    fn the_number_of_a_stack_says_whether_it_was_counted() {
        for hash in [0, 1, 15, 16, 1 << 40, u64::MAX] {
            assert!(is_counted(stack_id(hash, true)) && !is_counted(stack_id(hash, false)));
        }
        assert!(is_counted(STACK_EXITING));
    }

    #[test]
    fn moments_are_known_by_their_number() {
        for at in [At::Open, At::Close, At::NoPort] {
            assert_eq!(At::from_raw(at as u32), Some(at));
        }
        assert_eq!(At::from_raw(0), None);
    }
}
