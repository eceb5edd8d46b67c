//! Adds up the sockets of one network namespace: TIME_WAIT by owner, ports by source and destination. Whose a socket is
//! it asks a [`Resolver`]; it must not remember anything from one reading to the next.

use hashbrown::HashMap;
use portchurn_common::flow::{Address, ChurnKey, Role};
use portchurn_common::tcp::{CloseKind, TcpState};

use crate::model::sample::ProcessId;
use crate::model::sockets::{
    AGE_STEP_S, AGE_STEPS, Holder, NamespaceReading, Ownership, PoolReading, PortCount, SitePair, Sysctls,
    TIME_WAIT_S, TimeWaitGroup, TupleReading,
};
use crate::sources::port_set::PortSet;
use crate::sources::sock_diag::Socket;

/// Sources and destinations that are kept one by one, in one namespace.
const TUPLES_MAX: usize = 16_384;
/// Owners and destinations of TIME_WAIT that are kept one by one, in one namespace.
const GROUPS_MAX: usize = 65_536;
/// Source addresses whose ports are kept one by one.
const SOURCES_MAX: usize = 256;

/// What is known of one socket.
#[derive(Clone, Copy, Debug)]
pub struct Resolved {
    /// Whose.
    pub ownership: Ownership,
    /// Owner and destination, if they are known.
    pub key: Option<ChurnKey>,
    /// How it ended.
    pub closed: Option<CloseKind>,
    /// Whether another process than the owner closed it.
    pub closed_by_other: bool,
    /// Whether its port was bound before the connect.
    pub bound: bool,
    /// Whether this very socket was resolved in this reading already.
    pub repeated: bool,
    /// Where in the code.
    pub sites: SitePair,
}

/// Knows whose sockets are.
pub trait Resolver {
    /// Whose this is.
    fn resolve(&mut self, netns: u32, socket: &Socket) -> Resolved;
}

#[derive(Clone, Copy, Eq, Hash, PartialEq)]
struct TupleKey {
    source: Address,
    remote: Address,
    port: u16,
}

/// Ports of one source address.
#[derive(Default)]
struct Source {
    ports: PortSet,
    bound: PortSet,
    reading: PoolReading,
    /// Where each process stands among its holders.
    holders: HashMap<Option<ProcessId>, usize>,
}

/// The sums of one namespace.
pub struct SocketCount {
    netns: u32,
    sysctls: Option<Sysctls>,
    /// Ports that somebody listens on: what is connected there is the far end of somebody else's port.
    listening: PortSet,
    /// Ports of listeners and binds.
    blocked: PortSet,
    /// Beside the map, which has room for twice as many as it holds.
    time_wait: Vec<TimeWaitGroup>,
    groups: HashMap<(Ownership, ChurnKey), usize>,
    /// Of each group.
    sites: HashMap<(usize, SitePair), u32>,
    tuples: HashMap<TupleKey, TupleReading>,
    tuples_folded: u64,
    /// Where each process stands among the holders of a destination.
    holders: HashMap<(TupleKey, Option<ProcessId>), usize>,
    sources: HashMap<Address, Source>,
    repeated: u64,
    closing: u32,
}

impl SocketCount {
    /// Nothing counted yet.
    pub fn new(netns: u32, sysctls: Option<Sysctls>) -> Self {
        Self {
            netns,
            sysctls,
            listening: PortSet::default(),
            blocked: PortSet::default(),
            time_wait: Vec::new(),
            groups: HashMap::new(),
            sites: HashMap::new(),
            tuples: HashMap::new(),
            tuples_folded: 0,
            holders: HashMap::new(),
            sources: HashMap::new(),
            repeated: 0,
            closing: 0,
        }
    }

    /// Takes a socket. Those that are no connections come first.
    pub fn add(&mut self, socket: &Socket, resolver: &mut impl Resolver) {
        if matches!(socket.state, TcpState::Listen | TcpState::Close) {
            self.add_holder(socket);
        } else {
            self.add_connection(socket, resolver);
        }
    }

    /// A listener, or a socket that was bound and no more.
    fn add_holder(&mut self, socket: &Socket) {
        if socket.state == TcpState::Listen {
            self.listening.insert(socket.local_port);
        } else if !socket.local.is_unspecified()
            && self.in_range(socket.local_port)
            && let Some(source) = self.source(socket.local)
        {
            source.ports.insert(socket.local_port);
            source.bound.insert(socket.local_port);
        }
        self.blocked.insert(socket.local_port);
    }

    /// A connection, or what is left of it.
    fn add_connection(&mut self, socket: &Socket, resolver: &mut impl Resolver) {
        let resolved = resolver.resolve(self.netns, socket);
        if resolved.repeated {
            self.repeated += 1;
            return;
        }
        let is_accepted = match resolved.key {
            Some(key) => key.role == Role::Accept as u8,
            None => self.listening.contains(socket.local_port),
        };
        if socket.state == TcpState::TimeWait {
            self.add_time_wait(socket, &resolved, is_accepted);
        } else {
            self.closing += u32::from(socket.expires_ms.is_some());
        }
        if !is_accepted && self.in_range(socket.local_port) {
            self.add_port(socket, &resolved);
        }
    }

    fn in_range(&self, port: u16) -> bool {
        self.sysctls.as_ref().is_some_and(|sysctls| (sysctls.port_low..=sysctls.port_high).contains(&port))
    }

    fn add_time_wait(&mut self, socket: &Socket, resolved: &Resolved, is_accepted: bool) {
        let mut key = resolved.key.unwrap_or_else(|| destination(self.netns, socket, is_accepted));
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&(resolved.ownership, key)) {
            key = ChurnKey { remote: Address::UNSPECIFIED, port: 0, ..key };
        }
        let index = *self.groups.entry((resolved.ownership, key)).or_insert_with(|| {
            self.time_wait.push(nothing_of(resolved.ownership, key));
            self.time_wait.len() - 1
        });
        let group = &mut self.time_wait[index];
        group.count += 1;
        group.ages[age_step(socket)] += 1;
        match resolved.closed {
            Some(CloseKind::ProcessExit) => group.closed_exit += 1,
            Some(CloseKind::Simultaneous) => group.closed_both += 1,
            Some(_) => group.closed_local += 1,
            None => {}
        }
        group.closed_by_other += u32::from(resolved.closed_by_other);
        if resolved.sites != SitePair::default() {
            *self.sites.entry((index, resolved.sites)).or_default() += 1;
        }
    }

    fn add_port(&mut self, socket: &Socket, resolved: &Resolved) {
        let process = resolved.key.filter(|key| key.tgid != 0).map(|key| ProcessId::of(&key));
        self.add_to_source(socket, resolved, process);
        if resolved.bound {
            self.blocked.insert(socket.local_port);
        }
        let key = TupleKey { source: socket.local, remote: socket.remote, port: socket.remote_port };
        if self.tuples.len() >= TUPLES_MAX && !self.tuples.contains_key(&key) {
            self.tuples_folded += 1;
            return;
        }
        let low = self.sysctls.as_ref().map_or(0, |sysctls| sysctls.port_low);
        let tuple = self.tuples.entry(key).or_insert_with(|| TupleReading {
            source: key.source,
            remote: key.remote,
            port: key.port,
            ..TupleReading::default()
        });
        match socket.state {
            TcpState::Established => tuple.established += 1,
            TcpState::TimeWait => {
                tuple.time_wait += 1;
                tuple.ages[age_step(socket)] += 1;
            }
            _ => tuple.other += 1,
        }
        tuple.first_half += u32::from(has_parity(socket.local_port, low));
        tuple.bound += u32::from(resolved.bound);
        let at = self.holders.entry((key, process)).or_insert(tuple.holders.len());
        hold(&mut tuple.holders, *at, process, socket.state);
    }

    fn add_to_source(&mut self, socket: &Socket, resolved: &Resolved, process: Option<ProcessId>) {
        let Some(source) = self.source(socket.local) else { return };
        if source.ports.insert(socket.local_port) {
            match socket.state {
                TcpState::TimeWait => {
                    source.reading.time_wait += 1;
                    source.reading.ages[age_step(socket)] += 1;
                }
                TcpState::Established => source.reading.established += 1,
                _ => {}
            }
        }
        if resolved.bound && source.bound.insert(socket.local_port) {
            let at = source.holders.entry(process).or_insert(source.reading.holders.len());
            hold(&mut source.reading.holders, *at, process, socket.state);
        }
    }

    fn source(&mut self, address: Address) -> Option<&mut Source> {
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&address) {
            return None;
        }
        Some(self.sources.entry(address).or_default())
    }

    /// To each group its own. Most have one or two, and nothing is kept beyond that: there are tens of thousands of groups where a
    /// process is started for each connection.
    fn hand_out_sites(&mut self) {
        let mut sites: Vec<_> = std::mem::take(&mut self.sites).into_iter().collect();
        sites.sort_unstable_by_key(|((group, _), _)| *group);
        for of_group in sites.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
            let ((group, _), _) = of_group[0];
            self.time_wait[group].sites = of_group.iter().map(|&((_, pair), count)| (pair, count)).collect();
        }
    }

    /// The sums.
    pub fn finish(mut self) -> NamespaceReading {
        self.groups = HashMap::new();
        self.hand_out_sites();
        let sysctls = self.sysctls.as_ref();
        let reserved = PortSet::of_ranges(sysctls.map_or(&[], |sysctls| &sysctls.reserved));
        let low = sysctls.map_or(0, |sysctls| sysctls.port_low);
        let in_range = |port: &u16| sysctls.is_some_and(|s| (s.port_low..=s.port_high).contains(port));
        let (mut blocked, mut blocked_everywhere) = (PortCount::default(), 0);
        let is_of_an_address = |port: u16| self.sources.values().any(|source| source.bound.contains(port));
        for port in self.blocked.iter().filter(in_range).filter(|&port| !reserved.contains(port)) {
            blocked.all += 1;
            blocked.first_half += u32::from(has_parity(port, low));
            blocked_everywhere += u32::from(self.listening.contains(port) || !is_of_an_address(port));
        }
        let mut tuples: Vec<_> = self.tuples.into_values().collect();
        for tuple in &mut tuples {
            most_first(&mut tuple.holders);
        }
        let bound_sources = self.sources.into_iter().filter(|(_, source)| !source.bound.is_empty());
        let pools = bound_sources.map(|(address, source)| pool(address, source, &self.listening)).collect();
        NamespaceReading {
            netns: self.netns,
            sysctls: self.sysctls,
            repeated: self.repeated,
            closing: self.closing,
            time_wait: self.time_wait,
            tuples,
            tuples_folded: self.tuples_folded,
            pools,
            blocked,
            blocked_everywhere,
            ..NamespaceReading::default()
        }
    }
}

/// A port that somebody listens on can be bound no more either, whatever the address says.
fn pool(address: Address, source: Source, listening: &PortSet) -> PoolReading {
    let mut reading = source.reading;
    most_first(&mut reading.holders);
    let used = source.ports.iter().filter(|&port| !listening.contains(port)).count() as u32;
    PoolReading { source: address, used, bound: source.bound.len(), ..reading }
}

fn nothing_of(ownership: Ownership, key: ChurnKey) -> TimeWaitGroup {
    TimeWaitGroup {
        ownership,
        key,
        count: 0,
        closed_local: 0,
        closed_exit: 0,
        closed_both: 0,
        closed_by_other: 0,
        ages: [0; AGE_STEPS],
        sites: Vec::new(),
    }
}

/// The key of a connection of which nobody is known to be the owner.
fn destination(netns: u32, socket: &Socket, is_accepted: bool) -> ChurnKey {
    if is_accepted {
        return ChurnKey { netns, port: socket.local_port, role: Role::Accept as u8, ..ChurnKey::default() };
    }
    ChurnKey {
        netns,
        remote: socket.remote,
        port: socket.remote_port,
        role: Role::Connect as u8,
        ..ChurnKey::default()
    }
}

/// One more for the holder at a place; there may be as many as connections, so nobody is searched for.
fn hold(holders: &mut Vec<Holder>, at: usize, process: Option<ProcessId>, state: TcpState) {
    if at == holders.len() {
        holders.push(Holder { process, time_wait: 0, live: 0 });
    }
    if state == TcpState::TimeWait {
        holders[at].time_wait += 1;
    } else {
        holders[at].live += 1;
    }
}

/// Few are ever shown, and a row per process would be a row per connection where each has its own.
const HOLDERS_MAX: usize = 64;

fn most_first(holders: &mut Vec<Holder>) {
    holders.sort_by_key(|holder| (std::cmp::Reverse(holder.time_wait + holder.live), holder.process));
    holders.truncate(HOLDERS_MAX);
}

fn has_parity(port: u16, low: u16) -> bool {
    port & 1 == low & 1
}

fn age_step(socket: &Socket) -> usize {
    let left_ms = u64::from(socket.expires_ms.unwrap_or(0));
    let age_ms = (TIME_WAIT_S * 1000).saturating_sub(left_ms);
    ((age_ms / 1000 / AGE_STEP_S) as usize).min(AGE_STEPS - 1)
}

#[cfg(test)]
#[path = "socket_count_tests.rs"]
mod tests;
