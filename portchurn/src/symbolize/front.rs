//! What cannot wait: looking at a new program before its first connect, and opening the files of a process while it is
//! still there. Runs on the thread that empties the ring buffer.

use std::collections::HashMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use crate::symbolize::elf::ElfCache;
use crate::symbolize::modules::Modules;
use crate::symbolize::namer::Job;
use crate::symbolize::record::{Raw, decode};
use crate::symbolize::{Attach, UNWINDERS};

/// Why interpreters of some processes are not walked, by process.
pub type Refusals = Arc<Mutex<HashMap<u32, String>>>;

/// Processes whose refusal is remembered.
const REFUSALS_MAX: usize = 4096;
/// Processes whose modules are kept.
const PROCESSES_MAX: usize = 256;

/// The front half.
pub struct Front {
    cache: ElfCache,
    modules: HashMap<(u32, u64), Arc<Modules>>,
    refusals: Refusals,
    jobs: SyncSender<Job>,
}

impl Front {
    /// Sends its work to `jobs`.
    pub fn new(jobs: SyncSender<Job>, refusals: Refusals) -> Self {
        Self { cache: ElfCache::default(), modules: HashMap::new(), refusals, jobs }
    }

    /// Whether a process runs an interpreter that can be walked.
    pub fn look(&mut self, tgid: u32) -> Attach {
        // Most programs are no interpreter and load none: their own file tells, and is read once.
        let Ok(exe) = std::fs::File::open(format!("/proc/{tgid}/exe")) else { return Attach::Absent };
        let Some(modules) = Modules::of_interpreter(tgid, &mut self.cache) else { return Attach::Absent };
        let program = self.cache.facts(&exe, true);
        for unwinder in UNWINDERS {
            match unwinder.attach(&modules) {
                Attach::Absent => {
                    if program.as_ref().is_some_and(|facts| unwinder.recognise(facts)) {
                        return Attach::Later;
                    }
                }
                Attach::Refused(reason) => {
                    log::debug!("process {tgid}: {reason}");
                    self.refuse(tgid, &reason);
                    return Attach::Refused(reason);
                }
                found => return found,
            }
        }
        Attach::Absent
    }

    fn refuse(&self, tgid: u32, reason: &str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() >= REFUSALS_MAX {
            refusals.clear();
        }
        refusals.insert(tgid, reason.to_owned());
    }

    /// Takes one record.
    pub fn record(&mut self, bytes: &[u8]) {
        let job = match decode(bytes) {
            Some(Raw::Code(code)) => Job::Code(code),
            Some(Raw::Stack(stack)) => {
                let modules =
                    if stack.stack.is_empty() { None } else { self.modules_of(stack.tgid, stack.start_ns) };
                Job::Stack(stack, modules)
            }
            None => {
                log::warn!("a record of a stack that makes no sense was skipped");
                return;
            }
        };
        // Waits where there is no room. The other end is gone only when everything ends.
        let _ = self.jobs.send(job);
    }

    /// The modules of a process as they are now; those of earlier when it is gone.
    fn modules_of(&mut self, tgid: u32, start_ns: u64) -> Option<Arc<Modules>> {
        let known = self.modules.get(&(tgid, start_ns));
        let Some(now) = Modules::of_process(tgid, &mut self.cache) else { return known.cloned() };
        if let Some(known) = known.filter(|known| known.is_same(&now)) {
            return Some(Arc::clone(known));
        }
        if self.modules.len() >= PROCESSES_MAX {
            self.modules.clear();
        }
        let now = Arc::new(now);
        self.modules.insert((tgid, start_ns), Arc::clone(&now));
        Some(now)
    }
}
