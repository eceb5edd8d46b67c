//! What processes ran, for a while after they ended: their sockets outlive them by a minute, and the ledger may have
//! folded them by then. Bounded by time.

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
    programs: Vec<String>,
    by_program: HashMap<String, ProgramId>,
    swept_ns: u64,
}

impl Names {
    /// Takes one interval in.
    pub fn apply(&mut self, sample: &Sample) {
        for process in &sample.processes {
            let program = self.intern(process);
            self.processes.insert(process.id, Named { program, ended_s: None });
        }
        for id in &sample.exits {
            if let Some(named) = self.processes.get_mut(id) {
                named.ended_s = NonZeroU32::new(seconds(sample.at_ns));
            }
        }
        if self.processes.len() > KEPT && sample.at_ns.saturating_sub(self.swept_ns) > SWEEP_EVERY_NS {
            self.swept_ns = sample.at_ns;
            let now_s = seconds(sample.at_ns);
            let is_old = |ended_s: NonZeroU32| now_s.saturating_sub(ended_s.get()) > KEEP_S;
            self.processes.retain(|_, named| !named.ended_s.is_some_and(is_old));
        }
    }

    fn intern(&mut self, process: &Process) -> ProgramId {
        let key = ProgramKey::of(process);
        let name = display_name(&key.program, key.script.as_deref()).into_owned();
        *self.by_program.entry(name).or_insert_with_key(|name| {
            self.programs.push(name.clone());
            ProgramId(self.programs.len() as u32 - 1)
        })
    }

    /// What a process runs, or ran.
    pub fn program_of(&self, id: ProcessId) -> Option<&str> {
        self.program(self.processes.get(&id)?.program)
    }

    /// A program's name.
    pub fn program(&self, id: ProgramId) -> Option<&str> {
        self.programs.get(id.0 as usize).map(String::as_str)
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
