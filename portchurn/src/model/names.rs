//! What processes ran, for a while after they ended: their sockets outlive them by a minute, and the ledger may have
//! folded them by then. Bounded by time.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use hashbrown::HashMap;

use crate::model::program::ProgramKey;
use crate::model::row::display_name;
use crate::model::sample::{Process, ProcessId, Sample};

/// How long the name of an ended process is kept at least: a TIME_WAIT lasts for 60 s, and the socket tables are read every
/// 60 s or more often. Seconds.
const KEEP_S: u32 = 150;
/// As long as there are no more, names are kept for ever: `who` may ask for them.
const KEPT: usize = 32_768;
/// How long the number of a program is nobody's before it is another's: whoever still remembers it shows no name, never a wrong
/// one. Lists of sockets may be minutes apart. Nanoseconds.
const REUSED_AFTER_NS: u64 = 3600 * 1_000_000_000;
/// How often the old ones are looked for. Nanoseconds.
const SWEEP_EVERY_NS: u64 = 10 * 1_000_000_000;

/// Which program, among those of [`Names`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ProgramId(u32);

/// Eight bytes: a host that starts a process for each connection has a hundred thousand of them.
#[derive(Debug)]
struct Named {
    program: ProgramId,
    /// Seconds, CLOCK_MONOTONIC, counted from 1.
    ended_s: Option<NonZeroU32>,
}

impl Named {
    fn has_ended(&self) -> bool {
        self.ended_s.is_some()
    }
}

fn seconds(ns: u64) -> u32 {
    (ns / 1_000_000_000) as u32 + 1
}

/// The names.
#[derive(Debug, Default)]
pub struct Names {
    processes: HashMap<ProcessId, Named>,
    /// `None`: nobody's any more.
    programs: Vec<Option<String>>,
    by_program: HashMap<String, ProgramId>,
    /// And since when, the longest first.
    free: VecDeque<(ProgramId, u64)>,
    swept_ns: u64,
}

impl Names {
    /// Takes one interval in.
    pub fn apply(&mut self, sample: &Sample) {
        for process in &sample.processes {
            let program = self.intern(process, sample.at_ns);
            self.processes.insert(process.id, Named { program, ended_s: None });
        }
        for id in &sample.exits {
            if let Some(named) = self.processes.get_mut(id) {
                named.ended_s = NonZeroU32::new(seconds(sample.at_ns));
            }
        }
        let are_many = self.processes.len().max(self.by_program.len()) > KEPT;
        if are_many && sample.at_ns.saturating_sub(self.swept_ns) > SWEEP_EVERY_NS {
            self.sweep(sample.at_ns);
        }
    }

    /// Forgets processes that ended long ago, and programs that nobody runs or ran.
    fn sweep(&mut self, now_ns: u64) {
        self.swept_ns = now_ns;
        let now_s = seconds(now_ns);
        let is_old = |ended_s: NonZeroU32| now_s.saturating_sub(ended_s.get()) > KEEP_S;
        self.processes.retain(|_, named| !named.ended_s.is_some_and(is_old));
        let mut is_used = vec![false; self.programs.len()];
        self.processes.values().for_each(|named| is_used[named.program.0 as usize] = true);
        for (index, slot) in (0..).zip(&mut self.programs) {
            if !is_used[index as usize]
                && let Some(name) = slot.take()
            {
                self.by_program.remove(&name);
                self.free.push_back((ProgramId(index), now_ns));
            }
        }
    }

    fn intern(&mut self, process: &Process, now_ns: u64) -> ProgramId {
        let key = ProgramKey::of(process);
        let name = display_name(&key.program, key.script.as_deref()).into_owned();
        *self.by_program.entry(name).or_insert_with_key(|name| {
            let is_long_free =
                |&mut (_, since_ns): &mut (_, u64)| now_ns.saturating_sub(since_ns) > REUSED_AFTER_NS;
            let id = self.free.pop_front_if(is_long_free).map_or_else(
                || {
                    self.programs.push(None);
                    ProgramId(self.programs.len() as u32 - 1)
                },
                |(id, _)| id,
            );
            self.programs[id.0 as usize] = Some(name.clone());
            id
        })
    }

    /// What a process runs, or ran.
    pub fn program_of(&self, id: ProcessId) -> Option<&str> {
        self.program(self.processes.get(&id)?.program)
    }

    /// A program's name.
    pub fn program(&self, id: ProgramId) -> Option<&str> {
        self.programs.get(id.0 as usize)?.as_deref()
    }

    /// What a process ran that has ended.
    pub fn ended(&self, id: ProcessId) -> Option<ProgramId> {
        self.processes.get(&id).filter(|named| named.has_ended()).map(|named| named.program)
    }

    /// Whether a process has ended; `None`: nothing is known of it.
    pub fn has_ended(&self, id: ProcessId) -> Option<bool> {
        self.processes.get(&id).map(Named::has_ended)
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Names, SWEEP_EVERY_NS};
    use crate::model::sample::{Process, ProcessId, Sample};

    fn runs(tgid: u32, comm: String, at_ns: u64) -> Sample {
        let process = Process { id: ProcessId { tgid, start_ns: 1 }, comm, ..Process::default() };
        Sample { at_ns, processes: vec![process], ..Sample::default() }
    }

    #[test]
    fn a_process_that_becomes_another_program_again_and_again_leaves_no_names_behind() {
        let mut names = Names::default();
        names.apply(&runs(1, "stays".to_owned(), 1));
        for number in 0..3 * KEPT as u64 {
            names.apply(&runs(2, format!("job-{number}"), number * SWEEP_EVERY_NS / 100));
        }
        assert!(names.by_program.len() <= KEPT + 200, "{}", names.by_program.len());
        // Ten per second come, and the numbers of an hour's wait.
        assert!(names.programs.len() <= KEPT + 36_200, "{}", names.programs.len());
        let name = |tgid| names.program_of(ProcessId { tgid, start_ns: 1 });
        assert_eq!((name(1), name(2)), (Some("stays"), Some(format!("job-{}", 3 * KEPT - 1).as_str())));
    }

    #[test]
    fn a_number_that_somebody_may_remember_is_no_other_program_s() {
        let mut names = Names::default();
        for number in 0..KEPT as u64 {
            names.apply(&runs(2, format!("job-{number}"), number));
        }
        let remembered = names.processes[&ProcessId { tgid: 2, start_ns: 1 }].program;
        for number in 0..100 {
            names.apply(&runs(2, format!("other-{number}"), (number + 1) * 2 * SWEEP_EVERY_NS));
        }
        assert_eq!(names.program(remembered), None);
    }
}
