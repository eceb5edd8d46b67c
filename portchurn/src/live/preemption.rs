//! Programs that may not be preempted: since Linux 7.0 those at tracepoints are, and what other tasks do on the processor
//! meanwhile is skipped. The object calls placeholders, which become calls of the running kernel's own functions here: they are
//! known by the number of their type.

use std::borrow::Cow;

use portchurn_common::settings::kernel_function;

use crate::live::btf::KernelTypes;

/// `BPF_JMP | BPF_CALL` of include/uapi/linux/bpf.h.
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_KFUNC_CALL`, as source register: in the upper half of its byte.
const KERNEL_FUNCTION: u8 = 2 << 4;
/// Bytes of an instruction.
const INSTRUCTION: usize = 8;

/// Placeholders, and the types of the running kernel's functions.
#[derive(Clone, Copy, Debug)]
pub struct Preemption([(usize, u32); kernel_function::ALL.len()]);

impl Preemption {
    /// `None`: this kernel lacks one of them (before 6.14).
    pub fn find(types: &KernelTypes) -> Option<Self> {
        let mut functions = [(0, 0); kernel_function::ALL.len()];
        for (function, (placeholder, name)) in functions.iter_mut().zip(kernel_function::ALL) {
            *function = (placeholder, types.function(name)?);
        }
        Some(Self(functions))
    }

    /// The object with calls of these instead of the placeholders.
    pub fn put_into(this: Option<&Self>, object: &'static [u8]) -> Cow<'static, [u8]> {
        let Some(Self(functions)) = this else { return Cow::Borrowed(object) };
        let mut object = object.to_vec();
        // Sections of programs are aligned to their instructions.
        for instruction in object.chunks_exact_mut(INSTRUCTION) {
            let Some(number) = instruction.strip_prefix(&[CALL, 0, 0, 0]) else { continue };
            let number = u32::from_le_bytes(number.try_into().unwrap_or_default()) as usize;
            if let Some((_, function)) = functions.iter().find(|(placeholder, _)| *placeholder == number) {
                instruction[1] = KERNEL_FUNCTION;
                instruction[4..].copy_from_slice(&function.to_le_bytes());
            }
        }
        Cow::Owned(object)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use portchurn_common::settings::kernel_function;

    use super::Preemption;
    use crate::live::loader::OBJECT;

    fn count(object: &[u8], instruction: [u8; 4], number: u32) -> usize {
        let wanted = [instruction, number.to_le_bytes()].concat();
        object.chunks_exact(8).filter(|found| *found == wanted).count()
    }

    #[test]
    fn every_placeholder_becomes_a_call_of_the_kernel_and_nothing_else_changes() {
        let functions = kernel_function::ALL.map(|(placeholder, _)| (placeholder, placeholder as u32 & 0xff));
        let patched = Preemption::put_into(Some(&Preemption(functions)), OBJECT);
        let mut calls = 0;
        for (placeholder, function) in functions {
            let before = count(OBJECT, [0x85, 0, 0, 0], placeholder as u32);
            // Each program that looks at state changes begins so; how it ends is a function that they share.
            let least = if placeholder == kernel_function::PREEMPT_DISABLE { 6 } else { 1 };
            assert!(before >= least, "{before} of {placeholder:#x}");
            assert_eq!(count(&patched, [0x85, 0x20, 0, 0], function), before);
            assert_eq!(count(&patched, [0x85, 0, 0, 0], placeholder as u32), 0);
            calls += before;
        }
        let changed = OBJECT.chunks(8).zip(patched.chunks(8)).filter(|(before, after)| before != after);
        assert_eq!(changed.count(), calls);
    }

    #[test]
    fn where_nothing_is_to_be_held_the_object_stays_as_it_is() {
        assert!(matches!(Preemption::put_into(None, OBJECT), Cow::Borrowed(_)));
    }
}
