//! Every map, with its life story. Sizes here are placeholders: the loader sets them from the host and the command
//! line (`portchurn/src/live/sizes.rs`).

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, Queue, RingBuf};
use portchurn_common::conn::{Conn, ConnSites};
use portchurn_common::counters::Counters;
use portchurn_common::flow::{ChurnKey, KeyRef, KeySlot, ListenKey, Listener};
use portchurn_common::loss::Loss;
use portchurn_common::stack::{
    Budget, CodeRecord, Interpreter, OBJECT_LEN, Site, SiteKey, StackControl, StackRecord,
};

use crate::looks::Look;

/// Process, role and destination → reference into [`CHURN`].
///
/// Inserted by `keys::intern` at the first connection of a key. Deleted by user space, after the process ended and its
/// last connection closed. Full: the connection is counted under [`KeyRef::OVERFLOW`], a `Loss`.
#[map]
pub static KEYS: HashMap<ChurnKey, KeyRef> = HashMap::with_max_entries(1, 0);

/// References that nobody uses.
///
/// Filled by user space at the start and when a key is retired, its generation raised. Taken by `keys::intern`.
/// Empty: as [`KEYS`] full.
#[map]
pub static FREE_KEYS: Queue<KeyRef> = Queue::with_max_entries(1, 0);

/// Index → key, so that user space finds what a counter belongs to without walking a hash.
///
/// Written by `keys::intern`, cleared by user space when it retires the key, read by both.
#[map]
pub static KEY_SLOTS: Array<KeySlot> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// (index << shards_log2 | shard) → counters. User space maps this memory and adds up the shards: no system call per
/// key. A processor has a shard of its own where there are enough of them.
///
/// Counted up by every hook, read and, when a key is retired, cleared by user space.
#[map]
pub static CHURN: Array<Counters> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Connections by socket cookie: cookie modulo size is the first of `PROBES` places (`portchurn_common::conn::place`).
///
/// Claimed at connect or arrival, marked at CLOSE and left readable until another connection claims the place, which takes another
/// one for `FRESH_NS` if there is one.
/// No place free: the connection goes to [`CONNS_BY_ID`].
#[map]
pub static CONNS: Array<Conn> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Connections by identity: those that found no place in [`CONNS`], those from before the attach (inserted by user
/// space), and all of them where there are no cookies.
///
/// Deleted at CLOSE. Full: the connection is not followed, a `Loss`.
#[map]
pub static CONNS_BY_ID: HashMap<u64, Conn> = HashMap::with_max_entries(1, 0);

/// Port → who listens there, the hint for connections that nobody has accepted yet.
///
/// Inserted at `listen()` and, for listeners from before the attach, by user space. Deleted when the last
/// listener of the port closes. Full: owners come at the close, a `Loss`.
#[map]
pub static LISTENERS: HashMap<ListenKey, Listener> = HashMap::with_max_entries(1, 0);

/// Thread → socket for which it asks for any local port: from the entry of `inet_csk_get_port` to its return, in the
/// kprobe tier.
///
/// Inserted and deleted by that hook. Full, or the return was missed: the failure of that call is not counted.
#[map]
pub static BINDS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(4096, 0);

/// A process of which the user side knows.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ProcessKey {
    pub start_ns: u64,
    pub tgid: u32,
    pub zero: u32,
}

/// Processes whose identity was sent.
///
/// Inserted by `who::introduce`, deleted by user space when it forgets the process. Full: identities are sent again.
#[map]
pub static PROCESSES: HashMap<ProcessKey, u8> = HashMap::with_max_entries(1, 0);

/// Records of `portchurn_common::record`, for the user side. Full: a `Loss` by kind of record.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// The state change that each processor saw last, by its number: written by the program that takes it, read by those
/// that look after it.
#[map]
pub static LOOKS: Array<Look> = Array::with_max_entries(1, 0);

/// What was not recorded, by [`Loss`]. Counted up by every hook, read by user space, which maps this memory: while a map is
/// read by system call, the kernel skips kprobes and classic tracepoints on that processor (`bpf_disable_instrumentation`).
#[map]
pub static LOSSES: Array<u64> = Array::with_max_entries(Loss::COUNT as u32, BPF_F_MMAPABLE);

/// `-p`: processes to count. Filled by user space before the attach.
#[map]
pub static FILTER_TGIDS: HashMap<u32, u8> = HashMap::with_max_entries(1024, 0);

/// `-D`, `-L`: ports to count, by `settings::port_filter_key`. Filled by user space before the attach.
#[map]
pub static FILTER_PORTS: HashMap<u32, u8> = HashMap::with_max_entries(1024, 0);

/// `-c`: for each byte, the parts of the pattern that match it. Filled by user space before the attach.
#[map]
pub static FILTER_COMM: Array<u32> = Array::with_max_entries(256, 0);

/// Process, destination, moment and stack → index into [`SITES`].
///
/// Inserted by `stack::sites` when a place in the code is passed for the first time. Deleted by user space after the key
/// was retired. Full: counted for the destination, but for no line of code, a `Loss`.
#[map]
pub static SITE_KEYS: HashMap<SiteKey, u32> = HashMap::with_max_entries(1, 0);

/// Indices that nobody uses. Filled by user space, taken by `stack::sites`.
#[map]
pub static FREE_SITES: Queue<u32> = Queue::with_max_entries(1, 0);

/// Call sites, by index. Counted up here, read and cleared by user space, which maps this memory.
#[map]
pub static SITES: Array<Site> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Place in [`CONNS`] → where in the code that connection was opened and closed. As large as that, or one entry where no
/// call sites are taken.
///
/// Written by `stack::places` at open and close, begun anew when the place is another connection's. Read by user space,
/// which maps this memory.
#[map]
pub static CONN_SITES: Array<ConnSites> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Process → how to walk its interpreter's frames.
///
/// Inserted by user space when it has looked at the process, and at fork. Deleted at exec and exit. Full: no names for
/// the processes that did not fit; their connections are counted.
#[map]
pub static INTERPRETERS: HashMap<u32, Interpreter> = HashMap::with_max_entries(1, 0);

/// A code object that was sent.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CodeKey {
    pub image: u64,
    pub code: u64,
    pub check: u32,
    pub zero: u32,
}

/// Code objects of which the user side knows. Full: the one that was not asked for longest is sent again.
#[map]
pub static CODES: LruHashMap<CodeKey, u8> = LruHashMap::with_max_entries(16_384, 0);

/// Where records are put together: too large for a program's stack, and for a value per processor.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Scratch {
    pub record: StackRecord,
    pub code: CodeRecord,
    pub object: [u8; OBJECT_LEN],
    /// Of the interpreter frames in `record`.
    pub hash: u64,
}

/// One scratch area for each processor, by its number. Nobody else looks at it.
#[map]
pub static SCRATCH: Array<Scratch> = Array::with_max_entries(1, 0);

/// Records of `portchurn_common::stack`, for the user side. Full: a `Loss`, and tried again at the next connection.
#[map]
pub static STACKS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// How much may be done for call sites. One entry, written by user space at any time.
#[map]
pub static STACK_CONTROL: Array<StackControl> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Copies of user stacks that a process may still have. The longest idle one makes room.
#[map]
pub static BUDGETS: LruHashMap<u32, Budget> = LruHashMap::with_max_entries(1024, 0);

/// Copies that all processes together may still have.
#[map]
pub static BUDGET_TOTAL: Array<Budget> = Array::with_max_entries(1, 0);
