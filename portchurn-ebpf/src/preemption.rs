//! A run in one piece. Since Linux 7.0 a tracepoint leaves preemption on (it is guarded by SRCU-fast), so a task may lose the
//! processor in the middle of a program, and every other task there skips that program until it has it back.

use core::mem::{MaybeUninit, transmute};

use portchurn_common::settings::kernel_function;

use crate::setting;

/// Does it without losing the processor, where the loader found that this needs doing.
#[inline(always)]
pub fn held(run: impl FnOnce()) {
    if setting!(hold_preemption) != 0 {
        // SAFETY: becomes a call instruction with this number, which no helper has. The verifier meets it only where the loader
        // has put the kernel's function there.
        unsafe { transmute::<usize, extern "C" fn()>(kernel_function::PREEMPT_DISABLE)() };
    }
    run();
    if setting!(hold_preemption) != 0 {
        let_go();
    }
}

/// To turn preemption on would hand the processor over on the spot, still inside the guard, if that is due. With interrupts off
/// it does not: what is due waits for the end of the program.
///
/// A function: what it keeps on the stack must not lie below the calls of the program, whose frames share 512 bytes.
#[inline(never)]
fn let_go() {
    let mut flags = MaybeUninit::<u64>::uninit();
    // SAFETY: as above.
    unsafe {
        transmute::<usize, extern "C" fn(*mut u64)>(kernel_function::LOCAL_IRQ_SAVE)(flags.as_mut_ptr());
        transmute::<usize, extern "C" fn()>(kernel_function::PREEMPT_ENABLE)();
        transmute::<usize, extern "C" fn(*mut u64)>(kernel_function::LOCAL_IRQ_RESTORE)(flags.as_mut_ptr());
    }
}
