//! Programs that may not be preempted: since Linux 7.0 tracepoints are, and what other tasks do on the processor meanwhile is
//! skipped. The object calls placeholders, which become calls of the running kernel's own functions here: they are known by
//! the number of their type, as offsets are.

use std::borrow::Cow;

use portchurn_common::settings::kernel_function::{PREEMPT_DISABLE, PREEMPT_ENABLE};

use crate::live::btf::KernelTypes;

/// `call` of include/uapi/linux/bpf.h: `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// The source register of a call of a function of the kernel: `BPF_PSEUDO_KFUNC_CALL`. It is in the upper half of its byte.
const KERNEL_FUNCTION: u8 = 2 << 4;
/// Bytes of an instruction.
const INSTRUCTION: usize = 8;

/// The functions of the running kernel, by type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Preemption {
    disable: u32,
    enable: u32,
}

impl Preemption {
    /// `None`: this kernel has none (before 6.10).
    pub fn find(types: &KernelTypes) -> Option<Self> {
        Some(Self {
            disable: types.function("bpf_preempt_disable")?,
            enable: types.function("bpf_preempt_enable")?,
        })
    }

    /// The object with calls of these instead of the placeholders.
    pub fn put_into(this: Option<&Self>, object: &'static [u8]) -> Cow<'static, [u8]> {
        let Some(this) = this else { return Cow::Borrowed(object) };
        let mut object = object.to_vec();
        // Sections of programs are aligned to their instructions.
        for instruction in object.chunks_exact_mut(INSTRUCTION) {
            let Some(number) = instruction.strip_prefix(&[CALL, 0, 0, 0]) else { continue };
            let function = match u32::from_le_bytes(number.try_into().unwrap_or_default()) as usize {
                PREEMPT_DISABLE => this.disable,
                PREEMPT_ENABLE => this.enable,
                _ => continue,
            };
            instruction[1] = KERNEL_FUNCTION;
            instruction[4..].copy_from_slice(&function.to_le_bytes());
        }
        Cow::Owned(object)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::{PREEMPT_DISABLE, PREEMPT_ENABLE, Preemption};
    use crate::live::loader::OBJECT;

    const HERE: Preemption = Preemption { disable: 7001, enable: 7002 };

    fn count(object: &[u8], instruction: [u8; 4], number: usize) -> usize {
        let wanted = [instruction, (number as u32).to_le_bytes()].concat();
        object.chunks_exact(8).filter(|found| *found == wanted).count()
    }

    #[test]
    fn every_placeholder_becomes_a_call_of_the_kernel_and_nothing_else_changes() {
        let patched = Preemption::put_into(Some(&HERE), OBJECT);
        for (placeholder, function) in [(PREEMPT_DISABLE, 7001), (PREEMPT_ENABLE, 7002)] {
            let before = count(OBJECT, [0x85, 0, 0, 0], placeholder);
            assert!(before >= 6, "each program that looks at state changes has one: {before}");
            assert_eq!(count(&patched, [0x85, 0x20, 0, 0], function), before);
            assert_eq!(count(&patched, [0x85, 0, 0, 0], placeholder), 0);
        }
        let changed =
            OBJECT.chunks(8).zip(patched.chunks(8)).filter(|(before, after)| before != after).count();
        let placeholders =
            count(&patched, [0x85, 0x20, 0, 0], 7001) + count(&patched, [0x85, 0x20, 0, 0], 7002);
        assert_eq!(changed, placeholders);
    }

    #[test]
    fn where_nothing_is_to_be_held_the_object_stays_as_it_is() {
        assert!(matches!(Preemption::put_into(None, OBJECT), Cow::Borrowed(_)));
    }
}
