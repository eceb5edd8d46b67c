//! Every map, with its life story. Sizes here are placeholders: the loader sets them from the host and the command
//! line (`portchurn/src/live/sizes.rs`).

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, Queue, RingBuf};
use portchurn_common::conn::Conn;
use portchurn_common::counters::Counters;
use portchurn_common::flow::{ChurnKey, KeyRef, KeySlot, ListenKey, Listener};
use portchurn_common::loss::Loss;

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

/// Connections by socket cookie: cookie modulo size is the first of `PROBES` places.
///
/// Claimed at connect or arrival, marked at CLOSE and left readable until another connection claims the place.
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

/// What was not recorded, by [`Loss`]. Counted up by every hook, read by user space.
#[map]
pub static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::COUNT as u32, 0);

/// `-p`: processes to count. Filled by user space before the attach.
#[map]
pub static FILTER_TGIDS: HashMap<u32, u8> = HashMap::with_max_entries(1024, 0);

/// `-D`, `-L`: ports to count, by `settings::port_filter_key`. Filled by user space before the attach.
#[map]
pub static FILTER_PORTS: HashMap<u32, u8> = HashMap::with_max_entries(1024, 0);

/// `-c`: for each byte, the parts of the pattern that match it. Filled by user space before the attach.
#[map]
pub static FILTER_COMM: Array<u32> = Array::with_max_entries(256, 0);
