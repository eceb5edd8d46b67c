//! Connects and binds that failed because no local port was left: counted exactly by the kernel side; here they are kept with who
//! held the ports at that moment.

use hashbrown::HashMap;

use portchurn_common::flow::{ChurnKey, Role};
use portchurn_common::stack::At;
use portchurn_common::tcp::FailKind;

use crate::model::budget::{Exhaustion, FailedBy, PortHolder};
use crate::model::culprit::Rules;
use crate::model::names::Names;
use crate::model::ports::Ports;
use crate::model::rates::Target;
use crate::model::sample::{ProcessId, Sample};
use crate::model::site::{NOT_TAKEN, Sites, lines};
use crate::model::sockets::TIME_WAIT_S;
use crate::model::stacks::Stacks;

/// Destinations that are remembered.
const EVENTS_MAX: usize = 256;
/// Processes that are remembered of one; failures of others are in the sum alone.
const PROCESSES_MAX: usize = 256;
/// Lines of code that are remembered of one process; failures of others are counted as one.
const PLACES_MAX: usize = 16;
/// It goes on as long as the last failure is not older. Nanoseconds.
const ONGOING_NS: u64 = 5 * 1_000_000_000;

/// So long a TIME_WAIT holds its port (`TCP_TIMEWAIT_LEN`). Nanoseconds.
const HELD_NS: u64 = TIME_WAIT_S * 1_000_000_000;

/// One process that failed.
#[derive(Debug, Default)]
struct Failing {
    count: u64,
    program: Option<String>,
    sites: Sites,
}

#[derive(Debug)]
struct Event {
    count: u64,
    first_ns: u64,
    last_ns: u64,
    failed: HashMap<ProcessId, Failing>,
    holders: Vec<PortHolder>,
    holders_ns: Option<u64>,
}

/// What happened, by destination.
#[derive(Debug, Default)]
pub struct Exhaustions {
    events: HashMap<(Target, FailKind), Event>,
    now_ns: u64,
}

impl Exhaustions {
    /// Takes one interval in.
    pub fn apply(&mut self, sample: &Sample, ports: &Ports, names: &Names) {
        self.now_ns = sample.at_ns;
        for (key, counts) in &sample.churn {
            if key.role != Role::Connect as u8 {
                continue;
            }
            let target = target(key);
            for kind in [FailKind::Eaddrnotavail, FailKind::Eaddrinuse] {
                let count = counts.failed_by[kind as usize];
                if count > 0 {
                    self.note((target, kind), ProcessId::of(key), count, ports, names);
                }
            }
        }
        for site in sample.sites.iter().filter(|site| site.at == At::NoPort) {
            let event = self.events.get_mut(&(target(&site.key), FailKind::Eaddrnotavail));
            if let Some(failing) = event.and_then(|event| event.failed.get_mut(&ProcessId::of(&site.key))) {
                failing.sites.record_few(site, PLACES_MAX);
            }
        }
        if sample.sockets.is_some() {
            // What was read while it goes on is nearer to the moment than what was read before; where nothing was, the
            // first list after it still shows what waits since then.
            for ((target, _), event) in &mut self.events {
                if event.is_ongoing(sample.at_ns) || event.is_still_to_tell(sample.at_ns) {
                    event.look_at_holders(*target, ports, names);
                }
            }
        }
    }

    fn note(
        &mut self,
        key: (Target, FailKind),
        process: ProcessId,
        count: u64,
        ports: &Ports,
        names: &Names,
    ) {
        if self.events.len() >= EVENTS_MAX && !self.events.contains_key(&key) {
            self.forget_oldest();
        }
        let now_ns = self.now_ns;
        let event = self.events.entry(key).or_insert_with(|| Event::new(now_ns));
        if event.count == 0 || !event.is_ongoing(now_ns) {
            // Who held them the last time has nothing to do with it.
            (event.holders, event.holders_ns) = (Vec::new(), None);
            event.look_at_holders(key.0, ports, names);
        }
        event.count += count;
        event.last_ns = now_ns;
        if event.failed.len() < PROCESSES_MAX || event.failed.contains_key(&process) {
            let program = || names.program_of(process).map(str::to_owned);
            let failing = event.failed.entry(process);
            failing.or_insert_with(|| Failing { program: program(), ..Failing::default() }).count += count;
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.events.iter().min_by_key(|(_, event)| event.last_ns).map(|(key, _)| *key) {
            self.events.remove(&oldest);
        }
    }

    /// Stacks under which something is counted here.
    pub fn stack_ids(&self) -> impl Iterator<Item = u64> {
        let failed = self.events.values().flat_map(|event| event.failed.values());
        failed.flat_map(|failing| failing.sites.ids())
    }

    /// Everything that is remembered, the latest first. `culprits`: whose frames are the application's; `None`: call sites
    /// are not taken.
    pub fn snapshot(&self, attached_ns: u64, stacks: &Stacks, culprits: Option<&Rules>) -> Vec<Exhaustion> {
        let mut list: Vec<_> = self
            .events
            .iter()
            .map(|(&(target, kind), event)| {
                // What fails to bind changes no state, and no stack is taken.
                let rules = culprits.filter(|_| kind == FailKind::Eaddrnotavail);
                let failed = event.failed(stacks, rules);
                event.shown((target, kind), failed, attached_ns, self.now_ns)
            })
            .collect();
        list.sort_by(|a, b| b.last_s.total_cmp(&a.last_s).then_with(|| b.count.cmp(&a.count)));
        list
    }
}

impl Event {
    fn new(now_ns: u64) -> Self {
        Self {
            count: 0,
            first_ns: now_ns,
            last_ns: now_ns,
            failed: HashMap::new(),
            holders: Vec::new(),
            holders_ns: None,
        }
    }

    fn is_ongoing(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.last_ns) < ONGOING_NS
    }

    /// Nobody has looked yet, and ports that were held in TIME_WAIT then are held still.
    fn is_still_to_tell(&self, now_ns: u64) -> bool {
        self.holders_ns.is_none() && now_ns.saturating_sub(self.last_ns) < HELD_NS
    }

    fn look_at_holders(&mut self, target: Target, ports: &Ports, names: &Names) {
        if let Some((holders, at_ns)) = ports.holders(target, names) {
            (self.holders, self.holders_ns) = (holders, Some(at_ns));
        }
    }

    /// Who failed, most first.
    fn failed(&self, stacks: &Stacks, culprits: Option<&Rules>) -> Vec<FailedBy> {
        let mut failed: Vec<_> = self
            .failed
            .iter()
            .map(|(id, failing)| FailedBy {
                tgid: id.tgid,
                program: failing.program.clone(),
                count: failing.count,
                call_sites: culprits.map(|rules| {
                    lines(&failing.sites, stacks, rules, (At::NoPort, failing.count, NOT_TAKEN))
                }),
            })
            .collect();
        failed.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.tgid.cmp(&b.tgid)));
        failed
    }

    fn shown(
        &self,
        (target, kind): (Target, FailKind),
        failed: Vec<FailedBy>,
        attached_ns: u64,
        now_ns: u64,
    ) -> Exhaustion {
        let since_attach = |at_ns: u64| at_ns.saturating_sub(attached_ns) as f64 / 1e9;
        Exhaustion {
            netns: target.netns,
            remote_address: (!target.is_of_binds()).then(|| target.remote.into()),
            remote_port: (!target.is_of_binds()).then_some(target.port),
            errno: kind.name(),
            count: self.count,
            first_s: since_attach(self.first_ns),
            last_s: since_attach(self.last_ns),
            ongoing: self.is_ongoing(now_ns),
            failed,
            holders: self.holders.clone(),
            holders_read_ago_s: self.holders_ns.map(|at_ns| seconds_between(at_ns, self.last_ns)),
        }
    }
}

/// Negative: the other way round.
fn seconds_between(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.wrapping_sub(from_ns).cast_signed() as f64 / 1e9
}

fn target(key: &ChurnKey) -> Target {
    Target { netns: key.netns, remote: key.remote, port: key.port }
}

#[cfg(test)]
#[path = "exhaustion_tests.rs"]
mod tests;
