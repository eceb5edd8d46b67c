//! Compiled code: from registers and a copy of the stack to addresses (framehop), from addresses to names (blazesym, on
//! places in files that are kept open). What has no name gets its module and offset; no frame is dropped.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::os::fd::AsRawFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Sym, Symbolized, Symbolizer};
use framehop::{CacheNative, FrameAddress, MustNotAllocateDuringUnwind, Unwinder as _, UnwinderNative};

use crate::model::sample::{Frame, Language};
use crate::symbolize::Memory;
use crate::symbolize::elf::FileId;
use crate::symbolize::held::Held;
use crate::symbolize::modules::{Module, Modules};
use crate::symbolize::packed::Readable;
use crate::symbolize::record::RawStack;
use crate::symbolize::registers::Start;
use crate::symbolize::sections::Sections;

/// Frames beyond are cut off.
const FRAMES_MAX: usize = 256;
/// Sections of files are kept up to this much, then read again where they are needed. Bytes.
const SECTIONS_MAX: u64 = 8 << 20;
/// Debug information is read of files up to this size; of larger ones the symbols must do. Bytes.
const DEBUG_FILE_MAX: u64 = 256 << 20;
/// Files that are open for names at the same time: mapped, and with what was made of their debug information in memory,
/// which is about as much again. Bytes of the files.
const OPEN_MAX: u64 = 64 << 20;
/// A file that takes much when it is opened, so that what was made of small ones goes before. Bytes.
const LARGE: u64 = 8 << 20;
/// Names are kept, so that what they were made from is seldom needed again: it goes when it was not used for so long.
const REST: Duration = Duration::from_secs(1);
/// Files of which it is known what may be read of them.
const FILES_MAX: usize = 4096;

/// How an unwinding ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// At the outermost frame.
    Complete,
    /// Beyond the copy, which holds as much as is ever copied.
    Truncated,
    /// Beyond the copy, which ends where memory could not be read.
    Unreadable,
    /// In code that tells nothing of its frames.
    Lost,
}

/// The process whose stack was unwound last. A stack of values is bounded where nothing is allocated, and far deeper than
/// that of any compiler's expression; all else has the same bounds either way.
type Process = (
    Arc<Held>,
    UnwinderNative<Arc<[u8]>, MustNotAllocateDuringUnwind>,
    CacheNative<MustNotAllocateDuringUnwind>,
);

/// Unwinders by process, sections by file, and the symbolizer with its caches. Stays on its thread.
pub struct Native {
    memory: &'static dyn Memory,
    sections: HashMap<FileId, Sections>,
    sections_bytes: u64,
    process: Option<Process>,
    /// `None`: not needed at the moment.
    symbolizer: Option<Symbolizer>,
    /// What may be read of files; `None`: nothing.
    readable: HashMap<FileId, Option<Readable>>,
    /// Files that the symbolizer has read, and what they take. Bytes.
    opened: HashMap<FileId, u64>,
    used: Option<Instant>,
    names: HashMap<(FileId, u64), Arc<[Frame]>>,
}

impl Native {
    /// Nothing known.
    pub fn new(memory: &'static dyn Memory) -> Self {
        Self {
            memory,
            sections: HashMap::new(),
            sections_bytes: 0,
            process: None,
            symbolizer: None,
            readable: HashMap::new(),
            opened: HashMap::new(),
            used: None,
            names: HashMap::new(),
        }
    }

    /// Unwinds and names a stack. Innermost first.
    pub fn resolve(&mut self, stack: &RawStack, held: &Arc<Held>, modules: &Modules) -> (Vec<Frame>, End) {
        let (addresses, end) = guarded(|| self.unwind(stack, held, modules)).unwrap_or_else(|Panicked| {
            self.process = None;
            (vec![Start::of(&stack.registers).instruction_pointer], End::Lost)
        });
        // A return address is the one after the call.
        let call =
            |(index, &address): (usize, &u64)| if index == 0 { address } else { address.saturating_sub(1) };
        let places: Vec<_> = addresses.iter().enumerate().map(call).collect();
        let module = |place: u64| modules.find(place);
        // Large files first, while nothing else is open: that is when they take most.
        let mut order: Vec<_> = (0..places.len()).collect();
        order.sort_by_key(|&index| Reverse(module(places[index]).map(|module| module.id.size())));
        let mut names: Vec<Option<Arc<[Frame]>>> = vec![None; places.len()];
        for index in order {
            names[index] = module(places[index]).map(|module| self.name(module, places[index]));
        }
        let mut frames = Vec::new();
        for (address, named) in addresses.into_iter().zip(names) {
            match named {
                Some(named) => frames.extend(named.iter().cloned()),
                None => frames.push(unknown(address)),
            }
        }
        (frames, end)
    }

    fn unwind(&mut self, stack: &RawStack, held: &Arc<Held>, modules: &Modules) -> (Vec<u64>, End) {
        let Some((_, unwinder, cache)) = self.unwinder(held, modules) else { return (Vec::new(), End::Lost) };
        let Start { instruction_pointer, stack_pointer: base, registers } = Start::of(&stack.registers);
        let mut beyond = false;
        let mut read = |address: u64| {
            let at = address.checked_sub(base).and_then(|at| usize::try_from(at).ok()).ok_or(())?;
            let Some(bytes) = at.checked_add(8).and_then(|end| stack.stack.get(at..end)) else {
                beyond = true;
                return Err(());
            };
            Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| ())?))
        };
        let mut addresses = Vec::new();
        let mut frames = unwinder.iter_frames(instruction_pointer, registers, cache, &mut read);
        let end = loop {
            match frames.next() {
                Ok(Some(FrameAddress::InstructionPointer(address))) => addresses.push(address),
                Ok(Some(FrameAddress::ReturnAddress(address))) => addresses.push(address.get()),
                Ok(None) => break End::Complete,
                Err(err) => {
                    log::debug!(
                        "unwinding of process {} ended at {:x?}: {err}",
                        modules.tgid,
                        addresses.last()
                    );
                    break End::Lost;
                }
            }
            if addresses.len() >= FRAMES_MAX {
                break End::Truncated;
            }
        };
        let was_cut = stack.flags & portchurn_common::stack::stack_flag::STACK_TRUNCATED != 0;
        let end = match end {
            End::Lost if beyond && was_cut => End::Truncated,
            End::Lost if beyond => End::Unreadable,
            end => end,
        };
        (addresses, end)
    }

    fn unwinder(&mut self, held: &Arc<Held>, modules: &Modules) -> Option<&mut Process> {
        let is_current = self.process.as_ref().is_some_and(|(current, ..)| Arc::ptr_eq(current, held));
        if !is_current {
            let mut unwinder = UnwinderNative::new();
            for module in &modules.list {
                let info = self.sections_of(module).info();
                let range = module.addresses.clone();
                unwinder.add_module(framehop::Module::new(module.path.clone(), range, module.bias, info));
            }
            self.process = Some((Arc::clone(held), unwinder, CacheNative::new_in()));
        }
        self.process.as_mut()
    }

    fn sections_of(&mut self, module: &Module) -> &Sections {
        if self.sections_bytes > SECTIONS_MAX && !self.sections.contains_key(&module.id) {
            self.sections.clear();
            self.sections_bytes = 0;
        }
        let held = &mut self.sections_bytes;
        self.sections.entry(module.id).or_insert_with(|| {
            let sections = Sections::read(&module.file).unwrap_or_default();
            // A file costs something also when it has nothing.
            *held += sections.bytes() + 256;
            sections
        })
    }

    /// What may be read of a file; `None`: nothing.
    fn readable(&mut self, module: &Module) -> Option<Readable> {
        if self.readable.len() >= FILES_MAX {
            self.readable.clear();
        }
        let look = || Readable::of(&module.file, module.facts.build_id.as_deref());
        *self.readable.entry(module.id).or_insert_with(look)
    }

    /// The symbolizer, with room for one more file.
    fn symbolizer_for(&mut self, file: FileId, more: u64) -> &Symbolizer {
        if !self.opened.contains_key(&file) {
            let wanted = file.size().min(DEBUG_FILE_MAX) + more;
            let only_small = self.opened.values().all(|&bytes| bytes < LARGE);
            if self.opened.values().sum::<u64>() + wanted > OPEN_MAX || wanted >= LARGE && only_small {
                self.close();
            }
            self.opened.insert(file, wanted);
        }
        self.symbolizer.get_or_insert_with(|| {
            Symbolizer::builder().enable_code_info(true).enable_inlined_fns(true).build()
        })
    }

    fn close(&mut self) {
        self.symbolizer = None;
        self.opened.clear();
    }

    /// Lets go of what was not used for a while.
    pub fn rest(&mut self) {
        if self.symbolizer.is_some() && self.used.is_none_or(|used| used.elapsed() >= REST) {
            self.close();
            self.memory.give_back();
        }
    }

    /// The function at an address, and those that were inlined there. Innermost first.
    fn name(&mut self, module: &Module, address: u64) -> Arc<[Frame]> {
        let Some(offset) = module.file_offset(address) else { return Arc::from([unknown(address)]) };
        if let Some(known) = self.names.get(&(module.id, offset)) {
            return Arc::clone(known);
        }
        let frames: Arc<[Frame]> = match self.symbolize(module, offset) {
            Some(frames) => Arc::from(frames),
            None => Arc::from([nameless(module, offset)]),
        };
        self.used = Some(Instant::now());
        if self.names.len() > NAMES_MAX {
            self.names.clear();
        }
        self.names.insert((module.id, offset), Arc::clone(&frames));
        frames
    }

    fn symbolize(&mut self, module: &Module, offset: u64) -> Option<Vec<Frame>> {
        let readable = self.readable(module)?;
        let frames = self.read_names(module, offset, readable);
        self.memory.give_back_files();
        frames.unwrap_or_else(|Panicked| {
            // What it has left of the file is not to be relied on.
            self.readable.insert(module.id, None);
            self.close();
            None
        })
    }

    fn read_names(
        &mut self,
        module: &Module,
        offset: u64,
        readable: Readable,
    ) -> Result<Option<Vec<Frame>>, Panicked> {
        let memory = self.memory;
        let is_new = !self.opened.contains_key(&module.id);
        let symbolizer = self.symbolizer_for(module.id, readable.more);
        let name = |debug_syms: bool| {
            let mut elf = Elf::new(format!("/proc/self/fd/{}", module.file.as_raw_fd()));
            elf.debug_syms = debug_syms;
            let source = Source::Elf(elf);
            guarded(|| symbolizer.symbolize_single(&source, Input::FileOffset(offset)).ok())
        };
        let debug = readable.debug && module.id.size() <= DEBUG_FILE_MAX;
        let mut found = Ok(None);
        // All of a large file's debug information is looked through once, which takes half of it into our memory. What the
        // symbolizer has mapped for its symbols stays mapped until it is dropped.
        if is_new && module.id.size() >= LARGE && name(false)?.is_some() {
            memory.giving_back_files(&mut || found = name(debug));
        } else {
            found = name(debug);
        }
        Ok(match found? {
            Some(Symbolized::Sym(symbol)) => Some(frames_of(&symbol, module)),
            Some(Symbolized::Unknown(_)) | None => None,
        })
    }
}

/// A library panicked, on a file that whoever runs it may have written: that costs a name, not the thread.
struct Panicked;

fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}

/// Places in files whose names are kept.
const NAMES_MAX: usize = 16_384;

/// A file may hold names of any length, and whoever runs it may have written it. Bytes.
const NAME_MAX: usize = 1024;

fn cut(name: &str) -> Arc<str> {
    match name.floor_char_boundary(NAME_MAX) {
        end if end < name.len() => format!("{}…", &name[..end]).into(),
        _ => name.into(),
    }
}

fn frames_of(symbol: &Sym<'_>, module: &Module) -> Vec<Frame> {
    let place = |code: Option<&blazesym::symbolize::CodeInfo<'_>>| match code {
        Some(code) => (Some(code.to_path().to_string_lossy().into_owned()), code.line),
        None => (None, None),
    };
    let frame = |function: &str, (file, line): (Option<String>, Option<u32>)| Frame {
        function: cut(function),
        file: file.as_deref().map(cut),
        line,
        module: Some(module.path.as_str().into()),
        build_id: None,
        language: Language::Native,
    };
    let inlined =
        symbol.inlined.iter().rev().map(|inlined| frame(&inlined.name, place(inlined.code_info.as_ref())));
    let mut frames: Vec<_> = inlined.collect();
    frames.push(frame(&symbol.name, place(symbol.code_info.as_deref())));
    frames
}

/// `libfoo.so+0x1234` and which build of it: as much as a stripped file allows, and enough to find the name later.
fn nameless(module: &Module, offset: u64) -> Frame {
    let address = module.facts.address_of(offset).unwrap_or(offset);
    let function = format!("{}+{address:#x}", module.name());
    Frame { build_id: module.facts.build_id.clone(), ..Frame::native(function, Some(&module.path)) }
}

fn unknown(address: u64) -> Frame {
    Frame::native(format!("{address:#x}"), None)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::ops::Range;
    use std::sync::Arc;

    use object::{Object as _, ObjectSection as _};

    use super::{Native, guarded};
    use crate::model::sample::Frame;
    use crate::symbolize::Memory;
    use crate::symbolize::cfi::tests::{section, with_expression};
    use crate::symbolize::elf::{ElfCache, ElfFacts, FileId};
    use crate::symbolize::held::{Files, Held, Place};
    use crate::symbolize::modules::{Module, Modules};
    use crate::symbolize::packed::tests::{elf, zlib};
    use crate::symbolize::record::RawStack;

    struct Kept;

    impl Memory for Kept {
        fn give_back(&self) {}

        fn give_back_files(&self) {}

        fn giving_back_files(&self, work: &mut dyn FnMut()) {
            work();
        }
    }

    /// Mapped as if its code was at this place of the file and of memory.
    fn module(file: File, code: u64) -> Module {
        Module {
            path: "/hostile".to_owned(),
            id: FileId::of(&file).unwrap(),
            facts: Arc::new(ElfFacts::read(&file, false).unwrap()),
            file: Arc::new(file),
            bias: 0,
            addresses: code..code + 0x1000,
            code: vec![(code..code + 0x1000, code)],
        }
    }

    /// Of a process that is in a function of ours.
    fn stack_at(instruction: u64) -> RawStack {
        RawStack::of_own(instruction)
    }

    fn held() -> Arc<Held> {
        let at = Place { instruction: stack_at as *const () as u64, stack: 0 };
        Held::by(std::process::id(), at, &mut Files::default(), None).unwrap()
    }

    /// Copies of our own program, in which a section is said to be compressed.
    struct Copies {
        own: Vec<u8>,
        /// Where a function of ours is. Bytes.
        place: u64,
    }

    impl Copies {
        fn new() -> Self {
            let own = std::fs::read("/proc/self/exe").unwrap();
            let modules = Modules::of(&held(), &mut ElfCache::default());
            let here = stack_at as *const () as u64;
            Self { own, place: modules.find(here).unwrap().file_offset(here).unwrap() }
        }

        fn section(&self, name: &str) -> (usize, Range<usize>) {
            let elf = object::read::elf::ElfFile64::<object::Endianness>::parse(&*self.own).unwrap();
            let section = elf.section_by_name(name).unwrap();
            let table = u64::from_le_bytes(self.own[0x28..0x30].try_into().unwrap()) as usize;
            let (at, size) = section.file_range().unwrap();
            (table + section.index().0 * 64, at as usize..(at + size) as usize)
        }

        fn with(&self, name: &str, stated: u64, stream: &[u8]) -> Vec<u8> {
            let (entry, range) = self.section(name);
            // A compression header: zlib.
            let contents = [&[1u64, stated, 1].map(u64::to_le_bytes).concat(), stream].concat();
            assert!(contents.len() <= range.len());
            let mut copy = self.own.clone();
            // `SHF_COMPRESSED`; `sh_size`.
            copy[entry + 8..entry + 16].copy_from_slice(&0x800u64.to_le_bytes());
            copy[entry + 32..entry + 40].copy_from_slice(&(contents.len() as u64).to_le_bytes());
            copy[range.start..range.start + contents.len()].copy_from_slice(&contents);
            copy
        }

        /// The name of the function in a copy.
        fn name(&self, copy: &[u8]) -> Frame {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(copy).unwrap();
            let page = self.place & !0xfff;
            Native::new(&Kept).name(&module(file, page), self.place)[0].clone()
        }
    }

    #[test]
    fn a_file_that_says_it_unpacks_to_what_nobody_has_costs_its_names_only() {
        let copies = Copies::new();
        for stated in [1 << 46, u64::MAX] {
            let frame = copies.name(&copies.with(".debug_info", stated, &zlib(b"")));
            assert!(frame.function.starts_with("hostile+0x"), "{frame:?}");
        }
    }

    #[test]
    fn what_is_compressed_as_usual_is_named_as_if_it_was_not() {
        let copies = Copies::new();
        let honest = copies.name(&copies.own);
        assert!(honest.function.ends_with("stack_at") && honest.line.is_some(), "{honest:?}");
        let (_, range) = copies.section(".debug_abbrev");
        let contents = &copies.own[range];
        let packed = copies.with(".debug_abbrev", contents.len() as u64, &zlib(contents));
        assert_eq!(copies.name(&packed), honest);
    }

    #[test]
    fn a_panic_of_a_library_costs_what_was_asked_for_only() {
        assert!(guarded(|| panic!("as a library does")).is_err());
        assert!(guarded(|| 1).is_ok_and(|one| one == 1));
    }

    #[test]
    fn frames_whose_description_never_ends_are_unwound_without_it() {
        const CODE: u64 = 0x40_0000;
        let held = held();
        // `DW_OP_skip -3`; `DW_OP_lit0`, `DW_OP_skip -4`.
        for operations in [&[0x2f, 0xfd, 0xff][..], &[0x30, 0x2f, 0xfc, 0xff]] {
            let mut file = tempfile::tempfile().unwrap();
            // `DW_CFA_offset`: without a place for the return address nothing is evaluated.
            let frames = section(&[0x90, 1], &with_expression(operations));
            file.write_all(&elf(&[(".eh_frame", 2, &frames)])).unwrap();
            let modules = Modules { tgid: held.tgid, list: vec![module(file, CODE)] };
            let (frames, _) = Native::new(&Kept).resolve(&stack_at(CODE + 0x10), &held, &modules);
            assert_eq!(&*frames[0].function, "hostile+0x400010");
        }
    }
}
