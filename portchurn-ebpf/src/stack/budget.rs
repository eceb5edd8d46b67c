//! How many user stacks may be copied: a rate per process, so that one busy program does not take what others need, and
//! a rate in total.

use portchurn_common::stack::Budget;

use crate::maps::{BUDGET_TOTAL, BUDGETS, STACK_CONTROL};
use crate::stack::now_ns;

/// Takes leave for one copy. Two processors that ask at the same moment may both get the last one: harmless.
#[inline(never)]
pub fn take(tgid: u32) -> bool {
    let Some(control) = STACK_CONTROL.get_ptr(0) else { return false };
    // SAFETY: points into the map.
    let (per_process, in_total) = unsafe { ((*control).copies_per_s_process, (*control).copies_per_s_total) };
    let now_ns = now_ns();
    if BUDGETS.get_ptr_mut(tgid).is_none() {
        let _ = BUDGETS.insert(tgid, Budget::default(), 0);
    }
    let (Some(own), Some(total)) = (BUDGETS.get_ptr_mut(tgid), BUDGET_TOTAL.get_ptr_mut(0)) else {
        return false;
    };
    // SAFETY: both point into maps.
    unsafe { (*own).take(now_ns, per_process) && (*total).take(now_ns, in_total) }
}
