//! The files that a process runs, and what they say: from address to file and place in it.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use crate::symbolize::elf::{ElfCache, ElfFacts, FileId};
use crate::symbolize::held::{Files, Held, HeldFile};
use crate::symbolize::maps::Mapping;

/// One file with code in a process.
#[derive(Debug)]
pub struct Module {
    /// Path as the process sees it.
    pub path: String,
    /// The file itself.
    pub file: Arc<File>,
    /// Which.
    pub id: FileId,
    /// What it tells of itself.
    pub facts: Arc<ElfFacts>,
    /// Addresses in the process ÷ addresses in the file: their difference.
    pub bias: u64,
    /// All of its mappings.
    pub addresses: Range<u64>,
    /// Those with code: where, and which place in the file.
    pub code: Vec<(Range<u64>, u64)>,
}

impl Module {
    /// Where in the file an address of the process lies.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let (range, file_offset) = self.code.iter().find(|(range, _)| range.contains(&address))?;
        Some(file_offset + (address - range.start))
    }

    /// File name, without its directory.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// Everything that has code in a process.
#[derive(Debug, Default)]
pub struct Modules {
    /// Process.
    pub tgid: u32,
    /// Files, by address.
    pub list: Vec<Module>,
}

impl Modules {
    /// What the files of a process say.
    pub fn of(held: &Held, cache: &mut ElfCache) -> Self {
        let list = held.files.iter().filter_map(|file| module(held, file, cache)).collect();
        Self { tgid: held.tgid, list }
    }

    /// Only those that may have to do with an interpreter: its program, its libraries and libc. `None`: the process is
    /// gone, or may not be read.
    pub fn of_interpreter(tgid: u32, files: &mut Files, cache: &mut ElfCache) -> Option<Self> {
        let held = Held::some(tgid, files, |mapping| tells_of_interpreters(&mapping.path))?;
        Some(Self::of(&held, cache))
    }

    /// The file behind an address.
    pub fn find(&self, address: u64) -> Option<&Module> {
        self.list.iter().find(|module| module.code.iter().any(|(range, _)| range.contains(&address)))
    }
}

/// Parts of the names of files whose symbols are worth reading.
const TELLING: &[&str] = &["python", "libc.", "libc-", "libpthread", "ld-musl"];

fn tells_of_interpreters(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    TELLING.iter().any(|part| name.contains(part))
}

fn module(held: &Held, file: &HeldFile, cache: &mut ElfCache) -> Option<Module> {
    let mapping = &file.mapping;
    let symbols = mapping.inode() == held.program || tells_of_interpreters(&mapping.path);
    let facts = cache.facts(&file.file, symbols)?;
    let bias = facts.bias(mapping.addresses.start, mapping.file_offset)?;
    let of_file = || held.maps.iter().filter(|other| other.inode() == mapping.inode());
    let start = of_file().map(|m| m.addresses.start).min()?;
    let end = of_file().map(|m| m.addresses.end).max()?;
    let place = |m: &Mapping| (m.addresses.clone(), m.file_offset);
    Some(Module {
        path: mapping.path.clone(),
        id: file.id,
        file: Arc::clone(&file.file),
        facts,
        bias,
        addresses: start..end,
        code: of_file().filter(|m| m.executable).map(place).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::Modules;
    use crate::symbolize::elf::ElfCache;
    use crate::symbolize::held::{Files, Held, Place};

    #[test]
    fn our_own_code_is_found() {
        let here = our_own_code_is_found as *const () as u64;
        let at = Place { instruction: here, stack: 0 };
        let held = Held::by(std::process::id(), at, &mut Files::default(), None).unwrap();
        let modules = Modules::of(&held, &mut ElfCache::default());
        let module = modules.find(here).unwrap();
        let offset = module.file_offset(here).unwrap();
        assert_eq!(module.facts.address_of(offset), Some(here.wrapping_sub(module.bias)));
        assert!(modules.list.iter().any(|module| module.name().starts_with("libc")));
    }

    #[test]
    fn of_an_interpreter_there_is_no_more_than_it_takes() {
        let modules =
            Modules::of_interpreter(std::process::id(), &mut Files::default(), &mut ElfCache::default())
                .unwrap();
        assert!(modules.list.iter().any(|module| module.name().starts_with("libc")));
        assert!(!modules.list.iter().any(|module| module.name().starts_with("libgcc")));
    }
}
