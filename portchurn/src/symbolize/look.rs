//! Looking at a program before its first connect: whether it runs an interpreter that can be walked, and how. Reads
//! files, so it has a thread of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::symbolize::elf::ElfCache;
use crate::symbolize::held::Files;
use crate::symbolize::modules::Modules;
use crate::symbolize::{Attach, UNWINDERS};

/// Why interpreters of some processes are not walked, by process.
pub type Refusals = Arc<Mutex<HashMap<u32, String>>>;

/// Processes whose refusal is remembered.
const REFUSALS_MAX: usize = 4096;

/// Looks at processes.
pub struct Looker {
    cache: ElfCache,
    files: Files,
    refusals: Refusals,
}

impl Looker {
    /// Writes down why it refuses.
    pub fn new(refusals: Refusals) -> Self {
        Self { cache: ElfCache::default(), files: Files::default(), refusals }
    }

    /// Whether a process runs an interpreter that can be walked.
    pub fn look(&mut self, tgid: u32) -> Attach {
        // It may be another program by now, or another process.
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).remove(&tgid);
        // Most programs are no interpreter and load none: their own file tells, and is read once.
        let Ok(exe) = std::fs::File::open(format!("/proc/{tgid}/exe")) else { return Attach::Absent };
        let Some(modules) = Modules::of_interpreter(tgid, &mut self.files, &mut self.cache) else {
            return Attach::Absent;
        };
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
}
