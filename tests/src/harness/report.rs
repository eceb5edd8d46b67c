//! portchurn's JSON, as a script would read it: written down from the documentation, not shared with portchurn's code.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

/// One object of `top -b -o jsonl`.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// Meaning of the keys.
    pub schema_version: u32,
    /// Its release.
    pub kernel: String,
    /// What is attached.
    pub hooks: Vec<Hook>,
    /// Sums over everything.
    pub totals: Tally,
    /// Processes grouped by what they run.
    pub programs: Vec<Program>,
    /// Single processes.
    pub processes: Vec<Process>,
    /// What was not recorded.
    pub lost: Lost,
    /// Whose every TIME_WAIT is.
    pub time_wait: serde_json::Value,
    /// Budgets of local ports.
    pub ports: serde_json::Value,
    /// Connects that found no port.
    pub exhaustion: serde_json::Value,
}

impl Report {
    /// How a hook is attached.
    pub fn attached(&self, hook: &str) -> &str {
        self.hooks.iter().find(|known| known.name == hook).map_or("none", |known| &known.attached)
    }

    /// The processes with this number: more than one if it was used again.
    pub fn processes_of(&self, tgid: u32) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |process| process.tgid == tgid)
    }
}

/// One hook.
#[derive(Clone, Debug, Deserialize)]
pub struct Hook {
    /// Kernel function or tracepoint.
    pub name: String,
    /// How.
    pub attached: String,
    /// Whether the kernel counts the events that it leaves out.
    pub skips_counted: Option<bool>,
}

/// How many connections.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct Tally {
    /// Connects that succeeded.
    pub opened: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that ended.
    pub closed: u64,
    /// Connects that failed.
    pub failed: u64,
    /// Connections that are open.
    pub open_now: u64,
    /// Connections that were there before the attach.
    pub before_attach: u64,
    /// Connections that could not be followed.
    pub lost: u64,
}

impl Tally {
    /// Whether every connection is accounted for.
    pub const fn is_conserved(&self) -> bool {
        self.opened + self.accepted + self.before_attach == self.closed + self.open_now + self.lost
    }

    /// Adds another one.
    pub const fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.accepted += other.accepted;
        self.closed += other.closed;
        self.failed += other.failed;
        self.open_now += other.open_now;
        self.before_attach += other.before_attach;
        self.lost += other.lost;
    }
}

/// Processes that run the same thing.
#[derive(Clone, Debug, Deserialize)]
pub struct Program {
    /// File name of the executable.
    pub program: String,
    /// `comm` of the parent.
    pub parent_program: Option<String>,
    /// Arguments of one of its processes.
    pub argv: Vec<String>,
    /// Processes seen.
    pub process_count: u64,
    /// Processes of these that ended.
    pub exited_count: u64,
    /// How many connections.
    #[serde(flatten)]
    pub tally: Tally,
    /// Where to and where from.
    pub destinations: Vec<Destination>,
}

/// One process.
#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    /// Its number.
    pub tgid: u32,
    /// `comm` of its leader.
    pub comm: String,
    /// Arguments.
    pub argv: Vec<String>,
    /// Parent process.
    pub ppid: Option<u32>,
    /// Whether it ended.
    pub exited: bool,
    /// How many connections.
    #[serde(flatten)]
    pub tally: Tally,
    /// Where to and where from.
    pub destinations: Vec<Destination>,
}

/// Where connections go to or come in.
#[derive(Clone, Debug, Deserialize)]
pub struct Destination {
    /// `connect` or `accept`.
    pub role: String,
    /// Network namespace; 0 where the kernel does not tell.
    pub netns: u32,
    /// Connect: remote address.
    pub remote_address: Option<IpAddr>,
    /// Connect: remote port.
    pub remote_port: Option<u16>,
    /// Accept: local port.
    pub local_port: Option<u16>,
    /// How many connections.
    #[serde(flatten)]
    pub tally: Tally,
    /// Who ended them.
    pub closed_by: ClosedBy,
    /// What the resets are; unknown without the kernel's types.
    pub reset_by: Option<ResetBy>,
    /// Closes after which a TIME_WAIT socket is expected.
    pub time_wait_entered: u64,
    /// Failed connects by errno.
    pub failed_by: BTreeMap<String, u64>,
    /// Life of closed connections.
    pub lifetime_us: Option<Quantiles>,
    /// Duration of successful connects.
    pub connect_us: Option<Quantiles>,
    /// The same in buckets.
    pub connect_histogram_us: Vec<Bucket>,
    /// Where in the code; unknown where that is not taken.
    pub call_sites: Option<Vec<serde_json::Value>>,
}

/// Durations of one bucket.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Bucket {
    /// None is longer.
    pub le: u64,
    /// How many.
    pub count: u64,
}

/// Who ended connections.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct ClosedBy {
    /// We did.
    pub local: u64,
    /// The peer did.
    pub remote: u64,
    /// Both at once.
    pub simultaneous: u64,
    /// A RST, or patience ran out.
    pub reset: u64,
    /// The process ended.
    pub process_exit: u64,
}

impl ClosedBy {
    /// All of them.
    pub const fn sum(&self) -> u64 {
        self.local + self.remote + self.simultaneous + self.reset + self.process_exit
    }
}

/// What resets are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct ResetBy {
    /// Ours.
    pub local: u64,
    /// The peer's.
    pub remote: u64,
    /// Patience ran out.
    pub timed_out: u64,
}

/// Percentiles and the maximum.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Quantiles {
    /// Median.
    pub p50: u64,
    /// 95th percentile.
    pub p95: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Maximum.
    pub max: u64,
}

/// What was not recorded.
#[derive(Clone, Debug, Deserialize)]
pub struct Lost {
    /// All reasons.
    pub total: u64,
    /// Each reason. `None`: this kernel does not count it.
    pub by_reason: BTreeMap<String, Option<u64>>,
}

impl Report {
    /// How many events the kernel left out; unknown where it does not count that.
    pub fn nested(&self) -> Option<u64> {
        self.lost.by_reason.get("nested").copied().flatten()
    }

    /// How many events may be missing where tasks are preempted inside a program, which they are since Linux 7.0.
    pub fn skipped_at_most(&self) -> u64 {
        let major = self.kernel.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major >= Some(7) { self.nested().unwrap_or(0) } else { 0 }
    }

    /// Whether programs are attached that the kernel leaves out while any of their kind runs on the processor.
    fn shares_guard(&self) -> bool {
        self.hooks.iter().any(|hook| ["tracepoint", "kprobe", "kretprobe"].contains(&hook.attached.as_str()))
    }

    /// Whether the kernel leaves out events of some hook without counting it.
    fn may_lose_silently(&self) -> bool {
        self.nested().is_none() || self.hooks.iter().any(|hook| hook.skips_counted == Some(false))
    }

    /// Whether the kernel has left out events that no program could mend, or may have without counting it.
    pub fn may_miss_events(&self) -> bool {
        self.shares_guard() && (self.may_lose_silently() || self.nested() != Some(0))
    }
}
