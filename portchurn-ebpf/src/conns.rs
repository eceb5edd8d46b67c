//! The table of connections. With cookies: places in a plain array, found by arithmetic, because a hash operation costs
//! several times as much. Without: a hash by the address of the socket, which the kernel uses again after CLOSE.

use portchurn_common::conn::{BUSY, CERTAIN, CLOSED, COOKIE, Conn, FRESH_NS, PROBES, SEALED, flag};
use portchurn_common::flow::KeyRef;
use portchurn_common::loss::Loss;

use crate::kernel::Access;
use crate::maps::{CONNS, CONNS_BY_ID};
use crate::{atomic, emit, setting};

/// A connection, and which of the two tables holds it.
#[derive(Clone, Copy)]
pub struct Found {
    pub conn: *mut Conn,
    /// Its place in the array; beyond every array if it is not there.
    pub place: u32,
    in_array: bool,
}

/// Beyond every array.
pub const NO_PLACE: u32 = 1 << 31;

/// The open connection with this identity. Nearly always it has the first place: all else is a call of its own, so that what
/// runs at every change stays small.
#[inline(always)]
pub fn find(id: u64, cookies: bool) -> Option<Found> {
    if cookies {
        if let Some(found) = find_first(id) {
            return Some(found);
        }
    }
    // No constant: the verifier would keep it apart from the places that it does not know.
    let place = id as u32 | NO_PLACE;
    CONNS_BY_ID.get_ptr_mut(id).map(|conn| Found { conn, place, in_array: false })
}

#[inline(always)]
fn find_first(id: u64) -> Option<Found> {
    let mut conn = conn_at(place(id, 0))?;
    // SAFETY: points into the map; another processor may be claiming it, hence volatile.
    let found = unsafe { core::ptr::read_volatile(&raw const (*conn).id) };
    let mut probe = 0;
    if found != id {
        probe = if is_last(found, id) { 0 } else { find_further(id) };
        if probe == 0 {
            return None;
        }
        conn = conn_at(place(id, probe))?;
    }
    Some(Found { conn, place: place(id, probe), in_array: true })
}

/// How far from the first place it is; 0: nowhere.
///
/// A global function, as all here that take and give numbers only: the verifier goes through it once, by itself, and not once
/// more for each way that leads to it, which was a third of the time that it took to start.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn find_further(id: u64) -> u32 {
    let mut probe = 1;
    while probe < PROBES {
        if let Some(conn) = conn_at(place(id, probe)) {
            // SAFETY: as above.
            let found = unsafe { core::ptr::read_volatile(&raw const (*conn).id) };
            if found == id {
                return probe;
            }
            if is_last(found, id) {
                break;
            }
        }
        probe += 1;
    }
    0
}

/// Nothing lies beyond a place that was never used, or where this very connection ended: a new one of the same socket would
/// have taken that place, or one before it.
#[inline(always)]
fn is_last(found: u64, id: u64) -> bool {
    found == 0 || found == id | CLOSED
}

/// A place for a new connection. Nobody finds it before [`publish`].
#[inline(always)]
pub fn claim(id: u64, now_ns: u64, cookies: bool) -> Option<*mut Conn> {
    if cookies {
        if let Some(conn) = claim_place(id, 0, now_ns) {
            return Some(conn);
        }
        if let Some(conn) = further(id, now_ns) {
            return Some(conn);
        }
    }
    claim_by_id(id)
}

#[inline(always)]
fn further(id: u64, now_ns: u64) -> Option<*mut Conn> {
    let probe = claim_further(id, now_ns);
    if probe == NOT_CLAIMED { None } else { conn_at(place(id, probe)) }
}

const NOT_CLAIMED: u32 = u32::MAX;

/// How far from the first place the one is that was claimed; where all are fresh, one of those.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_further(id: u64, now_ns: u64) -> u32 {
    let mut probe = 1;
    while probe < 2 * PROBES {
        let (probe_of, since_ns) = if probe < PROBES { (probe, now_ns) } else { (probe - PROBES, u64::MAX) };
        if claim_place(id, probe_of, since_ns).is_some() {
            return probe_of;
        }
        probe += 1;
    }
    NOT_CLAIMED
}

#[inline(always)]
fn claim_place(id: u64, probe: u32, now_ns: u64) -> Option<*mut Conn> {
    let conn = conn_at(place(id, probe))?;
    // SAFETY: as in `find`; the compare-and-swap makes the place ours.
    unsafe {
        let found = core::ptr::read_volatile(&raw const (*conn).id);
        let is_free = found == 0 || found & CLOSED != 0 && (found == id | CLOSED || !is_fresh(conn, now_ns));
        (is_free && atomic::claim_u64(&raw mut (*conn).id, found, id | BUSY)).then_some(conn)
    }
}

/// Whether an ended connection left a TIME_WAIT a moment ago.
///
/// # Safety
/// `conn` must point into the map.
#[inline(always)]
unsafe fn is_fresh(conn: *const Conn, now_ns: u64) -> bool {
    // SAFETY: the caller's promise. A place that is claimed meanwhile is not got anyway.
    let (flags, closed_ns) = unsafe { ((*conn).flags, (*conn).closed_ns) };
    flags & flag::TIME_WAIT != 0 && now_ns.saturating_sub(closed_ns) < FRESH_NS
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

/// Whom the end of a connection counts for: from now on nobody moves it. `None`: it is not counted any more. Only what was
/// accepted and whose owner is not certain yet can still be moved, so hardly any end takes the compare-and-swap.
///
/// `cookies` must be a constant, as in [`release`]. Without cookies an `accept()` on another processor may move it still.
#[inline(always)]
pub fn seal(conn: *mut Conn, cookies: bool) -> Option<KeyRef> {
    // SAFETY: points into the map; another processor may change it, hence volatile.
    let read = || unsafe { core::ptr::read_volatile(&raw const (*conn).key_ref) }.0;
    let mut found = read();
    // SAFETY: as above.
    let is_fixed =
        unsafe { (*conn).flags } & (flag::CONNECT | flag::OWNER_CERTAIN) != 0 || found & CERTAIN != 0;
    if cookies && !is_fixed {
        // SAFETY: as above.
        let claim =
            |found| unsafe { atomic::claim_u64((&raw mut (*conn).key_ref).cast(), found, found | SEALED) };
        if !claim(found) {
            // An accept() moved it at this moment, which happens once.
            found = read();
            let _ = claim(found);
        }
    }
    if found & SEALED == 0 { Some(KeyRef(found).bare()) } else { None }
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

#[inline(always)]
fn keep(conn: *const Conn, id: u64) {
    // SAFETY: points into the map.
    let now_ns = unsafe { (*conn).closed_ns };
    let Some(place) = claim_place(id, 0, now_ns).or_else(|| further(id, now_ns)) else { return };
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
fn place(id: u64, probe: u32) -> u32 {
    portchurn_common::conn::place(id, probe, setting!(conns_mask))
}

#[inline(always)]
fn conn_at(place: u32) -> Option<*mut Conn> {
    CONNS.get_ptr_mut(place)
}

/// The identity of a socket for hooks that are attached beside any tier of the state change: its cookie, which the
/// state change has made already, or its address.
#[inline(always)]
pub fn id_of<A: Access>(sock: *const u8) -> u64 {
    if setting!(cookies) == 0 {
        return sock as u64;
    }
    A::load::<u64>(sock, setting!(offsets.skc_cookie)) & COOKIE
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
