//! Whose a socket is: its cookie, or where there is none its four-tuple → the connection that the kernel side followed. What
//! was proven once is remembered for as long as the TIME_WAIT lives, though its place in the table of connections may be
//! another's by then.

use hashbrown::{HashMap, HashSet};
use portchurn_common::conn::{CLOSED, Conn, flag};
use portchurn_common::flow::{ChurnKey, KeyRef};
use portchurn_common::tcp::CloseKind;
use rustix::time::ClockId;

use crate::live::closed::Closed;
use crate::live::retired::RETIRED_MAX;
use crate::live::roll_call::RollCall;
use crate::live::runs::BuildRuns;
use crate::live::tuples::{End, Tuples};
use crate::model::sockets::{Ownership, SitePair, SocketReading, Unowned};
use crate::sources::clock::now_ns;
use crate::sources::sock_diag::Socket;
use crate::sources::socket_count::{Resolved, Resolver};

/// TIME_WAIT sockets, and ends that may have become one, that are remembered: as many as a million places take, 18 MB. One more,
/// and the map would double. A namespace at its limit takes in few ends, and which, only a list tells: at 90,000 per second
/// there are so many in the ten seconds between two.
const KNOWN_MAX: usize = 7 << 17;
/// Places that are looked at to see how fast the table turns over.
const PROBED_PLACES: usize = 256;
/// Sockets of a list after which the table is looked after.
const HARVEST_EVERY: u32 = 8192;
/// From the moment an end bears until the table shows it: the rest of one BPF program, which a soft interrupt can delay.
const END_MAX_NS: u64 = 50_000_000;
/// Owners beyond those in use, before the unused ones are thrown out.
const OWNERS_SPARE: usize = 4096;

/// What is remembered of one ended connection. Eight bytes, as there may be hundreds of thousands.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Index of the [`Owner`]; [`Known::NOBODY`], [`Known::BEFORE`].
    owner: u32,
    /// Number of the reading that listed it last, or during or after which it was read out of the table: what ends while a
    /// list is read need not be on it. Wraps, but nothing is remembered for more than a few readings.
    touched: u16,
    closed: Option<CloseKind>,
    /// [`Known::LISTED`] and others.
    flags: u8,
}

const _: () = assert!(size_of::<Known>() == 8);

impl Known {
    const NOBODY: u32 = u32::MAX;
    const BEFORE: u32 = u32::MAX - 1;

    /// The reading `touched` listed it.
    const LISTED: u8 = 1;
    /// Another process than the owner closed it.
    const BY_OTHER: u8 = 2;
    /// Its port was bound before the connect.
    const BOUND: u8 = 4;

    const fn flags(by_other: bool, bound: bool) -> u8 {
        let by_other = if by_other { Self::BY_OTHER } else { 0 };
        if bound { by_other | Self::BOUND } else { by_other }
    }

    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Whose, where to, and from which lines of code: few are different, so each is kept once.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Owner {
    key: ChurnKey,
    sites: SitePair,
}

/// The memory of owners.
pub struct Owners {
    closed: Closed,
    owners: Vec<Owner>,
    by_owner: HashMap<Owner, u32>,
    by_ref: HashMap<(KeyRef, SitePair), u32>,
    /// By cookie, or what stands for one.
    known: HashMap<u64, Known, BuildRuns>,
    /// Sockets that were there at the first reading and that the kernel side does not follow.
    before: HashSet<u64>,
    reading: u32,
    probed: Vec<u64>,
    /// Monotonic clock: what ended before was read out of the table.
    harvested_ns: u64,
    /// Keys that had been taken back when the table was looked after last.
    retired: u64,
    /// Why a socket that is not found was not followed.
    otherwise: Unowned,
    resolved: u32,
    /// `None`: sockets have no cookies here.
    roll_call: Option<RollCall>,
    /// `None`: they have.
    tuples: Option<Tuples>,
}

impl Owners {
    /// Nothing known yet.
    pub fn new(
        closed: Closed,
        otherwise: Unowned,
        roll_call: Option<RollCall>,
        tuples: Option<Tuples>,
    ) -> Self {
        Self {
            closed,
            owners: Vec::new(),
            by_owner: HashMap::new(),
            by_ref: HashMap::new(),
            known: HashMap::default(),
            before: HashSet::new(),
            reading: 0,
            probed: vec![0; PROBED_PLACES],
            harvested_ns: 0,
            retired: 0,
            otherwise,
            resolved: 0,
            roll_call,
            tuples,
        }
    }

    /// Network namespaces in which something was counted.
    pub fn namespaces(&self) -> Vec<u32> {
        self.closed.namespaces()
    }

    /// A new reading begins. The first is special: what nobody knows then was there before the attach.
    pub fn begin(&mut self) {
        self.reading += 1;
        self.take_ends();
        if let Some(roll_call) = &mut self.roll_call {
            roll_call.begin();
        }
    }

    /// All of it was read: who is open in the books and was not listed?
    pub fn compare(&mut self, reading: &SocketReading) {
        if let Some(roll_call) = &mut self.roll_call {
            roll_call.end(reading);
        }
    }

    /// The reading is over. What it did not list is no TIME_WAIT any more, in the namespaces of which it listed all.
    pub fn end(&mut self, listed: &HashSet<u32>, is_complete: bool) {
        let reading = self.reading as u16;
        let (mut used, mut is_used) = (0, vec![false; self.owners.len()]);
        let before = self.known.len();
        self.known.retain(|_, known| {
            let owner = self.owners.get(known.owner as usize);
            let is_listed = owner.map_or(is_complete, |owner| listed.contains(&owner.key.netns));
            // What one incomplete list missed, the next ones show.
            let patience = if is_listed { 0 } else { 3 };
            let keep = reading.wrapping_sub(known.touched) <= patience;
            if let Some(mark) = is_used.get_mut(known.owner as usize).filter(|mark| keep && !**mark) {
                (*mark, used) = (true, used + 1);
            }
            keep
        });
        let kept = self.known.len();
        if before - kept > kept / 4 || self.known.capacity() > 4 * kept + OWNERS_SPARE {
            self.move_known();
        }
        if let Some(tuples) = &mut self.tuples {
            tuples.retain(|id| self.known.contains_key(&id));
        }
        if self.owners.len() > 2 * used + OWNERS_SPARE {
            self.forget_unused_owners();
        }
    }

    /// To a map with room for as much again. What was thrown out keeps its place in the old one, and one that is full of such
    /// places doubles.
    fn move_known(&mut self) {
        let mut moved = HashMap::with_capacity_and_hasher(2 * self.known.len(), BuildRuns::default());
        moved.extend(self.known.drain());
        self.known = moved;
    }

    fn forget_unused_owners(&mut self) {
        let mut moved = HashMap::new();
        let mut owners = Vec::new();
        for known in self.known.values_mut().filter(|known| known.owner < Known::BEFORE) {
            let owner = self.owners[known.owner as usize];
            known.owner = *moved.entry(known.owner).or_insert_with(|| {
                owners.push(owner);
                owners.len() as u32 - 1
            });
        }
        self.by_owner = owners.iter().zip(0..).map(|(owner, index)| (*owner, index)).collect();
        self.by_ref.clear();
        self.owners = owners;
    }

    fn owner_of(&mut self, key_ref: KeyRef, sites: SitePair) -> Option<u32> {
        if let Some(&owner) = self.by_ref.get(&(key_ref, sites)) {
            return Some(owner);
        }
        let owner = self.intern(Owner { key: self.closed.key(key_ref)?, sites });
        self.by_ref.insert((key_ref, sites), owner);
        Some(owner)
    }

    fn intern(&mut self, new: Owner) -> u32 {
        *self.by_owner.entry(new).or_insert_with(|| {
            self.owners.push(new);
            self.owners.len() as u32 - 1
        })
    }

    /// Remembers the ends that were sent, where no table keeps them.
    fn take_ends(&mut self) {
        let ends = self.tuples.as_mut().map(Tuples::take).unwrap_or_default();
        for End { id, key, closed, closed_by_other, bound } in ends {
            if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&id) {
                continue;
            }
            let owner = self.intern(Owner { key, sites: SitePair::default() });
            let flags = Known::flags(closed_by_other, bound);
            self.known.insert(id, Known { owner, touched: self.reading as u16, closed, flags });
        }
    }

    fn known_of(&mut self, place: usize, conn: &Conn) -> Option<Known> {
        let owner = self.owner_of(conn.key_ref, self.closed.sites_of(place, conn))?;
        // In TIME_WAIT already, and not yet marked: the mark is on its way.
        let unmarked =
            if conn.flags & flag::EXITING != 0 { CloseKind::ProcessExit } else { CloseKind::Local };
        let by_other = conn.closer_tgid != 0 && conn.closer_tgid != self.owners[owner as usize].key.tgid;
        Some(Known {
            owner,
            touched: self.reading as u16,
            closed: Some(conn.close_kind().unwrap_or(unmarked)),
            flags: Known::flags(by_other, conn.flags & flag::BOUND != 0),
        })
    }

    /// Whether there is hardly room for more ends, of which the next reading shows which to keep.
    pub fn is_crowded(&self) -> bool {
        self.known.len() > KNOWN_MAX / 4 * 3
    }

    /// Reads ends out of the table before others take their places, or their keys are forgotten, if it turns over that
    /// fast. To be called a few times a second; it costs a look at some hundred places unless there is reason.
    pub fn harvest(&mut self) {
        self.take_ends();
        let stride = (self.closed.len() / PROBED_PLACES).max(1);
        let places = (0..self.closed.len()).step_by(stride).take(PROBED_PLACES);
        let now: Vec<_> = places.map(|place| self.closed.id_at(place) & !CLOSED).collect();
        let changed = now.iter().zip(&self.probed).filter(|(now, before)| now != before).count();
        let retired = self.closed.retired();
        if changed * 8 < now.len() && retired - self.retired < RETIRED_MAX as u64 / 2 {
            return;
        }
        self.retired = retired;
        self.probed = now;
        // Places that were passed already may end while others are still looked at.
        let began_ns = now_ns(ClockId::Monotonic);
        for place in 0..self.closed.len() {
            let Some(conn) = self.closed.waits_since(place, self.harvested_ns) else { continue };
            self.remember(place, &conn);
        }
        self.harvested_ns = began_ns.saturating_sub(END_MAX_NS);
    }

    fn remember(&mut self, place: usize, conn: &Conn) {
        let cookie = conn.id & !CLOSED;
        let before = self.known.get(&cookie).copied();
        let is_known = before.is_some_and(|known| known.owner != Known::NOBODY);
        if is_known || before.is_none() && self.known.len() >= KNOWN_MAX {
            return;
        }
        if let Some(found) = self.known_of(place, conn) {
            // A list may have shown it before its end was written.
            let known = before.map_or(found, |before| Known {
                touched: before.touched,
                flags: found.flags | before.flags,
                ..found
            });
            self.known.insert(cookie, known);
        }
    }

    /// A mini-socket: TIME_WAIT, or FIN_WAIT2 on its way there. `is_its`: whether it may be what the end left that is remembered.
    fn resolve_ended(&mut self, cookie: u64, is_its: bool) -> Resolved {
        let reading = self.reading as u16;
        let before = self.known.get_mut(&cookie).map(|known| {
            let before = *known;
            (known.touched, known.flags) = (reading, known.flags | Known::LISTED);
            before
        });
        let known = match before {
            Some(known) if known.owner == Known::BEFORE || known.owner != Known::NOBODY && is_its => known,
            // What was not found once may have been about to be written.
            _ => {
                let found = self.find_ended(cookie);
                let known = Known { touched: reading, flags: found.flags | Known::LISTED, ..found };
                if before.is_some() || self.known.len() < KNOWN_MAX {
                    self.known.insert(cookie, known);
                }
                known
            }
        };
        let is_repeated = |known: Known| known.touched == reading && known.has(Known::LISTED);
        self.resolved(known, before.is_some_and(is_repeated))
    }

    fn find_ended(&mut self, cookie: u64) -> Known {
        if let Some((place, conn)) = self.closed.find(cookie)
            && let Some(known) = self.known_of(place, &conn)
        {
            return known;
        }
        if self.reading <= 1 || self.before.contains(&cookie) {
            return Known { owner: Known::BEFORE, ..NOT_KNOWN };
        }
        NOT_KNOWN
    }

    fn resolve_living(&mut self, cookie: u64) -> Resolved {
        let found = self.closed.find(cookie);
        if let Some(roll_call) = &mut self.roll_call {
            roll_call.answer(cookie, found.map(|(place, _)| place));
        }
        if found.is_none() && self.reading <= 1 {
            self.before.insert(cookie);
        }
        let known = found.and_then(|(place, conn)| self.known_of(place, &conn)).unwrap_or(NOT_KNOWN);
        Resolved { closed: None, closed_by_other: false, ..self.resolved(known, false) }
    }

    fn resolved(&self, known: Known, repeated: bool) -> Resolved {
        let ownership = match known.owner {
            Known::NOBODY => Ownership::Unowned(self.otherwise),
            Known::BEFORE => Ownership::BeforeAttach,
            // Accepted by nobody that is known: the connection was followed, its owner never showed.
            owner if self.owners[owner as usize].key.tgid == 0 => Ownership::Unowned(Unowned::NotFollowed),
            _ => Ownership::Owned,
        };
        let owner = self.owners.get(known.owner as usize);
        Resolved {
            ownership,
            key: owner.map(|owner| owner.key),
            sites: owner.map(|owner| owner.sites).unwrap_or_default(),
            closed: known.closed,
            closed_by_other: known.has(Known::BY_OTHER),
            bound: known.has(Known::BOUND),
            repeated,
        }
    }
}

const NOT_KNOWN: Known = Known { owner: Known::NOBODY, touched: 0, closed: None, flags: 0 };

impl Owners {
    /// What it is remembered by, and whether it may be what the end left that is remembered. What ended a moment ago may not be yet.
    fn identify(&mut self, netns: u32, socket: &Socket) -> (u64, bool) {
        let Some(tuples) = &self.tuples else { return (socket.cookie, true) };
        let id = tuples.id_of(netns, socket);
        if socket.expires_ms.is_some() && !tuples.may_be(id, socket) {
            self.take_ends();
        }
        let is_its = self.tuples.as_ref().is_some_and(|tuples| tuples.may_be(id, socket));
        (id, is_its)
    }
}

impl Resolver for Owners {
    fn resolve(&mut self, netns: u32, socket: &Socket) -> Resolved {
        self.resolved = self.resolved.wrapping_add(1);
        // A long list on a busy host takes seconds, in which the table may turn over.
        if self.resolved.is_multiple_of(HARVEST_EVERY) {
            self.harvest();
        }
        let (id, is_its) = self.identify(netns, socket);
        if socket.expires_ms.is_some() { self.resolve_ended(id, is_its) } else { self.resolve_living(id) }
    }
}
