//! Who is behind the events of `trace`, also for a while after the end of a process: an orphaned socket closes at its own pace.
//! Bounded by time and by number.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::model::program::ProgramKey;
use crate::model::row::display_name;
use crate::model::sample::{Process, ProcessId, Sample};

/// How long an ended process is known. Orphans that wait for a peer's answer usually live for two minutes at most
/// (`tcp_orphan_retries`, `tcp_fin_timeout`: tcp(7)). Nanoseconds.
const KEEP_NS: u64 = 150 * 1_000_000_000;
/// Ended processes that are known at once; those that ended first go first. Some 60 MB.
const ENDED_MAX: usize = 65_536;

/// Names by process.
#[derive(Default)]
pub(super) struct Names {
    known: HashMap<ProcessId, (Arc<Process>, Arc<str>)>,
    /// Ended processes and when that was learnt, the first one first.
    ended: VecDeque<(ProcessId, u64)>,
}

impl Names {
    /// Takes in who began, and who ended.
    pub(super) fn learn(&mut self, sample: &Sample) {
        for process in &sample.processes {
            let key = ProgramKey::of(process);
            let program = display_name(&key.program, key.script.as_deref());
            self.known.insert(process.id, (Arc::new(process.clone()), program.into()));
        }
        let known = sample.exits.iter().filter(|id| self.known.contains_key(id));
        self.ended.extend(known.map(|id| (*id, sample.at_ns)));
    }

    /// Forgets who ended long ago, and whoever is too much.
    pub(super) fn forget(&mut self, now_ns: u64) {
        let is_over = |ended: &VecDeque<(ProcessId, u64)>| {
            let is_old = |&(_, at_ns): &(_, u64)| now_ns.saturating_sub(at_ns) > KEEP_NS;
            ended.len() > ENDED_MAX || ended.front().is_some_and(is_old)
        };
        while is_over(&self.ended) {
            if let Some((id, _)) = self.ended.pop_front() {
                self.known.remove(&id);
            }
        }
    }

    /// The process, and what it runs.
    pub(super) fn of(&self, id: ProcessId) -> (Arc<Process>, Arc<str>) {
        self.known.get(&id).cloned().unwrap_or_else(|| {
            let program =
                if id.tgid == 0 { "(not attributed)".to_owned() } else { format!("(process {})", id.tgid) };
            (Arc::new(Process { id, ..Process::default() }), program.into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{ENDED_MAX, KEEP_NS, Names};
    use crate::model::sample::{Process, ProcessId, Sample};

    const S: u64 = 1_000_000_000;

    fn id(tgid: u32) -> ProcessId {
        ProcessId { tgid, start_ns: 10 }
    }

    fn process(tgid: u32) -> Process {
        Process { id: id(tgid), comm: "curl".to_owned(), argv: vec!["curl".to_owned()], ..Process::default() }
    }

    fn name(names: &Names, tgid: u32) -> String {
        names.of(id(tgid)).1.to_string()
    }

    #[test]
    fn who_has_ended_is_known_until_its_last_socket_has_closed() {
        let mut names = Names::default();
        names.learn(&Sample { processes: vec![process(1), process(2)], ..Sample::default() });
        names.learn(&Sample { exits: vec![id(1)], at_ns: 10 * S, ..Sample::default() });
        names.forget(10 * S + KEEP_NS);
        assert_eq!((name(&names, 1).as_str(), name(&names, 2).as_str()), ("curl", "curl"));
        names.forget(10 * S + KEEP_NS + 1);
        assert_eq!((name(&names, 1).as_str(), name(&names, 2).as_str()), ("(process 1)", "curl"));
        assert!(names.ended.is_empty());
    }

    #[test]
    fn of_more_than_can_be_kept_the_first_to_end_are_forgotten() {
        let mut names = Names::default();
        let count = ENDED_MAX as u32 + 100;
        for tgid in 1..=count {
            let (processes, exits) = (vec![process(tgid)], vec![id(tgid)]);
            names.learn(&Sample { processes, exits, at_ns: S, ..Sample::default() });
            names.forget(S);
        }
        assert_eq!((names.known.len(), names.ended.len()), (ENDED_MAX, ENDED_MAX));
        let asked = [name(&names, 100), name(&names, 101), name(&names, count)];
        assert_eq!(asked, ["(process 100)", "curl", "curl"]);
    }

    #[test]
    fn the_end_of_somebody_unknown_takes_no_room() {
        let mut names = Names::default();
        names.learn(&Sample { exits: vec![id(7)], at_ns: S, ..Sample::default() });
        assert!(names.ended.is_empty());
    }
}
