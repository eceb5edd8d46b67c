//! What an executable or library tells of itself: read once per file, kept by its identity. Everything in it may be
//! broken or hostile: nothing is trusted but what was checked.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;

use object::read::elf::{Dyn as _, ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSegment as _, ObjectSymbol as _, ReadCache, ReadRef};

/// Which file: it keeps meaning the same one after it was replaced.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
}

impl FileId {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Of an open file.
    pub fn of(file: &File) -> Option<Self> {
        let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        })
    }
}

/// A loaded part of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment {
    /// Where in the file.
    pub file_offset: u64,
    /// How much of it is in the file. Bytes.
    pub file_size: u64,
    /// Address that the file states for it.
    pub address: u64,
}

/// What one file tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ElfFacts {
    /// What is loaded.
    pub segments: Vec<Segment>,
    /// Which build it is: `NT_GNU_BUILD_ID` in hexadecimal, or what Go's linker writes in its place.
    pub build_id: Option<Arc<str>>,
    /// Whether it needs any library.
    pub needs_libraries: bool,
    /// Whether one of them is CPython's.
    pub needs_python: bool,
    /// Address of `_PyRuntime`: CPython 3.7 or later is in here.
    pub python_runtime: Option<u64>,
    /// Address of `PyCode_Type`.
    pub python_code_type: Option<u64>,
    /// `Py_Version`, as 0x030b02f0 (3.11 and later).
    pub python_version: Option<u32>,
    /// The first bytes of `_PyRuntime`, where 3.13 and later describe themselves.
    pub python_debug_offsets: Vec<u64>,
    /// Offset of thread-specific data from the thread pointer, as glibc tells debuggers.
    pub thread_data_offset: Option<u32>,
}

/// Notes that are longer are not read. Bytes.
const NOTES_MAX: u64 = 64 << 10;
/// Longer ones are none: SHA-1 is usual, Go's are of 83 characters. Bytes.
const BUILD_ID_MAX: usize = 128;
/// Words of `_PyRuntime` that are read.
const DEBUG_WORDS: usize = 96;

impl ElfFacts {
    /// Reads a file. `None`: it is no 64-bit ELF. `symbols`: also what its symbols tell of an interpreter.
    pub fn read(file: &File, symbols: bool) -> Option<Self> {
        let cache = ReadCache::new(file);
        let data = Bounded::new(&cache);
        let elf = ElfFile64::<Endianness, _>::parse(data).ok()?;
        let mut facts = Self { build_id: build_id(&elf, data), ..Self::default() };
        facts.note_libraries(&elf, data);
        for segment in elf.segments() {
            let (file_offset, file_size) = segment.file_range();
            facts.segments.push(Segment { file_offset, file_size, address: segment.address() });
        }
        if !symbols {
            return Some(facts);
        }
        let mut version_at = None;
        let mut thread_data_at = None;
        for symbol in elf.dynamic_symbols().filter(object::ObjectSymbol::is_definition) {
            match symbol.name_bytes() {
                Ok(b"_PyRuntime") => facts.python_runtime = Some(symbol.address()),
                Ok(b"PyCode_Type") => facts.python_code_type = Some(symbol.address()),
                Ok(b"Py_Version") => version_at = Some(symbol.address()),
                Ok(b"_thread_db_pthread_specific") => thread_data_at = Some(symbol.address()),
                _ => {}
            }
        }
        // A descriptor of glibc's libthread_db: size in bits, count, offset.
        facts.thread_data_offset = thread_data_at.and_then(|at| facts.word(file, at + 8));
        facts.python_version = version_at.and_then(|at| facts.word(file, at));
        if let Some(at) = facts.python_runtime {
            facts.python_debug_offsets = facts.words(file, at);
        }
        Some(facts)
    }

    fn note_libraries<'data>(&mut self, elf: &Elf<'data>, data: Bounded<'data>) {
        let endian = elf.endian();
        let Ok(sections) = elf.elf_header().sections(endian, data) else { return };
        let Ok(Some((entries, strings))) = sections.dynamic(endian, data) else { return };
        let Ok(strings) = sections.strings(endian, data, strings) else { return };
        let is_needed = object::elf::DT_NEEDED.0;
        for entry in entries.iter().filter(|entry| entry.tag32(endian).map(i64::from) == Some(is_needed)) {
            self.needs_libraries = true;
            self.needs_python |=
                entry.string(endian, strings).is_ok_and(|name| name.starts_with(b"libpython"));
        }
    }

    fn word(&self, file: &File, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, self.file_offset(address)?).ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    fn words(&self, file: &File, address: u64) -> Vec<u64> {
        let mut bytes = [0; 8 * DEBUG_WORDS];
        let Some(at) = self.file_offset(address) else { return Vec::new() };
        if file.read_exact_at(&mut bytes, at).is_err() {
            return Vec::new();
        }
        bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap_or_default())).collect()
    }

    /// Where in the file an address of the file lies.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|s| address.wrapping_sub(s.address) < s.file_size)?;
        segment.file_offset.checked_add(address - segment.address)
    }

    /// The address that the file states for a place in it.
    pub fn address_of(&self, file_offset: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|s| file_offset.wrapping_sub(s.file_offset) < s.file_size)?;
        segment.address.checked_add(file_offset - segment.file_offset)
    }

    /// Difference between addresses in a process and in the file, from one mapping: its first address and its place in
    /// the file. Mappings begin at a page, segments need not.
    pub fn bias(&self, mapped_at: u64, file_offset: u64) -> Option<u64> {
        const PAGE: u64 = 4096;
        let page_of = |s: &&Segment| s.file_offset & !(PAGE - 1);
        // Two segments may share a page of the file: the one that begins with the mapping is meant.
        let begins_there = self.segments.iter().find(|s| page_of(s) == file_offset);
        let holds = |s: &&Segment| {
            file_offset >= page_of(s) && file_offset < s.file_offset.saturating_add(s.file_size)
        };
        let segment = begins_there.or_else(|| self.segments.iter().find(holds))?;
        let stated =
            (segment.address & !(PAGE - 1)).wrapping_add(file_offset - (segment.file_offset & !(PAGE - 1)));
        Some(mapped_at.wrapping_sub(stated))
    }
}

/// From the notes that are loaded, which a stripped file keeps.
fn build_id<'data>(elf: &Elf<'data>, data: Bounded<'data>) -> Option<Arc<str>> {
    let endian = elf.endian();
    let short = elf.elf_program_headers().iter().filter(|header| header.p_filesz(endian) <= NOTES_MAX);
    let mut go = None;
    for mut notes in short.filter_map(|header| header.notes(endian, data).ok().flatten()) {
        while let Ok(Some(note)) = notes.next() {
            let desc = note.desc();
            match (note.name(), note.n_type(endian)) {
                (object::elf::ELF_NOTE_GNU, object::elf::NT_GNU_BUILD_ID) if desc.len() <= BUILD_ID_MAX => {
                    let hex = |text: String, byte: &u8| text + &format!("{byte:02x}");
                    return Some(desc.iter().fold(String::new(), hex).into());
                }
                // As `go tool buildid` prints it.
                (object::elf::ELF_NOTE_GO, object::elf::NT_GO_BUILD_ID) if desc.len() <= BUILD_ID_MAX => {
                    go = std::str::from_utf8(desc)
                        .ok()
                        .filter(|id| id.bytes().all(|byte| byte.is_ascii_graphic()));
                }
                _ => {}
            }
        }
    }
    go.map(Arc::from)
}

type Elf<'data> = ElfFile64<'data, Endianness, Bounded<'data>>;

/// A file of which nothing large is read at once: what it says of its parts need not be true, and a file with holes is as long
/// as anybody likes.
#[derive(Clone, Copy, Debug)]
pub struct Bounded<'data>(&'data ReadCache<&'data File>);

/// The symbols of the largest programs are less. Bytes.
const PART_MAX: u64 = 128 << 20;

impl<'data> Bounded<'data> {
    /// Of this one.
    pub fn new(cache: &'data ReadCache<&'data File>) -> Self {
        Self(cache)
    }
}

impl<'data> ReadRef<'data> for Bounded<'data> {
    fn len(self) -> Result<u64, ()> {
        self.0.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'data [u8], ()> {
        if size <= PART_MAX { self.0.read_bytes_at(offset, size) } else { Err(()) }
    }

    fn read_bytes_at_until(self, range: std::ops::Range<u64>, delimiter: u8) -> Result<&'data [u8], ()> {
        self.0.read_bytes_at_until(range, delimiter)
    }
}

/// Facts by file, so that each is read once.
#[derive(Debug, Default)]
pub struct ElfCache {
    facts: HashMap<(FileId, bool), Option<Arc<ElfFacts>>>,
}

/// Files that are remembered.
const FILES_MAX: usize = 4096;

impl ElfCache {
    /// What a file tells; `None`: nothing.
    pub fn facts(&mut self, file: &File, symbols: bool) -> Option<Arc<ElfFacts>> {
        let id = FileId::of(file)?;
        if self.facts.len() >= FILES_MAX {
            self.facts.clear();
        }
        self.facts.entry((id, symbols)).or_insert_with(|| ElfFacts::read(file, symbols).map(Arc::new)).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use super::{ElfFacts, Segment};

    #[test]
    fn our_own_program_is_read() {
        let file = File::open("/proc/self/exe").unwrap();
        let facts = ElfFacts::read(&file, true).unwrap();
        assert!(!facts.segments.is_empty());
        assert!(facts.needs_libraries && !facts.needs_python, "{facts:?}");
        assert_eq!(facts.python_runtime, None);
    }

    #[test]
    fn nonsense_is_refused() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        for bytes in [&b""[..], b"\x7fELF", &own[..100], &[0xff; 4096]] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            let _ = ElfFacts::read(&file, true);
        }
    }

    #[test]
    fn a_file_with_holes_is_not_read_into_memory() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&own).unwrap();
        // `e_shoff`, `e_shnum`: no sections of its own, so the first says how many there are; all of it lies in a hole.
        let hole = own.len() as u64;
        file.set_len(64 << 30).unwrap();
        for (at, bytes) in
            [(40, &hole.to_le_bytes()[..]), (60, &[0, 0]), (hole + 32, &(1u64 << 28).to_le_bytes())]
        {
            file.write_all_at(bytes, at).unwrap();
        }
        assert_eq!(ElfFacts::read(&file, true), None);
    }

    #[test]
    fn a_bias_comes_from_any_mapping_of_a_segment() {
        let facts = ElfFacts {
            segments: vec![Segment { file_offset: 0x1234, file_size: 0x5000, address: 0x40_2234 }],
            ..ElfFacts::default()
        };
        assert_eq!(facts.bias(0x7f00_0000_1000, 0x1000), Some(0x7f00_0000_1000 - 0x40_2000));
        assert_eq!(facts.bias(0x7f00_0000_3000, 0x3000), Some(0x7f00_0000_3000 - 0x40_4000));
        assert_eq!(facts.bias(0x1000, 0x9000), None);
        let shared_page = ElfFacts {
            segments: vec![
                Segment { file_offset: 0, file_size: 0x158e8, address: 0 },
                Segment { file_offset: 0x158f0, file_size: 0x4_2000, address: 0x168f0 },
            ],
            ..ElfFacts::default()
        };
        assert_eq!(shared_page.bias(0x5500_0001_6000, 0x1_5000), Some(0x5500_0000_0000));
        assert_eq!(facts.file_offset(0x40_2334), Some(0x1334));
        assert_eq!(facts.address_of(0x1334), Some(0x40_2334));
    }
}
