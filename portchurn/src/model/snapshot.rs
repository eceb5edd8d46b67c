//! The one output type of the model: immutable, and its JSON form is the contract that scripts rely on
//! (docs/json.md). Units stand in the key; what is not known is `null`, never 0 and never absent.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::model::budget::{Exhaustion, PortBudget, TimeWait};
pub use crate::model::call_site::{CallSite, Place};

/// Raised when a key changes its meaning or goes away; new keys do not raise it.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything that can be shown, at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Release of the kernel, as `uname -r`.
    pub kernel: String,
    /// Length of the window of the `_per_s` figures. Seconds.
    pub window_s: f64,
    /// Time since the attach, to which all other counters refer. Seconds.
    pub cumulative_s: f64,
    /// What is attached, and why something is not.
    pub hooks: Vec<HookState>,
    /// Sums over everything.
    pub totals: Totals,
    /// Processes grouped by what they run, busiest first.
    pub programs: Vec<Program>,
    /// Single processes, busiest first. Long-ended ones are only in `programs`.
    pub processes: Vec<ProcessStats>,
    /// TIME_WAIT sockets and their owners; `null` until the socket tables were read.
    pub time_wait: Option<TimeWait>,
    /// Local port budgets, nearest to their end first; `null` until the socket tables were read.
    pub ports: Option<Vec<PortBudget>>,
    /// Whether options leave connections out.
    #[serde(skip)]
    pub is_narrow: bool,
    /// Connects that failed because no local port was left, the latest first.
    pub exhaustion: Vec<Exhaustion>,
    /// What was not recorded.
    pub lost: Lost,
    /// What portchurn itself costs.
    pub own_cost: OwnCost,
}

/// One hook.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HookState {
    /// Kernel function or tracepoint.
    pub name: &'static str,
    /// How it is attached: `tp_btf`, `raw_tp`, `tracepoint`, `fentry`, `fexit`, `kprobe`, `kretprobe` or `none`.
    pub attached: &'static str,
    /// Whether portchurn refuses to run without it.
    pub required: bool,
    /// Why it is not attached better, or not at all.
    pub reason: Option<String>,
    /// Whether the kernel counts the runs that it skips because the processor is in a program already. `None`: it is
    /// not attached.
    pub skips_counted: Option<bool>,
}

/// How many connections. Counters run since the attach; conservation holds:
/// `opened + accepted + before_attach = closed + open_now + lost`. Failed attempts are not opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Connects that were established, and those that were lost sight of.
    pub opened: u64,
    /// Passive opens that were established.
    pub accepted: u64,
    /// Connections that ended, however.
    pub closed: u64,
    /// Connects that failed.
    pub failed: u64,
    /// Connections open at this moment.
    pub open_now: u64,
    /// Connections that were open already at the attach.
    pub before_attach: u64,
    /// Connections begun that could not be followed.
    pub lost: u64,
    /// Connects established per second, in the window.
    pub opened_per_s: f64,
    /// Passive opens established per second, in the window.
    pub accepted_per_s: f64,
    /// Connections ended per second, in the window: the churn rate.
    pub closed_per_s: f64,
    /// Connects failed per second, in the window.
    pub failed_per_s: f64,
}

impl Tally {
    /// Adds what somebody else did.
    pub fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.accepted += other.accepted;
        self.closed += other.closed;
        self.failed += other.failed;
        self.open_now += other.open_now;
        self.before_attach += other.before_attach;
        self.lost += other.lost;
        self.opened_per_s += other.opened_per_s;
        self.accepted_per_s += other.accepted_per_s;
        self.closed_per_s += other.closed_per_s;
        self.failed_per_s += other.failed_per_s;
    }
}

/// Sums over everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// How many connections.
    #[serde(flatten)]
    pub tally: Tally,
    /// Connects in progress.
    pub connecting_now: u64,
}

/// Processes that run the same thing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Program {
    /// File name of the executable, or `comm` where that is not known.
    pub program: String,
    /// Path of the executable.
    pub exe: Option<String>,
    /// What an interpreter runs.
    pub script: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
    /// Container.
    pub container: Option<String>,
    /// `comm` of the parent.
    pub parent_program: Option<String>,
    /// Arguments of one of its processes, as an example.
    pub argv: Vec<String>,
    /// Processes seen since the attach.
    pub process_count: u64,
    /// Processes of these that have ended.
    pub exited_count: u64,
    /// How many connections.
    #[serde(flatten)]
    pub tally: Tally,
    /// Where to and where from, busiest first.
    pub destinations: Vec<Destination>,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessStats {
    /// Process. 0: connections whose owner is not known (yet).
    pub tgid: u32,
    /// Start. Nanoseconds since boot.
    pub start_ns: u64,
    /// `comm` of its leader.
    pub comm: String,
    /// Path of the executable, or its file name alone where the process was gone too soon.
    pub exe: Option<String>,
    /// Arguments.
    pub argv: Vec<String>,
    /// Parent process.
    pub ppid: Option<u32>,
    /// `comm` of the parent.
    pub parent_comm: Option<String>,
    /// Path in the cgroup tree.
    pub cgroup: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
    /// Container.
    pub container: Option<String>,
    /// Whether it has ended.
    pub exited: bool,
    /// How many connections.
    #[serde(flatten)]
    pub tally: Tally,
    /// Where to and where from, busiest first.
    pub destinations: Vec<Destination>,
}

/// Which side of the handshake a destination is about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Active open: the remote address and port.
    Connect,
    /// Passive open: the local port.
    Accept,
}

/// A remote address and port that is connected to, or a local port that is accepted on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Destination {
    /// Which side of the handshake.
    pub role: Role,
    /// Network namespace, inode number; 0 where the kernel does not tell.
    pub netns: u32,
    /// Connect: remote address. `null` for accepts and for what was folded together.
    pub remote_address: Option<IpAddr>,
    /// Connect: remote port.
    pub remote_port: Option<u16>,
    /// Accept: local port.
    pub local_port: Option<u16>,
    /// How many connections.
    #[serde(flatten)]
    pub tally: Tally,
    /// Who ended them, and how. The sum is `closed`.
    pub closed_by: ClosedBy,
    /// What `closed_by.reset` consists of; `null` where the kernel's types are missing.
    pub reset_by: Option<ResetBy>,
    /// Closes after which a TIME_WAIT socket of ours is expected.
    pub time_wait_entered: u64,
    /// Connect: share of the local ports that are taken for it, from whichever source address has the fewest left; `null` where
    /// it has no row among the budgets of ports.
    pub port_pressure_ratio: Option<f64>,
    /// Failed connects by errno; only what happened. The sum is `failed`.
    pub failed_by: BTreeMap<&'static str, u64>,
    /// Life of closed connections; `null` if there is none.
    pub lifetime_us: Option<Quantiles>,
    /// Duration of successful connects, port search and handshake; `null` if there is none.
    pub connect_us: Option<Quantiles>,
    /// The same durations, shortest first, without the buckets that are empty: the wall at half of the range is a second hill.
    pub connect_histogram_us: Vec<Bucket>,
    /// Where in the code, most passed first. `null` where call sites are not taken.
    pub call_sites: Option<Vec<CallSite>>,
}

/// Who ended connections, and how.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct ClosedBy {
    /// Our side sent the first FIN.
    pub local: u64,
    /// The peer did.
    pub remote: u64,
    /// Both did before seeing the other's.
    pub simultaneous: u64,
    /// A RST of either side, or patience ran out.
    pub reset: u64,
    /// Our side closed first, because the process ended.
    pub process_exit: u64,
}

impl ClosedBy {
    /// Who ended most connections, and how many; `None` when none has ended. Of two that ended as many it is the one named first:
    /// where both ends are here, ours pays for both.
    pub fn mostly(&self) -> Option<(&'static str, u64)> {
        let counts = [
            ("local", self.local),
            ("exit", self.process_exit),
            ("simultaneous", self.simultaneous),
            ("remote", self.remote),
            ("reset", self.reset),
        ];
        counts.into_iter().rev().max_by_key(|&(_, count)| count).filter(|&(_, count)| count > 0)
    }
}

/// What resets consist of.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct ResetBy {
    /// We aborted: linger 0, unread data at close.
    pub local: u64,
    /// The peer sent a RST.
    pub remote: u64,
    /// Retransmissions, keep-alive or an orphan's patience ran out.
    pub timed_out: u64,
}

/// Percentiles from log2 buckets (right to within a factor of two); the maximum is exact. Microseconds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: u64,
    /// 95th percentile.
    pub p95: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Maximum since the attach.
    pub max: u64,
}

/// Durations of one log2 bucket.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Bucket {
    /// None is longer. Microseconds.
    pub le: u64,
    /// How many there are.
    pub count: u64,
}

/// What was not recorded, since the attach.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Lost {
    /// All reasons that can be counted.
    pub total: u64,
    /// Each reason, zero included. `None`: this kernel does not count it, as the state change is attached.
    pub by_reason: BTreeMap<&'static str, Option<u64>>,
}

/// What portchurn itself costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct OwnCost {
    /// Processor time of the agent ÷ time, in the window. 1.0 is one processor.
    pub cpu_ratio: Option<f64>,
    /// Resident memory, as `ps` shows it; includes the maps that are mapped.
    pub rss_bytes: Option<u64>,
    /// Memory of the BPF maps.
    pub map_bytes: Option<u64>,
    /// Mean run time of the state-change program. Nanoseconds.
    pub bpf_ns_per_event: Option<f64>,
    /// Processor time of the BPF programs ÷ time. 1.0 is one processor.
    pub bpf_cpu_ratio: Option<f64>,
    /// Stacks that were unwound and named, since the attach.
    pub stacks_named: u64,
    /// Time to name one of a hundred stacks, or longer. Microseconds.
    pub naming_p99_us: Option<u64>,
    /// Longest time to name a stack since the attach. Microseconds.
    pub naming_max_us: Option<u64>,
    /// Which stacks are taken: `full`, `interpreters`, or `none` when over `--max-cpu`; `null`: none were asked for.
    pub stack_effort: Option<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::ClosedBy;

    #[test]
    fn of_two_that_ended_as_many_our_side_is_named() {
        let both_ends_here = ClosedBy { local: 150, remote: 150, ..ClosedBy::default() };
        assert_eq!(both_ends_here.mostly(), Some(("local", 150)));
        let mostly_remote = ClosedBy { remote: 151, ..both_ends_here };
        assert_eq!(mostly_remote.mostly(), Some(("remote", 151)));
        assert_eq!(ClosedBy::default().mostly(), None);
    }
}
