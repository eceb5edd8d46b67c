//! Compiled code: from registers and a copy of the stack to addresses (framehop), from addresses to names (blazesym, on
//! places in files that are kept open). What has no name gets its module and offset; no frame is dropped.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Sym, Symbolized, Symbolizer};
use framehop::{
    CacheNative, ExplicitModuleSectionInfo, FrameAddress, MayAllocateDuringUnwind, Unwinder as _,
    UnwinderNative,
};
use object::read::elf::ElfFile64;
use object::{Endianness, Object as _, ObjectSection as _, ReadCache};

use crate::model::sample::{Frame, Language};
use crate::symbolize::Memory;
use crate::symbolize::elf::{Bounded, FileId};
use crate::symbolize::held::Held;
use crate::symbolize::modules::{Module, Modules};
use crate::symbolize::record::RawStack;
use crate::symbolize::registers::Start;

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
/// The longest section that is read. Bytes.
const SECTION_MAX: u64 = 64 << 20;

/// Sections of a file that unwinding needs.
#[derive(Clone, Default)]
struct Sections {
    text: Option<std::ops::Range<u64>>,
    got: Option<std::ops::Range<u64>>,
    eh_frame: Option<(std::ops::Range<u64>, Arc<[u8]>)>,
    eh_frame_hdr: Option<(std::ops::Range<u64>, Arc<[u8]>)>,
    debug_frame: Option<Arc<[u8]>>,
}

impl Sections {
    fn read(file: &File) -> Option<Self> {
        let cache = ReadCache::new(file);
        let elf = ElfFile64::<Endianness, _>::parse(Bounded::new(&cache)).ok()?;
        let range = |name: &str| {
            let section = elf.section_by_name(name)?;
            Some(section.address()..section.address().checked_add(section.size())?)
        };
        let data = |name: &str| -> Option<Arc<[u8]>> {
            let section = elf.section_by_name(name)?;
            // As long as it is when it is unpacked.
            let is_short = section.compressed_file_range().ok()?.uncompressed_size <= SECTION_MAX;
            is_short.then(|| section.uncompressed_data().ok()).flatten().map(|data| Arc::from(&*data))
        };
        let both = |name: &str| Some((range(name)?, data(name)?));
        let eh_frame = both(".eh_frame");
        Some(Self {
            text: range(".text"),
            got: range(".got"),
            debug_frame: if eh_frame.is_none() { data(".debug_frame") } else { None },
            eh_frame,
            eh_frame_hdr: both(".eh_frame_hdr"),
        })
    }

    /// What is held in memory. Bytes.
    fn bytes(&self) -> u64 {
        let both = [&self.eh_frame, &self.eh_frame_hdr].into_iter().flatten().map(|(_, data)| data.len());
        (both.sum::<usize>() + self.debug_frame.as_ref().map_or(0, |data| data.len())) as u64
    }

    fn info(&self) -> ExplicitModuleSectionInfo<Arc<[u8]>> {
        let split = |section: &Option<(std::ops::Range<u64>, Arc<[u8]>)>| {
            (
                section.as_ref().map(|(range, _)| range.clone()),
                section.as_ref().map(|(_, data)| Arc::clone(data)),
            )
        };
        let (eh_frame_svma, eh_frame) = split(&self.eh_frame);
        let (eh_frame_hdr_svma, eh_frame_hdr) = split(&self.eh_frame_hdr);
        ExplicitModuleSectionInfo {
            // Its bytes are for formats other than ELF.
            text_svma: self.text.clone(),
            got_svma: self.got.clone(),
            eh_frame_svma,
            eh_frame,
            eh_frame_hdr_svma,
            eh_frame_hdr,
            debug_frame: self.debug_frame.clone(),
            ..ExplicitModuleSectionInfo::default()
        }
    }
}

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

/// The process whose stack was unwound last.
type Process =
    (Arc<Held>, UnwinderNative<Arc<[u8]>, MayAllocateDuringUnwind>, CacheNative<MayAllocateDuringUnwind>);

/// Unwinders by process, sections by file, and the symbolizer with its caches. Stays on its thread.
pub struct Native {
    memory: &'static dyn Memory,
    sections: HashMap<FileId, Sections>,
    sections_bytes: u64,
    process: Option<Process>,
    /// `None`: not needed at the moment.
    symbolizer: Option<Symbolizer>,
    /// Files that the symbolizer has read.
    opened: HashSet<FileId>,
    opened_bytes: u64,
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
            opened: HashSet::new(),
            opened_bytes: 0,
            used: None,
            names: HashMap::new(),
        }
    }

    /// Unwinds and names a stack. Innermost first.
    pub fn resolve(&mut self, stack: &RawStack, held: &Arc<Held>, modules: &Modules) -> (Vec<Frame>, End) {
        let (addresses, end) = self.unwind(stack, held, modules);
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
            self.process = Some((Arc::clone(held), unwinder, CacheNative::new()));
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

    /// The symbolizer, with room for one more file.
    fn symbolizer_for(&mut self, file: FileId) -> &Symbolizer {
        if !self.opened.contains(&file) {
            let wanted = file.size().min(DEBUG_FILE_MAX);
            let only_small = self.opened.iter().all(|file| file.size() < LARGE);
            if self.opened_bytes + wanted > OPEN_MAX || file.size() >= LARGE && only_small {
                self.close();
            }
            self.opened.insert(file);
            self.opened_bytes += wanted;
        }
        self.symbolizer.get_or_insert_with(|| {
            Symbolizer::builder().enable_code_info(true).enable_inlined_fns(true).build()
        })
    }

    fn close(&mut self) {
        self.symbolizer = None;
        self.opened.clear();
        self.opened_bytes = 0;
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
        let memory = self.memory;
        let is_new = !self.opened.contains(&module.id);
        let symbolizer = self.symbolizer_for(module.id);
        let source = |debug_syms: bool| {
            let mut elf = Elf::new(format!("/proc/self/fd/{}", module.file.as_raw_fd()));
            elf.debug_syms = debug_syms;
            Source::Elf(elf)
        };
        let place = Input::FileOffset(offset);
        let with_lines = source(module.id.size() <= DEBUG_FILE_MAX);
        let mut found = None;
        // All of a large file's debug information is looked through once, which takes half of it into our memory. What the
        // symbolizer has mapped for its symbols stays mapped until it is dropped.
        if is_new && module.id.size() >= LARGE && symbolizer.symbolize_single(&source(false), place).is_ok() {
            memory.giving_back_files(&mut || found = symbolizer.symbolize_single(&with_lines, place).ok());
        } else {
            found = symbolizer.symbolize_single(&with_lines, place).ok();
        }
        let frames = match found? {
            Symbolized::Sym(symbol) => Some(frames_of(&symbol, module)),
            Symbolized::Unknown(_) => None,
        };
        memory.give_back_files();
        frames
    }
}

/// Places in files whose names are kept.
const NAMES_MAX: usize = 16_384;

/// A file may hold names of any length, and whoever runs it may have written it. Bytes.
const NAME_MAX: usize = 1024;

fn cut(name: &str) -> String {
    match name.floor_char_boundary(NAME_MAX) {
        end if end < name.len() => format!("{}…", &name[..end]),
        _ => name.to_owned(),
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
        module: Some(module.path.clone()),
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
