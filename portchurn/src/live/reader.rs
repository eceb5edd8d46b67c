//! Reads the socket tables on a thread of its own, so that no refresh ever waits for a host with many sockets, and as
//! rarely as [`Pace`] demands: when the kernel counts another number of TIME_WAIT than is known, else once in a while.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hashbrown::HashSet;
use rustix::time::ClockId;

use crate::live::owners::Owners;
use crate::live::pace::{Pace, Read, agree};
use crate::model::sockets::{Expected, NamespaceReading, SocketReading, Sysctls, Unread};
use crate::sources::clock::now_ns;
use crate::sources::netns::{in_namespace, network_namespaces, own_namespace};
use crate::sources::sock_diag::{SockDiag, Socket, StateSet};
use crate::sources::socket_count::SocketCount;
use crate::sources::sockstat::{time_wait_here, time_wait_of};
use crate::sources::sysctls::tcp_sysctls;

/// How often the table of connections is looked after.
const HARVEST_EVERY: Duration = Duration::from_millis(250);

/// Sockets for which ends are looked through at once: a megabyte.
const RECALLED_AT_ONCE: usize = 16_384;

/// What the thread is told.
enum Command {
    /// Read at once, and say when it is done.
    Now(Sender<()>),
    /// Something happened that a fresh reading would explain.
    Hurry,
    /// Something goes on: no time to rest.
    Wake,
    /// This is how many TIME_WAIT there should be.
    Expect(Expected),
}

/// The latest reading. No queue: who takes them may be held up for long, by an output that nobody reads.
type Latest = Arc<Mutex<Option<SocketReading>>>;

/// The running thread. It ends when this is dropped.
pub struct Reader {
    commands: Option<Sender<Command>>,
    latest: Latest,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts it; the first reading is the baseline of what was there before the attach.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(owners: Owners) -> Result<Self> {
        let (commands, orders) = channel();
        let latest = Latest::default();
        let told = Arc::clone(&latest);
        let thread = std::thread::Builder::new()
            .name("sockets".to_owned())
            .spawn(move || Worker::new(owners).run(&orders, &told))
            .context("start a thread")?;
        Ok(Self { commands: Some(commands), latest, thread: Some(thread) })
    }

    /// The latest reading since the last call.
    pub fn take(&mut self) -> Option<SocketReading> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for a fresh reading.
    pub fn read_now(&mut self) {
        let (done, is_done) = channel();
        if let Some(commands) = &self.commands
            && commands.send(Command::Now(done)).is_ok()
        {
            let _ = is_done.recv();
        }
    }

    /// Asks for a fresh reading soon: what happens, it would explain.
    pub fn hurry(&self) {
        self.tell(Command::Hurry);
    }

    /// Says that connections come and go: what was still when the tables were read last is not any more.
    pub fn wake(&self) {
        self.tell(Command::Wake);
    }

    /// Says how many TIME_WAIT there should be at this moment.
    pub fn expect(&self, expected: Expected) {
        self.tell(Command::Expect(expected));
    }

    fn tell(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // A thread that ended says so by readings that do not come.
            let _ = commands.send(command);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    owners: Owners,
    own_netns: u32,
    paths: HashMap<u32, PathBuf>,
    /// Whether this reading has looked for them: all of `/proc` is gone through, and namespaces end by the hundred.
    paths_are_fresh: bool,
    /// Namespaces in which the last reading found a TIME_WAIT.
    waiting: Vec<u32>,
    /// Those in which there should be some by now.
    expected: Vec<u32>,
    last: Option<Last>,
}

/// What is remembered of the last reading.
struct Last {
    at_ns: u64,
    sockets: (u64, u64),
    /// Mini-sockets that are no TIME_WAIT yet, by namespace; none in one that could not be read.
    closing: Vec<(u32, u32)>,
}

impl Last {
    fn of(reading: &SocketReading) -> Self {
        let closing = reading.namespaces.iter().map(|namespace| (namespace.netns, namespace.closing));
        let closing = closing.chain(reading.unread.iter().map(|unread| (unread.netns, 0)));
        Self { at_ns: reading.at_ns, sockets: sockets(reading), closing: closing.collect() }
    }
}

impl Worker {
    fn new(owners: Owners) -> Self {
        Self {
            owners,
            own_netns: own_namespace().unwrap_or(0),
            paths: HashMap::new(),
            paths_are_fresh: false,
            waiting: Vec::new(),
            expected: Vec::new(),
            last: None,
        }
    }

    fn run(mut self, orders: &Receiver<Command>, latest: &Latest) {
        let mut pace: Option<Pace> = None;
        loop {
            let waiting = match &mut pace {
                Some(pace) => self.wait(pace, orders),
                None => Ok(None),
            };
            let Ok(waiting) = waiting else { return };
            let reading = self.read();
            let read = Read {
                ended: Instant::now(),
                cost: Duration::from_nanos(reading.cpu_ns),
                is_still: self.last.as_ref().is_some_and(|last| last.sockets == sockets(&reading)),
                is_carried: reading.namespaces.iter().all(|namespace| namespace.pools.is_empty()),
            };
            pace = Some(Pace::after(pace.as_ref(), read));
            self.last = Some(Last::of(&reading));
            *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
            if let Some(done) = waiting {
                let _ = done.send(());
            }
        }
    }

    /// Waits until it is time for the next reading; who waits for that, if anybody asked. An error: it is over.
    fn wait(
        &mut self,
        pace: &mut Pace,
        orders: &Receiver<Command>,
    ) -> Result<Option<Sender<()>>, RecvTimeoutError> {
        let mut harvest = Instant::now() + HARVEST_EVERY;
        loop {
            let now = Instant::now();
            if now >= harvest {
                harvest = now + HARVEST_EVERY;
                self.owners.harvest();
                if self.owners.is_crowded() {
                    pace.crowd();
                }
            }
            let due = pace.due(now);
            if due <= now {
                return Ok(None);
            }
            match orders.recv_timeout(due.min(harvest) - now) {
                Ok(Command::Now(done)) => return Ok(Some(done)),
                Ok(Command::Hurry) => pace.hurry(),
                Ok(Command::Wake) => pace.wake(),
                Ok(Command::Expect(expected)) => {
                    let waiting = expected.namespaces.iter().filter(|there| there.has_any);
                    self.expected = waiting.map(|there| there.netns).collect();
                    self.compare(&expected, pace);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(over @ RecvTimeoutError::Disconnected) => return Err(over),
            }
        }
    }

    fn compare(&self, expected: &Expected, pace: &mut Pace) {
        let now = Instant::now();
        let Some(last) = self.last.as_ref().filter(|last| last.at_ns == expected.read_ns) else { return };
        let is_new = |netns: u32| last.closing.iter().all(|(read, _)| *read != netns);
        if expected.namespaces.iter().any(|there| is_new(there.netns)) {
            pace.discover();
        }
        if !pace.wants_check(now) {
            return;
        }
        let agrees = expected.namespaces.iter().all(|there| {
            let read = last.closing.iter().find(|(read, _)| *read == there.netns);
            let closing = read.map_or(0, |(_, closing)| u64::from(*closing));
            match (there.count, self.counted(there.netns)) {
                (Some(count), Some(counted)) => agree(count + closing, counted, there.due),
                // A namespace that is gone has none.
                (count, None) => count == Some(0),
                (None, _) => false,
            }
        });
        pace.check(now, agrees);
    }

    /// TIME_WAIT sockets as the kernel counts them.
    fn counted(&self, netns: u32) -> Option<u64> {
        if netns == self.own_netns {
            return time_wait_here();
        }
        time_wait_of(netns, self.paths.get(&netns)?)
    }

    fn read(&mut self) -> SocketReading {
        let (began_ns, cpu_before_ns) = (now_ns(ClockId::Monotonic), now_ns(ClockId::ThreadCPUTime));
        self.owners.begin();
        self.paths_are_fresh = false;
        let mut reading = SocketReading { began_ns, ..SocketReading::default() };
        for netns in self.wanted() {
            match self.read_namespace(netns) {
                Ok(namespace) => reading.namespaces.push(namespace),
                Err(error) => reading.unread.push(Unread { netns, reason: format!("{error:#}") }),
            }
        }
        let whole = reading.namespaces.iter().filter(|namespace| namespace.is_whole());
        let listed: HashSet<_> = whole.map(|namespace| namespace.netns).collect();
        let is_complete = reading.unread.is_empty() && listed.len() == reading.namespaces.len();
        self.owners.end(&listed, is_complete);
        let has_time_wait = |namespace: &&NamespaceReading| !namespace.time_wait.is_empty();
        self.waiting =
            reading.namespaces.iter().filter(has_time_wait).map(|namespace| namespace.netns).collect();
        self.owners.compare(&reading);
        reading.at_ns = now_ns(ClockId::Monotonic);
        reading.cpu_ns = now_ns(ClockId::ThreadCPUTime).saturating_sub(cpu_before_ns);
        reading
    }

    /// At first every namespace: what was there before the attach. Then those in which something is counted, or was (the keys of a
    /// process are taken back soon after its end), those that still hold a TIME_WAIT, and our own.
    fn wanted(&mut self) -> Vec<u32> {
        let mut wanted = if self.last.is_none() {
            self.find_paths();
            self.paths.keys().copied().collect()
        } else {
            self.owners.namespaces()
        };
        wanted.extend(self.waiting.iter().chain(&self.expected));
        wanted.push(self.own_netns);
        // Where the kernel does not tell the namespace of a socket, the own one is all that can be asked.
        wanted.retain(|&netns| netns != 0);
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    fn find_paths(&mut self) {
        self.paths = network_namespaces().into_iter().map(|one| (one.inode, one.path)).collect();
        self.paths_are_fresh = true;
    }

    fn read_namespace(&mut self, netns: u32) -> Result<NamespaceReading> {
        let (mut diag, sysctls) = self.open(netns)?;
        let mut count = SocketCount::new(netns, sysctls);
        let owners = &mut self.owners;
        let mut recalled = Vec::new();
        let seen = diag.visit(StateSet::ALL_AND_BOUND, |socket| {
            if !owners.must_recall(socket) {
                return count.add(socket, owners);
            }
            recalled.push(*socket);
            if recalled.len() == RECALLED_AT_ONCE {
                count_recalled(&mut recalled, &mut count, owners);
            }
        })?;
        count_recalled(&mut recalled, &mut count, owners);
        Ok(NamespaceReading { interrupted: seen.interrupted, truncated: seen.truncated, ..count.finish() })
    }

    /// Opened anew each time: an open line would keep alive a namespace that everybody else has left.
    fn open(&mut self, netns: u32) -> Result<(SockDiag, Option<Sysctls>)> {
        if netns == self.own_netns {
            return Ok((SockDiag::open()?, tcp_sysctls().ok()));
        }
        let look = || SockDiag::open().map(|diag| (own_namespace(), diag, tcp_sysctls().ok()));
        for is_fresh in [false, true] {
            if !self.paths_are_fresh && (is_fresh || !self.paths.contains_key(&netns)) {
                self.find_paths();
            }
            let Some(path) = self.paths.get(&netns) else { continue };
            // The process that led there may be gone, and its number another's.
            match in_namespace(path, look) {
                Ok(Ok((Some(found), diag, sysctls))) if found == netns => return Ok((diag, sysctls)),
                Ok(Err(error)) | Err(error) if is_fresh => return Err(error),
                _ => {}
            }
        }
        anyhow::bail!("it is gone, or no process and no name leads there")
    }
}

fn count_recalled(recalled: &mut Vec<Socket>, count: &mut SocketCount, owners: &mut Owners) {
    owners.recall(recalled);
    for socket in recalled.drain(..) {
        count.add(&socket, owners);
    }
}

/// Enough to tell whether anything goes on.
fn sockets(reading: &SocketReading) -> (u64, u64) {
    let mut sum = (0, 0);
    for namespace in &reading.namespaces {
        sum.0 += namespace.time_wait.iter().map(|group| u64::from(group.count)).sum::<u64>();
        sum.1 += namespace.tuples.iter().map(|tuple| u64::from(tuple.used())).sum::<u64>();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::sockets;
    use crate::model::sockets::{NamespaceReading, SocketReading, TupleReading};

    fn reading(cpu_ns: u64, established: u32) -> SocketReading {
        let tuple = TupleReading { established, ..TupleReading::default() };
        let namespace = NamespaceReading { tuples: vec![tuple], ..NamespaceReading::default() };
        SocketReading { cpu_ns, namespaces: vec![namespace], ..SocketReading::default() }
    }

    #[test]
    fn what_changes_is_told_from_what_does_not() {
        assert_eq!(sockets(&reading(1, 5)), sockets(&reading(9, 5)));
        assert_ne!(sockets(&reading(1, 5)), sockets(&reading(1, 4)));
    }
}
