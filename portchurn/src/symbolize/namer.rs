//! The thread that names stacks. Results come out in the order of the jobs; a marker tells when everything before it is
//! done.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use portchurn_common::histogram::{BUCKETS, bucket, quantile_us};
use portchurn_common::stack::{CodeFrame, WalkEnd, stack_flag};

use crate::model::sample::{Frame, Language, Stack};
use crate::symbolize::Memory;
use crate::symbolize::codes::Codes;
use crate::symbolize::elf::ElfCache;
use crate::symbolize::front::Front;
use crate::symbolize::held::{Held, Missing};
use crate::symbolize::look::{Looker, Refusals};
use crate::symbolize::merge::{Runs, merge};
use crate::symbolize::modules::Modules;
use crate::symbolize::native::{End, Native};
use crate::symbolize::python::lines::line;
use crate::symbolize::record::{RawCode, RawStack};
use crate::symbolize::shared::Shared;

/// Work for the thread.
pub enum Job {
    /// A code object.
    Code(Box<RawCode>),
    /// A stack, and what its process had mapped at that moment.
    Stack(Box<RawStack>, Result<Arc<Held>, Missing>),
    /// Answer when everything before is done.
    Marker,
}

/// What comes back.
enum Done {
    Stack(Box<Stack>, Duration),
    Marker,
}

/// The handle: what was named, and what it cost.
pub struct Namer {
    jobs: SyncSender<Job>,
    done: Receiver<Done>,
    refusals: Refusals,
    named: Vec<Stack>,
    cost: Cost,
}

/// What naming has cost since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Stacks.
    pub stacks: u64,
    /// The longest. Microseconds.
    pub max_us: u64,
    histogram: [u64; BUCKETS],
}

impl Cost {
    fn note(&mut self, took: Duration) {
        let took_us = took.as_micros().try_into().unwrap_or(u32::MAX);
        self.stacks += 1;
        self.max_us = self.max_us.max(u64::from(took_us));
        self.histogram[bucket(took_us)] += 1;
    }

    /// One of a hundred took this long or longer. Microseconds.
    pub fn p99_us(&self) -> Option<u64> {
        quantile_us(&self.histogram, 0.99, self.max_us)
    }
}

impl Namer {
    /// Starts the thread. `with_interpreters`: whether interpreters are walked.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(memory: &'static dyn Memory, with_interpreters: bool) -> Result<Self> {
        let (jobs, todo) = sync_channel(JOBS_MAX);
        let (results, done) = channel();
        let refusals = Refusals::default();
        let mut worker = Worker { with_interpreters, refusals: Arc::clone(&refusals), ..Worker::default() };
        std::thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || {
                let mut native = Native::new(memory);
                loop {
                    match todo.recv_timeout(LOOK_UP) {
                        Ok(job) => {
                            if worker.run(job, &mut native, &results).is_none() {
                                break;
                            }
                        }
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                    native.rest();
                }
            })
            .context("start the thread for names")?;
        Ok(Self { jobs, done, refusals, named: Vec::new(), cost: Cost::default() })
    }

    /// The front half, for the thread that takes records. `hears_of_execs`: whether that tells it of each process that
    /// replaces its image.
    pub fn front(&self, hears_of_execs: bool) -> Front {
        Front::new(self.jobs.clone(), hears_of_execs)
    }

    /// For the thread that looks at processes.
    pub fn looker(&self) -> Looker {
        Looker::new(Arc::clone(&self.refusals))
    }

    /// What was named since the last call.
    pub fn take(&mut self) -> Vec<Stack> {
        while let Ok(done) = self.done.try_recv() {
            self.note(done);
        }
        std::mem::take(&mut self.named)
    }

    /// What it has cost.
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    /// Waits until everything that was sent is named.
    pub fn settle(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            match self.jobs.try_send(Job::Marker) {
                Ok(()) => break,
                Err(TrySendError::Full(_)) if Instant::now() < deadline => {
                    if let Ok(done) = self.done.recv_timeout(Duration::from_millis(10)) {
                        self.note(done);
                    }
                }
                Err(_) => return,
            }
        }
        while let Ok(done) = self.done.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if self.note(done) {
                return;
            }
        }
    }

    /// Whether it was the marker.
    fn note(&mut self, done: Done) -> bool {
        match done {
            Done::Stack(stack, took) => {
                self.named.push(*stack);
                self.cost.note(took);
                false
            }
            Done::Marker => true,
        }
    }
}

/// Stacks that wait for the thread, of up to 36 KiB each. When there are more, the ring buffer fills up, the kernel side
/// counts what has no room and sends it again at the next connection from the same place.
const JOBS_MAX: usize = 128;
/// Without work the thread looks up this often, to let go of what it does not need.
const LOOK_UP: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Worker {
    with_interpreters: bool,
    codes: Codes,
    refusals: Refusals,
    files: ElfCache,
    shared: Shared,
}

impl Worker {
    fn run(&mut self, job: Job, native: &mut Native, results: &Sender<Done>) -> Option<()> {
        match job {
            Job::Code(code) => self.codes.insert(*code),
            Job::Stack(stack, held) => {
                let start = Instant::now();
                let named = self.name(&stack, held.as_ref(), native);
                results.send(Done::Stack(Box::new(named), start.elapsed())).ok()?;
            }
            Job::Marker => results.send(Done::Marker).ok()?,
        }
        Some(())
    }

    fn name(&mut self, stack: &RawStack, held: Result<&Arc<Held>, &Missing>, native: &mut Native) -> Stack {
        let runs = self.runs(stack);
        let (below, modules, end) = match held {
            Ok(held) => {
                let modules = held.modules(&mut self.files);
                let (below, end) = native.resolve(stack, held, modules);
                (below, Some(modules), Ok(end))
            }
            Err(missing) => (Vec::new(), None, Err(*missing)),
        };
        let note = self.note(stack, modules, end);
        let frames = if runs.is_empty() { below } else { merge(below, runs) };
        Stack { id: stack.site.stack, frames: self.shared.of(frames), note }
    }

    fn runs(&mut self, stack: &RawStack) -> Runs {
        let mut runs = Vec::new();
        let mut run = Vec::new();
        for frame in &stack.frames {
            let code = self.codes.get((stack.image, frame.code, frame.check & !1));
            let code = code.as_deref();
            if !code.is_some_and(is_trampoline) {
                run.push(python_frame(code, frame));
            }
            // Up to 3.10 the interpreter's loop is entered anew for each frame.
            let is_entry = frame.check & 1 != 0 || code.is_some_and(|code| code.version <= 0x30a);
            if is_entry {
                runs.push(std::mem::take(&mut run));
            }
        }
        if !run.is_empty() {
            runs.push(run);
        }
        runs
    }

    fn note(&self, stack: &RawStack, modules: Option<&Modules>, end: Result<End, Missing>) -> Option<String> {
        if stack.flags & stack_flag::FRAMES_TRUNCATED != 0 {
            return Some("cut off: more than 128 Python frames".to_owned());
        }
        if !stack.frames.is_empty() {
            return None;
        }
        let refused = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).get(&stack.tgid).cloned();
        if let Some(reason) = refused {
            return Some(reason);
        }
        match stack.walk_end {
            WalkEnd::NoThreadState | WalkEnd::NoFrame if stack.flags & stack_flag::INTERPRETER != 0 => {
                return Some("not a thread of the interpreter".to_owned());
            }
            WalkEnd::Unreadable => return Some("interpreter frames could not be read".to_owned()),
            _ => {}
        }
        let runs_python = modules
            .is_some_and(|modules| modules.list.iter().any(|module| module.facts.python_runtime.is_some()));
        if runs_python {
            let why = if self.with_interpreters { NOT_YET_KNOWN } else { NOT_ASKED_FOR };
            return Some(why.to_owned());
        }
        reason(end).map(str::to_owned)
    }
}

/// Until a process was looked at, which begins with its exec, or with the attach.
const NOT_YET_KNOWN: &str = "interpreter not yet known: too soon after its start, or after the attach";
const NOT_ASKED_FOR: &str = "interpreter frames were not asked for";

/// Why there are not all frames.
fn reason(end: Result<End, Missing>) -> Option<&'static str> {
    match end {
        Ok(End::Complete) => None,
        Ok(End::Truncated) => Some("cut off: the stack is longer than the copy"),
        Ok(End::Unreadable) => Some("cut off: the stack could not be read any further"),
        Ok(End::Lost) => Some("cut off: code without information on its frames"),
        Err(Missing::NotCopied) => Some("not read: the stack was not in memory"),
        Err(Missing::Gone) => Some("gone: the process ended before its files could be opened"),
        Err(Missing::Replaced) => {
            Some("gone: the process became another program before its files could be opened")
        }
    }
}

/// Code of the interpreter's own between a class and its `__init__` (3.12 and later); Python does not show it either.
fn is_trampoline(code: &RawCode) -> bool {
    code.first_line == 0 && &*code.file == "__init__" && &*code.name == "__init__"
}

fn python_frame(code: Option<&RawCode>, frame: &CodeFrame) -> Frame {
    let Some(code) = code else {
        return Frame {
            function: format!("(code object {:#x})", frame.code).into(),
            file: None,
            line: None,
            module: None,
            build_id: None,
            language: Language::Python,
        };
    };
    let found = line(code.version, code.first_line, (&code.table, code.table_is_cut), frame.position);
    Frame {
        function: Arc::clone(&code.name),
        file: Some(Arc::clone(&code.file)),
        line: found.or((!code.table_is_cut).then_some(code.first_line)),
        module: None,
        build_id: None,
        language: Language::Python,
    }
}
