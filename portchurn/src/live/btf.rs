//! Where the running kernel keeps its fields: a reader for BTF that answers one question, the offset of a member.
//! rustc emits no CO-RE relocations, so `members` asks here and the loader patches the answers into `SETTINGS`.
//! Format: Documentation/bpf/btf.rst in the kernel tree.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};

/// Type information of one kernel.
pub struct KernelTypes {
    bytes: Vec<u8>,
    strings: usize,
    /// Position of each type; type 0 is void and has none.
    types: Vec<usize>,
    by_name: HashMap<(Kind, String), u32>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Kind {
    Struct,
    Func,
}

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;

impl KernelTypes {
    /// Reads the types of the running kernel.
    pub fn of_running_kernel() -> Result<Self> {
        let path = "/sys/kernel/btf/vmlinux";
        let bytes = std::fs::read(path).with_context(|| format!("read {path}"))?;
        Self::parse(bytes).with_context(|| format!("parse {path}"))
    }

    /// Reads BTF as the kernel exports it. Only little-endian, as are all kernels that portchurn runs on.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        let word = |at: usize| read_u32(&bytes, at).context("header cut off");
        ensure!(bytes.get(..2) == Some(&[0x9f, 0xeb]), "not little-endian BTF");
        let header_len = word(4)? as usize;
        let types_at = header_len + word(8)? as usize;
        let types_end = types_at + word(12)? as usize;
        let strings = header_len + word(16)? as usize;
        let mut this = Self { bytes, strings, types: vec![usize::MAX], by_name: HashMap::new() };
        this.index(types_at, types_end)?;
        Ok(this)
    }

    fn index(&mut self, mut at: usize, end: usize) -> Result<()> {
        while at < end {
            let id = self.types.len() as u32;
            let name = read_u32(&self.bytes, at).context("type cut off")?;
            let info = read_u32(&self.bytes, at + 4).context("type cut off")?;
            let kind = info >> 24 & 0x1f;
            let indexed = match kind {
                KIND_STRUCT => Some(Kind::Struct),
                KIND_FUNC => Some(Kind::Func),
                _ => None,
            };
            if let Some(kind) = indexed {
                let name = self.string(name);
                if !name.is_empty() {
                    self.by_name.entry((kind, name)).or_insert(id);
                }
            }
            self.types.push(at);
            let members = (info & 0xffff) as usize;
            let payload = match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * members,
                6 | KIND_FUNC_PROTO => 8 * members,
                2 | 7..=12 | 16 | 18 => 0,
                other => bail!("type {id} has the unknown kind {other}"),
            };
            at += 12 + payload;
        }
        Ok(())
    }

    fn string(&self, offset: u32) -> String {
        let bytes = self.bytes.get(self.strings + offset as usize..).unwrap_or_default();
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// Offset in bytes of `path` (member names, joined by dots) inside `struct name`. Anonymous members on the way
    /// need not be named. `None` when this kernel has no such member, or it is a bit field.
    pub fn offset(&self, name: &str, path: &str) -> Option<u32> {
        let mut type_id = *self.by_name.get(&(Kind::Struct, name.to_owned()))?;
        let mut bits = 0;
        for member in path.split('.') {
            let (offset, next) = self.member(type_id, member)?;
            bits += offset;
            type_id = next;
        }
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// The number of a kernel function's type. `None` when it has no type information.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.by_name.get(&(Kind::Func, name.to_owned())).copied()
    }

    /// How many parameters a kernel function takes. `None` when it has no type information.
    pub fn parameter_count(&self, function: &str) -> Option<u32> {
        let func = self.function(function)?;
        let prototype = self.word(func, 8)?;
        (self.kind(prototype)? == KIND_FUNC_PROTO)
            .then(|| self.word(prototype, 4).map(|info| info & 0xffff))?
    }

    /// Offset in bits and type of a member, found also inside anonymous members.
    fn member(&self, type_id: u32, wanted: &str) -> Option<(u32, u32)> {
        let type_id = self.skip_modifiers(type_id)?;
        let info = self.word(type_id, 4)?;
        if !matches!(info >> 24 & 0x1f, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        let has_bitfields = info >> 31 == 1;
        for index in 0..(info & 0xffff) as usize {
            let at = 12 + 12 * index;
            let name = self.string(self.word(type_id, at)?);
            let member_type = self.word(type_id, at + 4)?;
            let raw = self.word(type_id, at + 8)?;
            let (bits, width) = if has_bitfields { (raw & 0xff_ffff, raw >> 24) } else { (raw, 0) };
            if name == wanted {
                return (width == 0).then_some((bits, member_type));
            }
            if name.is_empty()
                && let Some((inner, found)) = self.member(member_type, wanted)
            {
                return Some((bits + inner, found));
            }
        }
        None
    }

    /// Through typedef, volatile, const, restrict and type tags.
    fn skip_modifiers(&self, mut type_id: u32) -> Option<u32> {
        while matches!(self.kind(type_id)?, 8..=11 | 18) {
            type_id = self.word(type_id, 8)?;
        }
        Some(type_id)
    }

    fn kind(&self, type_id: u32) -> Option<u32> {
        Some(self.word(type_id, 4)? >> 24 & 0x1f)
    }

    /// The word at `at` bytes into a type's record.
    fn word(&self, type_id: u32, at: usize) -> Option<u32> {
        let start = *self.types.get(type_id as usize)?;
        read_u32(&self.bytes, start.checked_add(at)?)
    }

    /// Whether the kernel counts what it skips at the guard that classic tracepoints and kprobes share. The count itself
    /// leaves no trace in the types, but the field that came with it in 6.7, in the same series, does.
    pub fn counts_skips_at_shared_guard(&self) -> bool {
        self.offset("bpf_link_info", "kprobe_multi.missed").is_some()
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::KernelTypes;

    /// Writes BTF by hand: enough to prove the walk through anonymous unions, typedefs and prototypes.
    #[derive(Default)]
    struct Writer {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Writer {
        fn name(&mut self, text: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if text.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend(text.bytes().chain([0]));
            at
        }

        fn words(&mut self, words: &[u32]) {
            self.types.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }

        fn finish(self) -> Vec<u8> {
            let mut bytes = vec![0x9f, 0xeb, 1, 0];
            let types_len = self.types.len() as u32;
            let header = [24, 0, types_len, types_len, self.strings.len() as u32];
            bytes.extend(header.iter().flat_map(|word| word.to_le_bytes()));
            bytes.extend(self.types);
            bytes.extend(self.strings);
            bytes
        }
    }

    fn sample() -> KernelTypes {
        let mut w = Writer::default();
        let (outer, inner, alias, a, b, bit, call) = (
            w.name("outer"),
            w.name("inner"),
            w.name("inner_t"),
            w.name("a"),
            w.name("b"),
            w.name("bit"),
            w.name("call"),
        );
        w.words(&[0, 1 << 24, 4, 32]); // 1: int
        w.words(&[inner, KIND_STRUCT_1, 8, b, 1, 32]); // 2: struct inner { int b at 4 }
        w.words(&[alias, 8 << 24, 2]); // 3: typedef inner_t
        w.words(&[0, KIND_UNION_1, 8, 0, 3, 0]); // 4: union { inner_t }
        w.words(&[outer, 1 << 31 | 4 << 24 | 3, 24, a, 1, 64, 0, 4, 128, bit, 1, 3 << 24 | 1]); // 5: struct outer
        w.words(&[0, 13 << 24 | 2, 1, a, 1, b, 1]); // 6: int (int a, int b)
        w.words(&[call, 12 << 24, 6]); // 7: call
        KernelTypes::parse(w.finish()).unwrap()
    }

    const KIND_STRUCT_1: u32 = 4 << 24 | 1;
    const KIND_UNION_1: u32 = 5 << 24 | 1;

    #[test]
    fn a_plain_member_has_its_offset() {
        assert_eq!(sample().offset("outer", "a"), Some(8));
    }

    #[test]
    fn anonymous_members_and_typedefs_are_walked_through() {
        assert_eq!(sample().offset("outer", "b"), Some(20));
    }

    #[test]
    fn what_is_not_there_and_bit_fields_are_unknown() {
        assert_eq!(sample().offset("outer", "c"), None);
        assert_eq!(sample().offset("nothing", "a"), None);
        assert_eq!(sample().offset("outer", "bit"), None);
    }

    #[test]
    fn a_function_is_known_by_the_number_of_its_type() {
        assert_eq!((sample().function("call"), sample().function("other")), (Some(7), None));
    }

    #[test]
    fn parameters_are_counted() {
        assert_eq!(sample().parameter_count("call"), Some(2));
        assert_eq!(sample().parameter_count("other"), None);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(KernelTypes::parse(vec![]).is_err());
        assert!(KernelTypes::parse(vec![0x9f, 0xeb, 1]).is_err());
        assert!(KernelTypes::parse(b"ELF is something else".to_vec()).is_err());
    }
}
