//! What cannot wait: holding on to the files of a process while it is still there. Runs on the thread that empties the ring
//! buffer, and does nothing there that could be done later.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};

use crate::symbolize::held::{Files, Held, Missing};
use crate::symbolize::namer::Job;
use crate::symbolize::record::{Raw, RawStack, decode};

/// Processes whose files are kept open.
const PROCESSES_MAX: usize = 256;

/// The front half.
pub struct Front {
    files: Files,
    held: HashMap<(u32, u64), Arc<Held>>,
    /// Whether it is told of each process that replaces its image. If not, what was known of a process says nothing of it
    /// when it is gone.
    hears_of_execs: bool,
    /// What was taken and not handed over yet.
    taken: VecDeque<Job>,
    jobs: SyncSender<Job>,
}

impl Front {
    /// Sends its work to `jobs`.
    pub fn new(jobs: SyncSender<Job>, hears_of_execs: bool) -> Self {
        Self { files: Files::default(), held: HashMap::new(), hears_of_execs, taken: VecDeque::new(), jobs }
    }

    /// Takes one record.
    pub fn record(&mut self, bytes: &[u8]) {
        match decode(bytes) {
            Some(Raw::Code(code)) => self.taken.push_back(Job::Code(code)),
            Some(Raw::Stack(stack)) => {
                let held = self.held_by(&stack);
                self.taken.push_back(Job::Stack(stack, held));
            }
            None => log::warn!("a record of a stack that makes no sense was skipped"),
        }
    }

    /// A process has replaced its image. What was taken of it may be of the new one already.
    pub fn replaced(&mut self, tgid: u32) {
        self.held.retain(|(known, _), _| *known != tgid);
        for job in &mut self.taken {
            if let Job::Stack(stack, held) = job
                && stack.tgid == tgid
                && held.as_ref().is_ok_and(|held| held.is_unchanged())
            {
                *held = Err(Missing::Replaced);
            }
        }
    }

    /// Hands over what was taken, as far as there is room. Does not wait, so that nobody who is to stop waits for it.
    /// Returns whether that was all.
    pub fn hand_over(&mut self) -> bool {
        while let Some(job) = self.taken.pop_front() {
            // The other end is gone only when everything ends.
            if let Err(TrySendError::Full(job)) = self.jobs.try_send(job) {
                self.taken.push_front(job);
                return false;
            }
        }
        true
    }

    fn held_by(&mut self, stack: &RawStack) -> Result<Arc<Held>, Missing> {
        if stack.stack.is_empty() {
            return Err(Missing::NotCopied);
        }
        let process = (stack.tgid, stack.start_ns);
        let known = self.held.get(&process).map(|known| (known, self.hears_of_execs));
        let held = Held::by(stack.tgid, stack.place(), &mut self.files, known)?;
        if self.held.len() >= PROCESSES_MAX && !self.held.contains_key(&process) {
            self.held.clear();
        }
        self.held.insert(process, Arc::clone(&held));
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::sync_channel;

    use super::Front;
    use crate::symbolize::held::Missing;
    use crate::symbolize::namer::Job;
    use crate::symbolize::record::RawStack;

    /// A stack of this process.
    fn stack() -> RawStack {
        RawStack::of_own(stack as *const () as u64)
    }

    fn front(hears_of_execs: bool) -> Front {
        Front::new(sync_channel(1).0, hears_of_execs)
    }

    #[test]
    fn what_a_process_had_mapped_counts_when_it_is_gone() {
        for hears_of_execs in [true, false] {
            let mut front = front(hears_of_execs);
            let held = front.held_by(&stack()).unwrap();
            let gone = RawStack { tgid: u32::MAX - 1, ..stack() };
            front.held.insert((gone.tgid, gone.start_ns), Arc::clone(&held));
            let found = front.held_by(&gone);
            assert_eq!(found.is_ok_and(|found| Arc::ptr_eq(&found, &held)), hears_of_execs);
        }
    }

    #[test]
    fn what_was_held_after_the_image_was_replaced_is_not_of_the_one_before() {
        let mut front = front(true);
        let held = front.held_by(&stack());
        front.taken.push_back(Job::Stack(Box::new(stack()), held));
        front.replaced(stack().tgid);
        assert!(matches!(&front.taken[0], Job::Stack(_, Err(Missing::Replaced))));
        assert!(front.held.is_empty());
    }

    #[test]
    fn nobody_waits_for_who_names_and_nothing_is_lost_meanwhile() {
        let (jobs, todo) = sync_channel(2);
        let mut front = Front::new(jobs, true);
        for start_ns in 0..3 {
            let stack = RawStack { start_ns, ..stack() };
            front.taken.push_back(Job::Stack(Box::new(stack), Err(Missing::NotCopied)));
        }
        assert!(!front.hand_over() && !front.hand_over());
        let mut found = vec![todo.recv().unwrap()];
        assert!(front.hand_over());
        found.extend(todo.try_iter());
        let start = |job: &Job| if let Job::Stack(stack, _) = job { Some(stack.start_ns) } else { None };
        assert_eq!(found.iter().filter_map(start).collect::<Vec<_>>(), [0, 1, 2]);
        drop(todo);
        front.taken.push_back(Job::Marker);
        assert!(front.hand_over(), "when nobody names any more nothing is kept");
    }

    #[test]
    fn without_a_copy_nothing_is_asked() {
        let without = RawStack { stack: Vec::new(), ..stack() };
        assert_eq!(front(true).held_by(&without).err(), Some(Missing::NotCopied));
    }
}
