//! Copies of an executable that still run but whose descriptions of themselves are broken.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::elf::{TABLE_AT, sections};

/// What is broken.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// The contents of every section whose name begins so.
    Sections(&'static str),
    /// Places and sizes in the table of sections.
    Table,
    /// Where the table of sections is.
    Header,
    /// Everything that is not loaded is missing.
    End,
    /// A section is said to be compressed, and to be as long as this when it is unpacked. Bytes.
    Unpacked(&'static str, u64),
    /// To find the frame of any function never ends.
    Loop,
}

/// One of each.
pub const PARTS: &[Part] = &[
    Part::Sections(".debug_"),
    Part::Sections(".eh_frame"),
    Part::Sections(".symtab"),
    Part::Sections(".strtab"),
    Part::Sections(".shstrtab"),
    Part::Sections(".note"),
    Part::Table,
    Part::Header,
    Part::End,
    Part::Unpacked(".debug_info", 1 << 46),
    Part::Unpacked(".debug_info", u64::MAX),
    Part::Loop,
];

/// `DW_CFA_def_cfa_expression` of `DW_OP_skip -3`.
const FOR_EVER: [u8; 5] = [0x0f, 3, 0x2f, 0xfd, 0xff];
/// Instructions of a function begin here, with pointers as compilers write them (LSB Core 5.0, 10.6.1.1.2). Bytes.
const INSTRUCTIONS_AT: usize = 17;
/// `SHF_COMPRESSED`.
const COMPRESSED: u64 = 1 << 11;
/// `ELFCOMPRESS_ZLIB`.
const ZLIB: u64 = 1;

/// Noise that is the same each time: a linear congruential generator.
fn noise(bytes: &mut [u8]) {
    let mut state = 1u64;
    for byte in bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
}

/// In place of what each function's entry says.
fn loop_for_ever(mut entries: &mut [u8]) {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
    while entries.len() > 8 && word(entries, 0) != 0 {
        let (entry, rest) = entries.split_at_mut(4 + word(entries, 0) as usize);
        if word(entry, 4) != 0 && entry.len() >= INSTRUCTIONS_AT + FOR_EVER.len() {
            entry[INSTRUCTIONS_AT..].fill(0);
            entry[INSTRUCTIONS_AT..INSTRUCTIONS_AT + FOR_EVER.len()].copy_from_slice(&FOR_EVER);
        }
        entries = rest;
    }
}

/// A copy beside the original.
pub fn broken(program: &Path, part: Part, name: &str) -> Result<PathBuf> {
    let mut bytes = std::fs::read(program).context("read a program")?;
    let sections = sections(&bytes);
    match part {
        Part::Sections(start) => {
            let mut found = sections.iter().filter(|section| section.name.starts_with(start)).peekable();
            ensure!(found.peek().is_some(), "no section {start} to break");
            found.for_each(|section| noise(&mut bytes[section.at..section.at + section.size]));
        }
        Part::Table => {
            sections.iter().for_each(|section| noise(&mut bytes[section.entry + 24..section.entry + 64]));
        }
        Part::Unpacked(name, size) => {
            let section = sections.iter().find(|section| section.name == name).context("no such section")?;
            let header = [ZLIB, size, 1].map(u64::to_le_bytes).concat();
            bytes[section.entry + 8..section.entry + 16].copy_from_slice(&COMPRESSED.to_le_bytes());
            bytes[section.at..section.at + header.len()].copy_from_slice(&header);
        }
        Part::Loop => {
            let section = sections.iter().find(|section| section.name == ".eh_frame").context("no frames")?;
            loop_for_ever(&mut bytes[section.at..section.at + section.size]);
        }
        Part::Header => bytes[TABLE_AT..TABLE_AT + 8].copy_from_slice(&(u64::MAX - 63).to_le_bytes()),
        Part::End => {
            let loaded = sections.iter().filter(|section| section.is_loaded);
            bytes.truncate(loaded.map(|section| section.at + section.size).max().context("a section")?);
        }
    }
    let path = program.with_file_name(name);
    std::fs::write(&path, bytes)?;
    std::fs::set_permissions(&path, std::fs::metadata(program)?.permissions())?;
    Ok(path)
}
