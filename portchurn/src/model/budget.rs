//! What is said of TIME_WAIT sockets, local ports and their end: the parts `time_wait`, `ports` and `exhaustion` of a
//! [`crate::model::snapshot::Snapshot`]. docs/time-wait.md explains each number.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hashbrown::HashMap;
use serde::Serialize;

use crate::model::snapshot::{CallSite, Destination, Role};

/// TIME_WAIT sockets and their owners.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimeWait {
    /// All, in the network namespaces that were read.
    pub total: u64,
    /// Proven to be somebody's.
    pub owned: u64,
    /// There before the attach, or left by a connection that was.
    pub before_attach: u64,
    /// Everything else.
    pub unowned: u64,
    /// Of the unowned, by reason.
    pub unowned_by: BTreeMap<&'static str, u64>,
    /// `owned ÷ total`; `null` when there is none.
    pub coverage_ratio: Option<f64>,
    /// How long ago the kernel's tables were read. Since then the numbers are carried on by what was counted.
    pub read_ago_s: f64,
    /// Processor time of that reading. Milliseconds.
    pub read_cpu_ms: f64,
    /// Whether that reading listed everything.
    pub complete: bool,
    /// Why not.
    pub incomplete_because: Vec<String>,
    /// Sockets that the kernel listed twice, and that were counted once.
    pub repeated: u64,
    /// Age when the tables were read, in steps of `age_step_s`; the last step is 60 s and older.
    pub ages: Vec<u64>,
    /// Length of one step. Seconds.
    pub age_step_s: u64,
    /// Whose, most first.
    pub owners: Vec<TimeWaitOwner>,
}

/// One owner.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimeWaitOwner {
    /// `owned`, `before_attach`, or why nobody is known: `filtered`, `no_cookie`, `not_followed`.
    pub ownership: &'static str,
    /// Process; `null` where nobody is known, and where it stands for all ended processes of a program.
    pub tgid: Option<u32>,
    /// What it runs.
    pub program: Option<String>,
    /// Whether it has ended. Its sockets outlive it.
    pub exited: Option<bool>,
    /// TIME_WAIT sockets.
    pub count: u64,
    /// Where to and where from, most first.
    pub destinations: Vec<TimeWaitDestination>,
}

/// TIME_WAIT sockets of one owner to one destination.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimeWaitDestination {
    /// Which side of the handshake the owner was.
    pub role: Role,
    /// Network namespace, inode number.
    pub netns: u32,
    /// Connect: remote address.
    pub remote_address: Option<IpAddr>,
    /// Connect: remote port.
    pub remote_port: Option<u16>,
    /// Accept: local port.
    pub local_port: Option<u16>,
    /// TIME_WAIT sockets.
    pub count: u64,
    /// Processes that left them; 0 where nobody is known. Of ended ones that were put together, those whose sockets came
    /// after the last reading may be in it twice.
    pub processes: u64,
    /// Who closed first, of those listed at the last reading.
    pub closed_first_by: ClosedFirstBy,
    /// Age at the last reading, as in [`TimeWait::ages`].
    pub ages: Vec<u64>,
    /// Which lines of code opened the connections of these sockets (`connect` only), and which closed them, most first: at
    /// each moment the sum is `count`. `null` where call sites are not taken, where nobody is known, and of destinations
    /// beyond the two thousand that hold the most.
    pub call_sites: Option<Vec<CallSite>>,
}

/// Who closed first. In TIME_WAIT it is always our side, alone or together with the peer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct ClosedFirstBy {
    /// A `close()` of ours.
    pub local: u64,
    /// The end of our process.
    pub process_exit: u64,
    /// Both sides at once.
    pub simultaneous: u64,
    /// Of all: another process than the owner closed, as after a fork.
    pub other_process: u64,
}

/// How ports are taken in a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetKind {
    /// By `connect()`: a port may be used for many destinations at once. Its end is EADDRNOTAVAIL.
    Connect,
    /// By `bind()` before the connect: a port is gone for all destinations. Its end is EADDRINUSE.
    BindPool,
}

/// Budget of local ports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortBudget {
    /// How ports are taken.
    pub kind: BudgetKind,
    /// Network namespace, inode number.
    pub netns: u32,
    /// Our address; `null`: not known, as when no port was ever found.
    pub source_address: Option<IpAddr>,
    /// Remote address; `null` for a bind pool.
    pub remote_address: Option<IpAddr>,
    /// Remote port; `null` for a bind pool.
    pub remote_port: Option<u16>,
    /// Ports that there are: the range, less what is reserved, listened on, and bound. `null`: the settings of the
    /// namespace could not be read.
    pub limit: Option<u64>,
    /// Ports that are taken.
    pub used: u64,
    /// Of these: TIME_WAIT.
    pub time_wait: u64,
    /// Of these: connected.
    pub established: u64,
    /// Of these: every other state.
    pub other: u64,
    /// `used ÷ limit`.
    pub pressure_ratio: Option<f64>,
    /// Whether ports are short: near the wall where there is one, near the end where ports are taken over.
    pub alarm: bool,
    /// Connects established per second, over the last seconds. `null`: only some of them are counted, and for a bind pool.
    pub opened_per_s: Option<f64>,
    /// Whether a new connect may take over the port of a TIME_WAIT here.
    pub reuse: bool,
    /// Why, or why not.
    pub reuse_because: String,
    /// Time until half of the ports are taken and `connect()` becomes slow; 0: it is. `null`: not at this rate.
    pub seconds_to_wall: Option<f64>,
    /// Time until none is left; 0: none is. `null`: not at this rate.
    pub seconds_to_exhaustion: Option<f64>,
    /// Under which assumption these times hold.
    pub assumption: String,
    /// Connects, or binds, that failed for want of a port, since the attach. `null`: they cannot be seen, or may be another
    /// pool's.
    pub failed: Option<u64>,
    /// How sure it is that every failure is counted: `exact`, or why failures cannot be seen.
    pub failures_seen: &'static str,
    /// Who holds the ports, most first.
    pub holders: Vec<PortHolder>,
}

/// How near each destination is to its end: the largest of its budgets.
#[derive(Debug)]
pub(super) struct Pressure(HashMap<(u32, IpAddr, u16), f64>);

impl Pressure {
    pub(super) fn of(budgets: &[PortBudget]) -> Self {
        let mut most = HashMap::new();
        for row in budgets {
            let (Some(address), Some(port)) = (row.remote_address, row.remote_port) else { continue };
            let Some(ratio) = row.pressure_ratio else { continue };
            let known = most.entry((row.netns, address, port)).or_insert(ratio);
            *known = ratio.max(*known);
        }
        Self(most)
    }

    pub(super) fn note(&self, destinations: &mut [Destination]) {
        for destination in destinations.iter_mut().filter(|destination| destination.role == Role::Connect) {
            let remote = destination.remote_address.zip(destination.remote_port);
            destination.port_pressure_ratio =
                remote.and_then(|(address, port)| self.0.get(&(destination.netns, address, port))).copied();
        }
    }
}

/// Who holds ports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortHolder {
    /// Process; `null`: not known.
    pub tgid: Option<u32>,
    /// What it runs.
    pub program: Option<String>,
    /// Ports held.
    pub ports: u64,
    /// Of these: by TIME_WAIT sockets.
    pub time_wait: u64,
    /// Of these: by living connections.
    pub live: u64,
}

/// Connects that failed because no local port was left: who, where to, and who held the ports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exhaustion {
    /// Network namespace, inode number.
    pub netns: u32,
    /// Remote address; `null` for a bind that failed.
    pub remote_address: Option<IpAddr>,
    /// Remote port.
    pub remote_port: Option<u16>,
    /// `EADDRNOTAVAIL` or `EADDRINUSE`.
    pub errno: &'static str,
    /// Failures since the attach.
    pub count: u64,
    /// When the first one was counted. Seconds since the attach.
    pub first_s: f64,
    /// When the latest one was.
    pub last_s: f64,
    /// Whether it still goes on.
    pub ongoing: bool,
    /// Who failed, most first.
    pub failed: Vec<FailedBy>,
    /// Who held the ports then.
    pub holders: Vec<PortHolder>,
    /// How long before the latest failure the list was read that tells the holders, negative where it was read after it;
    /// `null`: they are not known. Seconds.
    pub holders_read_ago_s: Option<f64>,
}

/// Who failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailedBy {
    /// Process.
    pub tgid: u32,
    /// What it runs.
    pub program: Option<String>,
    /// Failures.
    pub count: u64,
    /// At which lines of code, most first; the sum is `count`. `null` where call sites are not taken, and for binds.
    pub call_sites: Option<Vec<CallSite>>,
}
