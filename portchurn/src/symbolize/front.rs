//! What cannot wait: holding on to the files of a process while it is still there. Runs on the thread that empties the ring
//! buffer, and does nothing there that could be done later.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

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
    taken: Vec<Job>,
    jobs: SyncSender<Job>,
}

impl Front {
    /// Sends its work to `jobs`.
    pub fn new(jobs: SyncSender<Job>, hears_of_execs: bool) -> Self {
        Self { files: Files::default(), held: HashMap::new(), hears_of_execs, taken: Vec::new(), jobs }
    }

    /// Takes one record.
    pub fn record(&mut self, bytes: &[u8]) {
        match decode(bytes) {
            Some(Raw::Code(code)) => self.taken.push(Job::Code(code)),
            Some(Raw::Stack(stack)) => {
                let held = self.held_by(&stack);
                self.taken.push(Job::Stack(stack, held));
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

    /// Hands over what was taken. Waits where there is no room.
    pub fn hand_over(&mut self) {
        for job in self.taken.drain(..) {
            // The other end is gone only when everything ends.
            let _ = self.jobs.send(job);
        }
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

    use portchurn_common::stack::{At, REGISTERS_MAX, SiteKey, WalkEnd};

    use super::Front;
    use crate::symbolize::held::Missing;
    use crate::symbolize::namer::Job;
    use crate::symbolize::record::RawStack;

    /// A stack of this process.
    fn stack() -> RawStack {
        let mut registers = [0; REGISTERS_MAX];
        let known = portchurn_common::settings::Registers::OF_THIS_MACHINE;
        registers[known.instruction_pointer as usize / 8] = stack as *const () as u64;
        RawStack {
            tgid: std::process::id(),
            start_ns: 1,
            at: At::Open,
            site: SiteKey::default(),
            image: 0,
            walk_end: WalkEnd::NoInterpreter,
            flags: 0,
            registers,
            frames: Vec::new(),
            stack: vec![0; 8],
        }
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
        front.taken.push(Job::Stack(Box::new(stack()), held));
        front.replaced(stack().tgid);
        assert!(matches!(&front.taken[0], Job::Stack(_, Err(Missing::Replaced))));
        assert!(front.held.is_empty());
    }

    #[test]
    fn without_a_copy_nothing_is_asked() {
        let without = RawStack { stack: Vec::new(), ..stack() };
        assert_eq!(front(true).held_by(&without).err(), Some(Missing::NotCopied));
    }
}
