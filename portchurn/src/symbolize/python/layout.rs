//! Where each version of CPython keeps its fields: up to 3.12 as the debug information of builds of each version has it,
//! from then on as the interpreter describes itself (`described`). What is not known is refused.

use portchurn_common::settings::UNKNOWN;
use portchurn_common::stack::{Interpreter, OBJECT_LEN};

use crate::symbolize::modules::Module;
use crate::symbolize::python::{described, version};

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
pub(super) const OWNER_SHIM: u32 = 3;

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
        None => described::interpreter(version, &facts.python_debug_offsets, runtime)?,
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

/// Offsets from the start of a frame and of a code object.
pub(super) struct Fields {
    pub(super) frame_code: u32,
    pub(super) frame_back: u32,
    pub(super) frame_position: u32,
    pub(super) frame_owner: u32,
    pub(super) frame_entry: u32,
    pub(super) first_line: u32,
    pub(super) file: u32,
    pub(super) name: u32,
    pub(super) table: u32,
}

impl Fields {
    /// The kernel side reads each object in one piece: from where, how much, and where in it the fields are.
    pub(super) fn pack(&self, into: Interpreter) -> Interpreter {
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

/// Whether the kernel side can read each object at once, and finds the fields where words lie.
pub(super) fn fits(found: &Interpreter) -> bool {
    let words = [found.frame_code, found.frame_back, found.code_file, found.code_name, found.code_table];
    let position = if found.position_is_pointer != 0 { 8 } else { 4 };
    (found.frame_len as usize) < OBJECT_LEN
        && (found.code_len as usize) < OBJECT_LEN
        && words.iter().all(|word| word.is_multiple_of(8))
        && found.frame_position.is_multiple_of(position)
        && found.code_first_line.is_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::{LAYOUTS, fits, from_layout};

    #[test]
    fn every_layout_fits_what_the_kernel_side_reads_at_once() {
        for layout in LAYOUTS {
            assert!(fits(&from_layout(layout, 0x1000)), "version {:x}", layout.version);
        }
    }
}
