//! A run in one piece. Since Linux 7.0 a tracepoint leaves preemption on (it is guarded by SRCU-fast), so a task may lose the
//! processor in the middle of a program, and every other task there skips that program until it has it back.

use portchurn_common::settings::kernel_function;

use crate::setting;

/// Does it without losing the processor, where the loader found that this needs doing.
#[inline(always)]
pub fn held(run: impl FnOnce()) {
    if setting!(hold_preemption) != 0 {
        call(kernel_function::PREEMPT_DISABLE);
    }
    run();
    if setting!(hold_preemption) != 0 {
        call(kernel_function::PREEMPT_ENABLE);
    }
}

/// Calls a function of the kernel that takes and returns nothing.
#[inline(always)]
fn call(placeholder: usize) {
    // SAFETY: becomes a call instruction with this number, which no helper has. The verifier meets it only where the loader has
    // put the kernel's function there.
    unsafe { core::mem::transmute::<usize, extern "C" fn()>(placeholder)() };
}
