//! Ports that were bound before their connect: one pool for each source address, whose end is EADDRINUSE from `bind()`.

use crate::model::budget::{BudgetKind, PortBudget};
use crate::model::names::Names;
use crate::model::ports::{EXACT, available, shown_holders};
use crate::model::sockets::{NamespaceReading, PoolReading, PortCount};

/// Failed binds, where the hook that sees them is not attached.
pub const BINDS_NOT_VISIBLE: &str = "failed binds are not visible on this kernel";
/// Failed binds, where several source addresses share a network namespace.
pub const BINDS_BY_NAMESPACE: &str = "failed binds are counted by network namespace: see exhaustion";
/// Binds that found no port in a network namespace.
pub(super) struct BindFailures {
    pub(super) failed: u64,
    pub(super) are_seen: bool,
}

impl BindFailures {
    /// A failed bind has no source address any more: with several pools it may be of any of them.
    fn of_pool(&self, namespace: &NamespaceReading) -> (u64, &'static str) {
        match (self.are_seen, namespace.pools.len()) {
            (false, _) => (0, BINDS_NOT_VISIBLE),
            (true, 1) => (self.failed, EXACT),
            (true, _) => (0, BINDS_BY_NAMESPACE),
        }
    }
}

/// The row of a pool.
pub(super) fn pool_budget(
    namespace: &NamespaceReading,
    pool: &PoolReading,
    names: &Names,
    failures: &BindFailures,
) -> PortBudget {
    let (failed, failures_seen) = failures.of_pool(namespace);
    let limit = namespace.sysctls.as_ref().map(|sysctls| {
        available(sysctls, PortCount::default()).all.saturating_sub(namespace.blocked_everywhere)
    });
    PortBudget {
        kind: BudgetKind::BindPool,
        netns: namespace.netns,
        source_address: Some(pool.source.into()),
        remote_address: None,
        remote_port: None,
        limit: limit.map(u64::from),
        used: u64::from(pool.used),
        time_wait: u64::from(pool.time_wait),
        established: u64::from(pool.established),
        other: u64::from(pool.used.saturating_sub(pool.time_wait + pool.established)),
        pressure_ratio: limit.filter(|&limit| limit > 0).map(|limit| f64::from(pool.used) / f64::from(limit)),
        opened_per_s: Some(0.0),
        reuse: false,
        reuse_because: "a port that is bound first is never taken over".to_owned(),
        seconds_to_wall: None,
        seconds_to_exhaustion: limit.filter(|&limit| pool.used >= limit).map(|_| 0.0),
        assumption: format!("{} of these ports were bound before their connect", pool.bound),
        failed,
        failures_seen,
        holders: shown_holders(&pool.holders, names),
    }
}
