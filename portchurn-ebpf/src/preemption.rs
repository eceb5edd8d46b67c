//! A run in one piece. Since Linux 7.0 a tracepoint leaves preemption on (it is guarded by SRCU-fast), so a task may lose the
//! processor in the middle of a program, and every other task there skips that program until it has it back.

use core::mem::{MaybeUninit, transmute};

use portchurn_common::settings::kernel_function;

use crate::setting;

/// Does it without losing the processor, where the loader found that this needs doing.
#[inline(always)]
pub fn held(run: impl FnOnce()) {
    let is_due = setting!(hold_preemption) != 0;
    // SAFETY: each becomes a call instruction with this number, which no helper has. The verifier meets it only where the loader
    // has put the kernel's function there.
    unsafe {
        if is_due {
            transmute::<usize, extern "C" fn()>(kernel_function::PREEMPT_DISABLE)();
        }
        run();
        if is_due {
            // To turn preemption on would hand the processor over on the spot, still inside the guard, if that is due. With
            // interrupts off it does not: what is due waits for the end of the program.
            let mut flags = MaybeUninit::<u64>::uninit();
            transmute::<usize, extern "C" fn(*mut u64)>(kernel_function::LOCAL_IRQ_SAVE)(flags.as_mut_ptr());
            transmute::<usize, extern "C" fn()>(kernel_function::PREEMPT_ENABLE)();
            transmute::<usize, extern "C" fn(*mut u64)>(kernel_function::LOCAL_IRQ_RESTORE)(
                flags.as_mut_ptr(),
            );
        }
    }
}
