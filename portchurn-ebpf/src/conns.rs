//! The table of connections. With cookies: places in a plain array, found by arithmetic, because a hash operation costs
//! several times as much. Without: a hash by the address of the socket, which the kernel uses again after CLOSE.

use portchurn_common::conn::{BUSY, CLOSED, Conn, PROBES};
use portchurn_common::loss::Loss;

use crate::kernel::Access;
use crate::maps::{CONNS, CONNS_BY_ID};
use crate::{atomic, emit, setting};

/// A connection, and which of the two tables holds it.
#[derive(Clone, Copy)]
pub struct Found {
    pub conn: *mut Conn,
    in_array: bool,
}

/// The open connection with this identity.
#[inline(always)]
pub fn find(id: u64, cookies: bool) -> Option<Found> {
    if cookies {
        let mut probe = 0;
        while probe < PROBES {
            if let Some(conn) = place(id, probe) {
                // SAFETY: points into the map; another processor may be claiming it, hence volatile.
                let found = unsafe { core::ptr::read_volatile(&raw const (*conn).id) };
                if found == id {
                    return Some(Found { conn, in_array: true });
                }
                // Nothing lies beyond a place that was never used, or where this very connection ended: a new one of
                // the same socket would have taken that place, or one before it.
                if found == 0 || found == id | CLOSED {
                    break;
                }
            }
            probe += 1;
        }
    }
    CONNS_BY_ID.get_ptr_mut(id).map(|conn| Found { conn, in_array: false })
}

/// A place for a new connection. Nobody finds it before [`publish`].
#[inline(always)]
pub fn claim(id: u64, cookies: bool) -> Option<*mut Conn> {
    if cookies {
        if let Some(conn) = claim_place(id) {
            return Some(conn);
        }
    }
    claim_by_id(id)
}

#[inline(always)]
fn claim_place(id: u64) -> Option<*mut Conn> {
    let mut probe = 0;
    while probe < PROBES {
        if let Some(conn) = place(id, probe) {
            // SAFETY: as in `find`; the compare-and-swap makes the place ours.
            unsafe {
                let found = core::ptr::read_volatile(&raw const (*conn).id);
                if (found == 0 || found & CLOSED != 0)
                    && atomic::claim_u64(&raw mut (*conn).id, found, id | BUSY)
                {
                    return Some(conn);
                }
            }
        }
        probe += 1;
    }
    None
}

/// Lets the others find a claimed connection, now that all of it is written. Where there are no cookies it was found all
/// along, but not taken for established.
#[inline(always)]
pub fn publish(conn: *mut Conn, id: u64, cookies: bool) {
    if cookies {
        // SAFETY: points into the map. Atomically, because that keeps the order of what was written before. An entry of
        // the overflow map has its `id` already, and stays as it is.
        unsafe { atomic::claim_u64(&raw mut (*conn).id, id | BUSY, id) };
    }
}

/// An entry that is there already was left by a socket whose end was missed (an address is used again), so it is
/// overwritten.
#[inline(never)]
fn claim_by_id(id: u64) -> Option<*mut Conn> {
    let fresh = Conn { id, ..Conn::default() };
    if CONNS_BY_ID.insert(id, fresh, 0).is_err() {
        emit::lose(Loss::ConnsFull);
        return None;
    }
    CONNS_BY_ID.get_ptr_mut(id)
}

/// Ends a connection that counted. What is known of it stays readable where it lies in the array; one that had no place
/// there gets it now, so that its TIME_WAIT has an owner too.
///
/// `cookies` must be a constant: kernels that lack cookies refuse a program in which a compare-and-swap so much as stands.
#[inline(always)]
pub fn release(found: Found, id: u64, cookies: bool) {
    if cookies && !found.in_array {
        keep(found.conn, id);
    }
    forget(found, id);
}

/// Ends a connection of which nothing needs to be known any more.
#[inline(always)]
pub fn forget(found: Found, id: u64) {
    if found.in_array {
        // SAFETY: the place is ours until this store.
        unsafe { core::ptr::write_volatile(&raw mut (*found.conn).id, id | CLOSED) };
    } else {
        let _ = CONNS_BY_ID.remove(id);
    }
}

/// A call of its own: as one function with what follows, 6.18's verifier trips over its own bookkeeping of the stack
/// ("verifier bug: stack slot 9, total slots 9").
#[inline(never)]
fn claim_place_rarely(id: u64) -> Option<*mut Conn> {
    claim_place(id)
}

#[inline(always)]
fn keep(conn: *const Conn, id: u64) {
    let Some(place) = claim_place_rarely(id) else { return };
    // SAFETY: both point into map values; the claimed place is ours until its `id` is stored.
    unsafe {
        (*place).opened_ns = (*conn).opened_ns;
        (*place).key_ref = (*conn).key_ref;
        (*place).closed_ns = (*conn).closed_ns;
        (*place).owner_tgid = (*conn).owner_tgid;
        (*place).closer_tgid = (*conn).closer_tgid;
        (*place).address = (*conn).address;
        (*place).local_port = (*conn).local_port;
        (*place).remote_port = (*conn).remote_port;
        (*place).flags = (*conn).flags;
        core::ptr::write_volatile(&raw mut (*place).id, id | CLOSED);
    }
}

#[inline(always)]
fn place(id: u64, probe: u32) -> Option<*mut Conn> {
    CONNS.get_ptr_mut((id as u32).wrapping_add(probe) & setting!(conns_mask))
}

/// The identity of a socket for hooks that are attached beside any tier of the state change: its cookie, which the
/// state change has made already, or its address.
#[inline(always)]
pub fn id_of<A: Access>(sock: *const u8) -> u64 {
    if setting!(cookies) != 0 { A::load(sock, setting!(offsets.skc_cookie)) } else { sock as u64 }
}

/// [`find`], in whichever table this run uses.
#[inline(always)]
pub fn find_any(id: u64) -> Option<Found> {
    if setting!(cookies) == 0 {
        return find(id, false);
    }
    // No cookie was made yet, so nothing was noted: what a filter excludes. Unused places look the same.
    if id & !CLOSED == 0 { None } else { find(id, true) }
}
