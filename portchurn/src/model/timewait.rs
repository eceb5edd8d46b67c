//! Whose TIME_WAIT sockets there are. Each reading of the kernel's tables is the truth; between two of them the ledger
//! carries on: what ended meanwhile came in, what is a minute old went out, what a new connect took over went too.
//! Where a program is started for each connection, its ended processes become one owner, so that a minute of them is not
//! kept and told one by one.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};
use portchurn_common::flow::{ChurnKey, Role as FlowRole};

use crate::model::budget::{TimeWait, TimeWaitDestination, TimeWaitOwner};
use crate::model::culprit::Rules;
use crate::model::forecast::{expired, still_waits};
use crate::model::held::Amount;
use crate::model::names::{Names, ProgramId};
use crate::model::rates::{Rates, Target};
use crate::model::recycling::{Recycling, ServerPort};
use crate::model::reuse::Reuse;
use crate::model::sample::{ProcessId, Sample};
use crate::model::snapshot::Role;
use crate::model::sockets::{
    AGE_STEP_S, AGE_STEPS, Expected, ExpectedThere, Ownership, SLOT_S, SocketReading, Sysctls, Unowned,
};
use crate::model::stacks::Stacks;
use crate::model::waiting::Waiting;

/// What groups are told apart by.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Owner {
    ownership: Ownership,
    process: ProcessId,
    /// All its ended processes: `process` is none, then.
    ended: Option<ProgramId>,
}

impl Owner {
    fn of(ownership: Ownership, key: &ChurnKey) -> Self {
        Self { ownership, process: ProcessId::of(key), ended: None }
    }

    /// The same, or its program if it has ended.
    fn folded(self, names: &Names) -> Self {
        match names.ended(self.process) {
            Some(program) => Self { process: ProcessId::default(), ended: Some(program), ..self },
            None => self,
        }
    }
}

/// An owner, and where to; the process in the key is none of it.
type GroupId = (Owner, ChurnKey);

fn place_of(key: &ChurnKey) -> ChurnKey {
    ChurnKey { tgid: 0, start_ns: 0, ..*key }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Ledger {
    groups: HashMap<GroupId, Waiting>,
    sysctls: HashMap<u32, Sysctls>,
    recycling: Recycling,
    last: Option<SocketReading>,
    now_ns: u64,
    /// Whether ended processes are put together.
    folds: bool,
}

impl Ledger {
    /// Takes one interval in; `after_reading` is the share of it that lies after the latest reading.
    pub fn apply(&mut self, sample: &Sample, rates: &Rates, names: &Names, after_reading: f64) {
        self.now_ns = sample.at_ns;
        if let Some(reading) = &sample.sockets {
            self.learn(reading);
            self.begin_again(reading, names);
        }
        if self.last.is_none() {
            return;
        }
        self.take_over(rates, after_reading);
        self.recycle(sample, after_reading);
        for (key, counts) in sample.churn.iter().filter(|(_, counts)| counts.time_wait > 0) {
            let ownership =
                if key.tgid == 0 { Ownership::Unowned(Unowned::NotFollowed) } else { Ownership::Owned };
            // Nothing of a namespace that was not listed is in the list.
            let is_listed = |reading: &SocketReading| reading.lists(key.netns);
            let since = if sample.sockets.as_ref().is_none_or(is_listed) { after_reading } else { 1.0 };
            let group = self.group(ownership, key, names);
            group.entered += counts.time_wait as f64 * since;
            group.processes = group.processes.max(1);
        }
    }

    fn group(&mut self, ownership: Ownership, key: &ChurnKey, names: &Names) -> &mut Waiting {
        let owner = Owner::of(ownership, key);
        let owner = if self.folds { owner.folded(names) } else { owner };
        self.groups.entry((owner, place_of(key))).or_default()
    }

    fn begin_again(&mut self, reading: &SocketReading, names: &Names) {
        self.groups = HashMap::new();
        let lists = reading.namespaces.iter().flat_map(|namespace| &namespace.time_wait);
        let ended = lists.filter(|group| names.ended(ProcessId::of(&group.key)).is_some());
        self.folds = ended.count() > ENDED_MAX;
        for namespace in &reading.namespaces {
            if let Some(sysctls) = &namespace.sysctls {
                self.sysctls.insert(namespace.netns, sysctls.clone());
            }
            for group in &namespace.time_wait {
                let entry = self.group(group.ownership, &group.key, names);
                entry.processes += u64::from(group.key.tgid != 0);
                entry.listed += f64::from(group.count);
                entry.add_ages(&group.ages);
                entry.closed_first_by.local += u64::from(group.closed_local);
                entry.closed_first_by.process_exit += u64::from(group.closed_exit);
                entry.closed_first_by.simultaneous += u64::from(group.closed_both);
                entry.closed_first_by.other_process += u64::from(group.closed_by_other);
                for &(pair, count) in &group.sites {
                    entry.held.add(pair, count);
                }
            }
        }
        self.last = Some(reading.without_lists());
    }

    /// Where ports are taken over, a connect takes a waiting one as soon as half of the range is full: of each owner's
    /// as many as its share.
    fn take_over(&mut self, rates: &Rates, after_reading: f64) {
        let mut waiting: HashMap<Target, f64> = HashMap::new();
        for ((_, key), group) in
            self.groups.iter().filter(|((_, key), _)| key.role == FlowRole::Connect as u8)
        {
            *waiting.entry(target(key)).or_default() += group.listed + group.entered - group.taken_over;
        }
        for ((_, key), group) in &mut self.groups {
            let (Some(sysctls), Some(&waiting)) = (self.sysctls.get(&key.netns), waiting.get(&target(key)))
            else {
                continue;
            };
            let range = f64::from(sysctls.port_high) - f64::from(sysctls.port_low) + 1.0;
            let is_taken_over = Reuse::of(sysctls, key.remote, key.remote, false).after_s.is_some();
            if key.role != FlowRole::Connect as u8 || !is_taken_over || waiting < FULL * range / 2.0 {
                continue;
            }
            let Some(recent) = rates.at(target(key)) else { continue };
            let share = (group.listed + group.entered - group.taken_over) / waiting;
            group.taken_over += recent.latest().opened * after_reading * share;
        }
    }

    /// What a peer's SYN took over of a server port: of each owner's the same share.
    fn recycle(&mut self, sample: &Sample, after_reading: f64) {
        self.recycling.apply(&sample.churn, after_reading);
        let Some(last) = self.last.as_ref().filter(|_| self.recycling.has_taken()) else { return };
        let elapsed_s = seconds(self.now_ns, middle_ns(last));
        let waiting = self.by_server_port(|group| group.left(elapsed_s) + group.entered);
        for ((_, key), group) in &mut self.groups {
            let Some(port) = ServerPort::of(key) else { continue };
            if let (Some(taken), Some(&waiting)) = (self.recycling.taken(port), waiting.get(&port)) {
                group.recycle(if waiting > taken { taken / waiting } else { 1.0 });
            }
        }
    }

    fn by_server_port(&self, of: impl Fn(&Waiting) -> f64) -> HashMap<ServerPort, f64> {
        let mut sums = HashMap::new();
        for ((_, key), group) in &self.groups {
            if let Some(port) = ServerPort::of(key) {
                *sums.entry(port).or_default() += of(group);
            }
        }
        sums
    }

    /// A server's sockets that a new list lacks, though no timer took them.
    fn learn(&mut self, reading: &SocketReading) {
        let Some(last) = &self.last else { return };
        let elapsed_s = seconds(middle_ns(reading), middle_ns(last));
        let kept = self.by_server_port(|group| group.listed - expired(&group.ages, elapsed_s + SLOT_S));
        let shares = self.entered_shares(elapsed_s);
        let has_room = |netns: u32| shares.get(&netns).is_none_or(|&share| share >= 1.0);
        self.recycling.learn(&kept, reading, has_room);
    }

    /// Stacks under which something is counted here.
    pub fn stack_ids(&self) -> impl Iterator<Item = u64> {
        self.groups.values().flat_map(|group| group.held.stack_ids())
    }

    /// What is known now; `None` before the first reading. `culprits`: whose frames are the application's; `None`: call
    /// sites are not taken.
    pub fn snapshot(&self, names: &Names, stacks: &Stacks, culprits: Option<&Rules>) -> Option<TimeWait> {
        let last = self.last.as_ref()?;
        let read_ago_s = seconds(self.now_ns, middle_ns(last));
        let elapsed_s = self.carried_s(last, read_ago_s);
        let amounts = self.amounts(last, read_ago_s);
        let told = culprits.map(|rules| (rules, told(&amounts)));
        let mut owners: BTreeMap<Owner, Vec<TimeWaitDestination>> = BTreeMap::new();
        let mut by_ownership: BTreeMap<Ownership, u64> = BTreeMap::new();
        let mut ages = [0; AGE_STEPS];
        for (id @ (owner, key), group, amount) in amounts {
            let count = amount.left + amount.since;
            let carried = group.carried_on(amount, elapsed_s);
            for (sum, one) in ages.iter_mut().zip(&carried) {
                *sum += one;
            }
            if count > 0 {
                *by_ownership.entry(owner.ownership).or_default() += count;
                let sites = told.as_ref().filter(|(_, told)| told.contains(id)).map(|(rules, _)| {
                    group.held.call_sites(amount, key.role == FlowRole::Connect as u8, stacks, rules)
                });
                let to = TimeWaitDestination { call_sites: sites, ..destination(key, group, count, carried) };
                owners.entry(*owner).or_default().push(to);
            }
        }
        let mut owners: Vec<_> = owners.into_iter().map(|(id, list)| owner(id, list, names)).collect();
        owners.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.tgid.cmp(&b.tgid)));
        Some(summed(last, read_ago_s, &by_ownership, &ages, owners))
    }

    /// How many there should be by now, of those owners and destinations that the reading knew: whose ports others hold
    /// only the next one shows. `None` before the first reading.
    pub fn expected(&self) -> Option<Expected> {
        let last = self.last.as_ref()?;
        let read_ago_s = seconds(self.now_ns, middle_ns(last));
        let mut sums: BTreeMap<u32, (u64, f64, f64, bool)> =
            last.namespaces.iter().map(|namespace| (namespace.netns, (0, 0.0, 0.0, false))).collect();
        for ((_, key), group, amount) in self.amounts(last, read_ago_s) {
            let (count, due, entered, has_any) = sums.entry(key.netns).or_default();
            *count += if group.listed > 0.0 { amount.left + amount.since } else { 0 };
            *due += group.left((read_ago_s - SLOT_S).max(0.0)) - group.left(read_ago_s + SLOT_S);
            *entered += group.entered;
            *has_any |= amount.left > 0 || group.entered > 0.0;
        }
        let shares = self.entered_shares(read_ago_s);
        let has_room = |netns: u32| shares.get(&netns).is_none_or(|&share| share >= 1.0);
        let namespaces = sums.into_iter().map(|(netns, (count, due, entered, has_any))| ExpectedThere {
            netns,
            count: has_room(netns).then_some(count),
            // Where more come, it is worth a list to be right.
            due: if entered > 0.0 { 0 } else { due.round() as u64 },
            has_any,
        });
        Some(Expected { read_ns: last.at_ns, namespaces: namespaces.collect() })
    }

    /// What has just been read needs no carrying on, which errs: timers of a minute go off in lots.
    fn is_fresh(&self, last: &SocketReading) -> bool {
        self.now_ns.saturating_sub(last.at_ns) < FRESH_NS
    }

    /// For how long the list is carried on.
    fn carried_s(&self, last: &SocketReading, read_ago_s: f64) -> f64 {
        if self.is_fresh(last) { 0.0 } else { read_ago_s }
    }

    /// How many sockets each group has by now.
    fn amounts(&self, last: &SocketReading, read_ago_s: f64) -> Vec<(&GroupId, &Waiting, Amount)> {
        let elapsed_s = self.carried_s(last, read_ago_s);
        let is_fresh = self.is_fresh(last);
        let shares = if is_fresh { HashMap::new() } else { self.entered_shares(elapsed_s) };
        let usual_share = if is_fresh { 0.0 } else { 1.0 };
        let amount = |id: &GroupId, group: &Waiting| {
            group.amount(elapsed_s, shares.get(&id.1.netns).copied().unwrap_or(usual_share))
        };
        self.groups.iter().map(|(id, group)| (id, group, amount(id, group))).collect()
    }

    /// Of what ended since the reading, the share that is there: for which the kernel still had room (at `tcp_max_tw_buckets` it
    /// makes no TIME_WAIT), and whose minute is not over.
    fn entered_shares(&self, elapsed_s: f64) -> HashMap<u32, f64> {
        let mut sums: HashMap<u32, (f64, f64)> = HashMap::new();
        for ((_, key), group) in &self.groups {
            let (left, entered) = sums.entry(key.netns).or_default();
            *left += group.left(elapsed_s);
            *entered += group.entered;
        }
        let still = still_waits(elapsed_s);
        let share = |(netns, (left, entered)): (u32, (f64, f64))| {
            let max = self.sysctls.get(&netns).map_or(f64::MAX, |sysctls| f64::from(sysctls.max_tw_buckets));
            (netns, if entered > 0.0 { ((max - left).max(0.0) / entered).min(still) } else { still })
        };
        sums.into_iter().map(share).collect()
    }
}

/// So many owners and destinations of ended processes are told one by one.
const ENDED_MAX: usize = 1000;

/// A reading that is no older is shown as it is. Nanoseconds.
const FRESH_NS: u64 = 50_000_000;

/// From this share of half of the range on the search for a port meets waiting ones.
const FULL: f64 = 0.98;

/// Owners and destinations whose lines of code are told. A host that starts a process for each connection has tens of
/// thousands with one socket each.
const TOLD_MAX: usize = 2000;

/// Those that hold the most, of those that have an owner.
fn told<'a>(amounts: &[(&'a GroupId, &Waiting, Amount)]) -> HashSet<&'a GroupId> {
    let owned = amounts.iter().filter(|(id, ..)| id.0.ownership == Ownership::Owned);
    let mut all: Vec<_> = owned.map(|(id, _, amount)| (amount.left + amount.since, *id)).collect();
    if all.len() > TOLD_MAX {
        all.select_nth_unstable_by(TOLD_MAX, |a, b| b.cmp(a));
        all.truncate(TOLD_MAX);
    }
    all.into_iter().map(|(_, id)| id).collect()
}

fn target(key: &ChurnKey) -> Target {
    Target { netns: key.netns, remote: key.remote, port: key.port }
}

fn seconds(later_ns: u64, earlier_ns: u64) -> f64 {
    later_ns.saturating_sub(earlier_ns) as f64 / 1e9
}

/// A reading takes a while; on average a socket was seen in its middle.
pub fn middle_ns(reading: &SocketReading) -> u64 {
    u64::midpoint(reading.began_ns, reading.at_ns)
}

fn summed(
    last: &SocketReading,
    read_ago_s: f64,
    by_ownership: &BTreeMap<Ownership, u64>,
    ages: &[u64; AGE_STEPS],
    owners: Vec<TimeWaitOwner>,
) -> TimeWait {
    let of = |ownership| by_ownership.get(&ownership).copied().unwrap_or(0);
    let unowned_by: BTreeMap<_, _> =
        Unowned::ALL.into_iter().map(|reason| (reason.name(), of(Ownership::Unowned(reason)))).collect();
    let (owned, before_attach) = (of(Ownership::Owned), of(Ownership::BeforeAttach));
    let unowned = unowned_by.values().sum();
    let total = owned + before_attach + unowned;
    let incomplete_because = last.incomplete_because();
    TimeWait {
        total,
        owned,
        before_attach,
        unowned,
        unowned_by,
        coverage_ratio: (total > 0).then(|| owned as f64 / total as f64),
        read_ago_s,
        read_cpu_ms: last.cpu_ns as f64 / 1e6,
        complete: incomplete_because.is_empty(),
        incomplete_because,
        repeated: last.namespaces.iter().map(|namespace| namespace.repeated).sum(),
        ages: ages.to_vec(),
        age_step_s: AGE_STEP_S,
        owners,
    }
}

fn owner(id: Owner, mut destinations: Vec<TimeWaitDestination>, names: &Names) -> TimeWaitOwner {
    destinations.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| place(a).cmp(&place(b))));
    let is_owned = id.ownership == Ownership::Owned;
    let (program, exited) = match id.ended {
        Some(program) => (names.program(program), Some(true)),
        None => (names.program_of(id.process), names.has_ended(id.process)),
    };
    TimeWaitOwner {
        ownership: match id.ownership {
            Ownership::Owned => "owned",
            Ownership::BeforeAttach => "before_attach",
            Ownership::Unowned(reason) => reason.name(),
        },
        tgid: (is_owned && id.ended.is_none()).then_some(id.process.tgid),
        program: program.filter(|_| is_owned).map(str::to_owned),
        exited: exited.filter(|_| is_owned),
        count: destinations.iter().map(|destination| destination.count).sum(),
        destinations,
    }
}

fn place(destination: &TimeWaitDestination) -> impl Ord + use<> {
    (destination.netns, destination.remote_address, destination.remote_port, destination.local_port)
}

fn destination(key: &ChurnKey, group: &Waiting, count: u64, ages: [u64; AGE_STEPS]) -> TimeWaitDestination {
    let is_connect = key.role == FlowRole::Connect as u8;
    TimeWaitDestination {
        role: if is_connect { Role::Connect } else { Role::Accept },
        netns: key.netns,
        remote_address: is_connect.then(|| key.remote.into()),
        remote_port: is_connect.then_some(key.port),
        local_port: (!is_connect).then_some(key.port),
        count,
        processes: group.processes,
        closed_first_by: group.closed_first_by,
        ages: ages.to_vec(),
        call_sites: None,
    }
}

#[cfg(test)]
#[path = "timewait_tests.rs"]
mod tests;
