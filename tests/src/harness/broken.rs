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
];

/// Noise that is the same each time: a linear congruential generator.
fn noise(bytes: &mut [u8]) {
    let mut state = 1u64;
    for byte in bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
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
