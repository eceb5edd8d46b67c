//! Where each version of CPython keeps its fields. Read from the debug information of builds of each version (3.7 to
//! 3.12), or from the interpreter's own description of itself (3.13 and later). What is not known is refused.

use portchurn_common::settings::UNKNOWN;
use portchurn_common::stack::Interpreter;

use crate::symbolize::modules::Module;
use crate::symbolize::python::version;

/// What differs between versions before 3.13. Bytes.
struct Layout {
    version: u32,
    /// In `_PyRuntime`: `interpreters.head`, and the key of `autoTSSkey`.
    interpreters: u32,
    thread_key: u32,
    /// In the interpreter state: its first thread state.
    threads: u32,
    thread_id: u32,
    thread_frame: u32,
    cframe_frame: u32,
    frame: Frame,
    code: Code,
    text_ascii: u32,
    text_compact: u32,
}

struct Frame {
    code: u32,
    back: u32,
    position: u32,
    owner: u32,
    entry: u32,
    position_is_pointer: bool,
}

struct Code {
    first_line: u32,
    file: u32,
    name: u32,
    table: u32,
    instructions: u32,
}

/// Up to 3.10 a frame is an object of its own.
const fn frame_object(position: u32) -> Frame {
    Frame { code: 32, back: 24, position, owner: UNKNOWN, entry: UNKNOWN, position_is_pointer: false }
}

const CODE_3_8: Code = Code { first_line: 40, file: 104, name: 112, table: 120, instructions: 0 };

const LAYOUTS: &[Layout] = &[
    Layout {
        version: 0x307,
        interpreters: 24,
        thread_key: 1504 + 4,
        threads: 8,
        thread_id: 176,
        thread_frame: 24,
        cframe_frame: UNKNOWN,
        frame: frame_object(104),
        code: Code { first_line: 36, file: 96, name: 104, table: 112, instructions: 0 },
        text_ascii: 48,
        text_compact: 72,
    },
    Layout {
        version: 0x308,
        interpreters: 32,
        thread_key: 1392 + 4,
        threads: 8,
        thread_id: 176,
        thread_frame: 24,
        cframe_frame: UNKNOWN,
        frame: frame_object(104),
        code: CODE_3_8,
        text_ascii: 48,
        text_compact: 72,
    },
    Layout {
        version: 0x309,
        interpreters: 32,
        thread_key: 584 + 4,
        threads: 8,
        thread_id: 176,
        thread_frame: 24,
        cframe_frame: UNKNOWN,
        frame: frame_object(104),
        code: CODE_3_8,
        text_ascii: 48,
        text_compact: 72,
    },
    Layout {
        version: 0x30a,
        interpreters: 32,
        thread_key: 584 + 4,
        threads: 8,
        thread_id: 176,
        thread_frame: 24,
        cframe_frame: UNKNOWN,
        frame: frame_object(96),
        code: CODE_3_8,
        text_ascii: 48,
        text_compact: 72,
    },
    Layout {
        version: 0x30b,
        interpreters: 40,
        thread_key: 592 + 4,
        threads: 16,
        thread_id: 152,
        thread_frame: 56,
        cframe_frame: 8,
        frame: Frame { code: 32, back: 48, position: 56, owner: 69, entry: 68, position_is_pointer: true },
        code: Code { first_line: 72, file: 112, name: 128, table: 136, instructions: 184 },
        text_ascii: 48,
        text_compact: 72,
    },
    Layout {
        version: 0x30c,
        interpreters: 40,
        thread_key: 1544 + 4,
        threads: 72,
        thread_id: 136,
        thread_frame: 56,
        cframe_frame: 0,
        frame: Frame { code: 0, back: 8, position: 56, owner: 70, entry: UNKNOWN, position_is_pointer: true },
        code: Code { first_line: 68, file: 112, name: 128, table: 136, instructions: 192 },
        text_ascii: 40,
        text_compact: 56,
    },
];

/// Frames of this owner are no function's: C entered the interpreter there. From 3.12 on.
const OWNER_SHIM: u32 = 3;
/// `_PyRuntime.autoTSSkey` of 3.13, its key; the description does not have it.
const THREAD_KEY_3_13: u32 = 2160 + 4;
/// The first word of a description.
const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");

/// How to walk the interpreter of a process.
pub(super) fn interpreter(
    tgid: u32,
    module: &Module,
    thread_data: Option<u32>,
) -> Result<Interpreter, String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("Python frames are walked on x86-64 only".to_owned());
    }
    let facts = &module.facts;
    let runtime = facts.python_runtime.ok_or("no _PyRuntime")?.wrapping_add(module.bias);
    let code_type = facts.python_code_type.ok_or("no PyCode_Type")?.wrapping_add(module.bias);
    let version = version(module).ok_or("a CPython of unknown version")?;
    let mut found = match LAYOUTS.iter().find(|layout| layout.version == version) {
        Some(layout) => from_layout(layout, runtime),
        None => from_description(version, &facts.python_debug_offsets, runtime)?,
    };
    found.image = u64::from(tgid) << 32 ^ runtime ^ random();
    found.code_type = code_type;
    match thread_data {
        Some(offset) => found.thread_data = offset,
        // Without glibc's description the thread state is searched for.
        None => found.thread_key = 0,
    }
    Ok(found)
}

/// Keeps images apart that have the same number and place one after the other.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0) & 0xffff_ffff
}

fn from_layout(layout: &Layout, runtime: u64) -> Interpreter {
    let fields = Fields {
        frame_code: layout.frame.code,
        frame_back: layout.frame.back,
        frame_position: layout.frame.position,
        frame_owner: layout.frame.owner,
        frame_entry: layout.frame.entry,
        first_line: layout.code.first_line,
        file: layout.code.file,
        name: layout.code.name,
        table: layout.code.table,
    };
    let mut found = fields.pack(Interpreter {
        version: layout.version,
        interpreters: runtime + u64::from(layout.interpreters),
        thread_key: runtime + u64::from(layout.thread_key),
        interpreter_next: 0,
        interpreter_threads: layout.threads,
        thread_next: 8,
        thread_id: layout.thread_id,
        thread_frame: layout.thread_frame,
        cframe_frame: layout.cframe_frame,
        position_is_pointer: u32::from(layout.frame.position_is_pointer),
        code_instructions: layout.code.instructions,
        text_ascii: layout.text_ascii,
        text_compact: layout.text_compact,
        ..Interpreter::UNKNOWN
    });
    if layout.version >= 0x30c {
        found.shim_owner = OWNER_SHIM;
    }
    found
}

/// Where the groups of a description begin. Words; they move with each version.
struct Groups {
    version: u32,
    thread: usize,
    frame: usize,
    code: usize,
    thread_id: usize,
}

const GROUPS: &[Groups] = &[
    Groups { version: 0x30d, thread: 19, frame: 28, code: 34, thread_id: 5 },
    Groups { version: 0x30e, thread: 22, frame: 31, code: 39, thread_id: 5 },
];

fn from_description(version: u32, words: &[u64], runtime: u64) -> Result<Interpreter, String> {
    let named = format!("CPython {}.{}", version >> 8, version & 0xff);
    let groups = GROUPS
        .iter()
        .find(|groups| groups.version == version)
        .ok_or_else(|| format!("{named} is not known: names are read from 3.7 to 3.14"))?;
    if words.first() != Some(&COOKIE) || words.get(1).map(|word| (word >> 16) as u32) != Some(version) {
        return Err(format!("{named} does not describe itself as expected"));
    }
    if words.get(2) != Some(&0) {
        return Err(format!("{named} without a global lock (free-threaded) is not known"));
    }
    let word = |index: usize| {
        let value = words.get(index).copied().filter(|&value| value < 1 << 20);
        value.map(|value| value as u32).ok_or_else(|| format!("{named} does not describe itself as expected"))
    };
    let fields = Fields {
        frame_back: word(groups.frame + 1)?,
        frame_code: word(groups.frame + 2)?,
        frame_position: word(groups.frame + 3)?,
        frame_owner: word(groups.frame + 5)?,
        frame_entry: UNKNOWN,
        file: word(groups.code + 1)?,
        name: word(groups.code + 3)?,
        table: word(groups.code + 4)?,
        first_line: word(groups.code + 5)?,
    };
    let has_key = version == 0x30d;
    Ok(fields.pack(Interpreter {
        version,
        interpreters: runtime + u64::from(word(5)?),
        thread_key: if has_key { runtime + u64::from(THREAD_KEY_3_13) } else { 0 },
        interpreter_next: word(8)?,
        interpreter_threads: word(9)?,
        thread_next: word(groups.thread + 2)?,
        thread_frame: word(groups.thread + 4)?,
        thread_id: word(groups.thread + groups.thread_id)?,
        shim_owner: OWNER_SHIM,
        position_is_pointer: 1,
        code_instructions: word(groups.code + 9)?,
        text_ascii: 40,
        text_compact: 56,
        text_state_shift: if has_key { 0 } else { 14 },
        ..Interpreter::UNKNOWN
    }))
}

/// Offsets from the start of a frame and of a code object.
struct Fields {
    frame_code: u32,
    frame_back: u32,
    frame_position: u32,
    frame_owner: u32,
    frame_entry: u32,
    first_line: u32,
    file: u32,
    name: u32,
    table: u32,
}

impl Fields {
    /// The kernel side reads each object in one piece: from where, how much, and where in it the fields are.
    fn pack(&self, into: Interpreter) -> Interpreter {
        let frame_base = self.frame_code.min(self.frame_back).min(self.frame_position) & !7;
        let code_base = self.first_line.min(self.file).min(self.name).min(self.table) & !7;
        let relative = |offset: u32| if offset == UNKNOWN { UNKNOWN } else { offset - frame_base };
        let last = |offset: u32| if offset == UNKNOWN { 0 } else { offset + 1 };
        let frame_end = (self.frame_code.max(self.frame_back).max(self.frame_position) + 8)
            .max(last(self.frame_owner))
            .max(last(self.frame_entry));
        let code_end = self.first_line.max(self.file).max(self.name).max(self.table) + 8;
        Interpreter {
            frame_base,
            frame_len: frame_end - frame_base,
            frame_code: self.frame_code - frame_base,
            frame_back: self.frame_back - frame_base,
            frame_position: self.frame_position - frame_base,
            frame_owner: relative(self.frame_owner),
            frame_entry: relative(self.frame_entry),
            code_base,
            code_len: code_end - code_base,
            code_file: self.file - code_base,
            code_name: self.name - code_base,
            code_table: self.table - code_base,
            code_first_line: self.first_line - code_base,
            ..into
        }
    }
}

#[cfg(test)]
mod tests {
    use portchurn_common::stack::OBJECT_LEN;

    use super::{COOKIE, LAYOUTS, from_description, from_layout};

    #[test]
    fn every_layout_fits_what_the_kernel_side_reads_at_once() {
        for layout in LAYOUTS {
            let found = from_layout(layout, 0x1000);
            assert!((found.frame_len as usize) < OBJECT_LEN && (found.code_len as usize) < OBJECT_LEN);
            for word in
                [found.frame_code, found.frame_back, found.code_file, found.code_name, found.code_table]
            {
                assert_eq!(word % 8, 0, "version {:x}", layout.version);
            }
            assert_eq!(found.code_first_line % 4, 0);
        }
    }

    #[test]
    fn what_is_not_known_is_refused_politely() {
        assert!(from_description(0x306, &[], 0).unwrap_err().contains("3.6 is not known"));
        assert!(from_description(0x310, &[], 0).unwrap_err().contains("3.16"));
        let mut words = vec![0; 96];
        assert!(from_description(0x30d, &words, 0).is_err());
        (words[0], words[1]) = (COOKIE, 0x030d_00f0);
        assert!(from_description(0x30d, &words, 0).is_ok());
        words[2] = 1;
        assert!(from_description(0x30d, &words, 0).unwrap_err().contains("free-threaded"));
    }
}
