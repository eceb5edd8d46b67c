//! The sections of a 64-bit ELF file of ours, from the System V ABI, chapter 4. Trusts the file.

/// Place of the table.
pub const TABLE_AT: usize = 0x28;
const ENTRY_SIZE: usize = 64;
const ENTRIES_AT: usize = 0x3c;
const NAMES_AT: usize = 0x3e;

/// A section.
#[derive(Debug)]
pub struct Section {
    /// Where its entry in the table is.
    pub entry: usize,
    /// Name.
    pub name: String,
    /// Whether it is part of the running program.
    pub is_loaded: bool,
    /// Whether it is code.
    pub is_code: bool,
    /// Where in the file.
    pub at: usize,
    /// Bytes.
    pub size: usize,
}

fn number(bytes: &[u8], at: usize, len: usize) -> usize {
    bytes[at..at + len].iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte))
}

/// All but the first, which is none.
pub fn sections(bytes: &[u8]) -> Vec<Section> {
    let table = number(bytes, TABLE_AT, 8);
    let entry = |index: usize| table + index * ENTRY_SIZE;
    let names = number(bytes, entry(number(bytes, NAMES_AT, 2)) + 24, 8);
    let section = |index: usize| {
        let entry = entry(index);
        let name = &bytes[names + number(bytes, entry, 4)..];
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        Section {
            entry,
            name: String::from_utf8_lossy(name).into_owned(),
            is_loaded: number(bytes, entry + 8, 8) & 2 != 0,
            is_code: number(bytes, entry + 8, 8) & 4 != 0,
            at: number(bytes, entry + 24, 8),
            size: number(bytes, entry + 32, 8),
        }
    };
    (1..number(bytes, ENTRIES_AT, 2)).map(section).collect()
}
