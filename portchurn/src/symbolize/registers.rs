//! The registers of the user side, as `struct pt_regs` of each architecture lays them out, as an unwinder begins with them.

use framehop::UnwindRegsNative;
use portchurn_common::stack::REGISTERS_MAX;

/// Where a thread was.
pub struct Start {
    /// Address of the instruction.
    pub instruction_pointer: u64,
    /// Where the copy of the stack begins.
    pub stack_pointer: u64,
    /// All that matters for its callers.
    pub registers: UnwindRegsNative,
}

impl Start {
    /// Of the words of `struct pt_regs` (arch/x86/include/asm/ptrace.h).
    #[cfg(target_arch = "x86_64")]
    pub fn of(words: &[u64; REGISTERS_MAX]) -> Self {
        use framehop::x86_64::Reg;
        const OTHERS: [(Reg, usize); 14] = [
            (Reg::R15, 0),
            (Reg::R14, 1),
            (Reg::R13, 2),
            (Reg::R12, 3),
            (Reg::RBX, 5),
            (Reg::R11, 6),
            (Reg::R10, 7),
            (Reg::R9, 8),
            (Reg::R8, 9),
            (Reg::RAX, 10),
            (Reg::RCX, 11),
            (Reg::RDX, 12),
            (Reg::RSI, 13),
            (Reg::RDI, 14),
        ];
        let [frame_pointer, instruction_pointer, stack_pointer] = [4, 16, 19].map(|index| words[index]);
        let mut registers = UnwindRegsNative::new(instruction_pointer, stack_pointer, frame_pointer);
        for (register, index) in OTHERS {
            registers.set(register, words[index]);
        }
        Self { instruction_pointer, stack_pointer, registers }
    }

    /// Of the words of `struct pt_regs` (arch/arm64/include/asm/ptrace.h): x0 to x30, sp, pc. Return addresses may be signed in
    /// the bits that no address of a program uses.
    #[cfg(target_arch = "aarch64")]
    pub fn of(words: &[u64; REGISTERS_MAX]) -> Self {
        use framehop::aarch64::PtrAuthMask;
        const ADDRESS_MAX: u64 = (1 << 48) - 1;
        let [frame_pointer, link, stack_pointer, instruction_pointer] =
            [29, 30, 31, 32].map(|index| words[index]);
        let mask = PtrAuthMask::from_max_known_address(ADDRESS_MAX);
        let registers = UnwindRegsNative::new_with_ptr_auth_mask(mask, link, stack_pointer, frame_pointer);
        Self { instruction_pointer, stack_pointer, registers }
    }
}
