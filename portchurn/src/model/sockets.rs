//! What the kernel's socket tables said at one moment, added up as far as no fact is lost that the model needs: part of
//! a [`crate::model::sample::Sample`], so raw counts only.

use portchurn_common::flow::{Address, ChurnKey};

use crate::model::sample::ProcessId;

/// Length of one step of an age histogram. Seconds.
pub const AGE_STEP_S: u64 = 5;
/// Steps of an age histogram: `0..5 s` … `55..60 s`, and everything older. One that answers a late segment starts
/// again, so none is ever much older.
pub const AGE_STEPS: usize = 13;
/// Life of a TIME_WAIT: `TCP_TIMEWAIT_LEN` of include/net/tcp.h. No setting changes it. Seconds.
pub const TIME_WAIT_S: u64 = 60;
/// How much later its timer goes off, on average. Timers of a minute share a slot of 2.05 s at 250 Hz and 4.1 s at
/// 1000 Hz, which is worked off at its end (kernel/time/timer.c). Seconds.
pub const LATE_S: f64 = 1.0;
/// The longest of these slots, at which the timers of one lot differ by as much. Seconds.
pub const SLOT_S: f64 = 4.1;

/// TIME_WAIT sockets by age.
pub type Ages = [u32; AGE_STEPS];

/// One reading of the socket tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SocketReading {
    /// When the first table was asked for. Nanoseconds, CLOCK_MONOTONIC.
    pub began_ns: u64,
    /// When the last one was read.
    pub at_ns: u64,
    /// Processor time that it took. Nanoseconds.
    pub cpu_ns: u64,
    /// Each network namespace that was read.
    pub namespaces: Vec<NamespaceReading>,
    /// Those that could not be read.
    pub unread: Vec<Unread>,
}

impl SocketReading {
    /// Whether a network namespace is on it.
    pub fn lists(&self, netns: u32) -> bool {
        self.namespaces.iter().any(|namespace| namespace.netns == netns)
    }

    /// Everything about it but what it listed.
    pub fn without_lists(&self) -> Self {
        let namespaces = self.namespaces.iter().map(|namespace| NamespaceReading {
            netns: namespace.netns,
            interrupted: namespace.interrupted,
            truncated: namespace.truncated,
            repeated: namespace.repeated,
            ..NamespaceReading::default()
        });
        Self { namespaces: namespaces.collect(), unread: self.unread.clone(), ..*self }
    }

    /// Why it lacks something, for a person.
    pub fn incomplete_because(&self) -> Vec<String> {
        let mut reasons: Vec<_> = self
            .unread
            .iter()
            .map(|unread| format!("network namespace {} could not be read: {}", unread.netns, unread.reason))
            .collect();
        for namespace in &self.namespaces {
            if namespace.interrupted {
                reasons.push(format!(
                    "the table of network namespace {} changed while it was read",
                    namespace.netns
                ));
            }
            if namespace.truncated {
                reasons.push(format!("the list of network namespace {} was cut off", namespace.netns));
            }
        }
        reasons
    }
}

/// How many TIME_WAIT sockets there should be by now, of those owners and destinations that the last reading knew.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// When the reading that this carries on was complete. Nanoseconds, CLOCK_MONOTONIC.
    pub read_ns: u64,
    /// By network namespace.
    pub namespaces: Vec<ExpectedThere>,
}

/// The same of one network namespace.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ExpectedThere {
    /// Which.
    pub netns: u32,
    /// How many; `None`: it is at its limit, and which of the ends made one is not known.
    pub count: Option<u64>,
    /// Where no more come: by how many the kernel may have more or fewer at this moment, as their timers go off in lots.
    pub due: u64,
    /// Whether there should be any by now, of whomever.
    pub has_any: bool,
}

/// A network namespace that could not be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Unread {
    /// Its inode number.
    pub netns: u32,
    /// Why.
    pub reason: String,
}

/// One network namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamespaceReading {
    /// Its inode number.
    pub netns: u32,
    /// Its settings; `None`: could not be read.
    pub sysctls: Option<Sysctls>,
    /// The table changed while it was read (NLM_F_DUMP_INTR): some may be missing.
    pub interrupted: bool,
    /// The list was cut off.
    pub truncated: bool,
    /// Sockets that were listed twice, and counted once.
    pub repeated: u64,
    /// Mini-sockets that still wait for the peer's FIN: the kernel counts them with TIME_WAIT.
    pub closing: u32,
    /// TIME_WAIT sockets by owner and destination.
    pub time_wait: Vec<TimeWaitGroup>,
    /// Sockets that hold a local port of the range, by source and destination.
    pub tuples: Vec<TupleReading>,
    /// Sockets of destinations for which there was no room in `tuples`.
    pub tuples_folded: u64,
    /// Source addresses on which sockets bind before they connect.
    pub pools: Vec<PoolReading>,
    /// Ports of the range that no connect may take, whatever its destination: listeners and binds. Reserved ones are
    /// not among them.
    pub blocked: PortCount,
    /// Of all blocked: those that cannot be bound to any address. A port that is bound to one address is free for the others.
    pub blocked_everywhere: u32,
}

impl NamespaceReading {
    /// Whether every socket was listed.
    pub fn is_whole(&self) -> bool {
        !self.interrupted && !self.truncated
    }
}

/// How many ports, and how many of them have the parity that `connect()` tries first: that of the range's low end
/// (`__inet_hash_connect`, net/ipv4/inet_hashtables.c).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PortCount {
    /// All.
    pub all: u32,
    /// Those of the parity that is tried first.
    pub first_half: u32,
}

/// Settings of one network namespace, from its own `/proc/sys/net/ipv4`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sysctls {
    /// `ip_local_port_range`, both ends included.
    pub port_low: u16,
    /// The high end.
    pub port_high: u16,
    /// `ip_local_reserved_ports`: ranges, both ends included.
    pub reserved: Vec<(u16, u16)>,
    /// `tcp_tw_reuse`: 0 off, 1 on, 2 loopback only.
    pub tw_reuse: u8,
    /// `tcp_tw_reuse_delay`; `None`: this kernel has a fixed one of a second. Milliseconds.
    pub tw_reuse_delay_ms: Option<u32>,
    /// `tcp_timestamps`; 0 makes `tcp_tw_reuse` do nothing.
    pub timestamps: u8,
    /// `tcp_max_tw_buckets`: TIME_WAIT sockets beyond it are not made.
    pub max_tw_buckets: u32,
    /// TIME_WAIT sockets whose port a new connect took over, since the namespace began. From `TWRecycled` of
    /// `/proc/net/netstat`.
    pub recycled: Option<u64>,
}

/// Whose a TIME_WAIT socket is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Ownership {
    /// Proven: the kernel side saw this very connection.
    Owned,
    /// It, or its connection, was there before the attach.
    BeforeAttach,
    /// Nothing is known.
    Unowned(Unowned),
}

/// Why nothing is known of a TIME_WAIT socket.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Unowned {
    /// A filter (`-p`, `-c`, `-D`, …) left its connection out.
    Filtered,
    /// This kernel gives a hook no socket cookie, and no connection that ended had its four-tuple.
    NoCookie,
    /// It was not followed, or its place was used again before it was read.
    NotFollowed,
}

impl Unowned {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Filtered, Self::NoCookie, Self::NotFollowed];

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filtered => "filtered",
            Self::NoCookie => "no_cookie",
            Self::NotFollowed => "not_followed",
        }
    }
}

/// Where in the code a connection was opened and closed: stacks by their number, see [`crate::model::sample::Stack::id`];
/// 0: none was taken.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct SitePair {
    /// Where it was opened.
    pub opened: u64,
    /// Where our side closed it.
    pub closed: u64,
}

/// TIME_WAIT sockets of one owner to one destination.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeWaitGroup {
    /// Whose.
    pub ownership: Ownership,
    /// Owner and destination. Not owned: no process.
    pub key: ChurnKey,
    /// How many.
    pub count: u32,
    /// Of these: our side closed first, by a close of a running process.
    pub closed_local: u32,
    /// Of these: our side closed first, by the end of its process.
    pub closed_exit: u32,
    /// Of these: both sides closed at once.
    pub closed_both: u32,
    /// Of these: another process than the owner closed it, as after a fork.
    pub closed_by_other: u32,
    /// How old they are.
    pub ages: Ages,
    /// Of these: how many were opened and closed where. Those of which nothing is known are not among them.
    pub sites: Vec<(SitePair, u32)>,
}

/// Sockets from one source address to one destination that hold a port of the local range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TupleReading {
    /// Our address.
    pub source: Address,
    /// Remote address.
    pub remote: Address,
    /// Remote port.
    pub port: u16,
    /// Connected sockets.
    pub established: u32,
    /// TIME_WAIT.
    pub time_wait: u32,
    /// Every other state.
    pub other: u32,
    /// Of all: those whose port has the parity that is tried first.
    pub first_half: u32,
    /// Of all: those whose port is among the blocked ones of the namespace, because it was bound first.
    pub bound: u32,
    /// Age of the TIME_WAIT ones.
    pub ages: Ages,
    /// Who holds the ports, most first.
    pub holders: Vec<Holder>,
}

impl TupleReading {
    /// Ports that are taken.
    pub fn used(&self) -> u32 {
        self.established + self.time_wait + self.other
    }
}

/// Who holds ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Holder {
    /// Which process; `None`: not known.
    pub process: Option<ProcessId>,
    /// Ports held by TIME_WAIT sockets.
    pub time_wait: u32,
    /// Ports held by living ones.
    pub live: u32,
}

/// A source address on which sockets take a port by `bind()` before they connect: such a port is gone for every
/// destination.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolReading {
    /// The address.
    pub source: Address,
    /// Ports of the range that any socket of this address (or of the wildcard) uses: none of them can be bound.
    pub used: u32,
    /// Of these: ports that were bound before the connect, so far as is known.
    pub bound: u32,
    /// Of `used`: TIME_WAIT.
    pub time_wait: u32,
    /// Of `used`: TIME_WAIT, by age in steps of [`AGE_STEP_S`].
    pub ages: [u32; AGE_STEPS],
    /// Of `used`: connected.
    pub established: u32,
    /// Who holds the bound ones, most first.
    pub holders: Vec<Holder>,
}

impl PoolReading {
    /// Ports of everything but TIME_WAIT.
    pub fn live(&self) -> u32 {
        self.used.saturating_sub(self.time_wait)
    }
}
