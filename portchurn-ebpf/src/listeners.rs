//! Who listens on which port: the hint for connections that nobody has accepted yet. Process context.

use portchurn_common::flow::{ChurnKey, KeyRef, ListenKey, Listener, Role};
use portchurn_common::loss::Loss;

use crate::keys::{self, add};
use crate::maps::LISTENERS;
use crate::sock::Sock;
use crate::{emit, who};

/// The key of a port whose owner is not known.
#[inline(always)]
pub fn unowned(listen_key: ListenKey) -> ChurnKey {
    ChurnKey {
        netns: listen_key.netns,
        port: listen_key.port,
        role: Role::Accept as u8,
        ..ChurnKey::default()
    }
}

#[inline(always)]
pub fn listen<S: Sock>(sock: &S) {
    let process = who::current::<S::Access>();
    let listen_key = ListenKey { netns: sock.netns(), port: sock.local_port(), zero: 0 };
    let key = ChurnKey { tgid: process.tgid, start_ns: process.start_ns, ..unowned(listen_key) };
    let mut listener = Listener { key_ref: keys::intern(&key), tgid: process.tgid, sockets: 1 };
    // A process that a filter excludes may hand its connections to one that is wanted.
    let is_excluded = listener.key_ref == KeyRef::FILTERED && keys::has_process_filters();
    // Nor does it own anything as long as there is no key for it: what arrives asks for one each time.
    if is_excluded || listener.key_ref == KeyRef::OVERFLOW {
        listener.tgid = 0;
    }
    match LISTENERS.get_ptr_mut(&listen_key) {
        // SAFETY: points into the map.
        Some(known) => unsafe {
            add(&raw mut (*known).sockets, 1);
            if (*known).tgid != listener.tgid {
                (*known).tgid = 0;
            }
        },
        None => {
            if LISTENERS.insert(&listen_key, &listener, 0).is_err() {
                emit::lose(Loss::ListenersFull);
            }
        }
    }
}

#[inline(always)]
pub fn unlisten<S: Sock>(sock: &S) {
    // The port was given back before the state changed.
    let port = sock.last_local_port();
    let listen_key = ListenKey { netns: sock.netns(), port, zero: 0 };
    let Some(known) = LISTENERS.get_ptr_mut(&listen_key) else { return };
    // SAFETY: points into the map.
    unsafe {
        add(&raw mut (*known).sockets, 1u32.wrapping_neg());
        if core::ptr::read_volatile(&raw const (*known).sockets) == 0 {
            let _ = LISTENERS.remove(&listen_key);
        }
    }
}
