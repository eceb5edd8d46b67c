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
        // SAFETY: points into a map value; on this processor another program may be interrupted while it counts.
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

/// One line of `trace`, or an end to remember.
#[inline(never)]
pub fn flow<S: Sock>(sock: &S, conn: &Conn, event: FlowEvent, detail: u8, at_ns: u64) {
    let Some(mut entry) = reserve::<FlowRecord>(Loss::TraceRecord) else { return };
    let (mut tgid, mut start_ns, mut netns) = (conn.owner_tgid, 0, 0);
    if let Some(slot) = KEY_SLOTS.get(conn.key_ref.index()) {
        start_ns = slot.key.start_ns;
        netns = slot.key.netns;
        tgid = slot.key.tgid;
    }
    let is_connect = conn.flags & flag::CONNECT != 0;
    let certain = if conn.flags & flag::OWNER_CERTAIN != 0 { FlowRecord::OWNER_CERTAIN } else { 0 };
    let waits = if conn.flags & flag::TIME_WAIT != 0 { FlowRecord::TIME_WAIT } else { 0 };
    let bound = if conn.flags & flag::BOUND != 0 { FlowRecord::BOUND } else { 0 };
    entry.write(FlowRecord {
        kind: RecordKind::Flow as u32,
        tgid,
        start_ns,
        at_ns,
        duration_ns: at_ns.saturating_sub(conn.opened_ns),
        cookie: if S::COOKIES { conn.id } else { 0 },
        local: sock.local(),
        remote: sock.remote(),
        local_port: conn.local_port,
        remote_port: conn.remote_port,
        netns,
        closer_tgid: conn.closer_tgid,
        event: event as u8,
        role: if is_connect { Role::Connect as u8 } else { Role::Accept as u8 },
        detail,
        flags: certain | waits | bound,
    });
    entry.submit(0);
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
