//! What the ring buffer carries: only what is rare (a process seen for the first time, an exec, an exit) or asked for
//! (`trace`). Every record begins with its kind; user space checks the length before it reads further.

use crate::flow::Address;
use crate::glob::COMM_LEN;

/// The kind of a record: its first four bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum RecordKind {
    /// [`ProcessRecord`].
    Process = 1,
    /// [`ExitRecord`].
    Exit = 2,
    /// [`FlowRecord`].
    Flow = 3,
    /// [`FlowSiteRecord`].
    FlowSite = 4,
}

/// How much of the command line is kept. Bytes.
pub const ARGV_LEN: usize = 1024;
/// How much of the executable's file name is kept. Bytes.
pub const EXE_LEN: usize = 64;

/// Identity of a process, taken in its own context at its first connect or listen: it may be dead a millisecond later.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ProcessRecord {
    /// [`RecordKind::Process`].
    pub kind: u32,
    /// Process.
    pub tgid: u32,
    /// Start. Nanoseconds since boot. From `group_leader->start_boottime`.
    pub start_ns: u64,
    /// cgroup v2 id, the inode of its directory. From `bpf_get_current_cgroup_id`.
    pub cgroup_id: u64,
    /// Parent process. From `real_parent->tgid`.
    pub parent_tgid: u32,
    /// Real user. From `bpf_get_current_uid_gid`.
    pub uid: u32,
    /// Name of the thread group leader. From `group_leader->comm`.
    pub comm: [u8; COMM_LEN],
    /// Name of the parent. From `real_parent->comm`.
    pub parent_comm: [u8; COMM_LEN],
    /// File name of the executable, without its directory. From `mm->exe_file->f_path.dentry->d_name`.
    pub exe: [u8; EXE_LEN],
    /// Length of the command line in the process. Bytes; may exceed [`ARGV_LEN`].
    pub argv_total: u32,
    /// How many bytes of `argv` are valid.
    pub argv_len: u32,
    /// Arguments, each ended by a zero byte. From `mm->arg_start`.
    pub argv: [u8; ARGV_LEN],
}

/// A known process ended: its last thread is gone.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ExitRecord {
    /// [`RecordKind::Exit`].
    pub kind: u32,
    /// Process.
    pub tgid: u32,
    /// Start. Nanoseconds since boot.
    pub start_ns: u64,
}

/// What happened to a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum FlowEvent {
    /// A connect reached ESTABLISHED.
    Connect = 1,
    /// A passive open reached ESTABLISHED.
    Accept = 2,
    /// A connection reached CLOSE.
    Close = 3,
    /// A connect failed.
    Fail = 4,
}

impl FlowEvent {
    /// The event with this number.
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Connect),
            2 => Some(Self::Accept),
            3 => Some(Self::Close),
            4 => Some(Self::Fail),
            _ => None,
        }
    }

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Accept => "accept",
            Self::Close => "close",
            Self::Fail => "fail",
        }
    }
}

/// One line of `trace`. Where sockets have no cookies, also an end that leaves a TIME_WAIT, whose owner user space remembers.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FlowRecord {
    /// [`RecordKind::Flow`].
    pub kind: u32,
    /// Owner of the connection; 0: not known (yet).
    pub tgid: u32,
    /// Start of the owner. Nanoseconds since boot.
    pub start_ns: u64,
    /// When. Nanoseconds, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Connect, fail: duration of the attempt. Close: life. Accept: 0. Nanoseconds.
    pub duration_ns: u64,
    /// Socket cookie; 0 where it cannot be had.
    pub cookie: u64,
    /// Local address.
    pub local: Address,
    /// Remote address.
    pub remote: Address,
    /// Local port, host order; 0: none was found.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// Network namespace, inode number.
    pub netns: u32,
    /// Process whose close was seen; 0: none.
    pub closer_tgid: u32,
    /// A [`FlowEvent`] by number.
    pub event: u8,
    /// A [`crate::flow::Role`] by number.
    pub role: u8,
    /// Close: a [`crate::tcp::CloseKind`]. Fail: a [`crate::tcp::FailKind`].
    pub detail: u8,
    /// [`FlowRecord::OWNER_CERTAIN`] and others.
    pub flags: u8,
}

impl FlowRecord {
    /// The owner is certain, not taken from the listener.
    pub const OWNER_CERTAIN: u8 = 1;
    /// Close: it leaves a TIME_WAIT.
    pub const TIME_WAIT: u8 = 2;
    /// The local port was bound before the connect.
    pub const BOUND: u8 = 4;
}

/// Where in the code a flow was opened or closed: beside [`FlowRecord`], when call sites are taken. Of an open and of a
/// close it comes before the event; of an abort, after it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FlowSiteRecord {
    /// [`RecordKind::FlowSite`].
    pub kind: u32,
    /// An [`crate::stack::At`] by number.
    pub at: u32,
    /// Socket cookie.
    pub cookie: u64,
    /// As [`crate::stack::SiteKey::stack`].
    pub stack: u64,
    /// As [`crate::stack::SiteKey::counted`].
    pub counted: u32,
    /// Keeps the size a multiple of eight.
    pub zero: u32,
}

const _: () = {
    assert!(size_of::<ProcessRecord>() == 1160);
    assert!(size_of::<ExitRecord>() == 16);
    assert!(size_of::<FlowRecord>() == 88);
    assert!(size_of::<FlowSiteRecord>() == 32);
};
