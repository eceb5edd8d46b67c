//! Process and destination become an index into the counters, once: in the steady state a counted connection costs one
//! look-up. Filters are decided here, before a key takes its place. What they exclude leaves nothing behind and is asked
//! again at the next connection: others than the wanted ones must not fill the table.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use portchurn_common::counters::Counters;
use portchurn_common::flow::{ChurnKey, KeyRef, Role};
use portchurn_common::glob::GlobMasks;
use portchurn_common::loss::Loss;
use portchurn_common::settings::port_filter_key;

use crate::maps::{CHURN, FILTER_COMM, FILTER_PORTS, FILTER_TGIDS, FREE_KEYS, KEY_SLOTS, KEYS};
use crate::{atomic, emit, setting, who};

/// The reference for `key`, [`KeyRef::FILTERED`] if it is not to be counted. Where the key names a process it must be the
/// current one: this is when its identity is taken and its filters are decided.
#[inline(always)]
pub fn intern(key: &ChurnKey) -> KeyRef {
    // SAFETY: values are 8 bytes, written once before they become visible.
    match unsafe { KEYS.get(key) } {
        Some(key_ref) => *key_ref,
        None => intern_new(key),
    }
}

#[inline(never)]
fn intern_new(key: &ChurnKey) -> KeyRef {
    if !passes_flow_filters(key) || !passes_process_filters(key) {
        return KeyRef::FILTERED;
    }
    if key.tgid != 0 {
        who::introduce(key.tgid, key.start_ns);
    }
    let Ok(Some(key_ref)) = FREE_KEYS.pop() else {
        emit::lose(Loss::KeysFull);
        return KeyRef::OVERFLOW;
    };
    if KEYS.insert(key, &key_ref, u64::from(BPF_NOEXIST)).is_ok() {
        if let Some(slot) = KEY_SLOTS.get_ptr_mut(key_ref.index()) {
            // SAFETY: the index is this processor's alone until the key is retired.
            unsafe {
                (*slot).key_ref = key_ref;
                (*slot).key = *key;
            }
        }
        return key_ref;
    }
    // Another processor was first, or the table is full.
    let _ = FREE_KEYS.push(&key_ref, 0);
    // SAFETY: as above.
    match unsafe { KEYS.get(key) } {
        Some(first) => *first,
        None => {
            emit::lose(Loss::KeysFull);
            KeyRef::OVERFLOW
        }
    }
}

/// Filters by what stands in the flow.
#[inline(always)]
pub fn passes_flow_filters(key: &ChurnKey) -> bool {
    if setting!(filters.netns) != 0 && setting!(filters.netns) != key.netns {
        return false;
    }
    let is_connect = key.role == Role::Connect as u8;
    let (excluded, by_port, role) = if is_connect {
        (setting!(filters.no_connects), setting!(filters.connect_ports), Role::Connect)
    } else {
        (setting!(filters.no_accepts), setting!(filters.accept_ports), Role::Accept)
    };
    if excluded != 0 {
        return false;
    }
    // SAFETY: the value is a byte that nobody reads.
    if by_port != 0 && unsafe { FILTER_PORTS.get(port_filter_key(role, key.port)) }.is_none() {
        return false;
    }
    !is_connect || key.remote.is_unspecified() || passes_ip_version(key.remote.is_v4())
}

/// `-4`, `-6`. An accept key has no remote address, nor has a bind that failed, so these are asked one by one.
#[inline(always)]
pub fn passes_ip_version(is_v4: bool) -> bool {
    match setting!(filters.ip_version) {
        4 => is_v4,
        6 => !is_v4,
        _ => true,
    }
}

/// Filters by process. A connection whose owner is not known yet passes: its owner decides when it shows.
#[inline(always)]
fn passes_process_filters(key: &ChurnKey) -> bool {
    if key.tgid == 0 {
        return true;
    }
    // SAFETY: the value is a byte that nobody reads.
    if setting!(filters.tgids) != 0 && unsafe { FILTER_TGIDS.get(key.tgid) }.is_none() {
        return false;
    }
    if setting!(filters.comm) != 0 {
        let masks =
            GlobMasks { star: setting!(filters.comm_glob.star), end: setting!(filters.comm_glob.end) };
        let accept = |byte| FILTER_COMM.get(u32::from(byte)).copied().unwrap_or_default();
        return masks.matches(&who::current_comm(), accept);
    }
    true
}

/// Whether `-p` or `-c` was given.
#[inline(always)]
pub fn has_process_filters() -> bool {
    setting!(filters.tgids) != 0 || setting!(filters.comm) != 0
}

/// The counters of a key on this processor's shard.
#[inline(always)]
pub fn counters(key_ref: KeyRef) -> Option<*mut Counters> {
    // SAFETY: no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let shards_log2 = setting!(shards_log2);
    let shard = cpu & ((1 << shards_log2) - 1);
    CHURN.get_ptr_mut((key_ref.index() << shards_log2) | shard)
}

/// Adds `value`, which may be a wrapped negative. Atomically: another processor may share the shard, and on the same
/// one a soft interrupt may count while an interrupted program is about to.
///
/// # Safety
/// `counter` must point into a map value.
#[inline(always)]
pub unsafe fn add(counter: *mut u32, value: u32) {
    // SAFETY: the caller's promise.
    unsafe { atomic::add_u32(counter, value) };
}
