//! The thread that looks at processes for interpreters: a new one must be known before its first connect. A look reads
//! files, for which no stack must wait.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData};
use portchurn_common::stack::Interpreter;

use crate::live::turns;

/// What a look at a process came to.
pub enum Look {
    /// It runs no interpreter that can be walked.
    Nothing,
    /// It does: walk it like this.
    Found(Box<Interpreter>),
    /// It loads its libraries still: look again.
    Later,
}

/// Looks at processes.
pub trait Looker: Send {
    /// A process replaced its image, or was there before the attach.
    fn look(&mut self, tgid: u32) -> Look;
}

/// Pauses between looks at a process that loads its libraries. Microseconds.
const LOOK_AGAIN_US: &[u64] =
    &[100, 200, 300, 400, 500, 1000, 1000, 2000, 2000, 5000, 10_000, 20_000, 50_000, 100_000];
/// Waking up without a reason.
const IDLE: Duration = Duration::from_secs(60);
/// How long the start waits for a first look at the processes that are there.
const PATIENCE: Duration = Duration::from_secs(1);

/// The running thread. Dropping it ends it.
pub struct LookThread {
    orders: Option<Sender<u32>>,
    thread: Option<JoinHandle<()>>,
}

impl LookThread {
    /// Starts it. `existing`: processes to look at first, each once.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        interpreters: HashMap<MapData, u32, Interpreter>,
        looker: Box<dyn Looker>,
        existing: Vec<u32>,
    ) -> Result<Self> {
        let (orders, todo) = channel();
        let (done, is_done) = channel();
        let mut worker = Worker { interpreters, looker, pending: Vec::new() };
        let thread = std::thread::Builder::new()
            .name("looks".to_owned())
            .spawn(move || {
                for tgid in existing {
                    worker.look(tgid, usize::MAX);
                }
                let _ = done.send(());
                turns::ask_for_short_ones();
                worker.run(&todo);
            })
            .context("start the thread that looks for interpreters")?;
        // Processes that are there already should be known before their next connect.
        let _ = is_done.recv_timeout(PATIENCE);
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Where to send processes that replaced their image.
    pub fn orders(&self) -> Option<Sender<u32>> {
        self.orders.clone()
    }
}

impl Drop for LookThread {
    fn drop(&mut self) {
        self.orders = None;
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
    interpreters: HashMap<MapData, u32, Interpreter>,
    looker: Box<dyn Looker>,
    pending: Vec<Pending>,
}

impl Worker {
    /// Until nobody can send orders any more.
    fn run(&mut self, todo: &Receiver<u32>) {
        loop {
            let now = Instant::now();
            let dues = self.pending.iter().map(|pending| pending.due.saturating_duration_since(now));
            match todo.recv_timeout(dues.min().unwrap_or(IDLE)) {
                Ok(tgid) => {
                    // What is waited for was the image before.
                    self.pending.retain(|pending| pending.tgid != tgid);
                    self.look(tgid, 0);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.look_again();
        }
    }

    /// `looks`: how often it was looked at before; `usize::MAX`: once is enough.
    fn look(&mut self, tgid: u32, looks: usize) {
        match self.looker.look(tgid) {
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
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|pending| pending.due <= now);
        self.pending = later;
        for pending in due {
            self.look(pending.tgid, pending.looks);
        }
    }
}
