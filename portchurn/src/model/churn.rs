//! The ledger → what can be shown: rates, percentiles, sums. Derives, never remembers.

use std::collections::BTreeMap;

use portchurn_common::flow::{Address, Role as FlowRole};
use portchurn_common::histogram::{BUCKETS, bounds_us, quantile_us};
use portchurn_common::tcp::{CloseKind, FailKind};

use crate::model::culprit::Rules;
use crate::model::destination::{DestinationKey, Destinations, Recent, Stats};
use crate::model::ledger::{Ledger, ProcessEntry, ProgramEntry, merged};
use crate::model::program::ProgramKey;
use crate::model::sample::{Counts, ProcessId};
use crate::model::site::{Expected, call_sites};
use crate::model::snapshot::{
    Bucket, ClosedBy, Destination, ProcessStats, Program, Quantiles, ResetBy, Role, Tally, Totals,
};
use crate::model::stacks::Stacks;

/// How the ledger is looked at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Length of the window. Seconds; 0 when there is none yet.
    pub window_s: f64,
    /// Whether resets can be told apart.
    pub knows_errors: bool,
    /// Whose frames are the application's; `None`: call sites are not taken.
    pub culprits: Option<&'a Rules>,
}

/// All programs, busiest first, and the sums over them: programs hold everything, what is folded, too.
pub fn programs(ledger: &Ledger, view: View<'_>) -> (Totals, Vec<Program>) {
    let window = ledger.window();
    let mut counts = Counts::ZERO;
    let mut recent = Recent::default();
    let mut programs = Vec::new();
    for (key, (entry, parts)) in ledger.programs() {
        let destinations = merged(&parts);
        add_all(&mut counts, &mut recent, &destinations, window);
        if destinations.values().any(|stats| stats.is_used()) {
            programs.push(program(key, entry, &destinations, ledger.stacks(), window, view));
        }
    }
    programs.sort_by(|a, b| busier(&a.tally, &b.tally).then_with(|| a.program.cmp(&b.program)));
    let totals =
        Totals { tally: tally(&counts, recent, view), connecting_now: positive(counts.connecting_now()) };
    (totals, programs)
}

fn program(
    key: &ProgramKey,
    entry: &ProgramEntry,
    destinations: &Destinations,
    stacks: &Stacks,
    window: u64,
    view: View<'_>,
) -> Program {
    Program {
        program: key.program.clone(),
        exe: entry.exe.clone(),
        script: key.script.clone(),
        unit: key.unit.clone(),
        container: key.container.clone(),
        parent_program: key.parent_program.clone(),
        argv: entry.argv.clone(),
        process_count: entry.process_count,
        exited_count: entry.exited_count,
        tally: sum(destinations, window, view),
        destinations: list(destinations, stacks, window, view),
    }
}

/// All processes that are kept one by one, busiest first.
pub fn processes(ledger: &Ledger, view: View<'_>) -> Vec<ProcessStats> {
    let window = ledger.window();
    let mut processes: Vec<_> = ledger
        .processes()
        .filter(|(_, entry)| entry.destinations.values().any(|stats| stats.is_used()))
        .map(|(id, entry)| process(*id, entry, ledger.stacks(), window, view))
        .collect();
    processes.sort_by(|a, b| busier(&a.tally, &b.tally).then_with(|| a.tgid.cmp(&b.tgid)));
    processes
}

fn process(
    id: ProcessId,
    entry: &ProcessEntry,
    stacks: &Stacks,
    window: u64,
    view: View<'_>,
) -> ProcessStats {
    let identity = &entry.identity;
    ProcessStats {
        tgid: id.tgid,
        start_ns: id.start_ns,
        comm: identity.comm.clone(),
        exe: identity.exe.clone(),
        argv: identity.argv.clone(),
        ppid: identity.parent_tgid,
        parent_comm: identity.parent_comm.clone(),
        cgroup: identity.cgroup.clone(),
        unit: identity.unit.clone(),
        container: identity.container.clone(),
        exited: entry.ended_ns.is_some(),
        tally: sum(&entry.destinations, window, view),
        destinations: list(&entry.destinations, stacks, window, view),
    }
}

fn add_all(counts: &mut Counts, recent: &mut Recent, destinations: &Destinations, window: u64) {
    for stats in destinations.values() {
        counts.add(&stats.counts);
        recent.add(stats.recent(window));
    }
}

fn sum(destinations: &Destinations, window: u64, view: View<'_>) -> Tally {
    let mut counts = Counts::ZERO;
    let mut recent = Recent::default();
    add_all(&mut counts, &mut recent, destinations, window);
    tally(&counts, recent, view)
}

/// What was lost sight of counts as opened, or accepted, so that the books balance.
fn tally(counts: &Counts, recent: Recent, view: View<'_>) -> Tally {
    let per_s = |count: f64| if view.window_s > 0.0 { count / view.window_s } else { 0.0 };
    Tally {
        opened: counts.opened + counts.lost,
        accepted: positive(counts.accepted) + counts.accepts_lost,
        closed: counts.closed_total(),
        failed: counts.failed,
        open_now: positive(counts.open_now()),
        before_attach: positive(counts.before_attach),
        lost: counts.lost + counts.accepts_lost + counts.unseen,
        opened_per_s: per_s(recent.opened as f64),
        accepted_per_s: per_s(recent.accepted.max(0) as f64),
        closed_per_s: per_s(recent.closed as f64),
        failed_per_s: per_s(recent.failed as f64),
    }
}

/// A reading may fall between the two halves of a move; the next one is whole again.
fn positive(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// Destinations that are listed one by one, for each process and each program. The quieter rest is one line, so that a
/// crawler does not make a document of a hundred thousand lines every second.
const LISTED_MAX: usize = 1000;

fn list(destinations: &Destinations, stacks: &Stacks, window: u64, view: View<'_>) -> Vec<Destination> {
    let mut order: Vec<_> = destinations
        .iter()
        .filter(|(_, stats)| stats.is_used())
        .map(|(key, stats)| (activity(stats, window), key, stats.as_ref()))
        .collect();
    let quieter = |a: &(Activity, &DestinationKey, &Stats), b: &(Activity, &DestinationKey, &Stats)| {
        b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1))
    };
    let mut rest: BTreeMap<DestinationKey, Stats> = BTreeMap::new();
    if order.len() > LISTED_MAX {
        order.select_nth_unstable_by(LISTED_MAX, quieter);
        for (_, key, stats) in order.drain(LISTED_MAX..) {
            rest.entry(key.folded()).or_default().merge(stats);
        }
    }
    order.sort_unstable_by(quieter);
    let listed = order.into_iter().map(|(_, key, stats)| (key, stats));
    listed.chain(rest.iter()).map(|(key, stats)| destination(key, stats, stacks, window, view)).collect()
}

/// What happens now, then what happened.
type Activity = (u64, u64);

fn activity(stats: &Stats, window: u64) -> Activity {
    let recent = stats.recent(window);
    let counts = &stats.counts;
    let now = recent.opened + positive(recent.accepted) + recent.failed;
    (now, counts.opened + positive(counts.accepted) + counts.failed + positive(counts.before_attach))
}

/// Busiest first: by what happens now, then by what happened.
pub fn busier(a: &Tally, b: &Tally) -> std::cmp::Ordering {
    let now = |tally: &Tally| tally.opened_per_s + tally.accepted_per_s + tally.failed_per_s;
    let ever = |tally: &Tally| tally.opened + tally.accepted + tally.failed + tally.before_attach;
    now(b).total_cmp(&now(a)).then_with(|| ever(b).cmp(&ever(a)))
}

fn destination(
    key: &DestinationKey,
    stats: &Stats,
    stacks: &Stacks,
    window: u64,
    view: View<'_>,
) -> Destination {
    let counts = &stats.counts;
    let is_connect = key.role == FlowRole::Connect;
    let port = (key.port != 0).then_some(key.port);
    Destination {
        role: if is_connect { Role::Connect } else { Role::Accept },
        netns: key.netns,
        remote_address: (is_connect && (key.remote != Address::UNSPECIFIED || port.is_some()))
            .then(|| key.remote.into()),
        remote_port: if is_connect { port } else { None },
        local_port: if is_connect { None } else { port },
        tally: tally(counts, stats.recent(window), view),
        closed_by: closed_by(counts),
        reset_by: view.knows_errors.then(|| reset_by(counts)),
        port_pressure_ratio: None,
        time_wait_entered: counts.time_wait,
        failed_by: failed_by(counts),
        lifetime_us: quantiles(&counts.lifetime, counts.lifetime_max_us),
        connect_us: quantiles(&counts.connect, counts.connect_max_us),
        connect_histogram_us: buckets(&counts.connect),
        call_sites: view.culprits.map(|rules| {
            let expected = Expected {
                opens: if is_connect { counts.attempts } else { 0 },
                closes: counts.closed_total(),
                no_port: counts.failed_by[FailKind::Eaddrnotavail as usize],
            };
            call_sites(&stats.sites, stacks, rules, expected)
        }),
    }
}

fn closed_by(counts: &Counts) -> ClosedBy {
    let of = |kind: CloseKind| counts.closed[kind as usize];
    ClosedBy {
        local: of(CloseKind::Local),
        remote: of(CloseKind::Remote),
        simultaneous: of(CloseKind::Simultaneous),
        reset: of(CloseKind::ResetLocal) + of(CloseKind::ResetRemote) + of(CloseKind::TimedOut),
        process_exit: of(CloseKind::ProcessExit),
    }
}

fn reset_by(counts: &Counts) -> ResetBy {
    let of = |kind: CloseKind| counts.closed[kind as usize];
    ResetBy {
        local: of(CloseKind::ResetLocal),
        remote: of(CloseKind::ResetRemote),
        timed_out: of(CloseKind::TimedOut),
    }
}

fn failed_by(counts: &Counts) -> BTreeMap<&'static str, u64> {
    FailKind::ALL
        .into_iter()
        .map(|kind| (kind.name(), counts.failed_by[kind as usize]))
        .filter(|&(_, count)| count > 0)
        .collect()
}

fn quantiles(histogram: &[u64; BUCKETS], max_us: u64) -> Option<Quantiles> {
    let at = |quantile| quantile_us(histogram, quantile, max_us);
    Some(Quantiles { p50: at(0.50)?, p95: at(0.95)?, p99: at(0.99)?, max: max_us })
}

fn buckets(histogram: &[u64; BUCKETS]) -> Vec<Bucket> {
    let used = histogram.iter().enumerate().filter(|(_, count)| **count > 0);
    used.map(|(index, &count)| Bucket { le: bounds_us(index).1, count }).collect()
}
