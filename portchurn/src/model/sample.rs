//! The one input type of the model: everything that was seen since the one before. Raw facts only, never a derived number, so
//! that a recording of samples gains from a newer model.

use std::sync::Arc;

use portchurn_common::counters::Counters;
use portchurn_common::flow::{ChurnKey, Role};
use portchurn_common::histogram::{BUCKETS, bounds_us};
use portchurn_common::loss::Loss;
use portchurn_common::stack::At;
use portchurn_common::tcp::{CloseKind, FailKind};

use crate::model::sockets::SocketReading;

/// A process. Its number alone is used again; with its start it is unique on one host.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ProcessId {
    /// Process, as the host sees it. 0: nobody is known to own these connections.
    pub tgid: u32,
    /// Start. Nanoseconds since boot.
    pub start_ns: u64,
}

impl ProcessId {
    /// Connections whose owner is not known.
    pub const UNATTRIBUTED: Self = Self { tgid: 0, start_ns: 0 };

    /// The process of a key.
    pub fn of(key: &ChurnKey) -> Self {
        Self { tgid: key.tgid, start_ns: key.start_ns }
    }
}

/// Identity of a process, as far as it could be learned.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Process {
    /// Which process.
    pub id: ProcessId,
    /// `comm` of its leader.
    pub comm: String,
    /// Path of the executable, or its file name alone where the process was gone too soon.
    pub exe: Option<String>,
    /// Arguments, the program's own name first.
    pub argv: Vec<String>,
    /// Whether more arguments followed.
    pub argv_truncated: bool,
    /// Parent process.
    pub parent_tgid: Option<u32>,
    /// `comm` of the parent.
    pub parent_comm: Option<String>,
    /// Real user.
    pub uid: Option<u32>,
    /// Path in the cgroup tree.
    pub cgroup: Option<String>,
    /// systemd unit, from the cgroup path.
    pub unit: Option<String>,
    /// Container, from the cgroup path.
    pub container: Option<String>,
}

/// What happened to one key during the interval, or since the attach: the same fields serve both.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counts {
    /// Connects begun.
    pub attempts: u64,
    /// Connects established.
    pub opened: u64,
    /// Accepts established. Negative when connections moved to their real owner.
    pub accepted: i64,
    /// Connections from before the attach that were given to this key.
    pub before_attach: i64,
    /// Connects failed.
    pub failed: u64,
    /// Connections closed, by [`CloseKind`].
    pub closed: [u64; CloseKind::COUNT],
    /// Closes after which a TIME_WAIT is expected.
    pub time_wait: u64,
    /// Connects begun that could not be followed.
    pub lost: u64,
    /// Passive opens that could not be followed.
    pub accepts_lost: u64,
    /// Connections whose end nobody saw: they are in the kernel's socket tables no more.
    pub unseen: u64,
    /// Connects failed, by [`FailKind`].
    pub failed_by: [u64; FailKind::COUNT],
    /// Lives of closed connections, log2 buckets of microseconds.
    pub lifetime: [u64; BUCKETS],
    /// Longest life of these. Microseconds. At most so long, where one since the attach was longer: the kernel side keeps the
    /// longest alone.
    pub lifetime_max_us: u64,
    /// Durations of successful connects, log2 buckets of microseconds.
    pub connect: [u64; BUCKETS],
    /// Longest of these connects. Microseconds. As with lives.
    pub connect_max_us: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Counts {
    /// Nothing happened.
    pub const ZERO: Self = Self {
        attempts: 0,
        opened: 0,
        accepted: 0,
        before_attach: 0,
        failed: 0,
        closed: [0; CloseKind::COUNT],
        time_wait: 0,
        lost: 0,
        accepts_lost: 0,
        unseen: 0,
        failed_by: [0; FailKind::COUNT],
        lifetime: [0; BUCKETS],
        lifetime_max_us: 0,
        connect: [0; BUCKETS],
        connect_max_us: 0,
    };

    /// What was counted under a key of this role between two readings of the same wrapping counters.
    pub fn between(role: Option<Role>, before: &Counters, after: &Counters) -> Self {
        let grown = |before: u32, after: u32| u64::from(after.wrapping_sub(before));
        let moved = |before: u32, after: u32| i64::from(after.wrapping_sub(before).cast_signed());
        let lost = grown(before.lost, after.lost);
        let (lost, accepts_lost) = if role == Some(Role::Accept) { (0, lost) } else { (lost, 0) };
        let lifetime = std::array::from_fn(|i| grown(before.lifetime.0[i], after.lifetime.0[i]));
        let connect = std::array::from_fn(|i| grown(before.connect.0[i], after.connect.0[i]));
        Self {
            attempts: grown(before.attempts, after.attempts),
            opened: grown(before.opened, after.opened),
            accepted: moved(before.accepted, after.accepted),
            before_attach: moved(before.before_attach, after.before_attach),
            failed: grown(before.failed, after.failed),
            closed: std::array::from_fn(|i| grown(before.closed[i], after.closed[i])),
            time_wait: grown(before.time_wait, after.time_wait),
            lost,
            accepts_lost,
            unseen: 0,
            failed_by: std::array::from_fn(|i| grown(before.failed_by[i], after.failed_by[i])),
            lifetime,
            lifetime_max_us: longest(&lifetime, before.lifetime_max_us, after.lifetime_max_us),
            connect,
            connect_max_us: longest(&connect, before.connect_max_us, after.connect_max_us),
        }
    }

    /// Adds what another interval, or another key, counted.
    pub fn add(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.opened += other.opened;
        self.accepted += other.accepted;
        self.before_attach += other.before_attach;
        self.failed += other.failed;
        self.time_wait += other.time_wait;
        self.lost += other.lost;
        self.accepts_lost += other.accepts_lost;
        self.unseen += other.unseen;
        add_each(&mut self.closed, &other.closed);
        add_each(&mut self.failed_by, &other.failed_by);
        add_each(&mut self.lifetime, &other.lifetime);
        add_each(&mut self.connect, &other.connect);
        self.lifetime_max_us = self.lifetime_max_us.max(other.lifetime_max_us);
        self.connect_max_us = self.connect_max_us.max(other.connect_max_us);
    }

    /// The same at a new beginning: only what is still in progress.
    pub fn restarted(&self) -> Self {
        Self {
            attempts: u64::try_from(self.connecting_now()).unwrap_or(0),
            before_attach: self.open_now(),
            ..Self::ZERO
        }
    }

    /// Failures for want of a local port: of connects, or, under a key without a destination, of binds.
    pub fn no_port(&self) -> u64 {
        self.failed_by[FailKind::Eaddrnotavail as usize] + self.failed_by[FailKind::Eaddrinuse as usize]
    }

    /// Connections closed, however.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// Connections open now, when these are counts since the attach.
    pub fn open_now(&self) -> i64 {
        let ended = self.closed_total() + self.unseen;
        self.opened.cast_signed() + self.accepted + self.before_attach - ended.cast_signed()
    }

    /// Connects that are neither established nor failed yet, when these are counts since the attach.
    pub fn connecting_now(&self) -> i64 {
        self.attempts.cast_signed()
            - self.opened.cast_signed()
            - self.failed.cast_signed()
            - self.lost.cast_signed()
    }
}

/// The longest of what was counted between two readings of a maximum that only grows: that of before must not come back where
/// counting began anew since.
fn longest(grown: &[u64; BUCKETS], before_us: u32, after_us: u32) -> u64 {
    let after_us = u64::from(after_us);
    if after_us > u64::from(before_us) {
        return after_us;
    }
    let highest = grown.iter().rposition(|&count| count > 0);
    highest.map_or(0, |index| bounds_us(index).1.min(after_us))
}

fn add_each<const N: usize>(to: &mut [u64; N], from: &[u64; N]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// What portchurn itself costs. `None`: not measured (yet).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OwnCost {
    /// Processor time of this process ÷ elapsed time, since the last sample.
    pub cpu_ratio: Option<f64>,
    /// Resident memory of this process. Bytes. From `/proc/self/statm`.
    pub rss_bytes: Option<u64>,
    /// Memory of the BPF maps. Bytes. From their fdinfo.
    pub map_bytes: Option<u64>,
    /// Mean run time of the state-change program. Nanoseconds. From BPF statistics, switched on for a moment now
    /// and then.
    pub bpf_ns_per_event: Option<f64>,
    /// Processor time of all our BPF programs ÷ elapsed time, estimated from the above.
    pub bpf_cpu_ratio: Option<f64>,
    /// Stacks that were unwound and named since the attach.
    pub stacks_named: u64,
    /// 99th percentile of the time that took. Microseconds.
    pub naming_p99_us: Option<u64>,
    /// The longest. Microseconds.
    pub naming_max_us: Option<u64>,
    /// Which stacks are taken: `full`, `interpreters`, or `none` when over `--max-cpu`. `None`: none were asked for.
    pub stack_effort: Option<&'static str>,
}

impl OwnCost {
    /// What it costs now, the ratios taken over `share` of a time of which the rest was as `before`.
    pub fn after(self, before: Self, share: f64) -> Self {
        let both = |before: Option<f64>, now: Option<f64>| match (before, now) {
            (Some(before), Some(now)) => Some(before + (now - before) * share),
            (before, now) => now.or(before),
        };
        Self {
            cpu_ratio: both(before.cpu_ratio, self.cpu_ratio),
            bpf_cpu_ratio: both(before.bpf_cpu_ratio, self.bpf_cpu_ratio),
            ..self
        }
    }
}

/// How often a place in the code was passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SiteCount {
    /// Process and destination.
    pub key: ChurnKey,
    /// At which moment of a connection.
    pub at: At,
    /// The stack, see [`Stack::id`], or one of `portchurn_common::stack::STACK_*`.
    pub stack: u64,
    /// How often.
    pub count: u64,
    /// Whether `stack` stands for all frames. Else it is a fingerprint, under which stacks are read now and then.
    pub counted: bool,
}

impl Default for SiteCount {
    fn default() -> Self {
        Self { key: ChurnKey::default(), at: At::Open, stack: 0, count: 0, counted: true }
    }
}

/// Which language a frame is written in.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Language {
    /// Compiled: C, C++, Rust, Go.
    Native,
    /// Python.
    Python,
}

impl Language {
    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Python => "python",
        }
    }
}

/// One frame of a stack. Its texts are shared with the frames that it was made from: they are copied for each stack.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Frame {
    /// Function, with its class where the language tells. Where it has no name: an offset into the module.
    pub function: Arc<str>,
    /// Source file.
    pub file: Option<Arc<str>>,
    /// Line in it.
    pub line: Option<u32>,
    /// Executable or library.
    pub module: Option<Arc<str>>,
    /// Which build of it, where the function has no name: whoever has that build finds the name by the offset.
    pub build_id: Option<Arc<str>>,
    /// Language.
    pub language: Language,
}

impl Frame {
    /// A Python function, as its interpreter tells.
    pub fn python(function: impl Into<Arc<str>>, file: impl Into<Arc<str>>, line: u32) -> Self {
        Self {
            function: function.into(),
            file: Some(file.into()),
            line: Some(line),
            module: None,
            build_id: None,
            language: Language::Python,
        }
    }

    /// Native code without debug information.
    pub fn native(function: impl Into<Arc<str>>, module: Option<&str>) -> Self {
        Self {
            function: function.into(),
            file: None,
            line: None,
            module: module.map(Arc::from),
            build_id: None,
            language: Language::Native,
        }
    }
}

/// A stack that was read and named.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stack {
    /// Hash or fingerprint under which it is counted.
    pub id: u64,
    /// Innermost first. Shared by those that are equal.
    pub frames: Arc<[Frame]>,
    /// What to know about it: cut off, not readable.
    pub note: Option<String>,
}

/// Everything that was seen since the sample before.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// When it was taken. Nanoseconds, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Processes seen for the first time, and those whose identity changed.
    pub processes: Vec<Process>,
    /// Processes that ended.
    pub exits: Vec<ProcessId>,
    /// What was counted, for each key that changed.
    pub churn: Vec<(ChurnKey, Counts)>,
    /// Places in the code that were passed.
    pub sites: Vec<SiteCount>,
    /// Stacks that were read and named.
    pub stacks: Vec<Stack>,
    /// What was not recorded, by [`Loss`], since the attach.
    pub lost: [u64; Loss::COUNT],
    /// What this cost.
    pub own_cost: OwnCost,
    /// The socket tables, in the intervals in which they were read.
    pub sockets: Option<SocketReading>,
}

#[cfg(test)]
mod tests {
    use portchurn_common::counters::Counters;
    use portchurn_common::flow::Role;
    use portchurn_common::histogram::bucket;

    use super::Counts;

    /// What is counted in the end when lives of so many microseconds follow.
    fn with_lives(mut counters: Counters, lives_us: &[u32]) -> Counters {
        for &life_us in lives_us {
            counters.lifetime.0[bucket(life_us)] += 1;
            counters.lifetime_max_us = counters.lifetime_max_us.max(life_us);
        }
        counters
    }

    fn between(before: &Counters, after: &Counters) -> Counts {
        Counts::between(Some(Role::Connect), before, after)
    }

    #[test]
    fn a_maximum_of_before_is_not_told_again() {
        let first = with_lives(Counters::ZERO, &[20, 9_000_000]);
        assert_eq!(between(&Counters::ZERO, &first).lifetime_max_us, 9_000_000);
        let second = with_lives(first, &[5, 100]);
        let told = between(&first, &second);
        assert!((100..=126).contains(&told.lifetime_max_us), "{}", told.lifetime_max_us);
        assert_eq!(told.connect_max_us, 0);
        assert_eq!(between(&second, &second).lifetime_max_us, 0);
        let third = with_lives(second, &[8_999_999]);
        assert_eq!(between(&second, &third).lifetime_max_us, 9_000_000, "never above what there was");
        assert_eq!(between(&third, &with_lives(third, &[9_000_001])).lifetime_max_us, 9_000_001);
    }

    #[test]
    fn what_intervals_tell_adds_up_to_the_maximum_of_all() {
        let lives = [[70, 3], [12, 12], [4_000, 1], [9, 3_999]];
        let (mut sum, mut before) = (Counts::ZERO, Counters::ZERO);
        for pair in &lives {
            let after = with_lives(before, pair);
            sum.add(&between(&before, &after));
            before = after;
        }
        assert_eq!(sum.lifetime_max_us, 4_000);
        assert_eq!(sum.lifetime.iter().sum::<u64>(), 8);
    }
}
