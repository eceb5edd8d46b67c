//! How many local ports there are for each destination, how many are taken, and when none is left. From the latest
//! reading of the socket tables, carried on by what was counted since.

use hashbrown::{HashMap, HashSet};

use crate::model::budget::{BudgetKind, PortBudget, PortHolder};
use crate::model::forecast::{Trend, aged, arrived, expired, still_waits};
use crate::model::names::Names;
use crate::model::pools::{BindFailures, Growth, pool_budget};
use crate::model::rates::{Flow, Rates, Target};
use crate::model::reuse::Reuse;
use crate::model::sample::Sample;
use crate::model::sockets::{
    AGE_STEPS, Holder, NamespaceReading, PortCount, SocketReading, Sysctls, TupleReading,
};
use crate::model::timewait::middle_ns;

/// From this share of its ports on a destination is near the wall.
const ALARM_RATIO: f64 = 0.45;
/// The same where waiting ports are taken over: there is no wall, only an end.
const ALARM_RATIO_WITH_REUSE: f64 = 0.95;
/// Take-overs that should have happened before their absence means that the peer does not take part.
const EXPECTED_RECYCLES: f64 = 20.0;
/// Destinations that are shown.
const SHOWN_MAX: usize = 256;
/// A destination at which nothing was seen to begin is shown from this share of its ports on. It may as well be the far
/// end of a server that has ended: nothing tells the two apart.
const SHOWN_RATIO: f64 = 0.01;
/// Holders that are shown of one destination.
const HOLDERS_SHOWN: usize = 8;
/// Everything else.
pub const EXACT: &str = "exact";

/// Take-overs in one network namespace.
#[derive(Clone, Copy, Debug, Default)]
struct Recycling {
    /// As the kernel counts them.
    counted: Option<u64>,
    /// That should have happened since one did.
    expected: f64,
    /// None happened, though enough should have: so it was at the latest reading.
    is_inert: bool,
}

/// All budgets.
#[derive(Debug, Default)]
pub struct Ports {
    last: Option<SocketReading>,
    recycling: HashMap<u32, Recycling>,
    pools: Growth,
    now_ns: u64,
}

impl Ports {
    /// Takes one interval in.
    pub fn apply(&mut self, sample: &Sample, rates: &Rates, interval_ns: u64) {
        self.now_ns = sample.at_ns;
        self.expect_recycling(rates, interval_ns as f64 / 1e9);
        if let Some(reading) = &sample.sockets {
            for namespace in &reading.namespaces {
                self.note_recycling(namespace);
            }
            if let Some(before) = &self.last {
                self.pools.apply(before, reading);
            }
            self.last = Some(reading.clone());
        }
    }

    /// The search for a port goes round the range in one direction (`table_perturb` of net/ipv4/inet_hashtables.c) and
    /// meets a waiting one only when the half that is tried first is full. From then on every connect takes one over.
    fn expect_recycling(&mut self, rates: &Rates, elapsed_s: f64) {
        let Some(last) = &self.last else { return };
        for namespace in &last.namespaces {
            let Some(sysctls) = &namespace.sysctls else { continue };
            for tuple in &namespace.tuples {
                let Some(after_s) = Reuse::of(sysctls, tuple.source, tuple.remote, false).after_s else {
                    continue;
                };
                let flow =
                    rates.at(target(namespace.netns, tuple)).map_or(Flow::default(), |recent| recent.per_s());
                let is_old_enough = f64::from(tuple.time_wait) > flow.waits * after_s;
                if is_old_enough && is_first_half_full(sysctls, namespace.blocked, tuple) {
                    self.recycling.entry(namespace.netns).or_default().expected += flow.opened * elapsed_s;
                }
            }
        }
    }

    fn note_recycling(&mut self, namespace: &NamespaceReading) {
        let recycling = self.recycling.entry(namespace.netns).or_default();
        let counted = namespace.sysctls.as_ref().and_then(|sysctls| sysctls.recycled);
        if counted != recycling.counted {
            *recycling = Recycling { counted, ..Recycling::default() };
        }
        recycling.is_inert = counted.is_some() && recycling.expected > EXPECTED_RECYCLES;
    }

    fn is_inert(&self, netns: u32) -> bool {
        self.recycling.get(&netns).is_some_and(|seen| seen.is_inert)
    }

    /// Who holds the ports of a destination, most first, and when that was read.
    pub fn holders(&self, target: Target, names: &Names) -> Option<(Vec<PortHolder>, u64)> {
        let last = self.last.as_ref()?;
        let namespace = last.namespaces.iter().find(|namespace| namespace.netns == target.netns)?;
        if target.is_of_binds() {
            let pool = namespace.pools.iter().max_by_key(|pool| pool.used)?;
            return Some((shown_holders(&pool.holders, names), middle_ns(last)));
        }
        let is_it = |tuple: &&TupleReading| (tuple.remote, tuple.port) == (target.remote, target.port);
        let tuple = namespace.tuples.iter().filter(is_it).max_by_key(|tuple| tuple.used())?;
        Some((shown_holders(&tuple.holders, names), middle_ns(last)))
    }

    /// The budgets, nearest to their end first; `None` before the first reading.
    pub fn snapshot(&self, rates: &Rates, names: &Names, sees_binds: bool) -> Option<Vec<PortBudget>> {
        let last = self.last.as_ref()?;
        let elapsed_s = self.now_ns.saturating_sub(middle_ns(last)) as f64 / 1e9;
        let mut rows = Vec::new();
        let mut shown = HashSet::new();
        for namespace in &last.namespaces {
            let totals = used_by_target(namespace);
            for tuple in &namespace.tuples {
                let at = target(namespace.netns, tuple);
                shown.insert(at);
                let share = f64::from(tuple.used()) / totals.get(&at).copied().unwrap_or(1.0).max(1.0);
                let look = Look { rates, names, elapsed_s, share, is_inert: self.is_inert(namespace.netns) };
                let row = budget(namespace, tuple, &look);
                if rates.at(at).is_some() || row.pressure_ratio.unwrap_or(1.0) >= SHOWN_RATIO {
                    rows.push(row);
                }
            }
            let failed = rates.at(Target::of_binds(namespace.netns)).map_or(0, |recent| recent.exhausted);
            let failures = BindFailures { failed, are_seen: sees_binds };
            rows.extend(namespace.pools.iter().map(|pool| {
                let trend = self.pools.trend(namespace.netns, pool);
                pool_budget(namespace, pool, names, &failures, &trend, elapsed_s)
            }));
        }
        rows.extend(
            last.namespaces
                .iter()
                .flat_map(|namespace| unlisted(namespace, rates, &shown, self, names, elapsed_s)),
        );
        rows.sort_by(|a, b| {
            b.pressure_ratio
                .unwrap_or(0.0)
                .total_cmp(&a.pressure_ratio.unwrap_or(0.0))
                .then_with(|| place(a).cmp(&place(b)))
        });
        rows.truncate(SHOWN_MAX);
        Some(rows)
    }
}

/// Destinations with traffic that held no port when the table was read: the first seconds of a churn.
fn unlisted(
    namespace: &NamespaceReading,
    rates: &Rates,
    shown: &HashSet<Target>,
    ports: &Ports,
    names: &Names,
    elapsed_s: f64,
) -> Vec<PortBudget> {
    let is_missing = |at: &Target| at.netns == namespace.netns && !at.is_of_binds() && !shown.contains(at);
    let missing = rates.iter().filter(|(at, _)| is_missing(at));
    let look = Look { rates, names, elapsed_s, share: 1.0, is_inert: ports.is_inert(namespace.netns) };
    missing
        .map(|(at, _)| {
            budget(
                namespace,
                &TupleReading { remote: at.remote, port: at.port, ..TupleReading::default() },
                &look,
            )
        })
        .filter(|row| row.used > 0 || row.failed.is_some_and(|failed| failed > 0))
        .collect()
}

fn place(budget: &PortBudget) -> impl Ord + use<> {
    (budget.netns, budget.remote_address, budget.remote_port, budget.source_address)
}

fn target(netns: u32, tuple: &TupleReading) -> Target {
    Target { netns, remote: tuple.remote, port: tuple.port }
}

fn used_by_target(namespace: &NamespaceReading) -> HashMap<Target, f64> {
    let mut sums = HashMap::new();
    for tuple in &namespace.tuples {
        *sums.entry(target(namespace.netns, tuple)).or_default() += f64::from(tuple.used());
    }
    sums
}

/// Ports that `connect()` may choose from at all.
pub(super) fn available(sysctls: &Sysctls, blocked: PortCount) -> PortCount {
    let whole = ports_within(sysctls, (sysctls.port_low, sysctls.port_high));
    // The kernel lists each reserved port once.
    sysctls.reserved.iter().map(|&reserved| ports_within(sysctls, reserved)).chain([blocked]).fold(
        whole,
        |left, taken| PortCount {
            all: left.all.saturating_sub(taken.all),
            first_half: left.first_half.saturating_sub(taken.first_half),
        },
    )
}

/// Ports of the local range that lie between two, both included.
fn ports_within(sysctls: &Sysctls, (low, high): (u16, u16)) -> PortCount {
    let (low, end) = (low.max(sysctls.port_low), u32::from(high.min(sysctls.port_high)) + 1);
    let all = end.saturating_sub(low.into());
    // Every other one, beginning with the first that has the parity of the range's low end.
    let first_half = (all + u32::from(low & 1 == sysctls.port_low & 1)) / 2;
    PortCount { all, first_half }
}

/// Whether so few ports of the half that is tried first are left that a connect meets a waiting one.
fn is_first_half_full(sysctls: &Sysctls, blocked: PortCount, tuple: &TupleReading) -> bool {
    free_of_first_half(sysctls, blocked, tuple) <= 0.0
}

/// Connects that find a free port before one meets a waiting one.
fn free_of_first_half(sysctls: &Sysctls, blocked: PortCount, tuple: &TupleReading) -> f64 {
    const FULL: f64 = 0.98;
    (FULL * f64::from(available(sysctls, blocked).first_half) - f64::from(tuple.first_half)).max(0.0)
}

/// What a row is made with.
struct Look<'a> {
    rates: &'a Rates,
    names: &'a Names,
    elapsed_s: f64,
    /// Share of the destination's traffic that goes from this source address.
    share: f64,
    is_inert: bool,
}

fn budget(namespace: &NamespaceReading, tuple: &TupleReading, look: &Look<'_>) -> PortBudget {
    let recent = look.rates.at(target(namespace.netns, tuple));
    let per_s = recent.map_or(Flow::default(), |recent| recent.per_s().scaled(look.share));
    let since = recent.map_or(Flow::default(), |recent| recent.since_reading.scaled(look.share));
    let still = still_waits(look.elapsed_s);
    let reuse = namespace
        .sysctls
        .as_ref()
        .map(|sysctls| Reuse::of(sysctls, tuple.source, tuple.remote, look.is_inert));
    let reuse =
        reuse.unwrap_or(Reuse { after_s: None, because: "the settings could not be read".to_owned() });
    let ages: [f64; AGE_STEPS] = std::array::from_fn(|step| f64::from(tuple.ages[step]));
    let gone = expired(&ages, look.elapsed_s);
    let limits = limit(namespace, tuple);
    let taken_over = match (&namespace.sysctls, reuse.after_s) {
        // First those that are free, then each connect takes one over.
        (Some(sysctls), Some(_)) => {
            (since.opened * still - free_of_first_half(sysctls, namespace.blocked, tuple)).max(0.0)
        }
        _ => 0.0,
    };
    let time_wait = (f64::from(tuple.time_wait) - gone - taken_over + since.waits * still).max(0.0);
    let live = (f64::from(tuple.established + tuple.other) + since.taken - since.closed).max(0.0);
    let used = limits.map_or(time_wait + live, |limit| (time_wait + live).min(limit));
    let (listed, new) = (aged(&ages, look.elapsed_s), arrived(since.waits * still, look.elapsed_s));
    let trend = Trend {
        used,
        live_per_s: per_s.taken - per_s.closed,
        waits_per_s: per_s.waits,
        opens_per_s: per_s.opened,
        ages: std::array::from_fn(|step| listed[step] + new[step]),
        reuse_after_s: reuse.after_s,
    };
    let (to_wall, to_end) = ends(namespace, tuple, &trend, limits);
    let by_state = ByState::of(used, time_wait, f64::from(tuple.other) + since.taken - since.opened);
    let pressure_ratio = limits.filter(|&limit| limit > 0.0).map(|limit| used / limit);
    PortBudget {
        kind: BudgetKind::Connect,
        netns: namespace.netns,
        source_address: (!tuple.source.is_unspecified()).then(|| tuple.source.into()),
        remote_address: Some(tuple.remote.into()),
        remote_port: Some(tuple.port),
        limit: limits.map(|limit| limit as u64),
        used: by_state.time_wait + by_state.established + by_state.other,
        time_wait: by_state.time_wait,
        established: by_state.established,
        other: by_state.other,
        pressure_ratio,
        alarm: is_alarming(pressure_ratio, reuse.after_s.is_some()),
        opened_per_s: Some(per_s.opened),
        reuse: reuse.after_s.is_some(),
        assumption: assumption(&per_s, &reuse),
        reuse_because: reuse.because,
        seconds_to_wall: to_wall,
        seconds_to_exhaustion: to_end,
        failed: Some(recent.map_or(0, |recent| recent.exhausted)),
        failures_seen: EXACT,
        holders: shown_holders(&tuple.holders, look.names),
    }
}

/// Ports that there are for a destination: those that it has bound itself are among them.
fn limit(namespace: &NamespaceReading, tuple: &TupleReading) -> Option<f64> {
    let sysctls = namespace.sysctls.as_ref()?;
    Some(f64::from(available(sysctls, namespace.blocked).all + tuple.bound))
}

/// Ports in use, in whole numbers that add up.
struct ByState {
    time_wait: u64,
    established: u64,
    other: u64,
}

impl ByState {
    /// What lives is established, but for what is still on its way.
    fn of(used: f64, time_wait: f64, on_its_way: f64) -> Self {
        let used = used.round() as u64;
        let time_wait = (time_wait.round() as u64).min(used);
        let other = (on_its_way.max(0.0).round() as u64).min(used - time_wait);
        Self { time_wait, established: used - time_wait - other, other }
    }
}

/// Time to the wall and to the end.
fn ends(
    namespace: &NamespaceReading,
    tuple: &TupleReading,
    trend: &Trend,
    limit: Option<f64>,
) -> (Option<f64>, Option<f64>) {
    let (Some(sysctls), Some(limit)) = (&namespace.sysctls, limit) else { return (None, None) };
    let to_end = trend.seconds_to(limit);
    if trend.reuse_after_s.is_some() {
        // A waiting port that may be taken over ends the search like a free one.
        return (None, to_end);
    }
    let first_half = f64::from(available(sysctls, namespace.blocked).first_half);
    let grown = (trend.used - f64::from(tuple.used())).max(0.0);
    let free_at_once = (first_half - f64::from(tuple.first_half) - grown).max(0.0);
    (trend.seconds_to(trend.used + free_at_once), to_end)
}

/// Whether a share of the ports is an alarm.
pub(super) fn is_alarming(pressure_ratio: Option<f64>, reuse: bool) -> bool {
    let near = if reuse { ALARM_RATIO_WITH_REUSE } else { ALARM_RATIO };
    pressure_ratio.is_some_and(|ratio| ratio >= near)
}

fn assumption(per_s: &Flow, reuse: &Reuse) -> String {
    let waits = if per_s.closed > 0.0 { (per_s.waits / per_s.closed).min(1.0) } else { 0.0 };
    format!(
        "as in the last seconds: {:.1} opens/s, {:.0} % of ends leave a TIME_WAIT of 60 s; {}",
        per_s.opened,
        waits * 100.0,
        if reuse.after_s.is_some() {
            format!("ports are taken over ({})", reuse.because)
        } else {
            format!("no port is taken over ({})", reuse.because)
        },
    )
}

pub(super) fn shown_holders(holders: &[Holder], names: &Names) -> Vec<PortHolder> {
    let shown = holders.iter().take(HOLDERS_SHOWN).map(|holder| PortHolder {
        tgid: holder.process.map(|process| process.tgid),
        program: holder.process.and_then(|process| names.program_of(process)).map(str::to_owned),
        ports: u64::from(holder.time_wait + holder.live),
        time_wait: u64::from(holder.time_wait),
        live: u64::from(holder.live),
    });
    shown.collect()
}

#[cfg(test)]
#[path = "ports_tests.rs"]
mod tests;
