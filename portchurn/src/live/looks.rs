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
/// How often an interpreter is entered and looked at once more; who changes faster is told of again.
const CONFIRMED_AT_MOST: usize = 3;
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

/// What is known of interpreters, by process. The kernel side takes out whoever replaces its image or ends.
trait Entries: Send {
    fn enter(&mut self, tgid: u32, interpreter: &Interpreter) -> Result<()>;
    fn take_out(&mut self, tgid: u32);
}

impl Entries for HashMap<MapData, u32, Interpreter> {
    fn enter(&mut self, tgid: u32, interpreter: &Interpreter) -> Result<()> {
        Ok(self.insert(tgid, interpreter, 0)?)
    }

    fn take_out(&mut self, tgid: u32) {
        // Most often there is none.
        let _ = self.remove(&tgid);
    }
}

/// A process to look at again.
struct Pending {
    tgid: u32,
    due: Instant,
    looks: usize,
}

struct Worker<E> {
    interpreters: E,
    looker: Box<dyn Looker>,
    pending: Vec<Pending>,
}

impl<E: Entries> Worker<E> {
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
            Look::Nothing => self.interpreters.take_out(tgid),
            Look::Found(interpreter) => self.enter(tgid, *interpreter),
            Look::Later => {
                self.interpreters.take_out(tgid);
                if let Some(&pause_us) = LOOK_AGAIN_US.get(looks) {
                    let due = Instant::now() + Duration::from_micros(pause_us);
                    self.pending.push(Pending { tgid, due, looks: looks + 1 });
                }
            }
        }
    }

    /// Who ended or replaced its image during the look was not there yet to be taken out. Who does so from now on is, so that
    /// what is still so after it was entered needs no further look.
    fn enter(&mut self, tgid: u32, mut interpreter: Interpreter) {
        for _ in 0..CONFIRMED_AT_MOST {
            if let Err(err) = self.interpreters.enter(tgid, &interpreter) {
                log::debug!("no room for the interpreter of process {tgid}: {err:#}");
                return;
            }
            match self.looker.look(tgid) {
                Look::Found(again) if is_same(&again, &interpreter) => return,
                Look::Found(again) => interpreter = *again,
                Look::Nothing | Look::Later => break,
            }
        }
        self.interpreters.take_out(tgid);
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

/// Each look gives the image another name.
fn is_same(a: &Interpreter, b: &Interpreter) -> bool {
    Interpreter { image: b.image, ..*a } == *b
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use anyhow::Result;
    use portchurn_common::stack::Interpreter;

    use super::{Entries, Look, Looker, Worker};

    impl Entries for HashMap<u32, Interpreter> {
        fn enter(&mut self, tgid: u32, interpreter: &Interpreter) -> Result<()> {
            self.insert(tgid, *interpreter);
            Ok(())
        }

        fn take_out(&mut self, tgid: u32) {
            self.remove(&tgid);
        }
    }

    /// What each look comes to, one after the other.
    struct Script(std::vec::IntoIter<Look>);

    impl Looker for Script {
        fn look(&mut self, _tgid: u32) -> Look {
            self.0.next().unwrap()
        }
    }

    const TGID: u32 = 7;

    fn python(image: u64, interpreters: u64) -> Interpreter {
        Interpreter { image, interpreters, ..Interpreter::UNKNOWN }
    }

    fn found(image: u64, interpreters: u64) -> Look {
        Look::Found(Box::new(python(image, interpreters)))
    }

    /// What is known of a process after one order to look at it.
    fn after(known: Option<Interpreter>, looks: Vec<Look>) -> Option<Interpreter> {
        let mut worker = Worker {
            interpreters: known.map(|known| (TGID, known)).into_iter().collect::<HashMap<_, _>>(),
            looker: Box::new(Script(looks.into_iter())),
            pending: Vec::new(),
        };
        worker.look(TGID, 0);
        worker.interpreters.get(&TGID).copied()
    }

    #[test]
    fn what_runs_no_interpreter_any_more_is_taken_out() {
        assert_eq!(after(Some(python(1, 0x10)), vec![Look::Nothing]), None);
        assert_eq!(after(Some(python(1, 0x10)), vec![Look::Later]), None);
    }

    #[test]
    fn what_is_the_same_after_it_was_entered_keeps_its_first_name() {
        assert_eq!(after(None, vec![found(1, 0x10), found(2, 0x10)]), Some(python(1, 0x10)));
    }

    #[test]
    fn who_ends_while_it_is_looked_at_leaves_nothing_behind() {
        assert_eq!(after(None, vec![found(1, 0x10), Look::Nothing]), None);
    }

    #[test]
    fn who_becomes_another_meanwhile_is_entered_as_that() {
        let looks = vec![found(1, 0x10), found(2, 0x20), found(3, 0x20)];
        assert_eq!(after(None, looks), Some(python(2, 0x20)));
    }

    #[test]
    fn who_is_another_at_each_look_is_left_to_the_next_order() {
        let looks = (0..4).map(|number| found(number, number)).collect();
        assert_eq!(after(None, looks), None);
    }
}
