//! Ports that were bound before their connect: one pool for each source address, whose end is EADDRINUSE from `bind()`.

use hashbrown::HashMap;
use portchurn_common::flow::Address;

use crate::model::budget::{BudgetKind, PortBudget};
use crate::model::forecast::Trend;
use crate::model::names::Names;
use crate::model::ports::{EXACT, available, is_alarming, shown_holders};
use crate::model::sockets::{AGE_STEP_S, NamespaceReading, PoolReading, PortCount, SocketReading};
use crate::model::timewait::middle_ns;

/// Failed binds, where the hook that sees them is not attached.
pub const BINDS_NOT_VISIBLE: &str = "failed binds are not visible on this kernel";
/// Failed binds, where several source addresses share a network namespace.
pub const BINDS_BY_NAMESPACE: &str = "failed binds are counted by network namespace: see exhaustion";
/// Lists that are closer together than this tell nothing of how fast anything grows. Seconds.
const APART_S: f64 = 1.0;
/// What is not over yet is no end, however long ago it was foretold. Seconds.
const SOONEST_S: f64 = 0.1;

/// How fast what lives in each pool grows, from one list to the next: ports per second, by network namespace and source.
/// Which source address a connect will have is not known while it is counted, so nothing else tells.
#[derive(Debug, Default)]
pub(super) struct Growth {
    live_per_s: HashMap<(u32, Address), f64>,
}

impl Growth {
    pub(super) fn apply(&mut self, before: &SocketReading, reading: &SocketReading) {
        let apart_s = middle_ns(reading).saturating_sub(middle_ns(before)) as f64 / 1e9;
        if apart_s < APART_S {
            return;
        }
        let live = |reading: &SocketReading| -> HashMap<_, f64> {
            let pools =
                reading.namespaces.iter().flat_map(|there| there.pools.iter().map(|p| (there.netns, p)));
            pools.map(|(netns, pool)| ((netns, pool.source), f64::from(pool.live()))).collect()
        };
        let before = live(before);
        let grown = |at: &(u32, Address), now: f64| Some((now - before.get(at)?) / apart_s);
        self.live_per_s =
            live(reading).into_iter().filter_map(|(at, now)| Some((at, grown(&at, now)?))).collect();
    }

    /// What goes on in a pool.
    pub(super) fn trend(&self, netns: u32, pool: &PoolReading) -> Trend {
        let ages = pool.ages.map(f64::from);
        Trend {
            used: f64::from(pool.used),
            live_per_s: self.live_per_s.get(&(netns, pool.source)).copied().unwrap_or(0.0),
            waits_per_s: ages[0] / AGE_STEP_S as f64,
            opens_per_s: 0.0,
            ages,
            reuse_after_s: None,
        }
    }
}

/// The time until all ports of a pool are taken, so long after its list.
fn seconds_to_end(trend: &Trend, limit: u32, elapsed_s: f64) -> Option<f64> {
    let left_s = trend.seconds_to(f64::from(limit))?;
    Some(if left_s > 0.0 { (left_s - elapsed_s).max(SOONEST_S) } else { 0.0 })
}

/// Binds that found no port in a network namespace.
pub(super) struct BindFailures {
    pub(super) failed: u64,
    pub(super) are_seen: bool,
}

impl BindFailures {
    /// A failed bind has no source address any more: with several pools it may be of any of them.
    fn of_pool(&self, namespace: &NamespaceReading) -> (Option<u64>, &'static str) {
        match (self.are_seen, namespace.pools.len()) {
            (false, _) => (None, BINDS_NOT_VISIBLE),
            (true, 1) => (Some(self.failed), EXACT),
            (true, _) => (None, BINDS_BY_NAMESPACE),
        }
    }
}

/// The row of a pool.
pub(super) fn pool_budget(
    namespace: &NamespaceReading,
    pool: &PoolReading,
    names: &Names,
    failures: &BindFailures,
    trend: &Trend,
    elapsed_s: f64,
) -> PortBudget {
    let (failed, failures_seen) = failures.of_pool(namespace);
    let limit = namespace.sysctls.as_ref().map(|sysctls| {
        available(sysctls, PortCount::default()).all.saturating_sub(namespace.blocked_everywhere)
    });
    let pressure_ratio =
        limit.filter(|&limit| limit > 0).map(|limit| f64::from(pool.used) / f64::from(limit));
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
        pressure_ratio,
        alarm: is_alarming(pressure_ratio, false),
        opened_per_s: None,
        reuse: false,
        reuse_because: "a port that is bound first is never taken over".to_owned(),
        seconds_to_wall: None,
        seconds_to_exhaustion: limit.and_then(|limit| seconds_to_end(trend, limit, elapsed_s)),
        assumption: format!(
            "{} of these ports were bound before their connect; as when they were listed: {:.1} of them/s began to wait for 60 s, \
             {:+.1}/s are in use",
            pool.bound, trend.waits_per_s, trend.live_per_s
        ),
        failed,
        failures_seen,
        holders: shown_holders(&pool.holders, names),
    }
}
