//! The sections of a file that unwinding needs, read once per file, and only if they lead to an end.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use framehop::ExplicitModuleSectionInfo;
use gimli::BaseAddresses;
use object::read::elf::ElfFile64;
use object::{Endianness, Object as _, ObjectSection as _, ReadCache};

use crate::symbolize::cfi::{self, Usable};
use crate::symbolize::elf::Bounded;

/// The longest section that is read. Bytes.
const SECTION_MAX: u64 = 64 << 20;

/// Sections of a file that unwinding needs.
#[derive(Clone, Default)]
pub struct Sections {
    text: Option<Range<u64>>,
    got: Option<Range<u64>>,
    eh_frame: Option<(Range<u64>, Arc<[u8]>)>,
    eh_frame_hdr: Option<(Range<u64>, Arc<[u8]>)>,
    debug_frame: Option<Arc<[u8]>>,
}

impl Sections {
    /// Of a file. `None`: it is no 64-bit ELF.
    pub fn read(file: &File) -> Option<Self> {
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
        let mut this = Self {
            text: range(".text"),
            got: range(".got"),
            debug_frame: if eh_frame.is_none() { data(".debug_frame") } else { None },
            eh_frame,
            eh_frame_hdr: both(".eh_frame_hdr"),
        };
        this.leave_out_what_has_no_end();
        Some(this)
    }

    fn leave_out_what_has_no_end(&mut self) {
        let start = |range: Option<&Range<u64>>| range.map_or(0, |range| range.start);
        let at = |section: &Option<(Range<u64>, Arc<[u8]>)>| start(section.as_ref().map(|(range, _)| range));
        // As the unwinder has them, from what it is told here.
        let bases = BaseAddresses::default()
            .set_eh_frame(at(&self.eh_frame))
            .set_eh_frame_hdr(at(&self.eh_frame_hdr))
            .set_text(start(self.text.as_ref()))
            .set_got(start(self.got.as_ref()));
        if let Some((_, data)) = &self.eh_frame {
            let table = self.eh_frame_hdr.as_ref().map(|(_, table)| &**table);
            let usable = cfi::eh_frame(data, table, &bases);
            self.eh_frame_hdr.take_if(|_| usable != Usable::WithTable);
            self.eh_frame.take_if(|_| usable == Usable::No);
        }
        self.debug_frame.take_if(|data| !cfi::debug_frame(data));
    }

    /// What is held in memory. Bytes.
    pub fn bytes(&self) -> u64 {
        let both = [&self.eh_frame, &self.eh_frame_hdr].into_iter().flatten().map(|(_, data)| data.len());
        (both.sum::<usize>() + self.debug_frame.as_ref().map_or(0, |data| data.len())) as u64
    }

    /// As the unwinder takes them.
    pub fn info(&self) -> ExplicitModuleSectionInfo<Arc<[u8]>> {
        let split = |section: &Option<(Range<u64>, Arc<[u8]>)>| {
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
