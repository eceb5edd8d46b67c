//! Ring buffer records, and what happens when there is no room: it is counted.

use aya_ebpf::maps::ring_buf::RingBufEntry;
use portchurn_common::conn::{Conn, flag};
use portchurn_common::flow::Role;
use portchurn_common::loss::Loss;
use portchurn_common::record::{ExitRecord, FlowEvent, FlowRecord, FlowSiteRecord, RecordKind};
use portchurn_common::stack::{ImageRecord, SiteKey, StackRecordKind};

use crate::atomic;
use crate::maps::{KEY_SLOTS, LOSSES, RECORDS, STACKS};
use crate::sock::Sock;
use crate::who::Process;

/// Counts something that was not recorded.
#[inline(always)]
pub fn lose(loss: Loss) {
    if let Some(count) = LOSSES.get_ptr_mut(loss as u32) {
        // SAFETY: points into a map value, which all processors share.
        unsafe { atomic::add_u64(count, 1) };
    }
}

/// Room for one record.
#[inline(always)]
pub fn reserve<T: 'static>(loss: Loss) -> Option<RingBufEntry<T>> {
    let entry = RECORDS.reserve::<T>(0);
    if entry.is_none() {
        lose(loss);
    }
    entry
}

/// Tells the user side that a process ended.
#[inline(always)]
pub fn exit(process: Process) {
    let Some(mut entry) = reserve::<ExitRecord>(Loss::ExitRecord) else { return };
    entry.write(ExitRecord { kind: RecordKind::Exit as u32, tgid: process.tgid, start_ns: process.start_ns });
    entry.submit(0);
}

/// Tells the user side that a process replaced its image: it may be an interpreter now.
#[inline(always)]
pub fn image(process: Process) {
    let Some(mut entry) = STACKS.reserve::<ImageRecord>(0) else {
        lose(Loss::ImageRecord);
        return;
    };
    entry.write(ImageRecord {
        kind: StackRecordKind::Image as u32,
        tgid: process.tgid,
        start_ns: process.start_ns,
    });
    entry.submit(0);
}

/// One line of `trace`, or an end to remember. Written where it goes: on the stack it would not fit beside the caller's.
#[inline(never)]
pub fn flow<S: Sock>(sock: &S, conn: &Conn, event: FlowEvent, detail: u8, at_ns: u64) {
    let Some(mut entry) = reserve::<FlowRecord>(Loss::TraceRecord) else { return };
    let record = entry.as_mut_ptr();
    // SAFETY: points into the record that was reserved; all of it is written.
    unsafe {
        (*record).kind = RecordKind::Flow as u32;
        (*record).at_ns = at_ns;
        (*record).duration_ns = at_ns.saturating_sub(conn.opened_ns);
        (*record).cookie = if S::COOKIES { conn.id } else { 0 };
        (*record).local = sock.local();
        (*record).remote = sock.remote();
        (*record).local_port = conn.local_port;
        (*record).remote_port = conn.remote_port;
        (*record).closer_tgid = conn.closer_tgid;
        (*record).event = event as u8;
        (*record).detail = detail;
        (*record).role =
            if conn.flags & flag::CONNECT != 0 { Role::Connect as u8 } else { Role::Accept as u8 };
        (*record).flags = marks(conn);
        match KEY_SLOTS.get(conn.key_ref.index()) {
            Some(slot) => {
                (*record).tgid = slot.key.tgid;
                (*record).start_ns = slot.key.start_ns;
                (*record).netns = slot.key.netns;
            }
            None => {
                (*record).tgid = conn.owner_tgid;
                (*record).start_ns = 0;
                (*record).netns = 0;
            }
        }
    }
    entry.submit(0);
}

/// What a record says of the `flag::*` bits, and of those on the key.
#[inline(always)]
const fn marks(conn: &Conn) -> u8 {
    let flags = conn.flags;
    let certain = if conn.is_certain() { FlowRecord::OWNER_CERTAIN } else { 0 };
    let waits = if flags & flag::TIME_WAIT != 0 { FlowRecord::TIME_WAIT } else { 0 };
    let bound = if flags & flag::BOUND != 0 { FlowRecord::BOUND } else { 0 };
    certain | waits | bound
}

/// The call site of a line of `trace`.
#[inline(always)]
pub fn flow_site(cookie: u64, site: &SiteKey) {
    let Some(mut entry) = reserve::<FlowSiteRecord>(Loss::TraceRecord) else { return };
    entry.write(FlowSiteRecord {
        kind: RecordKind::FlowSite as u32,
        at: site.at,
        cookie,
        stack: site.stack,
        counted: site.counted,
        zero: 0,
    });
    entry.submit(0);
}
