//! The heart: a state change becomes counts. What a change means is `portchurn_common::tcp`'s to say; here it is only
//! written down, for the process that is known to own the connection, never for the one that happens to run.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use portchurn_common::conn::{Conn, flag};
use portchurn_common::flow::{Address, ChurnKey, KeyRef, ListenKey, Role};
use portchurn_common::histogram::{Histogram, bucket, ns_to_us};
use portchurn_common::record::FlowEvent;
use portchurn_common::tcp::{FailFacts, Step, TcpState, closed, failed, step};

use crate::conns::{self, Found};
use crate::keys::{self, add};
use crate::maps::LISTENERS;
use crate::sock::Sock;
use crate::{emit, listeners, looks, ownership, setting, who};

/// One state change of one socket.
#[inline(always)]
pub fn on_state_change<S: Sock>(sock: &S, old: u8, new: u8) {
    let step = step(old, new);
    if matches!(step, Step::Ignore) {
        return;
    }
    looks::take(sock.address(), old, new);
    if sock.is_tcp() {
        on_step(sock, step, old);
    }
}

/// The same change once more, from another program on the same tracepoint.
///
/// The kernel skips a program that is running already on the processor, so what happens while a task is interrupted in
/// the middle of the first program would be lost. It is not lost for the next. Whether an earlier one was there shows on
/// the processor, else on the connection, and a socket's changes come one after the other, so nothing is counted
/// twice. Listeners are only a hint and need no second look.
#[inline(always)]
pub fn look_again<S: Sock>(sock: &S, old: u8, new: u8) {
    let step = step(old, new);
    if matches!(step, Step::Ignore | Step::Listen | Step::Unlisten)
        || looks::is_taken(sock.address(), old, new)
    {
        return;
    }
    looks::take(sock.address(), old, new);
    if !sock.is_tcp() {
        return;
    }
    let open = conns::find(sock.id(), S::COOKIES);
    // SAFETY: points into the map.
    let is_established = open.map(|found| unsafe { (*found.conn).flags } & flag::ESTABLISHED != 0);
    let is_due = match step {
        Step::ConnectBegin => is_established.is_none(),
        Step::Connected => is_established == Some(false),
        Step::Accepted => is_established != Some(true),
        // What they write down is the same the second time.
        Step::CloseFirst | Step::CloseSecond => true,
        _ => is_established.is_some(),
    };
    if is_due {
        on_step(sock, step, old);
    }
}

#[inline(always)]
fn on_step<S: Sock>(sock: &S, step: Step, old: u8) {
    let is_close = matches!(step, Step::CloseFirst | Step::CloseSecond);
    let is_accept = matches!(step, Step::Accepted);
    // The end of a simultaneous open looks like an arrival, but then user space holds the socket already.
    let is_both = is_accept && sock.is_held() != Some(false) && !is_unseen(sock);
    // TCP Fast Open: accepted and closed before the handshake was complete.
    let is_late = is_close && old == TcpState::SynRecv.raw() && is_unseen(sock);
    if is_late || is_accept && !is_both {
        accepted(sock);
    }
    match step {
        Step::ConnectBegin => connect_begin(sock),
        Step::Listen => listeners::listen(sock),
        Step::Unlisten => listeners::unlisten(sock),
        Step::Accepted if !is_both => {}
        _ => on_known(sock, if is_both { Step::Connected } else { step }, old),
    }
}

#[inline(never)]
fn is_unseen<S: Sock>(sock: &S) -> bool {
    conns::find(sock.id(), S::COOKIES).is_none()
}

/// A step of a connection that was noted. Looked for in one place, so that the code for it is there once: and no deeper, as the
/// frames of all calls that are under way share 512 bytes.
#[inline(always)]
fn on_known<S: Sock>(sock: &S, step: Step, old: u8) {
    let id = sock.id();
    let Some(found) = conns::find(id, S::COOKIES) else { return };
    // SAFETY: points into the map.
    let is_established = unsafe { (*found.conn).flags } & flag::ESTABLISHED != 0;
    let is_end = matches!(step, Step::Closed);
    if matches!(step, Step::Connected) {
        complete_connect(sock, found);
    } else if matches!(step, Step::ConnectFailed) || is_end && !is_established && !is_past_handshake(old) {
        fail(sock, found, id);
    } else if is_end {
        if !is_established {
            opened_unseen(found.conn);
        }
        close_end(sock, found, id, old);
    } else {
        // Our side closes: the one moment in which the closer can be known, and for an accepted connection that was never
        // seen in accept(), its owner.
        ownership::note_closer::<S>(found, id);
    }
}

#[inline(always)]
fn connect_begin<S: Sock>(sock: &S) {
    let is_new = sock.is_new();
    let process = who::current::<S::Access>();
    let key = ChurnKey {
        start_ns: process.start_ns,
        tgid: process.tgid,
        netns: sock.netns(),
        remote: sock.remote(),
        port: sock.remote_port(),
        role: Role::Connect as u8,
        ..ChurnKey::default()
    };
    let key_ref = keys::intern(&key);
    if key_ref == KeyRef::FILTERED {
        return;
    }
    let Some(counters) = keys::counters(key_ref) else { return };
    // SAFETY: both point into map values.
    unsafe {
        add(&raw mut (*counters).attempts, 1);
        let id = sock.id();
        let now_ns = bpf_ktime_get_ns();
        let Some(conn) = conns::claim(id, now_ns, S::COOKIES) else {
            add(&raw mut (*counters).lost, 1);
            return;
        };
        (*conn).opened_ns = now_ns;
        (*conn).key_ref = key_ref;
        (*conn).closed_ns = 0;
        (*conn).owner_tgid = process.tgid;
        (*conn).closer_tgid = 0;
        (*conn).local_port = 0;
        (*conn).remote_port = key.port;
        clear(&raw mut (*conn).address);
        let bound = if sock.local_port() != 0 { flag::BOUND } else { 0 };
        let earlier_port = if is_new { 0 } else { u32::from(sock.last_local_port()) };
        (*conn).flags =
            flag::CONNECT | flag::OWNER_CERTAIN | bound | earlier_port << flag::EARLIER_PORT_SHIFT;
        conns::publish(conn, id, S::COOKIES);
    }
}

#[inline(always)]
fn complete_connect<S: Sock>(sock: &S, found: Found) {
    // SAFETY: points into the map, and a socket's changes come one after the other.
    unsafe {
        let conn = found.conn;
        let now_ns = bpf_ktime_get_ns();
        (*conn).flags |= flag::ESTABLISHED;
        (*conn).local_port = sock.local_port();
        if S::COOKIES {
            (*conn).address = sock.local();
        }
        if let Some(counters) = keys::counters((*conn).key_ref) {
            add(&raw mut (*counters).opened, 1);
            let duration_us = ns_to_us(now_ns.saturating_sub((*conn).opened_ns));
            record_duration(&raw mut (*counters).connect, &raw mut (*counters).connect_max_us, duration_us);
        }
        if setting!(trace) != 0 {
            emit::flow(sock, &*conn, FlowEvent::Connect, 0, now_ns);
        }
    }
}

#[inline(always)]
fn fail<S: Sock>(sock: &S, found: Found, id: u64) {
    // SAFETY: points into the map.
    let flags = unsafe { (*found.conn).flags };
    let kind = failed(FailFacts {
        sk_err: sock.error(),
        local_port: sock.last_local_port(),
        earlier_port: (flags >> flag::EARLIER_PORT_SHIFT) as u16,
        syn_sent: sock.sent_syn(),
        was_bound: flags & flag::BOUND != 0,
    });
    // SAFETY: points into the map.
    unsafe {
        let conn = found.conn;
        let now_ns = bpf_ktime_get_ns();
        (*conn).closed_ns = now_ns;
        (*conn).local_port = sock.last_local_port();
        (*conn).flags |= (kind as u32) << flag::CLOSE_KIND_SHIFT;
        if let Some(counters) = keys::counters((*conn).key_ref) {
            add(&raw mut (*counters).failed, 1);
            add((&raw mut (*counters).failed_by).cast::<u32>().add(kind as usize), 1);
        }
        if setting!(trace) != 0 {
            emit::flow(sock, &*conn, FlowEvent::Fail, kind as u8, now_ns);
        }
    }
    conns::forget(found, id);
}

/// A passive open. Runs in the soft interrupt, so whoever is current has nothing to do with it: until somebody
/// accepts or closes the connection, it counts for the process that listens, if that is one process.
#[inline(always)]
fn accepted<S: Sock>(sock: &S) {
    let id = sock.id();
    let remote = sock.remote();
    if !keys::passes_ip_version(remote.is_v4()) {
        return;
    }
    let listen_key = ListenKey { netns: sock.netns(), port: sock.local_port(), zero: 0 };
    // SAFETY: a listener that changes at this moment gives the old or the new owner.
    let (key_ref, owner_tgid) = match unsafe { LISTENERS.get(&listen_key) } {
        Some(listener) if listener.tgid != 0 => (listener.key_ref, listener.tgid),
        _ => (keys::intern(&listeners::unowned(listen_key)), 0),
    };
    if key_ref == KeyRef::FILTERED {
        return;
    }
    let Some(counters) = keys::counters(key_ref) else { return };
    // SAFETY: both point into map values.
    unsafe {
        let now_ns = bpf_ktime_get_ns();
        let Some(conn) = conns::claim(id, now_ns, S::COOKIES) else {
            add(&raw mut (*counters).lost, 1);
            return;
        };
        add(&raw mut (*counters).accepted, 1);
        (*conn).opened_ns = now_ns;
        (*conn).key_ref = key_ref;
        (*conn).closed_ns = 0;
        (*conn).owner_tgid = owner_tgid;
        (*conn).closer_tgid = 0;
        (*conn).address = remote;
        (*conn).local_port = listen_key.port;
        (*conn).remote_port = sock.remote_port();
        (*conn).flags = flag::ESTABLISHED;
        conns::publish(conn, id, S::COOKIES);
        if setting!(trace) != 0 {
            emit::flow(sock, &*conn, FlowEvent::Accept, 0, now_ns);
        }
    }
}

#[inline(always)]
fn close_end<S: Sock>(sock: &S, found: Found, id: u64, old: u8) {
    let conn = found.conn;
    // SAFETY: points into the map.
    unsafe {
        let error = sock.error();
        // An abort goes to CLOSE without a FIN state: linger 0, unread data. Without an error on the socket it
        // was ours, so this is process context.
        let is_abort = old == TcpState::Established.raw() || old == TcpState::CloseWait.raw();
        if is_abort && error == Some(0) && !ownership::note_closer::<S>(found, id) {
            return;
        }
        // Where the error cannot be read, an abort is taken for the peer's: that blames nobody here.
        let errno = error.unwrap_or(if is_abort { ECONNRESET } else { 0 });
        let Some(key_ref) = conns::seal(conn, S::COOKIES) else { return conns::forget(found, id) };
        let flags = (*conn).flags;
        let entered = (setting!(time_wait_hook) != 0).then_some(flags & flag::TIME_WAIT != 0);
        let (kind, enters_time_wait) = closed(old, errno, flags & flag::EXITING != 0, entered);
        let now_ns = bpf_ktime_get_ns();
        (*conn).closed_ns = now_ns;
        let ending = if enters_time_wait { flag::TIME_WAIT } else { 0 };
        (*conn).flags |= (kind as u32) << flag::CLOSE_KIND_SHIFT | ending;
        if let Some(counters) = keys::counters(key_ref) {
            add((&raw mut (*counters).closed).cast::<u32>().add(kind as usize), 1);
            if enters_time_wait {
                add(&raw mut (*counters).time_wait, 1);
            }
            if (*conn).flags & flag::BEFORE_ATTACH == 0 {
                let lifetime_us = ns_to_us(now_ns.saturating_sub((*conn).opened_ns));
                record_duration(
                    &raw mut (*counters).lifetime,
                    &raw mut (*counters).lifetime_max_us,
                    lifetime_us,
                );
            }
        }
        // Nothing of it stays in the table where there are no cookies.
        if setting!(trace) != 0 || !S::COOKIES && enters_time_wait {
            emit::flow(sock, &*conn, FlowEvent::Close, kind as u8, now_ns);
        }
    }
    conns::release(found, id, S::COOKIES);
}

/// In words: what the compiler makes of [`Address::UNSPECIFIED`] is a call that goes from byte to byte.
///
/// # Safety
/// `address` must point into a map value.
#[inline(always)]
unsafe fn clear(address: *mut Address) {
    let mut word = 0;
    while word < 4 {
        // SAFETY: the caller's promise; an address is four aligned words.
        unsafe { core::ptr::write_volatile(address.cast::<u32>().add(word), 0) };
        word += 1;
    }
}

/// Whether a socket in this state has had a connection.
#[inline(always)]
fn is_past_handshake(state: u8) -> bool {
    state != TcpState::SynSent.raw() && state != TcpState::SynRecv.raw()
}

/// That the connect succeeded was missed; how long it took, nobody knows.
#[inline(never)]
fn opened_unseen(conn: *mut Conn) {
    // SAFETY: points into the map, and a socket's changes come one after the other.
    unsafe {
        (*conn).flags |= flag::ESTABLISHED;
        if let Some(counters) = keys::counters((*conn).key_ref) {
            add(&raw mut (*counters).opened, 1);
        }
    }
}

/// `ECONNRESET`.
const ECONNRESET: u32 = 104;

/// # Safety
/// Both must point into a map value.
#[inline(always)]
unsafe fn record_duration(histogram: *mut Histogram, max_us: *mut u32, duration_us: u32) {
    // SAFETY: the caller's promise; `bucket` is masked to the size of the histogram.
    unsafe {
        add(histogram.cast::<u32>().add(core::hint::black_box(bucket(duration_us)) & 31), 1);
        if *max_us < duration_us {
            *max_us = duration_us;
        }
    }
}
