//! Who did what: processes, their destinations, and programs as groups of processes. Memory is bounded: processes that
//! ended long ago and destinations beyond a limit are folded together, their counts kept, so that totals stay exact.

use std::borrow::Cow;

use hashbrown::{HashMap, HashSet};

use crate::model::destination::{DestinationKey, Destinations, bounded};
use crate::model::program::ProgramKey;
use crate::model::sample::{Process, ProcessId, Sample};
use crate::model::site::Sites;
use crate::model::stacks::Stacks;

/// Ended processes that are kept one by one. The oldest beyond this are folded into their program.
const ENDED_MAX: usize = 1024;
/// Programs that are kept one by one. Beyond this those that ended longest ago are folded together, an eighth at a time.
const PROGRAMS_MAX: usize = 4096;

/// Where programs go for which there is no room.
fn other_programs() -> ProgramKey {
    ProgramKey { program: "(other programs)".to_owned(), ..ProgramKey::default() }
}

/// One process.
#[derive(Debug)]
pub struct ProcessEntry {
    /// Who it is, as far as is known.
    pub identity: Process,
    /// The group it belongs to.
    pub program: ProgramKey,
    /// When its end was noticed. Nanoseconds, CLOCK_MONOTONIC.
    pub ended_ns: Option<u64>,
    /// What it did.
    pub destinations: Destinations,
}

impl ProcessEntry {
    fn new(identity: Process) -> Self {
        let program = ProgramKey::of(&identity);
        Self { identity, program, ended_ns: None, destinations: Destinations::new() }
    }

    /// Whether a connection, or a connect in progress, may still report under this process.
    fn is_settled(&self) -> bool {
        self.destinations
            .values()
            .all(|stats| stats.counts.open_now() <= 0 && stats.counts.connecting_now() <= 0)
    }
}

/// What is kept of a program beside its single processes.
#[derive(Debug, Default)]
pub struct ProgramEntry {
    /// Processes seen, folded ones included.
    pub process_count: u64,
    /// Processes of these that have ended.
    pub exited_count: u64,
    /// When the latest of these ends was noticed. Nanoseconds, CLOCK_MONOTONIC.
    ended_ns: u64,
    /// Path of the executable, from the latest process that had one.
    pub exe: Option<String>,
    /// Arguments of the latest process that had any.
    pub argv: Vec<String>,
    /// What processes did that are not kept one by one any more.
    pub folded: Destinations,
}

impl ProgramEntry {
    /// Takes over what somebody did who is not kept any more.
    fn fold(&mut self, destinations: &Destinations, stacks: &Stacks) {
        for (key, stats) in destinations {
            let folded = bounded(&mut self.folded, *key);
            folded.merge(stats);
            folded.sites.settle(stacks);
        }
    }
}

/// Everything since the attach.
#[derive(Debug, Default)]
pub struct Ledger {
    processes: HashMap<ProcessId, ProcessEntry>,
    programs: HashMap<ProgramKey, ProgramEntry>,
    stacks: Stacks,
    window: u64,
}

impl Ledger {
    /// Takes a sample in that begins a new window.
    pub fn apply(&mut self, sample: &Sample) {
        self.window += 1;
        self.carry_on(sample);
    }

    /// Takes a sample in that belongs to the window of the one before.
    pub fn carry_on(&mut self, sample: &Sample) {
        for process in &sample.processes {
            self.introduce(process);
        }
        for (key, counts) in &sample.churn {
            let window = self.window;
            let process = self.entry(ProcessId::of(key));
            bounded(&mut process.destinations, DestinationKey::of(key)).record(counts, window);
        }
        for site in &sample.sites {
            let process = self.entry(ProcessId::of(&site.key));
            bounded(&mut process.destinations, DestinationKey::of(&site.key)).sites.record(site);
        }
        for stack in &sample.stacks {
            self.stacks.add(stack);
        }
        for id in &sample.exits {
            self.end(*id, sample.at_ns);
        }
        self.fold_ended();
    }

    /// A new process, or one that replaced its image and now belongs to another program.
    fn introduce(&mut self, identity: &Process) {
        let mut entry = ProcessEntry::new(identity.clone());
        if let Some(known) = self.processes.remove(&identity.id) {
            self.leave(&known);
            entry.ended_ns = known.ended_ns;
            entry.destinations = known.destinations;
        }
        self.insert(entry);
    }

    fn insert(&mut self, mut entry: ProcessEntry) {
        if self.programs.len() >= PROGRAMS_MAX && !self.programs.contains_key(&entry.program) {
            self.fold_programs();
            if self.programs.len() >= PROGRAMS_MAX {
                entry.program = other_programs();
            }
        }
        let program = self.program(&entry.program);
        program.process_count += 1;
        program.exited_count += u64::from(entry.ended_ns.is_some());
        if entry.identity.exe.is_some() {
            program.exe.clone_from(&entry.identity.exe);
        }
        if !entry.identity.argv.is_empty() {
            program.argv.clone_from(&entry.identity.argv);
        }
        self.processes.insert(entry.identity.id, entry);
    }

    fn leave(&mut self, entry: &ProcessEntry) {
        let program = self.program(&entry.program);
        program.process_count -= 1;
        program.exited_count -= u64::from(entry.ended_ns.is_some());
        if program.process_count == 0 {
            self.programs.remove(&entry.program);
        }
    }

    fn program(&mut self, key: &ProgramKey) -> &mut ProgramEntry {
        self.programs.entry(key.clone()).or_default()
    }

    /// The process, introduced or not.
    fn entry(&mut self, id: ProcessId) -> &mut ProcessEntry {
        if !self.processes.contains_key(&id) {
            self.insert(ProcessEntry::new(stranger(id)));
        }
        self.processes.entry(id).or_insert_with(|| ProcessEntry::new(stranger(id)))
    }

    fn end(&mut self, id: ProcessId, at_ns: u64) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        if process.ended_ns.replace(at_ns).is_none() {
            let program = process.program.clone();
            let program = self.program(&program);
            program.exited_count += 1;
            program.ended_ns = at_ns;
        }
    }

    /// Makes room for stacks, if there is none: those of folded processes are the same as others'. `elsewhere`: what is
    /// counted under beside what is kept here.
    pub fn make_room_for_stacks<I: Iterator<Item = u64>>(&mut self, elsewhere: impl FnOnce() -> I) {
        if !self.stacks.is_full() {
            return;
        }
        let single = self.processes.values().flat_map(|process| process.destinations.values());
        let folded = self.programs.values().flat_map(|program| program.folded.values());
        let here = single.chain(folded).flat_map(|stats| stats.sites.ids());
        let used = here.chain(elsewhere()).collect();
        self.stacks.keep(&used);
    }

    /// Folds the ended processes beyond the limit into their programs, the longest ended first.
    fn fold_ended(&mut self) {
        let mut ended: Vec<_> = self
            .processes
            .iter()
            .filter(|(_, process)| process.is_settled())
            .filter_map(|(id, process)| process.ended_ns.map(|at_ns| (at_ns, *id)))
            .collect();
        if ended.len() <= ENDED_MAX {
            return;
        }
        let excess = ended.len() - ENDED_MAX;
        ended.select_nth_unstable(excess);
        for (_, id) in &ended[..excess] {
            let Some(process) = self.processes.remove(id) else { continue };
            let program = self.programs.entry(process.program.clone()).or_default();
            program.fold(&process.destinations, &self.stacks);
        }
    }

    /// Folds programs of which no process is left: scheduled jobs are another program each time where every run has a
    /// container, or a unit, of its own.
    fn fold_programs(&mut self) {
        let is_over = |program: &ProgramEntry| program.exited_count == program.process_count;
        let over = self.programs.iter().filter(|(_, program)| is_over(program));
        let mut ended: HashMap<_, _> = over.map(|(key, program)| (key.clone(), program.ended_ns)).collect();
        ended.remove(&other_programs());
        for process in self.processes.values().filter(|process| !process.is_settled()) {
            ended.remove(&process.program);
        }
        let mut ended: Vec<_> = ended.into_iter().collect();
        ended.sort_unstable_by_key(|(_, ended_ns)| *ended_ns);
        ended.truncate(PROGRAMS_MAX / 8);
        let folded: HashSet<_> = ended.into_iter().map(|(key, _)| key).collect();
        for key in &folded {
            let Some(program) = self.programs.remove(key) else { continue };
            let other = self.programs.entry(other_programs()).or_default();
            other.process_count += program.process_count;
            other.exited_count += program.exited_count;
            other.fold(&program.folded, &self.stacks);
        }
        let of_folded = self.processes.values_mut().filter(|process| folded.contains(&process.program));
        of_folded.for_each(|process| process.program = other_programs());
    }

    /// Forgets what happened, not what is in progress.
    pub fn restart(&mut self) {
        for process in self.processes.values_mut() {
            for stats in process.destinations.values_mut() {
                stats.counts = stats.counts.restarted();
                stats.sites = Sites::default();
            }
        }
        for program in self.programs.values_mut() {
            program.folded.clear();
        }
    }

    /// Number of the current window.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// One process, if it is kept by itself.
    pub fn process(&self, id: ProcessId) -> Option<&ProcessEntry> {
        self.processes.get(&id)
    }

    /// Every stack that has a name.
    pub fn stacks(&self) -> &Stacks {
        &self.stacks
    }

    /// Processes that are kept one by one.
    pub fn processes(&self) -> impl Iterator<Item = (&ProcessId, &ProcessEntry)> {
        self.processes.iter()
    }

    /// Programs, each with where its destinations are: what is folded, and what its single processes have.
    pub fn programs(&self) -> HashMap<&ProgramKey, (&ProgramEntry, Vec<&Destinations>)> {
        let mut programs: HashMap<_, _> =
            self.programs.iter().map(|(key, entry)| (key, (entry, vec![&entry.folded]))).collect();
        for process in self.processes.values() {
            if let Some((_, parts)) = programs.get_mut(&process.program) {
                parts.push(&process.destinations);
            }
        }
        for (_, parts) in programs.values_mut() {
            parts.retain(|destinations| !destinations.is_empty());
        }
        programs
    }
}

/// The sum of several processes' destinations; no copy is made where there is only one.
pub fn merged<'a>(parts: &[&'a Destinations]) -> Cow<'a, Destinations> {
    match parts {
        [] => Cow::Owned(Destinations::new()),
        [only] => Cow::Borrowed(*only),
        [first, rest @ ..] => {
            let mut sum = (*first).clone();
            for (key, stats) in rest.iter().flat_map(|destinations| destinations.iter()) {
                bounded(&mut sum, *key).merge(stats);
            }
            Cow::Owned(sum)
        }
    }
}

/// A process of which nothing is known but its number, or the place of connections that nobody is known to own.
fn stranger(id: ProcessId) -> Process {
    let comm = if id.tgid == 0 { "(not attributed)".to_owned() } else { format!("(process {})", id.tgid) };
    Process { id, comm, ..Process::default() }
}

#[cfg(test)]
mod tests {
    use portchurn_common::flow::{Address, ChurnKey, Role};

    use super::{ENDED_MAX, Ledger, PROGRAMS_MAX};
    use crate::model::destination::DESTINATIONS_MAX;
    use crate::model::sample::{Counts, Process, ProcessId, Sample};

    fn id(tgid: u32) -> ProcessId {
        ProcessId { tgid, start_ns: u64::from(tgid) * 10 }
    }

    fn process(tgid: u32, name: &str) -> Process {
        Process { id: id(tgid), comm: name.to_owned(), argv: vec![name.to_owned()], ..Process::default() }
    }

    fn connect_key(tgid: u32, host: u16) -> ChurnKey {
        let [high, low] = host.to_be_bytes();
        ChurnKey {
            tgid,
            start_ns: u64::from(tgid) * 10,
            remote: Address::from_v4([10, 0, high, low]),
            port: 3306,
            role: Role::Connect as u8,
            ..ChurnKey::default()
        }
    }

    fn one_closed() -> Counts {
        let mut counts = Counts { attempts: 1, opened: 1, ..Counts::ZERO };
        counts.closed[0] = 1;
        counts
    }

    fn total(ledger: &Ledger) -> u64 {
        let sums = ledger.programs().into_values().map(|(_, parts)| super::merged(&parts));
        sums.map(|sum| sum.values().map(|stats| stats.counts.opened).sum::<u64>()).sum()
    }

    #[test]
    fn many_short_lived_processes_are_one_program_and_none_is_forgotten() {
        let mut ledger = Ledger::default();
        let count = 3 * ENDED_MAX as u32;
        for tgid in 1..=count {
            ledger.apply(&Sample {
                processes: vec![process(tgid, "curl")],
                churn: vec![(connect_key(tgid, 1), one_closed())],
                exits: vec![id(tgid)],
                at_ns: u64::from(tgid),
                ..Sample::default()
            });
        }
        let programs = ledger.programs();
        assert_eq!(programs.len(), 1);
        let (entry, _) = programs.values().next().unwrap();
        assert_eq!((entry.process_count, entry.exited_count), (u64::from(count), u64::from(count)));
        assert_eq!(total(&ledger), u64::from(count));
        assert!(ledger.processes().count() <= ENDED_MAX);
    }

    #[test]
    fn programs_that_are_over_make_room_for_new_ones() {
        let mut ledger = Ledger::default();
        let count = PROGRAMS_MAX as u32 + 100;
        for tgid in 1..=count {
            ledger.apply(&Sample {
                at_ns: u64::from(tgid),
                processes: vec![process(tgid, &format!("job-{tgid}"))],
                churn: vec![(connect_key(tgid, 1), one_closed())],
                // The second one runs for ever.
                exits: if tgid == 2 { Vec::new() } else { vec![id(tgid)] },
                ..Sample::default()
            });
        }
        let programs = ledger.programs();
        let named =
            |name: &str| programs.iter().find(|(key, _)| key.program == name).map(|(_, (entry, _))| entry);
        assert!(named("job-1").is_none(), "it ended first");
        assert!(named("job-2").is_some(), "it has not ended");
        assert!(named(&format!("job-{count}")).is_some(), "what is new has a row of its own");
        let other = named("(other programs)").unwrap();
        assert_eq!(
            (other.process_count, other.exited_count),
            (PROGRAMS_MAX as u64 / 8, PROGRAMS_MAX as u64 / 8)
        );
        assert_eq!(total(&ledger), u64::from(count));
    }

    #[test]
    fn a_process_with_open_connections_is_not_folded() {
        let mut ledger = Ledger::default();
        let open = Counts { attempts: 1, opened: 1, ..Counts::ZERO };
        for tgid in 1..=ENDED_MAX as u32 + 10 {
            ledger.apply(&Sample {
                processes: vec![process(tgid, "curl")],
                churn: vec![(connect_key(tgid, 1), open)],
                exits: vec![id(tgid)],
                ..Sample::default()
            });
        }
        assert_eq!(ledger.processes().count(), ENDED_MAX + 10);
    }

    #[test]
    fn destinations_beyond_the_limit_are_folded_and_counted() {
        let mut ledger = Ledger::default();
        let count = DESTINATIONS_MAX as u16 + 100;
        let churn = (0..count).map(|host| (connect_key(1, host), one_closed())).collect();
        ledger.apply(&Sample { processes: vec![process(1, "crawler")], churn, ..Sample::default() });
        assert_eq!(total(&ledger), u64::from(count));
        let (_, entry) = ledger.processes().next().unwrap();
        assert!(entry.destinations.len() <= DESTINATIONS_MAX + 1);
    }

    #[test]
    fn a_new_image_moves_the_process_to_another_program() {
        let mut ledger = Ledger::default();
        ledger.apply(&Sample {
            processes: vec![process(1, "sh")],
            churn: vec![(connect_key(1, 1), one_closed())],
            ..Sample::default()
        });
        ledger.apply(&Sample { processes: vec![process(1, "curl")], ..Sample::default() });
        let programs = ledger.programs();
        assert_eq!(programs.keys().map(|key| key.program.as_str()).collect::<Vec<_>>(), ["curl"]);
        assert_eq!(total(&ledger), 1);
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let mut ledger = Ledger::default();
        let mut again = process(1, "b");
        again.id.start_ns = 999;
        ledger.apply(&Sample { processes: vec![process(1, "a"), again], ..Sample::default() });
        assert_eq!(ledger.processes().count(), 2);
    }

    #[test]
    fn a_restart_keeps_what_is_open_and_the_books_balanced() {
        let mut ledger = Ledger::default();
        let mut counts = Counts { attempts: 9, opened: 7, failed: 1, ..Counts::ZERO };
        counts.closed[2] = 4;
        ledger.apply(&Sample { churn: vec![(connect_key(1, 1), counts)], ..Sample::default() });
        ledger.restart();
        let (_, entry) = ledger.processes().next().unwrap();
        let after = entry.destinations.values().next().unwrap().counts;
        assert_eq!(
            (after.opened, after.closed_total(), after.open_now(), after.connecting_now()),
            (0, 0, 3, 1)
        );
    }

    #[test]
    fn windows_hold_only_their_own_interval() {
        let mut ledger = Ledger::default();
        ledger.apply(&Sample { churn: vec![(connect_key(1, 1), one_closed())], ..Sample::default() });
        let recent = |ledger: &Ledger| {
            let (_, entry) = ledger.processes().next().unwrap();
            entry.destinations.values().next().unwrap().recent(ledger.window()).opened
        };
        assert_eq!(recent(&ledger), 1);
        ledger.carry_on(&Sample { churn: vec![(connect_key(1, 1), one_closed())], ..Sample::default() });
        assert_eq!(recent(&ledger), 2);
        ledger.apply(&Sample::default());
        assert_eq!(recent(&ledger), 0);
    }
}
