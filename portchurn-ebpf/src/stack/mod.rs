//! Call sites: which line of code opens and closes. A program of its own beside the counting one, so that a long walk
//! never makes the kernel skip a count; it finds the connection that the counting program noted just before.
//!
//! ```text
//! sites    call site → counter, exact; told to the user side once
//! places   connection → its two call sites, for as long as it is remembered
//! python   interpreter frames, walked here: they outlive no script that ends
//! regs     registers, fingerprint and copy of the native stack
//! budget   how many copies may be made
//! ```

mod budget;
mod places;
mod python;
mod regs;
mod sites;

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_ringbuf_output};
use portchurn_common::conn::{CLOSED, Conn};
use portchurn_common::loss::Loss;
use portchurn_common::stack::{
    At, Effort, STACK_EXITING, STACK_NONE, Site, SiteKey, StackRecord, StackRecordKind, WalkEnd, stack_flag,
    stack_id,
};
use portchurn_common::tcp::{Step, TcpState, step};

use crate::conns::{self, NO_PLACE};
use crate::kernel::{Access, Probe};
use crate::maps::{SCRATCH, STACK_CONTROL, STACKS, Scratch};
use crate::who::{self, TaskState};
use crate::{emit, setting};

/// One state change. `PYTHON`: whether this kernel can walk interpreter frames.
///
/// One way leads to `capture`: what is inlined twice, the verifier goes through twice, and 6.1 has no time for that.
#[inline(always)]
pub fn on_state_change<const PYTHON: bool>(sock: *const u8, old: u8, new: u8) {
    let (at, has_ended) = match step(old, new) {
        Step::ConnectBegin => (At::Open, false),
        Step::ConnectFailed => (At::NoPort, true),
        Step::CloseFirst | Step::CloseSecond => (At::Close, false),
        Step::Closed if old == TcpState::Established.raw() || old == TcpState::CloseWait.raw() => {
            (At::Close, true)
        }
        _ => return,
    };
    let effort = effort();
    if effort == Effort::None as u32 || has_ended && matches!(at, At::Close) && !is_own_abort(sock) {
        return;
    }
    let id = conns::id_of::<Probe>(sock);
    let found = if setting!(cookies) == 0 {
        // An address: 6.1 lets nobody calculate with it.
        conns::find_any(id)
    } else {
        // The counting program has released a connection that has ended; what it knew can still be read.
        conns::find_any(if has_ended { id | CLOSED } else { id })
    };
    let Some(found) = found else { return };
    // SAFETY: points into the map.
    let (key_ref, flags) = unsafe { ((*found.conn).key_ref.bare(), (*found.conn).flags) };
    let mut place = found.place;
    if matches!(at, At::NoPort) {
        // What else fails may be told to any task. Without a port it is connect() itself that gives up.
        if !Conn::found_no_port(flags) {
            return;
        }
        place |= NO_PLACE;
    }
    let Some(scratch) = scratch() else { return };
    // SAFETY: this processor's own.
    let (at, place) = unsafe { unknown_to_the_verifier(scratch, at as u32, place) };
    let mut key = SiteKey { key_ref, stack: 0, at, counted: 1 };
    capture::<PYTHON>(scratch, Passage { id, place }, &mut key, effort);
}

/// The same numbers, by way of memory whose contents it does not know: 6.1 goes through all that follows once for each
/// value that it does, and has no time for that.
///
/// # Safety
/// `scratch` must be this processor's.
#[inline(always)]
unsafe fn unknown_to_the_verifier(scratch: *mut Scratch, at: u32, place: u32) -> (u32, u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let (moment, index) = (&raw mut (*scratch).record.site.at, &raw mut (*scratch).record.site_index);
        core::ptr::write_volatile(moment, at);
        core::ptr::write_volatile(index, place);
        (core::ptr::read_volatile(moment), core::ptr::read_volatile(index))
    }
}

/// This processor's own memory while the program runs, which the kernel does not nest.
#[inline(always)]
fn scratch() -> Option<*mut Scratch> {
    // SAFETY: no preconditions.
    SCRATCH.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
}

/// Whose passage it is.
#[derive(Clone, Copy)]
struct Passage {
    /// Of the connection.
    id: u64,
    /// Its place; none where nothing is to be noted there.
    place: u32,
}

/// Counts one passage, and notes it at its connection; for `trace`, says which that is. At once, as what is kept until
/// the end makes the verifier's work many times as long.
#[inline(always)]
fn passed(passage: Passage, key: &SiteKey) -> Option<(u32, *mut Site)> {
    // Without cookies neither the place nor the records can be found again.
    if setting!(cookies) != 0 {
        places::note(passage.place, passage.id, key);
        if setting!(trace) != 0 {
            emit::flow_site(passage.id, key);
        }
    }
    sites::count(key)
}

/// A close without a FIN. With an error on the socket it was the peer's, and this is nobody's context.
#[inline(always)]
fn is_own_abort(sock: *const u8) -> bool {
    setting!(cookies) != 0 && Probe::load_known(sock, setting!(offsets.sk_err)) == Some(0u32)
}

#[inline(always)]
fn effort() -> u32 {
    // SAFETY: points into the map; the user side may write a word of it at any time.
    STACK_CONTROL
        .get_ptr(0)
        .map_or(0, |control| unsafe { core::ptr::read_volatile(&raw const (*control).effort) })
}

#[inline(always)]
fn capture<const PYTHON: bool>(scratch: *mut Scratch, passage: Passage, key: &mut SiteKey, effort: u32) {
    let state = TaskState::current::<Probe>();
    if state.is_kernel_thread() {
        key.stack = STACK_NONE;
        passed(passage, key);
        return;
    }
    if state.is_exiting() {
        key.stack = STACK_EXITING;
        passed(passage, key);
        return;
    }
    let tgid = who::current_tgid();
    let mut walk_end = WalkEnd::NoInterpreter as u32;
    // SAFETY: the scratch memory is this processor's own.
    unsafe {
        let record = &raw mut (*scratch).record;
        (*record).frames_len = 0;
        (*record).stack_len = 0;
        (*record).flags = 0;
        (*record).image = 0;
        if PYTHON && setting!(stack_interpreters) != 0 {
            walk_end = python::walk_interpreter();
            if walk_end == WalkEnd::Complete as u32 {
                key.stack = stack_id((*scratch).hash, true);
                if let Some((index, site)) = passed(passage, key) {
                    if sites::is_new(site) {
                        python::send_code_objects();
                        native_beside(scratch, tgid, effort);
                        send(scratch, key, index, site, walk_end);
                    }
                }
                return;
            }
        }
        if setting!(stack_native) == 0 || effort != Effort::Full as u32 {
            return;
        }
        native(scratch, passage, key, tgid, walk_end);
    }
}

/// The native stack that goes with interpreter frames, if the budget allows.
///
/// # Safety
/// `scratch` must be this processor's.
#[inline(always)]
unsafe fn native_beside(scratch: *mut Scratch, tgid: u32, effort: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let record = &raw mut (*scratch).record;
        if setting!(stack_native) == 0 {
            (*record).flags |= stack_flag::NATIVE_OFF;
            return;
        }
        if effort != Effort::Full as u32 || !budget::take(tgid) {
            (*record).flags |= stack_flag::OVER_BUDGET;
            return;
        }
        if let Some(at) = regs::read(record) {
            regs::copy(record, at.stack_pointer, 0);
        }
    }
}

/// # Safety
/// `scratch` must be this processor's.
#[inline(always)]
unsafe fn native(scratch: *mut Scratch, passage: Passage, key: &mut SiteKey, tgid: u32, walk_end: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let record = &raw mut (*scratch).record;
        let Some(at) = regs::read(record) else { return };
        let have = regs::copy_head(record, at.stack_pointer);
        key.stack = stack_id(regs::fingerprint(at.instruction_pointer, have, tgid), false);
        key.counted = 0;
        let Some((index, site)) = passed(passage, key) else { return };
        if !sites::wants_a_look(site) || !budget::take(tgid) {
            return;
        }
        regs::copy(record, at.stack_pointer, have);
        send(scratch, key, index, site, walk_end);
    }
}

/// # Safety
/// `scratch` must be this processor's, `site` must point into the map.
#[inline(never)]
unsafe fn send(scratch: *mut Scratch, key: &SiteKey, index: u32, site: *mut Site, walk_end: u32) {
    let process = who::current::<Probe>();
    // SAFETY: the caller's promise.
    unsafe {
        let record = &raw mut (*scratch).record;
        (*record).kind = StackRecordKind::Stack as u32;
        (*record).tgid = process.tgid;
        (*record).start_ns = process.start_ns;
        (*record).tid = bpf_get_current_pid_tgid() as u32;
        (*record).site = *key;
        (*record).site_index = index;
        (*record).walk_end = walk_end;
        let stack_len = core::hint::black_box((*record).stack_len) & regs::LEN_MASK;
        let len = core::mem::offset_of!(StackRecord, stack) as u64 + u64::from(stack_len);
        let ring = (&raw const STACKS).cast_mut().cast();
        if bpf_ringbuf_output(ring, record.cast(), len, 0) == 0 {
            crate::atomic::add_u32(&raw mut (*site).sent, 1);
        } else {
            emit::lose(Loss::StackRecord);
        }
    }
}

/// Now. Nanoseconds, CLOCK_MONOTONIC.
#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Reads the memory of the current process; `None` where that is not there.
#[inline(always)]
fn read<T: Copy>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { aya_ebpf::helpers::bpf_probe_read_user(address as *const T) }.ok()
}
