//! Whether unwinding with a file's call frame information comes to an end. The library that unwinds evaluates the expressions
//! in it without counting steps, and whoever runs a program may have written its file. Looks at exactly those entries that
//! the library can come to; what does not parse here does not parse there.

use std::collections::HashSet;

use gimli::{
    BaseAddresses, CallFrameInstruction, CallFrameInstructionIter, CieOrFde, DebugFrame, EhFrame, EhFrameHdr,
    Encoding, EndianSlice, Expression, LittleEndian, Operation, UnwindSection,
};

type Bytes<'data> = EndianSlice<'data, LittleEndian>;

/// An entry that others refer to: it is read for each of them. Those of compilers are of 20 to 40. Bytes.
const COMMON_MAX: usize = 1 << 10;
/// An entry of one function: it is read for each frame in it. Bytes.
const ENTRY_MAX: usize = 256 << 10;
/// The only form of the table for look-ups that linkers write: `DW_EH_PE_datarel | DW_EH_PE_sdata4` (LSB Core 5.0, 10.6.2).
const TABLE_FORM: u8 = 0x3b;

/// What of `.eh_frame` may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Usable {
    /// Nothing.
    No,
    /// All of it, but the table for look-ups leads astray.
    WithoutTable,
    /// That, too.
    WithTable,
}

/// Of `.eh_frame`, and of `.eh_frame_hdr` where there is one.
pub fn eh_frame(data: &[u8], table: Option<&[u8]>, bases: &BaseAddresses) -> Usable {
    let mut section = EhFrame::new(data, LittleEndian);
    section.set_address_size(8);
    match table.and_then(|table| of_table(table, bases)) {
        Some(offsets) if ends(&section, data, bases, &offsets) => Usable::WithTable,
        Some(_) => Usable::No,
        None if ends(&section, data, bases, &of_walk(&section, bases)) => Usable::WithoutTable,
        None => Usable::No,
    }
}

/// Whether `.debug_frame` may be used.
pub fn debug_frame(data: &[u8]) -> bool {
    let bases = BaseAddresses::default();
    let mut section = DebugFrame::new(data, LittleEndian);
    section.set_address_size(8);
    ends(&section, data, &bases, &of_walk(&section, &bases))
}

/// The entries that the table leads to. They need not be those that follow on each other.
fn of_table(table: &[u8], bases: &BaseAddresses) -> Option<Vec<u32>> {
    if table.get(3) != Some(&TABLE_FORM) {
        return None;
    }
    let header = EhFrameHdr::new(table, LittleEndian).parse(bases, 8).ok()?;
    let start = header.eh_frame_ptr().direct().ok()?;
    let table = header.table()?;
    let mut entries = table.iter(bases);
    let mut offsets = Vec::new();
    while let Some((_, at)) = entries.next().ok()? {
        offsets.push(u32::try_from(at.direct().ok()?.checked_sub(start)?).ok()?);
    }
    offsets.sort_unstable();
    offsets.dedup();
    Some(offsets)
}

/// The entries that follow on each other.
fn of_walk<'data, S: UnwindSection<Bytes<'data>>>(section: &S, bases: &BaseAddresses) -> Vec<u32> {
    let mut entries = section.entries(bases);
    let mut offsets = Vec::new();
    while let Ok(Some(entry)) = entries.next() {
        if let CieOrFde::Fde(entry) = entry
            && let Ok(offset) = u32::try_from(entry.offset())
        {
            offsets.push(offset);
        }
    }
    offsets
}

fn ends<'data, S: UnwindSection<Bytes<'data>>>(
    section: &S,
    data: &[u8],
    bases: &BaseAddresses,
    offsets: &[u32],
) -> bool {
    let left = data.len().saturating_mul(2);
    let mut check = Check { section, data, bases, left, common: HashSet::new() };
    offsets.iter().all(|&offset| check.entry(offset as usize).is_some())
}

struct Check<'a, S> {
    section: &'a S,
    data: &'a [u8],
    bases: &'a BaseAddresses,
    /// What may be read still: entries that do not overlap are no longer than the section. Bytes.
    left: usize,
    /// Those that were looked at.
    common: HashSet<usize>,
}

impl<'data, S: UnwindSection<Bytes<'data>>> Check<'_, S> {
    /// `None`: there may be no end to it.
    fn entry(&mut self, offset: usize) -> Option<()> {
        let Ok(entry) = self.section.partial_fde_from_offset(self.bases, offset.into()) else {
            return Some(());
        };
        self.pay(entry.entry_len(), ENTRY_MAX)?;
        let at: usize = gimli::UnwindOffset::into(entry.cie_offset());
        // Its length comes first, and is looked at before anything that takes as long as it is.
        let length = self.data.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))?;
        if length as usize > COMMON_MAX {
            return None;
        }
        let Ok(entry) = entry.parse(S::cie_from_offset) else { return Some(()) };
        let common = entry.cie();
        let encoding = common.encoding();
        if self.common.insert(at) {
            self.pay(common.entry_len(), COMMON_MAX)?;
            self.instructions(common.instructions(self.section, self.bases), encoding)?;
        }
        self.instructions(entry.instructions(self.section, self.bases), encoding)
    }

    fn pay(&mut self, bytes: usize, max: usize) -> Option<()> {
        self.left = self.left.checked_sub(bytes)?;
        (bytes <= max).then_some(())
    }

    fn instructions(
        &self,
        mut instructions: CallFrameInstructionIter<'_, Bytes<'data>>,
        encoding: Encoding,
    ) -> Option<()> {
        while let Ok(Some(instruction)) = instructions.next() {
            if let CallFrameInstruction::DefCfaExpression { expression }
            | CallFrameInstruction::Expression { expression, .. }
            | CallFrameInstruction::ValExpression { expression, .. } = instruction
                && let Ok(expression) = expression.get(self.section)
            {
                goes_forward(&expression, encoding).then_some(())?;
            }
        }
        Some(())
    }
}

/// Whether every jump goes forward, and to where an operation begins: inside of another one there may be one that goes back.
fn goes_forward(expression: &Expression<Bytes<'_>>, encoding: Encoding) -> bool {
    let mut operations = expression.operations(encoding);
    let (mut starts, mut targets) = (Vec::new(), Vec::new());
    loop {
        starts.push(operations.offset_from(expression));
        match operations.next() {
            Ok(Some(Operation::Skip { target } | Operation::Bra { target })) => {
                let Ok(forward) = usize::try_from(target) else { return false };
                targets.push(operations.offset_from(expression) + forward);
            }
            Ok(Some(_)) => {}
            Ok(None) => return targets.iter().all(|target| starts.binary_search(target).is_ok()),
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
pub(in crate::symbolize) mod tests {
    use std::time::Instant;

    use gimli::BaseAddresses;
    use object::{Object as _, ObjectSection as _};

    use super::{Usable, debug_frame, eh_frame};

    /// Where the sections lie.
    const FRAME_AT: u64 = 0x2000;
    const TABLE_AT: u64 = 0x1000;

    fn bases() -> BaseAddresses {
        BaseAddresses::default().set_eh_frame(FRAME_AT).set_eh_frame_hdr(TABLE_AT)
    }

    /// `DW_CFA_def_cfa_expression`
    pub(in crate::symbolize) fn with_expression(operations: &[u8]) -> Vec<u8> {
        [&[0x0f, operations.len() as u8], operations].concat()
    }

    fn entry(id: u32, rest: &[u8]) -> Vec<u8> {
        let mut rest = rest.to_vec();
        rest.resize(rest.len().next_multiple_of(4), 0);
        [&(rest.len() as u32 + 4).to_le_bytes()[..], &id.to_le_bytes(), &rest].concat()
    }

    /// Version 1, augmentation, alignment of code 1 and of data -8, return address in 16.
    fn common(augmentation: &str, instructions: &[u8]) -> Vec<u8> {
        let head = [&[1][..], augmentation.as_bytes(), &[0, 1, 0x78, 16]].concat();
        entry(0, &[&head, instructions].concat())
    }

    /// Of 0x100 bytes of code. `back`: from its identifier to the common entry.
    fn function(back: usize, instructions: &[u8]) -> Vec<u8> {
        let code = [0x40_0000u64.to_le_bytes(), 0x100u64.to_le_bytes()].concat();
        entry(back as u32, &[&code, instructions].concat())
    }

    /// A common entry and one of a function, at 0x400000.
    pub(in crate::symbolize) fn section(of_common: &[u8], of_function: &[u8]) -> Vec<u8> {
        let common = common("", of_common);
        [&common[..], &function(common.len() + 4, of_function)].concat()
    }

    /// With these places of entries.
    fn table(form: u8, offsets: &[usize]) -> Vec<u8> {
        let mut bytes = vec![1, 0x1b, 0x03, form];
        bytes.extend(((FRAME_AT - TABLE_AT - 4) as u32).to_le_bytes());
        bytes.extend((offsets.len() as u32).to_le_bytes());
        for offset in offsets {
            bytes.extend(0x40_0000u32.to_le_bytes());
            bytes.extend((FRAME_AT as u32 + *offset as u32 - TABLE_AT as u32).to_le_bytes());
        }
        bytes
    }

    #[test]
    fn an_expression_that_jumps_back_is_refused_wherever_it_stands() {
        // `DW_OP_skip -3`; `DW_OP_lit0`, `DW_OP_skip -4`; `DW_OP_lit1`, `DW_OP_bra -4`; one inside of a `DW_OP_const8u`.
        let hidden = [0x2f, 1, 0, 0x0e, 0x2f, 0xfd, 0xff, 0, 0, 0, 0, 0];
        let hostile: &[&[u8]] =
            &[&[0x2f, 0xfd, 0xff], &[0x30, 0x2f, 0xfc, 0xff], &[0x31, 0x28, 0xfc, 0xff], &hidden];
        for operations in hostile {
            let cfa = with_expression(operations);
            // `DW_CFA_expression`, `DW_CFA_val_expression`: of register 6.
            let length = operations.len() as u8;
            let saved = [&[0x10, 6, length], *operations].concat();
            let value = [&[0x16, 6, length], *operations].concat();
            for program in [cfa, saved, value] {
                for (of_common, of_function) in [(&program[..], &[][..]), (&[], &program)] {
                    let data = section(of_common, of_function);
                    assert_eq!(eh_frame(&data, None, &bases()), Usable::No, "{operations:x?}");
                    let table = table(0x3b, &[common("", of_common).len()]);
                    assert_eq!(eh_frame(&data, Some(&table), &bases()), Usable::No, "{operations:x?}");
                }
            }
        }
        // `DW_OP_breg7`, then a jump, and its operand is cut off.
        let malformed = section(&[], &with_expression(&[0x77, 8, 0x2f, 0]));
        assert_eq!(eh_frame(&malformed, None, &bases()), Usable::No);
    }

    #[test]
    fn what_compilers_and_linkers_write_is_used() {
        // Of a table for calls into libraries: `rsp + 8 + (((rip & 15) >= 11) << 3)`; and of a stack that was aligned anew.
        let linkage = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
        // Written by hand in older C libraries: a jump over what follows.
        let forward = [0x30, 0x28, 1, 0, 0x96, 0x77, 8];
        for operations in [&linkage[..], &[0x76, 0x78, 0x06], &forward] {
            let data = section(&[], &with_expression(operations));
            let offset = common("", &[]).len();
            assert_eq!(eh_frame(&data, Some(&table(0x3b, &[offset])), &bases()), Usable::WithTable);
            assert_eq!(eh_frame(&data, None, &bases()), Usable::WithoutTable);
            // A form in which two ways of reading the table differ.
            assert_eq!(eh_frame(&data, Some(&table(0x50, &[offset])), &bases()), Usable::WithoutTable);
        }
        assert_eq!(eh_frame(&[], None, &bases()), Usable::WithoutTable);
    }

    #[test]
    fn a_table_may_lead_into_the_middle_of_an_entry() {
        let common = common("", &[]);
        // All of an entry is the operand of a `DW_OP_implicit_value` of another.
        let around = |inside: &[u8]| {
            let length = inside.len() as u8;
            function(common.len() + 4, &[&[0x0f, length + 2, 0x9e, length], inside].concat())
        };
        let begins =
            |data: &[u8], inside: &[u8]| data.windows(inside.len()).position(|window| window == inside);
        let hostile = |back| function(back, &with_expression(&[0x2f, 0xfd, 0xff]));
        let at_inside = common.len() + begins(&around(&hostile(1)), &hostile(1)).unwrap();
        let data = [&common[..], &around(&hostile(at_inside + 4))].concat();
        assert_eq!(eh_frame(&data, None, &bases()), Usable::WithoutTable);
        assert_eq!(eh_frame(&data, Some(&table(0x3b, &[common.len()])), &bases()), Usable::WithTable);
        assert_eq!(eh_frame(&data, Some(&table(0x3b, &[common.len(), at_inside])), &bases()), Usable::No);
    }

    #[test]
    fn what_takes_long_to_read_again_and_again_is_refused() {
        let long = common(&format!("z{}", "S".repeat(2000)), &[0; 4]);
        let data = [&long[..], &function(long.len() + 4, &[])].concat();
        assert_eq!(eh_frame(&data, None, &bases()), Usable::No);
        let data = section(&[], &vec![0; super::ENTRY_MAX]);
        assert_eq!(eh_frame(&data, None, &bases()), Usable::No);
        // Entries that lie in each other: each is as long as what is left.
        let common = common("", &[]);
        let mut data = common.clone();
        let mut offsets = Vec::new();
        for index in 0..1000usize {
            offsets.push(data.len());
            let mut entry = function(data.len() + 4, &[]);
            entry[..4].copy_from_slice(&((1000 - index) as u32 * 24 - 4).to_le_bytes());
            data.extend(entry);
        }
        assert_eq!(eh_frame(&data, Some(&table(0x3b, &offsets)), &bases()), Usable::No);
    }

    #[test]
    fn debug_frame_is_looked_at_too() {
        let section = |operations: &[u8]| {
            let mut common = common("", &[]);
            common[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
            [&common[..], &function(0, &with_expression(operations))].concat()
        };
        assert!(debug_frame(&section(&[0x76, 0x78, 0x06])));
        assert!(!debug_frame(&section(&[0x2f, 0xfd, 0xff])));
    }

    #[test]
    fn noise_does_no_harm() {
        let mut state = 1u64;
        for len in 0..2000 {
            let byte = |_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            };
            let noise: Vec<u8> = (0..len).map(byte).collect();
            let _ = eh_frame(&noise, Some(&noise), &bases());
            let _ = debug_frame(&noise);
        }
    }

    /// By hand: `FILES="$(find /usr/lib -name '*.so*')" cargo test -p portchurn --lib every_file -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures files that are named in FILES"]
    #[expect(clippy::print_stderr, reason = "for people")]
    fn every_file() {
        let files = std::env::var("FILES").unwrap_or_default();
        for path in files.split_whitespace() {
            let Ok(bytes) = std::fs::read(path) else { continue };
            let Ok(elf) = object::read::elf::ElfFile64::<object::Endianness>::parse(&*bytes) else {
                continue;
            };
            let section = |name| elf.section_by_name(name);
            let Some(frame) = section(".eh_frame") else { continue };
            let table = section(".eh_frame_hdr");
            let at = |name| section(name).map_or(0, |section| section.address());
            let bases = BaseAddresses::default()
                .set_eh_frame(frame.address())
                .set_eh_frame_hdr(at(".eh_frame_hdr"))
                .set_text(at(".text"))
                .set_got(at(".got"));
            let data = frame.data().unwrap();
            let start = Instant::now();
            let usable = eh_frame(data, table.and_then(|table| table.data().ok()), &bases);
            eprintln!("{usable:?} {:?} {} bytes {path}", start.elapsed(), data.len());
        }
    }
}
