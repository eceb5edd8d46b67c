//! What stands in for the cookie where a kernel gives none: the four-tuple. At any moment a network namespace has one
//! mini-socket of a four-tuple at most, so the end that was followed last is whose it is, unless one that was not followed came
//! after it. That shows by the time: the mini-socket would be younger than that end.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashMap;
use portchurn_common::flow::{Address, ChurnKey, Role};
use portchurn_common::record::FlowRecord;
use portchurn_common::tcp::{CloseKind, TcpState};
use rustix::time::ClockId;

use crate::live::owner::Owner;
use crate::model::sockets::{SitePair, TIME_WAIT_S};
use crate::sources::clock::now_ns;
use crate::sources::procfs::cut_to_ticks;
use crate::sources::sock_diag::Socket;

/// How far the kernel's timer and the clock of an end may be apart: the timer is kept in ticks, goes off late, and what it says
/// was read a moment ago.
const SLACK_MS: u64 = 1500;

/// An end that left a TIME_WAIT.
pub struct End {
    /// Stands for the four-tuple.
    pub id: u64,
    /// What it stands for itself.
    pub owner: Owner,
}

/// Gives the ends that came since it was asked last.
pub type Source = Box<dyn FnMut() -> Vec<FlowRecord> + Send>;

/// The four-tuples of ends, and when they were.
pub struct Tuples {
    ends: Source,
    /// Keyed anew in each run: nobody can make two four-tuples the same.
    hasher: RandomState,
    /// By four-tuple. Milliseconds, CLOCK_MONOTONIC.
    ended_ms: HashMap<u64, u64>,
    /// Whether only some connections are followed.
    is_narrow: bool,
}

impl Tuples {
    /// Nothing known yet. `is_narrow`: a filter leaves connections out.
    pub fn new(ends: Source, is_narrow: bool) -> Self {
        Self { ends, hasher: RandomState::new(), ended_ms: HashMap::new(), is_narrow }
    }

    /// The ends that came since the last call.
    pub fn take(&mut self) -> Vec<End> {
        let records: Vec<_> = (self.ends)();
        let ends = records.iter().map(|record| {
            let id = self.id(record.netns, (record.local, record.local_port), remote(record));
            self.ended_ms.insert(id, record.at_ns / 1_000_000);
            end(id, record)
        });
        ends.collect()
    }

    /// Stands for the four-tuple of a socket.
    pub fn id_of(&self, netns: u32, socket: &Socket) -> u64 {
        self.id(netns, (socket.local, socket.local_port), (socket.remote, socket.remote_port))
    }

    fn id(&self, netns: u32, local: (Address, u16), remote: (Address, u16)) -> u64 {
        self.hasher.hash_one((netns, local, remote))
    }

    /// Whether a mini-socket may be what the end that was followed last left. It is never older. Younger it is where it waited
    /// for the peer's FIN first, and where the peer made it start again: that is taken for granted only where everything
    /// is followed.
    pub fn may_be(&self, id: u64, socket: &Socket) -> bool {
        let (Some(&ended_ms), Some(rest_ms)) = (self.ended_ms.get(&id), socket.expires_ms) else {
            return false;
        };
        if socket.state != TcpState::TimeWait {
            return true;
        }
        let age_ms = (TIME_WAIT_S * 1000).saturating_sub(u64::from(rest_ms));
        let began_ms = (now_ns(ClockId::Monotonic) / 1_000_000).saturating_sub(age_ms);
        let is_older = began_ms + SLACK_MS < ended_ms;
        let is_younger = ended_ms + SLACK_MS < began_ms;
        !(is_older || is_younger && self.is_narrow)
    }

    /// Forgets what is not in use any more.
    pub fn retain(&mut self, is_used: impl Fn(u64) -> bool) {
        self.ended_ms.retain(|&id, _| is_used(id));
    }
}

fn remote(record: &FlowRecord) -> (Address, u16) {
    (record.remote, record.remote_port)
}

fn end(id: u64, record: &FlowRecord) -> End {
    let (remote, port) = if record.role == Role::Connect as u8 {
        remote(record)
    } else {
        (Address::UNSPECIFIED, record.local_port)
    };
    let key = ChurnKey {
        start_ns: cut_to_ticks(record.start_ns),
        tgid: record.tgid,
        netns: record.netns,
        remote,
        port,
        role: record.role,
        ..ChurnKey::default()
    };
    let owner = Owner {
        key,
        sites: SitePair::default(),
        closed: CloseKind::ALL.get(usize::from(record.detail)).copied(),
        closed_by_other: record.closer_tgid != 0 && record.closer_tgid != record.tgid,
        bound: record.flags & FlowRecord::BOUND != 0,
    };
    End { id, owner }
}

#[cfg(test)]
#[path = "tuples_tests.rs"]
mod tests;
