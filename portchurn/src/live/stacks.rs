//! The thread that takes stacks out of their ring buffer at once: a process may be gone a moment later, and a new
//! interpreter must be known before its first connect. It moves records; what they mean is the watcher's business.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData, RingBuf};
use portchurn_common::stack::{ImageRecord, Interpreter, StackRecordKind};
use rustix::event::{EventfdFlags, PollFlags, Timespec, eventfd, poll};

/// What a look at a process came to.
pub enum Look {
    /// It runs no interpreter that can be walked.
    Nothing,
    /// It does: walk it like this.
    Found(Box<Interpreter>),
    /// It loads its libraries still: look again.
    Later,
}

/// Makes sense of what comes.
pub trait Watcher: Send {
    /// A process replaced its image, or was there before the attach.
    fn look(&mut self, tgid: u32) -> Look;

    /// A stack or a code object.
    fn record(&mut self, bytes: &[u8]);
}

/// Pauses between looks at a process that loads its libraries. Microseconds.
const LOOK_AGAIN_US: &[u64] =
    &[100, 200, 300, 400, 500, 1000, 1000, 2000, 2000, 5000, 10_000, 20_000, 50_000, 100_000];
/// Niceness of the thread.
const PRIORITY: i32 = -10;
/// Waking up without a reason, to see whether to stop.
const IDLE: Duration = Duration::from_millis(500);

struct Shared {
    stop: AtomicBool,
    wake: OwnedFd,
    /// Requests to empty the ring buffer, and how many of them are done.
    flushes: Mutex<(u64, u64)>,
    flushed: Condvar,
}

/// The running thread. Dropping it ends it.
pub struct StackThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl StackThread {
    /// Starts it. `existing`: processes to look at first.
    pub fn start(
        ring: RingBuf<MapData>,
        interpreters: HashMap<MapData, u32, Interpreter>,
        watcher: Box<dyn Watcher>,
        existing: Vec<u32>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make an eventfd")?,
            flushes: Mutex::new((1, 0)),
            flushed: Condvar::new(),
        });
        let mut worker =
            Worker { shared: Arc::clone(&shared), ring, interpreters, watcher, pending: Vec::new() };
        let thread = std::thread::Builder::new()
            .name("stacks".to_owned())
            .spawn(move || {
                // Late is too late here: a process is gone, a new interpreter has made its first connect. What this
                // thread does is little, and the budget for stacks bounds it. Without the privilege it goes as it is.
                let _ = rustix::process::setpriority_process(None, PRIORITY);
                for tgid in existing {
                    worker.look(tgid, usize::MAX);
                }
                worker.run();
            })
            .context("start the thread for stacks")?;
        let this = Self { shared, thread: Some(thread) };
        // Processes that are there already should be known before their next connect.
        this.wait(1, Duration::from_secs(1));
        Ok(this)
    }

    /// Waits until everything that lies in the ring buffer now has been taken out.
    pub fn flush(&self, patience: Duration) {
        let ticket = {
            let mut flushes = self.shared.flushes.lock().unwrap_or_else(PoisonError::into_inner);
            flushes.0 += 1;
            flushes.0
        };
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        self.wait(ticket, patience);
    }

    fn wait(&self, ticket: u64, patience: Duration) {
        let flushes = self.shared.flushes.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.shared.flushed.wait_timeout_while(flushes, patience, |(_, done)| *done < ticket);
    }
}

impl Drop for StackThread {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A process to look at again.
struct Pending {
    tgid: u32,
    due: Instant,
    looks: usize,
}

struct Worker {
    shared: Arc<Shared>,
    ring: RingBuf<MapData>,
    interpreters: HashMap<MapData, u32, Interpreter>,
    watcher: Box<dyn Watcher>,
    pending: Vec<Pending>,
}

impl Worker {
    fn run(&mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let asked = self.shared.flushes.lock().unwrap_or_else(PoisonError::into_inner).0;
            self.drain();
            self.look_again();
            self.shared.flushes.lock().unwrap_or_else(PoisonError::into_inner).1 = asked;
            self.shared.flushed.notify_all();
            self.sleep();
        }
    }

    fn sleep(&self) {
        let now = Instant::now();
        let pause =
            self.pending.iter().map(|p| p.due.saturating_duration_since(now)).min().unwrap_or(IDLE).min(IDLE);
        let timeout =
            Timespec { tv_sec: pause.as_secs().cast_signed(), tv_nsec: pause.subsec_nanos().into() };
        let mut fds = [
            rustix::event::PollFd::new(&self.ring, PollFlags::IN),
            rustix::event::PollFd::new(&self.shared.wake, PollFlags::IN),
        ];
        let _ = poll(&mut fds, Some(&timeout));
        let mut counter = [0; 8];
        let _ = rustix::io::read(self.shared.wake.as_fd(), &mut counter);
    }

    fn drain(&mut self) {
        let Self { ring, watcher, pending, .. } = self;
        let now = Instant::now();
        while let Some(record) = ring.next() {
            match image_of(&record) {
                Some(tgid) => pending.push(Pending { tgid, due: now, looks: 0 }),
                None => watcher.record(&record),
            }
        }
    }

    /// `looks`: how often it was looked at before; `usize::MAX`: once is enough.
    fn look(&mut self, tgid: u32, looks: usize) {
        match self.watcher.look(tgid) {
            Look::Nothing => {}
            Look::Found(interpreter) => {
                if let Err(err) = self.interpreters.insert(tgid, *interpreter, 0) {
                    log::debug!("no room for the interpreter of process {tgid}: {err}");
                }
            }
            Look::Later => {
                if let Some(&pause_us) = LOOK_AGAIN_US.get(looks) {
                    let due = Instant::now() + Duration::from_micros(pause_us);
                    self.pending.push(Pending { tgid, due, looks: looks + 1 });
                }
            }
        }
    }

    fn look_again(&mut self) {
        let now = Instant::now();
        let (due, later) =
            std::mem::take(&mut self.pending).into_iter().partition(|pending| pending.due <= now);
        self.pending = later;
        let due: Vec<Pending> = due;
        for pending in due {
            self.look(pending.tgid, pending.looks);
            // A look reads files. What came meanwhile is of processes that may end.
            self.drain();
        }
    }
}

/// The process of an [`ImageRecord`].
fn image_of(bytes: &[u8]) -> Option<u32> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    (word(0)? == StackRecordKind::Image as u32 && bytes.len() >= size_of::<ImageRecord>()).then(|| word(4))?
}
