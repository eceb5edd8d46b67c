//! Ring buffer records of stacks → what they say. Lengths are checked before anything is read; a record may end where its
//! fixed part ends.

use std::sync::Arc;

use portchurn_common::settings::Registers;
use portchurn_common::stack::{
    At, CODE_FILE_LEN, CODE_NAME_LEN, CodeFrame, CodeRecord, FRAMES_MAX, REGISTERS_MAX, SiteKey, StackRecord,
    StackRecordKind, TextRef, WalkEnd,
};

use crate::symbolize::held::Place;

/// One stack.
#[derive(Clone, Debug)]
pub struct RawStack {
    /// Process whose stack it is.
    pub tgid: u32,
    /// Its start. Nanoseconds since boot.
    pub start_ns: u64,
    /// At which moment of a connection.
    pub at: At,
    /// The site.
    pub site: SiteKey,
    /// The interpreter that was walked.
    pub image: u64,
    /// How the walk ended.
    pub walk_end: WalkEnd,
    /// The `stack_flag::*` bits.
    pub flags: u32,
    /// Registers of the user side.
    pub registers: [u64; REGISTERS_MAX],
    /// Interpreter frames, innermost first.
    pub frames: Vec<CodeFrame>,
    /// User stack, from the stack pointer upwards.
    pub stack: Vec<u8>,
}

impl RawStack {
    /// Where the thread was.
    pub fn place(&self) -> Place {
        let register = |offset: u32| self.registers.get(offset as usize / 8).copied().unwrap_or(0);
        let known = Registers::OF_THIS_MACHINE;
        Place { instruction: register(known.instruction_pointer), stack: register(known.stack_pointer) }
    }
}

#[cfg(test)]
impl RawStack {
    /// Of this process, in the middle of this function.
    pub fn of_own(instruction: u64) -> Self {
        let mut registers = [0; REGISTERS_MAX];
        registers[Registers::OF_THIS_MACHINE.instruction_pointer as usize / 8] = instruction;
        Self {
            tgid: std::process::id(),
            start_ns: 1,
            at: At::Open,
            site: SiteKey::default(),
            image: 0,
            walk_end: WalkEnd::NoInterpreter,
            flags: 0,
            registers,
            frames: Vec::new(),
            stack: vec![0; 256],
        }
    }
}

/// One code object.
#[derive(Clone, Debug)]
pub struct RawCode {
    /// Version of the interpreter.
    pub version: u32,
    /// Process image.
    pub image: u64,
    /// Address.
    pub code: u64,
    /// Tells it from others that had the same address.
    pub check: u32,
    /// First line of the function.
    pub first_line: u32,
    /// Source file.
    pub file: Arc<str>,
    /// Function.
    pub name: Arc<str>,
    /// Line table.
    pub table: Vec<u8>,
    /// Whether the table was longer than what was sent.
    pub table_is_cut: bool,
}

/// One record.
#[derive(Clone, Debug)]
pub enum Raw {
    /// A stack.
    Stack(Box<RawStack>),
    /// A code object.
    Code(Box<RawCode>),
}

/// Reads a record; `None` when it is none of these or cut off.
pub fn decode(bytes: &[u8]) -> Option<Raw> {
    let kind = word(bytes, 0)?;
    if kind == StackRecordKind::Stack as u32 {
        return stack(bytes).map(|stack| Raw::Stack(Box::new(stack)));
    }
    if kind == StackRecordKind::Code as u32 {
        return code(bytes).map(|code| Raw::Code(Box::new(code)));
    }
    None
}

macro_rules! at {
    ($record:ident . $($field:tt)+) => { core::mem::offset_of!($record, $($field)+) };
}

fn stack(bytes: &[u8]) -> Option<RawStack> {
    let fixed = at!(StackRecord.stack);
    let site = at!(StackRecord.site);
    let stack_len = word(bytes, at!(StackRecord.stack_len))? as usize;
    let frames_len = (word(bytes, at!(StackRecord.frames_len))? as usize).min(FRAMES_MAX);
    let mut registers = [0; REGISTERS_MAX];
    for (index, register) in registers.iter_mut().enumerate() {
        *register = long(bytes, at!(StackRecord.registers) + 8 * index)?;
    }
    let frames = (0..frames_len)
        .map(|index| {
            let at = at!(StackRecord.frames) + index * size_of::<CodeFrame>();
            Some(CodeFrame {
                code: long(bytes, at)?,
                position: word(bytes, at + 8)?.cast_signed(),
                check: word(bytes, at + 12)?,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    let key = SiteKey {
        key_ref: portchurn_common::flow::KeyRef(long(bytes, site)?),
        stack: long(bytes, site + 8)?,
        at: word(bytes, site + 16)?,
        counted: word(bytes, site + 20)?,
    };
    Some(RawStack {
        tgid: word(bytes, at!(StackRecord.tgid))?,
        start_ns: long(bytes, at!(StackRecord.start_ns))?,
        at: At::from_raw(key.at)?,
        site: key,
        image: long(bytes, at!(StackRecord.image))?,
        walk_end: WalkEnd::from_raw(word(bytes, at!(StackRecord.walk_end))?),
        flags: word(bytes, at!(StackRecord.flags))?,
        registers,
        frames,
        stack: bytes.get(fixed..fixed.checked_add(stack_len)?)?.to_vec(),
    })
}

fn code(bytes: &[u8]) -> Option<RawCode> {
    let table_at = at!(CodeRecord.table);
    let table_len = word(bytes, at!(CodeRecord.table_len))? as usize;
    Some(RawCode {
        version: word(bytes, at!(CodeRecord.version))?,
        image: long(bytes, at!(CodeRecord.image))?,
        code: long(bytes, at!(CodeRecord.code))?,
        check: word(bytes, at!(CodeRecord.check))?,
        first_line: word(bytes, at!(CodeRecord.first_line))?,
        file: text(bytes, at!(CodeRecord.file_text), at!(CodeRecord.file), CODE_FILE_LEN)?.into(),
        name: text(bytes, at!(CodeRecord.name_text), at!(CodeRecord.name), CODE_NAME_LEN)?.into(),
        table: bytes.get(table_at..table_at.checked_add(table_len)?)?.to_vec(),
        table_is_cut: word(bytes, at!(CodeRecord.table_total))? as usize > table_len,
    })
}

/// Text in the interpreter's own widths. Control characters are shown, never sent to a terminal.
fn text(bytes: &[u8], reference: usize, at: usize, room: usize) -> Option<String> {
    let half = |offset: usize| {
        Some(usize::from(u16::from_le_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?)))
    };
    let len = half(reference + at!(TextRef.len))?.min(room);
    let width = half(reference + at!(TextRef.width))?;
    let text = bytes.get(at..at + len)?;
    let chars: String = match width {
        2 => char::decode_utf16(text.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])))
            .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect(),
        4 => text
            .chunks_exact(4)
            .map(|c| {
                char::from_u32(u32::from_le_bytes([c[0], c[1], c[2], c[3]]))
                    .unwrap_or(char::REPLACEMENT_CHARACTER)
            })
            .collect(),
        _ => text.iter().map(|&byte| char::from(byte)).collect(),
    };
    Some(chars)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use portchurn_common::stack::{CodeRecord, StackRecord};

    use super::{Raw, decode};

    fn put(bytes: &mut [u8], at: usize, value: u32) {
        bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    #[test]
    fn a_stack_has_what_its_lengths_say_and_no_more() {
        let mut bytes = vec![0; core::mem::offset_of!(StackRecord, stack) + 16];
        put(&mut bytes, 0, 1);
        put(&mut bytes, at!(StackRecord.site) + 16, 2);
        put(&mut bytes, at!(StackRecord.stack_len), 16);
        put(&mut bytes, at!(StackRecord.frames_len), 99_999);
        let Some(Raw::Stack(stack)) = decode(&bytes) else { panic!("no stack") };
        assert_eq!((stack.stack.len(), stack.frames.len(), stack.at.name()), (16, 128, "close"));
        put(&mut bytes, at!(StackRecord.stack_len), 17);
        assert!(decode(&bytes).is_none(), "cut off");
        assert!(decode(&bytes[..50]).is_none());
    }

    #[test]
    fn text_of_every_width_is_read() {
        let mut bytes = vec![0; core::mem::offset_of!(CodeRecord, table)];
        put(&mut bytes, 0, 2);
        put(&mut bytes, at!(CodeRecord.file_text), 2 | 1 << 16);
        bytes[at!(CodeRecord.file)..][..2].copy_from_slice(&[b'a', 0xe9]);
        put(&mut bytes, at!(CodeRecord.name_text), 4 | 2 << 16);
        bytes[at!(CodeRecord.name)..][..4].copy_from_slice(&[0xfd, 0x51, 0x70, 0x65]);
        let Some(Raw::Code(code)) = decode(&bytes) else { panic!("no code") };
        assert_eq!((&*code.file, &*code.name), ("aé", "函数"));
    }
}
