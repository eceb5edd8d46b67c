//! Whose a connection is. Who connects, owns; what is accepted belongs to whoever is seen in `accept()` or closes it, and until
//! then to the process that listens (decision 0003).

use portchurn_common::conn::{CERTAIN, Conn, SEALED, flag};
use portchurn_common::counters::Counters;
use portchurn_common::flow::{ChurnKey, KeyRef, Role};

use crate::atomic;
use crate::conns::{self, Found};
use crate::kernel::Probe;
use crate::keys::{self, add};
use crate::maps::KEY_SLOTS;
use crate::sock::Sock;
use crate::who::{self, TaskState};

/// The current process closes: the one moment in which the closer can be known. False: now that the owner is known, the
/// connection is not counted any more.
#[inline(always)]
pub fn note_closer<S: Sock>(found: Found, id: u64) -> bool {
    let state = TaskState::current::<S::Access>();
    // MPTCP closes its subflows from a kernel worker.
    if state.is_kernel_thread() {
        return true;
    }
    let tgid = who::current_tgid();
    // SAFETY: points into the map.
    unsafe {
        let conn = found.conn;
        (*conn).closer_tgid = tgid;
        if state.is_exiting() {
            (*conn).flags |= flag::EXITING;
        }
        (*conn).is_certain() || take_ownership(found, id, tgid)
    }
}

/// The current process is certain to own this accepted connection. Its count moves to it from the listener's owner. False: it
/// is a process that is not counted.
#[inline(always)]
pub fn take_ownership(found: Found, id: u64, tgid: u32) -> bool {
    // SAFETY: points into the map.
    unsafe {
        (*found.conn).flags |= flag::OWNER_CERTAIN;
        (*found.conn).owner_tgid == tgid || move_to_current::<false>(found, id)
    }
}

/// The same at `accept()`, while the connection may end on another processor: a connection whose end is counted stays where it
/// is, and nothing else than the key is changed that the end may change, too.
#[inline(always)]
pub fn take_accepted(found: Found, id: u64, tgid: u32) {
    // SAFETY: points into the map.
    unsafe {
        if (*found.conn).owner_tgid == tgid {
            let key_ref = core::ptr::read_volatile(&raw const (*found.conn).key_ref);
            let _ = hand_over::<true>(found.conn, key_ref, key_ref.0 | CERTAIN);
        } else {
            let _ = move_to_current::<true>(found, id);
        }
    }
}

/// Changes the key. False: its end was counted, or whoever else changed it has it.
///
/// # Safety
/// `conn` must point into a map value.
#[inline(always)]
unsafe fn hand_over<const ATOMIC: bool>(conn: *mut Conn, from: KeyRef, to: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if ATOMIC {
            from.0 & SEALED == 0 && atomic::claim_u64((&raw mut (*conn).key_ref).cast(), from.0, to)
        } else {
            (*conn).key_ref = KeyRef(to).bare();
            true
        }
    }
}

/// `ATOMIC` needs what kernels have since 5.12: those before refuse a program in which a compare-and-swap so much as stands.
#[inline(never)]
fn move_to_current<const ATOMIC: bool>(found: Found, id: u64) -> bool {
    let process = who::current::<Probe>();
    // SAFETY: points into the map.
    unsafe {
        let conn = found.conn;
        let from_ref = core::ptr::read_volatile(&raw const (*conn).key_ref);
        let key = ChurnKey {
            start_ns: process.start_ns,
            tgid: process.tgid,
            netns: KEY_SLOTS.get(from_ref.index()).map_or(0, |slot| slot.key.netns),
            port: (*conn).local_port,
            role: Role::Accept as u8,
            ..ChurnKey::default()
        };
        let key_ref = keys::intern(&key);
        let is_early = (*conn).flags & flag::BEFORE_ATTACH != 0;
        let next = if key_ref == KeyRef::FILTERED { from_ref.0 | SEALED } else { key_ref.0 | CERTAIN };
        if !hand_over::<ATOMIC>(conn, from_ref, next) {
            return true;
        }
        if let Some(from) = keys::counters(from_ref) {
            add(opened_counter(from, is_early), 1u32.wrapping_neg());
        }
        if key_ref == KeyRef::FILTERED {
            conns::forget(found, id);
            return false;
        }
        if let Some(to) = keys::counters(key_ref) {
            add(opened_counter(to, is_early), 1);
        }
        (*conn).owner_tgid = process.tgid;
    }
    true
}

#[inline(always)]
unsafe fn opened_counter(counters: *mut Counters, before_attach: bool) -> *mut u32 {
    // SAFETY: only addresses inside the map value are formed.
    unsafe { if before_attach { &raw mut (*counters).before_attach } else { &raw mut (*counters).accepted } }
}
