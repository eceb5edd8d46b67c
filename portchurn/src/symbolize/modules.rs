//! The files that a process runs, taken when a stack of it arrives: opened then, so that names can be found also when the
//! process is gone or a file was replaced.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::symbolize::elf::{ElfCache, ElfFacts, FileId};
use crate::symbolize::maps::{Mapping, parse};

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
    /// Of a process, as it is now. `None`: it is gone, or may not be read.
    pub fn of_process(tgid: u32, cache: &mut ElfCache) -> Option<Self> {
        Self::read(tgid, cache, |_| true)
    }

    /// Only those that may have to do with an interpreter: its program, its libraries and libc.
    pub fn of_interpreter(tgid: u32, cache: &mut ElfCache) -> Option<Self> {
        Self::read(tgid, cache, |mapping| tells_of_interpreters(&mapping.path))
    }

    fn read(tgid: u32, cache: &mut ElfCache, wanted: impl Fn(&Mapping) -> bool) -> Option<Self> {
        let root = PathBuf::from(format!("/proc/{tgid}"));
        let mut maps = parse(&std::fs::read(root.join("maps")).ok()?);
        if maps.is_empty() {
            return None;
        }
        // The program itself is mapped first, whatever it is called.
        let program =
            maps.iter().find(|mapping| mapping.inode != 0).map(|mapping| (mapping.device, mapping.inode));
        maps.retain(|mapping| Some((mapping.device, mapping.inode)) == program || wanted(mapping));
        Some(Self { tgid, list: modules(&root, &maps, program, cache) })
    }

    /// Whether the same files are mapped at the same addresses.
    pub fn is_same(&self, other: &Self) -> bool {
        self.list.len() == other.list.len()
            && self.list.iter().zip(&other.list).all(|(a, b)| a.id == b.id && a.code == b.code)
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

type Inode = ((u32, u32), u64);

fn modules(root: &Path, maps: &[Mapping], program: Option<Inode>, cache: &mut ElfCache) -> Vec<Module> {
    let inode = |mapping: &Mapping| (mapping.device, mapping.inode);
    let mut opened: Vec<(&Mapping, File)> = Vec::new();
    let mut done: Vec<Inode> = Vec::new();
    // All are opened before the first is read: the process may be gone by then.
    for mapping in maps.iter().filter(|mapping| mapping.executable && mapping.inode != 0) {
        if !done.contains(&inode(mapping)) {
            done.push(inode(mapping));
            opened.extend(open(root, mapping).map(|file| (mapping, file)));
        }
    }
    let module = |(mapping, file): (&Mapping, File)| {
        let of_file: Vec<_> = maps.iter().filter(|m| inode(m) == inode(mapping)).collect();
        let symbols = Some(inode(mapping)) == program || tells_of_interpreters(&mapping.path);
        module(file, mapping, &of_file, symbols, cache)
    };
    opened.into_iter().filter_map(module).collect()
}

fn open(root: &Path, mapping: &Mapping) -> Option<File> {
    // The links have no leading zeros. They work for deleted files and in other mount namespaces.
    let link = format!("map_files/{:x}-{:x}", mapping.addresses.start, mapping.addresses.end);
    let by_path = || File::open(root.join("root").join(mapping.path.trim_start_matches('/')));
    File::open(root.join(link)).or_else(|_| by_path()).ok()
}

fn module(
    file: File,
    mapping: &Mapping,
    of_file: &[&Mapping],
    symbols: bool,
    cache: &mut ElfCache,
) -> Option<Module> {
    let facts = cache.facts(&file, symbols)?;
    let bias = facts.bias(mapping.addresses.start, mapping.file_offset)?;
    let start = of_file.iter().map(|m| m.addresses.start).min()?;
    let end = of_file.iter().map(|m| m.addresses.end).max()?;
    let id = FileId::of(&file)?;
    Some(Module {
        path: mapping.path.clone(),
        id,
        file: cache.shared(id, file),
        facts,
        bias,
        addresses: start..end,
        code: of_file.iter().filter(|m| m.executable).map(|m| (m.addresses.clone(), m.file_offset)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::Modules;
    use crate::symbolize::elf::ElfCache;

    #[test]
    fn our_own_code_is_found() {
        let modules = Modules::of_process(std::process::id(), &mut ElfCache::default()).unwrap();
        let here = our_own_code_is_found as *const () as u64;
        let module = modules.find(here).unwrap();
        let offset = module.file_offset(here).unwrap();
        assert_eq!(module.facts.address_of(offset), Some(here.wrapping_sub(module.bias)));
        assert!(modules.list.iter().any(|module| module.name().starts_with("libc")));
    }

    #[test]
    fn a_process_that_is_gone_has_none() {
        assert!(Modules::of_process(u32::MAX - 1, &mut ElfCache::default()).is_none());
    }
}
