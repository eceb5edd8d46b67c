//! Takes records out of their ring buffer, also while the collector is kept from it: who writes a snapshot waits for its
//! reader, and half a second of a host that starts processes fills the buffer. Then processes would have numbers but no
//! names. It moves records; what they mean is the collector's business.

use std::collections::VecDeque;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use portchurn_common::record::{FlowEvent, FlowRecord};

use crate::live::records::{Record, decode};
use crate::live::turns;

/// How often the thread looks whether the collector is kept: a little less often than that looks itself.
const EVERY: Duration = Duration::from_millis(250);
/// The same while it is.
const HURRY: Duration = Duration::from_millis(50);
/// How long the collector may stay away.
const PATIENCE: Duration = Duration::from_millis(350);
/// Records that wait for the collector: some 13 MB. A process makes two, so this is a table of keys of as many processes that come
/// and go. What comes then stays in the buffer, and when that is full the kernel side counts what is lost.
const WAITING_MAX: usize = 32_768;

/// Ends that are remembered: 1.6 MB.
const HISTORY_MAX: usize = 16_384;

/// What flows are taken for.
#[derive(Clone, Copy, Debug)]
pub struct FlowUse {
    /// Each is a line of `trace`.
    pub lines: bool,
    /// Ends that leave a TIME_WAIT are told to who reads the socket tables.
    pub ends: bool,
    /// The latest of these are remembered, for who asks.
    pub history: bool,
}

/// The ring buffer, and what was taken out of it.
struct Ring {
    ring: RingBuf<MapData>,
    flow_use: FlowUse,
    waiting: Vec<Record>,
    ends: Vec<FlowRecord>,
    history: VecDeque<FlowRecord>,
    taken: Instant,
}

impl Ring {
    /// Empties it, as long as no more than this wait.
    fn empty(&mut self, waiting_max: usize) {
        while self.waiting.len() < waiting_max {
            let Some(item) = self.ring.next() else { return };
            let record = decode(&item);
            drop(item);
            match record {
                Some(Record::Flow(flow)) => self.take_flow(flow),
                Some(record) => self.waiting.push(record),
                None => log::warn!("a ring buffer record of unknown kind was skipped"),
            }
        }
    }

    fn take_flow(&mut self, flow: FlowRecord) {
        let waits = flow.event == FlowEvent::Close as u8 && flow.flags & FlowRecord::TIME_WAIT != 0;
        // Where the kernel does not tell the namespace, another one may have the same four-tuple.
        if self.flow_use.ends && waits && flow.netns != 0 {
            self.ends.push(flow);
        }
        if self.flow_use.history && waits {
            self.history.truncate(HISTORY_MAX - 1);
            self.history.push_front(flow);
        }
        if self.flow_use.lines {
            self.waiting.push(Record::Flow(flow));
        }
    }

    /// Empties it if nobody else has lately. How soon to look again.
    fn relieve(&mut self) -> Duration {
        if self.taken.elapsed() < PATIENCE {
            return EVERY;
        }
        self.empty(WAITING_MAX);
        HURRY
    }
}

/// The running thread. Dropping it ends it.
pub struct Drain {
    ring: Arc<Mutex<Ring>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drain {
    /// Starts it.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(ring: RingBuf<MapData>, flow_use: FlowUse) -> Result<Self> {
        let ring = Ring {
            ring,
            flow_use,
            waiting: Vec::new(),
            ends: Vec::new(),
            history: VecDeque::new(),
            taken: Instant::now(),
        };
        let ring = Arc::new(Mutex::new(ring));
        let (stop, stopped) = channel();
        let shared = Arc::clone(&ring);
        let thread = std::thread::Builder::new()
            .name("records".to_owned())
            .spawn(move || {
                turns::ask_for_short_ones();
                let mut pause = EVERY;
                while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    pause = shared.lock().unwrap_or_else(PoisonError::into_inner).relieve();
                }
            })
            .context("start a thread")?;
        Ok(Self { ring, stop: Some(stop), thread: Some(thread) })
    }

    /// The ends, if they are remembered.
    pub fn ends(&self) -> Ends {
        Ends(Arc::clone(&self.ring))
    }

    /// Looks at the latest ends that left a TIME_WAIT, the last one first.
    pub fn with_history<T>(&self, look: impl FnOnce(&VecDeque<FlowRecord>) -> T) -> T {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.empty(WAITING_MAX);
        look(&ring.history)
    }

    /// Everything that came since the last call, in its order.
    pub fn take(&self) -> Vec<Record> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.taken = Instant::now();
        ring.empty(usize::MAX);
        std::mem::take(&mut ring.waiting)
    }
}

/// Ends as they come, for another thread: what the kernel lists at this moment may have ended a moment ago.
pub struct Ends(Arc<Mutex<Ring>>);

impl Ends {
    /// Those since the last call.
    pub fn take(&self) -> Vec<FlowRecord> {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.empty(WAITING_MAX);
        std::mem::take(&mut ring.ends)
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
