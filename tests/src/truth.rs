//! What a workload says it did. It counts its own system calls and asks the kernel for the state of its sockets; it
//! must never learn anything from portchurn.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// How a connection ended, named as in portchurn's output.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseKind {
    /// We sent the first FIN.
    Local,
    /// The peer did.
    Remote,
    /// Both did before seeing the other's.
    Simultaneous,
    /// We did, because the process ended.
    ProcessExit,
    /// We sent a RST.
    ResetLocal,
    /// The peer did.
    ResetRemote,
    /// Patience ran out.
    TimedOut,
}

impl CloseKind {
    /// Whether a TIME_WAIT socket of ours stays behind, as a rule.
    pub const fn leaves_time_wait(self) -> bool {
        matches!(self, Self::Local | Self::Simultaneous | Self::ProcessExit)
    }
}

/// Where a connection goes to, or where it came in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// `connect()` to this address and port; an IPv4-mapped address is IPv4.
    Connect(IpAddr, u16),
    /// `accept()` on this local port.
    Accept(u16),
}

impl End {
    /// The far end of a connect.
    pub fn connect(target: SocketAddr) -> Self {
        Self::Connect(target.ip().to_canonical(), target.port())
    }
}

/// What happened at one end.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Connects that succeeded.
    pub opened: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that were open when the tracer came.
    pub before_attach: u64,
    /// Connections that ended, by kind.
    pub closed_by: BTreeMap<CloseKind, u64>,
    /// Connections that ended in a way that the kernel chose, not the workload.
    pub closed_somehow: u64,
    /// Ends after which nothing stayed behind, although their kind leaves a TIME_WAIT socket: the kernel had its reasons,
    /// and only a hook sees that.
    #[serde(default)]
    pub without_time_wait: u64,
    /// Connects that failed, by errno.
    pub failed_by: BTreeMap<String, u64>,
}

impl Counts {
    /// Connections that ended.
    pub fn closed(&self) -> u64 {
        self.closed_by.values().sum::<u64>() + self.closed_somehow
    }

    /// Connects that failed.
    pub fn failed(&self) -> u64 {
        self.failed_by.values().sum()
    }

    /// Connections that are still open.
    pub fn open_now(&self) -> u64 {
        (self.opened + self.accepted + self.before_attach).saturating_sub(self.closed())
    }

    /// Closes that left a TIME_WAIT socket, as far as that is known.
    pub fn time_wait(&self) -> u64 {
        self.time_wait_by_kind().saturating_sub(self.without_time_wait)
    }

    /// Closes of a kind that leaves a TIME_WAIT socket, unless the kernel has its reasons.
    pub fn time_wait_by_kind(&self) -> u64 {
        self.closed_by.iter().filter(|(kind, _)| kind.leaves_time_wait()).map(|(_, count)| count).sum()
    }

    /// Adds what another count saw.
    pub fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.accepted += other.accepted;
        self.before_attach += other.before_attach;
        self.closed_somehow += other.closed_somehow;
        self.without_time_wait += other.without_time_wait;
        for (kind, count) in &other.closed_by {
            *self.closed_by.entry(*kind).or_default() += count;
        }
        for (errno, count) in &other.failed_by {
            *self.failed_by.entry(errno.clone()).or_default() += count;
        }
    }
}

/// What one process did.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ProcessTruth {
    /// Its part in the workload.
    pub role: String,
    /// Its number.
    pub tgid: u32,
    /// What it did, by end. A list, as a JSON key must be a string.
    pub ends: Vec<(End, Counts)>,
}

impl ProcessTruth {
    /// Nothing happened yet.
    pub fn new(role: &str) -> Self {
        Self { role: role.to_owned(), tgid: std::process::id(), ends: Vec::new() }
    }

    /// The counts of one end.
    pub fn at(&mut self, end: End) -> &mut Counts {
        let index = self.ends.iter().position(|(known, _)| *known == end).unwrap_or_else(|| {
            self.ends.push((end, Counts::default()));
            self.ends.len() - 1
        });
        &mut self.ends[index].1
    }

    /// A connect succeeded.
    pub fn opened(&mut self, end: End) {
        self.at(end).opened += 1;
    }

    /// A connection was accepted.
    pub fn accepted(&mut self, end: End) {
        self.at(end).accepted += 1;
    }

    /// A connection ended.
    pub fn closed(&mut self, end: End, kind: CloseKind) {
        *self.at(end).closed_by.entry(kind).or_default() += 1;
    }

    /// A connect failed.
    pub fn failed(&mut self, end: End, why: &str) {
        *self.at(end).failed_by.entry(why.to_owned()).or_default() += 1;
    }

    /// Everything it did.
    pub fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        for (_, counts) in &self.ends {
            sum.add(counts);
        }
        sum
    }
}

/// What a whole workload did: the last line of its output.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Truth {
    /// Its name.
    pub workload: String,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Whether nobody else is in that namespace.
    pub own_netns: bool,
    /// Every process that had to do with a connection.
    pub processes: Vec<ProcessTruth>,
    /// What the kernel counted meanwhile; only in a namespace of its own, as others count there too otherwise.
    pub kernel: Option<KernelCounters>,
}

impl Truth {
    /// Everything that happened.
    pub fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        for process in &self.processes {
            sum.add(&process.sum());
        }
        sum
    }

    /// The process with this part.
    pub fn role(&self, role: &str) -> Option<&ProcessTruth> {
        self.processes.iter().find(|process| process.role == role)
    }
}

/// The kernel's own counters of a network namespace (Documentation/networking/snmp_counter.rst).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct KernelCounters {
    /// `TcpActiveOpens`: connects that found a local port.
    pub active_opens: u64,
    /// `TcpPassiveOpens`: connections that arrived.
    pub passive_opens: u64,
    /// `TcpAttemptFails`: handshakes that failed, on either side.
    pub attempt_fails: u64,
    /// `TcpExtListenOverflows`: must not move, or the workload was not in lock-step.
    pub listen_overflows: u64,
    /// TIME_WAIT sockets at this moment.
    pub time_wait: u64,
}
