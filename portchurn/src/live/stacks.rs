//! The thread that takes stacks out of their ring buffer at once: a process may be gone a moment later. It moves records;
//! what they mean is the watcher's business.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{HashMap, MapData, RingBuf};
use portchurn_common::stack::{ImageRecord, StackRecordKind};
use rustix::event::{EventfdFlags, PollFlags, Timespec, eventfd, poll};

use crate::live::keys::take;
use crate::live::looks::{LookThread, Looker};
use crate::live::turns;
use crate::sources::procfs::Procfs;

/// Makes sense of what comes.
pub trait Watcher: Send {
    /// A stack or a code object. What is needed of the process must be taken now; the rest can wait.
    fn record(&mut self, bytes: &[u8]);

    /// A process replaced its image after what was recorded so far.
    fn replaced(&mut self, tgid: u32);

    /// Nothing is urgent at the moment. Returns whether it was rid of everything; if not it is asked again. Must not wait.
    fn hand_over(&mut self) -> bool;
}

/// Who makes sense of stacks.
pub struct Watchers {
    /// Takes them.
    pub stacks: Box<dyn Watcher>,
    /// Finds interpreters.
    pub looker: Box<dyn Looker>,
}

/// Records that are taken before they are handed over, if that many lie there: stacks of up to 36 KiB.
const TAKEN_MAX: usize = 32;
/// Waking up without a reason, to see whether to stop. Milliseconds.
const IDLE_MS: i64 = 500;
/// Where there is no room for what was taken it is offered again this often. The ring buffer fills up meanwhile, and the kernel
/// side counts what has no room there.
const NO_ROOM: Duration = Duration::from_millis(5);

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
    /// Ends after it, as it is told by it.
    _looks: LookThread,
}

/// What a file is called that runs an interpreter, most often.
const INTERPRETER: &str = "python";

/// Every process there is, those first that are interpreters by name: they must be known before their next connect, and on a
/// host with many processes a look at each takes a while.
fn existing() -> Vec<u32> {
    let procfs = Procfs::default();
    let is_likely = |tgid: &u32| procfs.exe_of(*tgid).is_some_and(|name| name.contains(INTERPRETER));
    let (mut likely, others): (Vec<_>, Vec<_>) = procfs.processes().into_iter().partition(is_likely);
    likely.extend(others);
    likely
}

impl StackThread {
    /// Starts it and the thread that looks for interpreters, on the maps of the kernel side.
    ///
    /// # Errors
    /// When a map is not there or no thread can be started.
    pub fn attach(ebpf: &mut Ebpf, watchers: Watchers) -> Result<Self> {
        let ring = RingBuf::try_from(take(ebpf, "STACKS")?)?;
        let interpreters = HashMap::try_from(take(ebpf, "INTERPRETERS")?)?;
        let looks = LookThread::start(interpreters, watchers.looker, existing())?;
        Self::start(ring, watchers.stacks, looks)
    }

    /// Starts it. Processes that replace their image go on to `looks`.
    ///
    /// # Errors
    /// When no thread can be started.
    fn start(ring: RingBuf<MapData>, watcher: Box<dyn Watcher>, looks: LookThread) -> Result<Self> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make an eventfd")?,
            flushes: Mutex::new((0, 0)),
            flushed: Condvar::new(),
        });
        let mut worker = Worker { shared: Arc::clone(&shared), ring, watcher, orders: looks.orders() };
        let thread = std::thread::Builder::new()
            .name("stacks".to_owned())
            .spawn(move || {
                turns::ask_for_short_ones();
                worker.run();
            })
            .context("start the thread for stacks")?;
        Ok(Self { shared, thread: Some(thread), _looks: looks })
    }

    /// Waits until everything that lies in the ring buffer now has been taken out.
    pub fn flush(&self, patience: Duration) {
        let mut flushes = self.shared.flushes.lock().unwrap_or_else(PoisonError::into_inner);
        flushes.0 += 1;
        let ticket = flushes.0;
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
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

struct Worker {
    shared: Arc<Shared>,
    ring: RingBuf<MapData>,
    watcher: Box<dyn Watcher>,
    orders: Option<Sender<u32>>,
}

impl Worker {
    fn run(&mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let asked = self.shared.flushes.lock().unwrap_or_else(PoisonError::into_inner).0;
            self.drain();
            self.shared.flushes.lock().unwrap_or_else(PoisonError::into_inner).1 = asked;
            self.shared.flushed.notify_all();
            self.sleep();
        }
    }

    fn sleep(&self) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: IDLE_MS * 1_000_000 };
        let mut fds = [
            rustix::event::PollFd::new(&self.ring, PollFlags::IN),
            rustix::event::PollFd::new(&self.shared.wake, PollFlags::IN),
        ];
        let _ = poll(&mut fds, Some(&timeout));
        let mut counter = [0; 8];
        let _ = rustix::io::read(self.shared.wake.as_fd(), &mut counter);
    }

    fn drain(&mut self) {
        let Self { ring, watcher, orders, shared } = self;
        let mut taken = 0;
        while let Some(record) = ring.next() {
            match image_of(&record) {
                Some(tgid) => {
                    watcher.replaced(tgid);
                    // The other end lives as long as we do.
                    let _ = orders.as_ref().map(|orders| orders.send(tgid));
                }
                None => watcher.record(&record),
            }
            // Free its place before anything that may wait.
            drop(record);
            taken += 1;
            if taken % TAKEN_MAX == 0 && !hand_over(&mut **watcher, &shared.stop) {
                return;
            }
        }
        hand_over(&mut **watcher, &shared.stop);
    }
}

/// Waits until there is room. Returns whether it was not stopped meanwhile.
fn hand_over(watcher: &mut dyn Watcher, stop: &AtomicBool) -> bool {
    while !watcher.hand_over() {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(NO_ROOM);
    }
    true
}

/// The process of an [`ImageRecord`].
fn image_of(bytes: &[u8]) -> Option<u32> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    (word(0)? == StackRecordKind::Image as u32 && bytes.len() >= size_of::<ImageRecord>()).then(|| word(4))?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::{Watcher, hand_over};

    /// Has room when it was asked so often.
    struct Slow(u32);

    impl Watcher for Slow {
        fn record(&mut self, _: &[u8]) {}

        fn replaced(&mut self, _: u32) {}

        fn hand_over(&mut self) -> bool {
            self.0 = self.0.saturating_sub(1);
            self.0 == 0
        }
    }

    #[test]
    fn who_has_no_room_is_waited_for_but_not_at_the_end() {
        let mut slow = Slow(3);
        assert!(hand_over(&mut slow, &AtomicBool::new(false)));
        assert_eq!(slow.0, 0);
        let mut never = Slow(u32::MAX);
        assert!(!hand_over(&mut never, &AtomicBool::new(true)));
    }
}
