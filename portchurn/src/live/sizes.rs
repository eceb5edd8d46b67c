//! How large the maps are: from the size of the host, unless the command line says otherwise.

use portchurn_common::counters::Counters;

/// Entries of the maps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sizes {
    /// Keys: process and destination.
    pub keys: u32,
    /// log2 of the shards of the counters.
    pub shards_log2: u32,
    /// Places for connections; a power of two.
    pub conns: u32,
    /// Places for where in the code they were opened and closed: as many, or one where that is not taken.
    pub conn_sites: u32,
    /// Connections that are kept by identity instead of place.
    pub conns_by_id: u32,
    /// Processes.
    pub processes: u32,
    /// Listening ports.
    pub listeners: u32,
    /// Ring buffer. Bytes, a power of two.
    pub ring_bytes: u32,
    /// Call sites.
    pub sites: u32,
    /// Processes that run an interpreter.
    pub interpreters: u32,
    /// Processors that note the last state change.
    pub looks: u32,
    /// Areas to put stacks together in: one per processor.
    pub scratch: u32,
    /// Ring buffer of stacks. Bytes, a power of two.
    pub stack_ring_bytes: u32,
}

/// What the sizes depend on.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Processors that may ever come online.
    pub cpus: u32,
    /// TCP sockets at this moment, all network namespaces that were read.
    pub tcp_sockets: u32,
}

/// What the command line asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// `--max-keys`.
    pub keys: Option<u32>,
    /// `--max-connections`.
    pub conns: Option<u32>,
    /// A record for each event, not only for each process.
    pub trace: bool,
    /// Whether call sites are taken.
    pub stacks: bool,
}

/// More shards would cost memory on hosts that have many processors; fewer would let them wait for each other.
const SHARDS_LOG2_MAX: u32 = 3;
/// Keys times shards. With more keys than this, processors share: they meet at the same key the less often.
const SHARDED_KEYS_MAX: u32 = KEYS << SHARDS_LOG2_MAX;
const KEYS: u32 = 16_384;
const SITES_MIN: u32 = 4096;
const LISTENERS_MIN: u32 = 4096;
const CONNS: u32 = 131_072;
const CONNS_MAX: u32 = 1 << 22;
const BY_ID_MIN: u32 = 16_384;
/// The verifier knows the size of an array entry as a signed 32-bit product.
const CHURN_BYTES_MAX: u64 = 1 << 31;

impl Sizes {
    /// Sizes for a host. `cookies`: whether connections are found by place.
    pub fn new(host: Host, wanted: Wanted, cookies: bool) -> Self {
        let keys_max = (CHURN_BYTES_MAX / size_of::<Counters>() as u64) as u32;
        let keys = wanted.keys.unwrap_or(KEYS).clamp(16, keys_max);
        let affordable = (SHARDED_KEYS_MAX / keys).max(1).ilog2();
        let shards_log2 = host.cpus.max(1).next_power_of_two().ilog2().min(SHARDS_LOG2_MAX).min(affordable);
        let sockets = host.tcp_sockets.saturating_mul(2).min(CONNS_MAX);
        let conns = wanted.conns.unwrap_or(CONNS).max(sockets).clamp(1024, CONNS_MAX);
        let places = if cookies { conns.next_power_of_two() } else { 1 };
        Self {
            keys,
            shards_log2,
            conns: places,
            conn_sites: if wanted.stacks { places } else { 1 },
            conns_by_id: if cookies { BY_ID_MIN.max(wanted.conns.unwrap_or(0)).max(sockets) } else { conns },
            processes: keys.clamp(4096, 32_768),
            listeners: LISTENERS_MIN.max(keys / 4),
            ring_bytes: if wanted.trace || !cookies { 8 << 20 } else { 1 << 20 },
            sites: if wanted.stacks { keys.max(SITES_MIN) } else { 1 },
            interpreters: if wanted.stacks { 4096 } else { 1 },
            looks: host.cpus.max(1),
            scratch: if wanted.stacks { host.cpus.max(1) } else { 1 },
            // Mapped twice in a row, so that it counts twice.
            stack_ring_bytes: if wanted.stacks { 4 << 20 } else { 4 << 10 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Host, Sizes, Wanted};

    const SMALL: Host = Host { cpus: 2, tcp_sockets: 10 };

    #[test]
    fn a_small_host_has_a_shard_for_each_processor() {
        let sizes = Sizes::new(SMALL, Wanted::default(), true);
        assert_eq!(sizes.shards_log2, 1);
        assert!(sizes.conns.is_power_of_two());
    }

    #[test]
    fn a_large_host_shares_shards_and_has_room_for_its_sockets() {
        let sizes = Sizes::new(Host { cpus: 96, tcp_sockets: 300_000 }, Wanted::default(), true);
        assert_eq!(sizes.shards_log2, 3);
        assert!(sizes.conns >= 600_000 && sizes.conns_by_id >= 600_000);
    }

    #[test]
    fn wishes_are_kept_within_what_the_kernel_can_index() {
        let wanted = Wanted { keys: Some(u32::MAX), conns: Some(5000), ..Wanted::default() };
        let sizes = Sizes::new(SMALL, wanted, true);
        assert!(u64::from(sizes.keys) << sizes.shards_log2 < 1 << 23);
        assert_eq!(sizes.conns, 8192);
    }

    #[test]
    fn more_keys_are_more_listeners() {
        let listeners = |keys| Sizes::new(SMALL, Wanted { keys, ..Wanted::default() }, true).listeners;
        assert_eq!((listeners(None), listeners(Some(16)), listeners(Some(65_536))), (4096, 4096, 16_384));
    }

    #[test]
    fn each_place_has_room_for_its_lines_of_code_if_they_are_taken() {
        let with = |stacks| Sizes::new(SMALL, Wanted { stacks, ..Wanted::default() }, true);
        assert_eq!((with(true).conn_sites, with(false).conn_sites), (with(true).conns, 1));
    }

    #[test]
    fn without_cookies_every_connection_needs_an_entry() {
        let sizes = Sizes::new(SMALL, Wanted { conns: Some(50_000), ..Wanted::default() }, false);
        assert_eq!((sizes.conns, sizes.conns_by_id), (1, 50_000));
    }
}
